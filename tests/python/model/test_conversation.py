"""Chats: history, tools that are run, and answers that are those of the whole history however much is remembered."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gemma4
import numpy as np
import pytest
from gemma4 import ContextLengthError, RequestError, ToolCallError
from gemma4.chat import Chat
from gemma4.prompt import storable
from gemma4.prompt.inputs import PreparedImage, PreparedInputs
from gemma4.prompt.toolcalls import ToolCall
from gemma4.runtime.kept import media_of
from gemma4.runtime.prefix_cache import PrefixCache
from PIL import Image

DEMO = Path(gemma4.__file__).parent / "demo_model"
RED, BLUE = np.full((64, 64, 3), (255, 0, 0), np.uint8), np.full((64, 64, 3), (0, 0, 255), np.uint8)


# -- the history -------------------------------------------------------------------------------------------------------


class Script:
    """A model that says what it was told to, and keeps what it was asked."""

    def __init__(self, *answers: Any) -> None:
        self.answers: Iterator[Any] = iter(answers)
        self.asked: list[tuple[list[dict[str, Any]], dict[str, Any]]] = []

    def __call__(self, messages: list[dict[str, Any]], options: dict[str, Any]) -> Any:
        self.asked.append((list(messages), options))
        answer = next(self.answers)
        if isinstance(answer, Exception):
            raise answer
        calls = [answer] if isinstance(answer, ToolCall) else answer if isinstance(answer, list) else []
        text = answer if isinstance(answer, str) else ""
        result = SimpleNamespace(text=text, thinking="hm" if calls else None, tool_calls=calls, token_ids=[1, 2])
        chunks = [SimpleNamespace(text=character) for character in text]
        return SimpleNamespace(chunks=lambda: iter(chunks), result=lambda: result)


def scripted(*answers: Any, tools: Any = None, system: str | None = None) -> tuple[Chat, Script]:
    script = Script(*answers)
    return Chat(script, lambda ids: f"ids {ids}", SimpleNamespace(reused=0), system, tools), script  # type: ignore[arg-type]


def weather(city: str, days: int = 1) -> dict[str, Any]:
    """The weather.

    Args:
        city: where
        days: how many
    """
    return {"city": city, "degrees": [20 + day for day in range(days)]}


def words(text: str) -> str:
    """Says it."""
    return text


def number(a: float) -> float:
    """Doubles."""
    return 2 * a


def picture() -> list[dict[str, Any]]:
    """Looks."""
    return [{"type": "text", "text": "seen"}, {"type": "image", "image": RED}]


def fails() -> None:
    """Cannot."""
    raise OSError("broken")


TOOLS = [weather, words, number, picture, fails, {"name": "outside", "description": "Elsewhere."}]


def test_turns() -> None:
    chat, script = scripted("one", "two", system="Be brief.")
    assert chat.send("first", seed=3).text == "one"
    clip = (np.stack([RED, BLUE]), [0, 1])
    second = chat.stream("second", images=RED, audio=[1.0, 2.0], video=clip)
    assert "".join(chunk.text for chunk in second) == "two"
    assert script.asked[0] == (chat.messages[:2], {"seed": 3, "tools": None})
    assert [message["role"] for message in chat.messages] == ["system", *["user", "assistant"] * 2]
    kinds = [part["type"] for part in chat.messages[3]["content"]]
    assert kinds == ["image", "video", "audio", "text"]
    frames, times = chat.messages[3]["content"][1]["video"]
    assert np.array_equal(frames, clip[0]) and times == clip[1]
    assert script.asked[1][0] == chat.messages[:4]


def test_functions_are_run() -> None:
    first = [ToolCall("weather", {"city": "Bern", "days": 2}), ToolCall("number", {"a": 1.5})]
    chat, script = scripted(first, ToolCall("picture", {}), ToolCall("words", {"text": "x"}), "done", tools=TOOLS)
    assert chat.send("x").text == "done"
    roles = [message["role"] for message in chat.messages]
    assert roles == ["user", "assistant", "tool", "tool", "assistant", "tool", "assistant", "tool", "assistant"]
    assert [m["content"] for m in chat.messages if m["role"] == "tool"] == [
        {"city": "Bern", "degrees": [20, 21]}, {"value": 3.0}, picture(), "x",
    ]  # fmt: skip
    called = [call for message in chat.messages for call in message.get("tool_calls", ())]
    assert [call["id"] for call in called] == [m["tool_call_id"] for m in chat.messages if m["role"] == "tool"]
    assert len({call["id"] for call in called}) == 4
    assert chat.messages[1]["reasoning_content"] == "hm"
    assert [tool["function"]["name"] for tool in script.asked[0][1]["tools"]][-1] == "outside"
    gemma4.prompt.messages.normalize(chat.messages)  # they are messages


@pytest.mark.parametrize(("run_tools", "most", "runs"), [(True, 0, 0), (True, 1, 1), (True, 2, 2), (False, 8, 0)])
def test_rounds_are_bounded(run_tools: bool, most: int, runs: int) -> None:
    calls = [ToolCall("number", {"a": 1})] * 5
    chat, script = scripted(*calls, tools=TOOLS)
    result = chat.send("x", run_tools=run_tools, max_tool_rounds=most)
    assert result.tool_calls == [{"name": "number", "arguments": {"a": 1}}]
    assert len(script.asked) == runs + 1
    assert chat.messages[-1]["role"] == "assistant"


def test_tools_that_run_elsewhere() -> None:
    chat, script = scripted([ToolCall("outside", {}), ToolCall("number", {"a": 1})], "done", tools=TOOLS)
    assert len(chat.send("x").tool_calls) == 2  # none is run, since one cannot be
    for call in chat.messages[-1]["tool_calls"]:
        chat.messages.append({"role": "tool", "tool_call_id": call["id"], "content": "y"})
    assert chat.send().text == "done"
    assert [message["role"] for message in script.asked[1][0]] == ["user", "assistant", "tool", "tool"]


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (ToolCall("nothing", {}), ToolCallError, "'nothing', the tools are: weather"),
        (ToolCall("weather", {}), ToolCallError, "does not fit"),
        (ToolCall("weather", {"city": "x", "hour": 1}), ToolCallError, "hour"),
        (ToolCall("fails", {}), OSError, "broken"),
        (ContextLengthError("full"), ContextLengthError, "full"),
    ],
)
def test_a_chat_that_fails_is_as_before(answer: Any, error: type[Exception], message: str) -> None:
    chat, _ = scripted("one", ToolCall("number", {"a": 1}), answer, "two", tools=TOOLS)
    chat.send("x")
    before = list(chat.messages)
    with pytest.raises(error, match=message) as caught:
        chat.send("y")
    if isinstance(caught.value, ToolCallError):
        assert caught.value.raw_text == "ids [1, 2]"
    assert chat.messages == before
    assert chat.send("z").text == "two"


def test_a_chat_without_tools() -> None:
    chat, _ = scripted(ToolCall("f", {}))
    with pytest.raises(ToolCallError, match="the tools are: none"):
        chat.send("x")


def test_a_stream_that_is_closed_changes_nothing() -> None:
    chat, _ = scripted("one", "two")
    stream = chat.stream("x")
    next(stream)
    stream.close()
    assert chat.messages == []
    assert chat.send("y").text == "two"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"text": 3}, "text"),
        ({"text": None, "images": RED}, "text"),
        ({"text": None, "video": (np.stack([RED, BLUE]), [0, 1])}, "text"),
        ({"text": "x", "video": (iter([RED, BLUE]), [0, 1])}, "iterator"),
        ({"text": "x", "video": {"frames": (frame for frame in [RED, BLUE]), "times": [0, 1]}}, "iterator"),
        ({"text": "x", "video": [{"video": (iter([RED]), [0]), "fps": 1}]}, "iterator"),
        ({"text": "x", "max_tool_rounds": -1}, "max_tool_rounds"),
        ({"text": "x", "max_tool_rounds": True}, "max_tool_rounds"),
        ({"text": "x", "max_tool_rounds": 1.0}, "max_tool_rounds"),
        ({"text": "x", "tools": []}, "tools"),
        ({"text": "x", "temprature": 1}, "temprature"),
        ({}, "messages"),
    ],
)
def test_bad_arguments(gemma4_model: Any, arguments: dict[str, Any], expected: str) -> None:
    chat = gemma4_model.chat()
    with pytest.raises(RequestError, match=expected):
        chat.send(**arguments)
    with pytest.raises(RequestError, match=expected):
        list(chat.stream(**arguments))
    assert chat.messages == []


def test_bad_chats(gemma4_model: Any) -> None:
    for arguments, expected in (({"system": 3}, "system"), ({"tools": 3}, "tools"), ({"tools": [len]}, "len")):
        with pytest.raises(RequestError, match=expected):
            gemma4_model.chat(**arguments)


# -- what is remembered ------------------------------------------------------------------------------------------------


class Session:
    """What a session does to positions."""

    def __init__(self, room: int, reach: int) -> None:
        self.room, self.reach, self.position = room, reach, 0

    def rewind(self, position: int) -> bool:
        if self.position - position > self.reach:
            return False
        self.position = position
        return True


def prompt(ids: list[int], *images: tuple[int, int, int]) -> PreparedInputs:
    """Images as (start, count, shade)."""
    seen = [PreparedImage(np.full((4, 4, 3), shade, np.uint8), start, count, (4, 4)) for start, count, shade in images]
    return PreparedInputs(np.array(ids, np.int32), tuple(seen))


@pytest.mark.parametrize(
    ("first", "answer", "second", "reach", "known"),
    [
        (prompt([1, 2, 3]), [4, 5], prompt([1, 2, 3, 4, 6]), 9, 4),  # the last id of an answer is not computed
        (prompt([1, 2, 3]), [4, 5, 6], prompt([1, 2, 3, 4, 5, 6, 7]), 0, 5),  # nothing to forget
        (prompt([1, 2, 3]), [4, 5], prompt([1, 2, 9]), 9, 2),
        (prompt([1, 2, 3]), [4, 5], prompt([1, 2, 9]), 1, 0),  # too far back
        (prompt([1, 2, 3]), [4], prompt([1, 2, 3]), 9, 2),  # the last token gives the logits
        (prompt([1, 2, 3]), [4], prompt([1]), 9, 0),
        (prompt([1, 7, 7, 2], (1, 2, 0)), [4], prompt([1, 7, 7, 2, 4, 5], (1, 2, 0)), 9, 4),
        (prompt([1, 7, 7, 2], (1, 2, 0)), [4], prompt([1, 7, 7, 2, 4, 5], (1, 2, 9)), 9, 1),  # another picture
        (prompt([1, 7, 7, 2], (1, 2, 0)), [4], prompt([1, 7, 7, 7, 2], (1, 3, 0)), 9, 1),
        (prompt([1, 7, 7, 2], (1, 2, 0)), [4], prompt([1, 7, 7, 2, 7, 5], (1, 2, 0), (4, 1, 0)), 9, 4),
        (prompt([1, 7, 7, 2, 7], (1, 2, 0), (4, 1, 0)), [4], prompt([1, 7, 7, 2, 5], (1, 2, 0)), 9, 4),
    ],
)  # fmt: skip
def test_what_two_prompts_share(first: Any, answer: list[int], second: Any, reach: int, known: int) -> None:
    cache = PrefixCache(lambda room, _: Session(room, reach), 100, str)  # type: ignore[arg-type, return-value]
    session: Any
    session, computed = cache.recall(first, media_of(first), len(first) + 10)
    assert computed == 0
    session.position = len(first) + len(answer) - 1
    cache.keep(answer)
    again, computed = cache.recall(second, media_of(second), len(second) + 10)
    assert computed == known == cache.reused == again.position
    assert (again is session) == (known > 0 or reach == 9)


def test_work_that_was_cut_short_is_not_taken_for_done() -> None:
    cache = PrefixCache(lambda room, _: Session(room, 99), 100, str)  # type: ignore[arg-type, return-value]
    session: Any
    session, _ = cache.recall(prompt([1, 2, 3, 4]), [], 14)
    session.position = 2  # cancelled after a chunk
    cache.keep([])
    assert cache.recall(prompt([1, 2, 3, 4]), [], 14)[1] == 2


def test_an_adapter_never_reads_what_another_has_left() -> None:
    made: list[Any] = []

    def session(_: int, adapter: Any) -> Any:
        made.append(adapter)
        return Session(100, 99)

    cache, one, other = PrefixCache(session, 100, str), object(), object()
    for adapter, known in ((None, 0), (None, 3), (one, 0), (one, 3), (other, 0), (one, 0), (None, 0)):
        got: Any
        got, computed = cache.recall(prompt([1, 2, 3, 4]), [], 14, adapter)  # type: ignore[arg-type]
        assert computed == known == cache.reused
        got.position = 4
        cache.keep([])
    assert made == [None, one, other, one, None]


def test_room_grows_with_the_conversation() -> None:
    made: list[int] = []

    def session(room: int, _: Any) -> Any:
        made.append(room)
        return Session(room, 0)

    cache = PrefixCache(session, 100_000, str)
    for length in (10, 4000, 4100, 20_000, 90_000, 99_000):
        cache.recall(prompt([1] * length), [], length + 10)
        assert made[-1] >= length + 10
    assert len(made) == 5 and made[-1] == 100_000


def whole(model: Any, chat: Chat, **options: Any) -> Any:
    """The last answer of a chat, computed from nothing."""
    return model.generate(chat.messages[:-1], **options)


GREEDY = {"temperature": 0, "max_new_tokens": 8, "ignore_eos": True}
BRIEF = {"temperature": 0, "max_new_tokens": 8}


def test_answers_are_those_of_the_whole_history(gemma4_model: Any) -> None:
    chat = gemma4_model.chat(system="Be brief.")
    reused = []
    for text, images in (("What is this?", [RED]), ("And this?", [BLUE, RED]), ("one plus one", None), ("", None)):
        got = chat.send(text, images=images, **BRIEF)
        expected = whole(gemma4_model, chat, **BRIEF)
        assert got.token_ids.tolist() == expected.token_ids.tolist()
        assert got.usage["prompt_tokens"] == expected.usage["prompt_tokens"]
        reused.append(chat.reused_tokens)
    assert reused[0] == 0 and reused[1] > 10
    assert reused == sorted(set(reused))  # every turn keeps more


def test_turns_with_videos(gemma4_model: Any) -> None:
    clips = [np.stack(frames) for frames in ([RED, BLUE], [BLUE, RED, RED])]
    chat = gemma4_model.chat()
    turns = (clips[0], [0, 1]), {"frames": clips[1], "times": [0, 0.5, 7], "max_soft_tokens": 70}, None
    reused = []
    for video in turns:
        got = chat.send("What happens?", video=video, **BRIEF)
        assert got.token_ids.tolist() == whole(gemma4_model, chat, **BRIEF).token_ids.tolist()
        reused.append(chat.reused_tokens)
    assert reused == sorted(set(reused)) and reused[0] == 0
    prepared = gemma4_model.prepare(chat.messages[:-1])
    assert [clip.times for clip in prepared.video] == [(0.0, 1.0), (0.0, 0.5, 7.0)]
    assert [frame.pixels[0, 0].tolist() for frame in prepared.seen] == [
        [255, 0, 0], [0, 0, 255], [0, 0, 255], [255, 0, 0], [255, 0, 0],
    ]  # fmt: skip


def test_pictures_in_turns_with_tools(gemma4_model: Any) -> None:
    """Of the user and of a tool: where the reference has them, and the answer goes on from what the tool shows."""
    chat = gemma4_model.chat(tools=[picture])
    called = {"id": "call_1", "type": "function", "function": {"name": "picture", "arguments": {}}}
    asked = [{"type": "image", "image": BLUE}, {"type": "text", "text": "Look closely."}]
    chat.messages += [
        {"role": "user", "content": asked},
        {"role": "assistant", "content": "", "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "call_1", "content": picture()},
    ]
    prepared = gemma4_model.prepare(chat.messages, tools=[picture])
    assert [image.pixels[0, 0].tolist() for image in prepared.images] == [[0, 0, 255], [255, 0, 0]]
    got = chat.send(None, run_tools=False, **BRIEF)
    assert got.usage["image_tokens"] == sum(image.count for image in prepared.images)
    expected = gemma4_model.generate(chat.messages[:-1], tools=[picture], **BRIEF)
    assert got.token_ids.tolist() == expected.token_ids.tolist()
    assert chat.send("And now?", run_tools=False, **BRIEF).usage["image_tokens"] == got.usage["image_tokens"]
    assert chat.reused_tokens > got.usage["image_tokens"]

    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(DEMO).apply_chat_template(
        chat.messages[:3], tools=[picture], add_generation_prompt=True, tokenize=False
    )
    ids = prepared.input_ids.tolist()
    for image in reversed(prepared.images):  # one placeholder, as the template writes it
        ids[image.start - 1 : image.start + image.count + 1] = [ids[image.start]]
    assert gemma4_model.tokenizer.decode(ids, skip_special=False) == theirs


def test_a_changed_history_is_noticed(gemma4_model: Any) -> None:
    chat = gemma4_model.chat()
    chat.send("What is this?", images=RED, **GREEDY)
    chat.messages[0] = {
        "role": "user",
        "content": [{"type": "image", "image": BLUE}, {"type": "text", "text": "What is this?"}],
    }
    got = chat.send("again", **BRIEF)
    assert got.token_ids.tolist() == whole(gemma4_model, chat, **BRIEF).token_ids.tolist()
    assert chat.reused_tokens < 10


def test_thoughts_are_forgotten(gemma4_model: Any) -> None:
    """The template drops what the model thought, so that the session has to go back."""
    chat = gemma4_model.chat()
    for text in ("one", "two", "three"):
        got = chat.send(text, thinking=True, **GREEDY)
        expected = whole(gemma4_model, chat, thinking=True, **GREEDY)
        assert got.token_ids.tolist() == expected.token_ids.tolist()
    assert chat.reused_tokens > 0


def test_logits_after_a_rewind(gemma4_model: Any) -> None:
    core = gemma4_model._runtime.loaded.core
    ids = np.arange(100, 160, dtype=np.int32)
    session = core.sequence(200, "f32")
    session.prefill(ids, [], "none")
    assert session.rewind(20) and session.position == 20
    got = session.prefill(ids[:30], [], "last")
    fresh = core.sequence(200, "f32").prefill(np.concatenate([ids[:20], ids[:30]]), [], "last")
    # Sums in another order: at most ~600 products of size below 1 in float32, logits below 30.
    np.testing.assert_allclose(got, fresh, atol=2e-3)
    with pytest.raises(RequestError, match="rewind to 51"):
        session.rewind(51)


def test_logits_where_they_are_wanted(gemma4_model: Any) -> None:
    core = gemma4_model._runtime.loaded.core
    ids = np.arange(100, 110, dtype=np.int32)
    expected = core.sequence(200, "f32").prefill(ids, [], "all")
    out = np.empty_like(expected)
    assert core.sequence(200, "f32").prefill(ids, [], "all", out=out) is out
    np.testing.assert_array_equal(out, expected)
    with pytest.raises(RequestError, match=r"out: expected .*\(1, "):
        core.sequence(200, "f32").prefill(ids, [], "last", out=out)
    with pytest.raises(RequestError, match="out: expected"):  # a copy would be written
        core.sequence(200, "f32").prefill(ids, [], "all", out=out.astype(np.float64))


def test_media_last_for_all_turns(tmp_path: Path) -> None:
    """A stream is read once, and what its owner overwrites is another picture."""
    encoded, buffer = io.BytesIO(encoded_of(RED)), RED.copy()
    clip = [RED.copy(), RED.copy()]
    chat, _ = scripted("one", "two", "three")
    chat.send("see", images=[encoded, buffer], video={"frames": clip, "fps": 1}, audio=(np.zeros(20), 16_000))
    encoded.close()
    buffer[:] = clip[0][:] = 0
    parts = chat.messages[0]["content"]
    assert parts[0]["image"] == encoded_of(RED) and (parts[1]["image"] == RED).all()
    assert (parts[2]["video"]["frames"][0] == RED).all() and parts[3]["audio"][1] == 16_000
    with pytest.raises(RequestError, match=r"images\[0\]: a file must be opened in binary mode"):
        chat.send("see", images=io.StringIO("no"))
    chat.messages[0]["content"][2]["video"] = {"video": tmp_path / "a.gif", "fps": 1}
    kept, _ = storable(chat.messages)
    assert kept[0]["content"][2]["video"] == {"video": str(tmp_path / "a.gif"), "fps": 1}


def encoded_of(pixels: np.ndarray[Any, Any]) -> bytes:
    made = io.BytesIO()
    Image.fromarray(pixels).save(made, "PNG")
    return made.getvalue()


def test_data_of_a_function_may_have_types_of_its_own() -> None:
    def shapes() -> list[dict[str, Any]]:
        """Of the picture."""
        return [{"type": "circle", "radius": 3}, {"type": "text", "words": 2}]

    chat, script = scripted(ToolCall("shapes", {}), "done", tools=[shapes])
    chat.send("what is there?")
    said = script.asked[1][0][-1]
    assert said["role"] == "tool" and said["content"] == {"value": shapes()}
