"""Answers taken apart: the same for every way to cut them into pieces."""

import json
import pickle
from typing import Any

import pytest
from gemma4.answer.markup import MARKERS, Piece, ResponseReader, parse_response
from gemma4.errors import RequestError, ToolCallError
from gemma4.prompt.toolcalls import ToolCall, parse_call
from hypothesis import given, settings
from hypothesis import strategies as st

Q = '<|"|>'


def read(pieces: list[str], thinking_open: bool = False) -> tuple[list[Piece], ResponseReader]:
    """All that comes out, neighbours of one kind joined, and the reader."""
    reader = ResponseReader(thinking_open)
    out: list[Piece] = []
    for new in [*map(reader.feed, pieces), reader.finish()]:
        for piece in new:
            assert piece.text
            if out and out[-1].kind == piece.kind:
                piece = Piece(piece.kind, out.pop().text + piece.text)
            out.append(piece)
    return out, reader


def outcome(pieces: list[str], thinking_open: bool = False) -> Any:
    """What a test can compare: pieces, calls and whether a thought was begun; or the error."""
    try:
        out, reader = read(pieces, thinking_open)
    except ToolCallError as error:
        return str(error)
    return out, reader.tool_calls, reader.thought


FRAGMENTS = [
    *MARKERS, "thought\n", "thought", "a", " b ", "\n", "<", "<|", "|>", "call:f{", "}", "{", "x:1", ",", '"',
    f"{Q}<tool_call|>{Q}",
    "<|tool_call>call:f{x:[1,{y:null}]}<tool_call|>", f"<|tool_call>call:g{{s:{Q}a}}<turn|>{Q}}}<tool_call|>", "é👩",
]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(text=st.lists(st.sampled_from(FRAGMENTS), max_size=14).map("".join), data=st.data(), thinking_open=st.booleans())
def test_any_cut_gives_the_same(text: str, data: st.DataObject, thinking_open: bool) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=10)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    whole = outcome([text], thinking_open)
    assert outcome(pieces, thinking_open) == whole
    assert outcome(list(text), thinking_open) == whole


@given(text=st.lists(st.sampled_from(FRAGMENTS), max_size=14).map("".join))
def test_parse_response_is_the_reader(text: str) -> None:
    try:
        out, reader = read([text])
    except ToolCallError as error:
        with pytest.raises(ToolCallError) as caught:
            parse_response(text)
        assert caught.value.raw_text == error.raw_text == text
        return
    parsed = parse_response(text)
    assert parsed["content"] == "".join(piece.text for piece in out if piece.kind == "content").strip()
    assert (parsed["thinking"] or "") == "".join(piece.text for piece in out if piece.kind == "thinking")
    assert parsed["tool_calls"] == reader.tool_calls


def test_only_a_possible_marker_is_withheld() -> None:
    reader = ResponseReader()
    assert reader.feed("a < b <|") == [Piece("content", "a < b ")]
    assert reader.feed("x") == [Piece("content", "<|x")]
    assert reader.feed("<|channel>tho") == []
    assert reader.feed("ught\n  It is") == [Piece("thinking", "It is")]
    assert reader.feed(" \n") == []  # it may be the end of the thought
    assert reader.feed("a cat.\n") == [Piece("thinking", " \na cat.")]
    assert reader.feed("<channel|>Yes. ") == [Piece("content", "Yes. ")]
    assert reader.finish() == []


def test_a_thought_that_the_prompt_opened() -> None:
    out, reader = read(["hm<channel", "|>Yes."], thinking_open=True)
    assert out == [Piece("thinking", "hm"), Piece("content", "Yes.")]
    assert reader.thought


@pytest.mark.parametrize(
    ("text", "content", "thinking", "names"),
    [
        ("<|channel>thought\nhm<|tool_call>call:f{}<tool_call|>", "", "hm", ["f"]),
        ("<|channel>thought\nhm<turn|>", "", "hm", []),
        ("<|channel>thought<channel|>a", "a", None, []),
        ("<|channel>final\nb<channel|>a", "a", "b", []),
        ("<|channel>b c<channel|>a", "a", "b c", []),
        ("<|channel>tho", "", None, []),
        ("a<|tool_call>call:f{}<tool_call|><|tool_call>call:g{}<tool_call|><|tool_response>", "a", None, ["f", "g"]),
        ("\n a \n<turn|>\n", "a", None, []),
    ],
)
def test_parts(text: str, content: str, thinking: str | None, names: list[str]) -> None:
    parsed = parse_response(text)
    assert (parsed["role"], parsed["content"], parsed["thinking"]) == ("assistant", content, thinking)
    assert [call["function"]["name"] for call in parsed["tool_calls"]] == names


# -- calls -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "arguments"),
    [
        ("{}", {}),
        (f"{{a:{Q}{Q}}}", {"a": ""}),
        (f"{{a:{Q}x{{y}}:[1],b:2{Q},b:{{c:[{{d:null}}]}}}}", {"a": "x{y}:[1],b:2", "b": {"c": [{"d": None}]}}),
        (f'{{a:{Q}say "hi"\n\\n{Q}}}', {"a": 'say "hi"\n\\n'}),
        ('{"a": "x,b:1", "c":-1.5e3}', {"a": "x,b:1", "c": -1500.0}),
        (f"{{{Q}odd key!{Q}:1}}", {"odd key!": 1}),
        ("{my-key:1,x.y:2,$z:3}", {"my-key": 1, "x.y": 2, "$z": 3}),
        ("{ a : 1 ,\nb : [ ] }", {"a": 1, "b": []}),
        ("{a:false,a:2}", {"a": 2}),
    ],
)  # fmt: skip
def test_arguments(body: str, arguments: dict[str, Any]) -> None:
    assert parse_call(f"call:f{body}")["function"] == {"name": "f", "arguments": arguments}


@pytest.mark.parametrize(
    "call",
    [
        "", "f{}", "call:{}", "call:f", "call:f[1]", "call:f{", "call:f{a:1", "call:f{a:1}}", "call:f{a}", "call:f{a:}",
        "call:f{a:x}", "call:f{a:1,}", f"call:f{{a:{Q}x}}", "call:f{a:NaN}", "call:f{a:1} and", "call:f{a:01}",
        "call:f{a:" + "[" * 100_000 + "}", "call:f{a:" + "9" * 5000 + "}", "call:f{a:" + '"' + '\\"' * 50_000 + "}",
    ],
)  # fmt: skip
def test_malformed_calls(call: str) -> None:
    text = f"<|channel>thought\nhm<channel|>So: <|tool_call>{call}<tool_call|>"
    with pytest.raises(ToolCallError, match="tool call") as caught:
        parse_response(text)
    assert caught.value.raw_text == text
    assert isinstance(caught.value, RequestError) and isinstance(caught.value, ValueError)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.raw_text) == (str(caught.value), text)


@pytest.mark.parametrize(
    "text",
    ["<|tool_call>", "<|tool_call>call:f{}", f"<|tool_call>call:f{{a:{Q}<tool_call|>", "<|tool_call>call:f{}<turn|>"],
)
def test_a_call_that_never_ends(text: str) -> None:
    with pytest.raises(ToolCallError, match="ends inside") as caught:
        parse_response("Hm." + text)
    assert caught.value.raw_text == "Hm." + text


def test_a_call_has_two_forms() -> None:
    call = ToolCall("f", {"a": 1})
    assert call == {"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
    assert call == {"name": "f", "arguments": {"a": 1}} == call
    assert call == ToolCall("f", {"a": 1}) and call != ToolCall("g", {"a": 1}) and call != 3
    assert (call["name"], call["arguments"], call.name, call.arguments) == ("f", {"a": 1}, "f", {"a": 1})
    assert json.loads(json.dumps(call)) == dict(call)
    with pytest.raises(KeyError):
        call["other"]
    copied = pickle.loads(pickle.dumps(call))
    assert type(copied) is ToolCall and copied == call


def test_reading_is_linear() -> None:
    for text in ("<|channel>" * 100_000, "<" * 300_000, " " * 300_000, "<|tool_call>call:f{a:1}<tool_call|>" * 20_000):
        parse_response(text)
        read(list("<|channel>thought\n" + text[:20_000].replace("<|tool_call>", "")))
