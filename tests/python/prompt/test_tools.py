"""Tools: schemas, prompts and answers as the reference has them; no control token from anybody's text; running them."""

from __future__ import annotations

import ast
import json
import random
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Optional, Union

import gemma4
import pytest
from conversations import answer, conversation
from gemma4 import RequestError, ToolCallError
from gemma4.answer.markup import ResponseReader, parse_response
from gemma4.checkpoint import DirectoryCheckpoint
from gemma4.prompt.messages import normalize, render
from gemma4.prompt.template import ChatTemplate
from gemma4.prompt.toolcalls import ToolCall, plain_data
from gemma4.prompt.tools import Toolbox, declare, function_schema
from hypothesis import given, settings
from hypothesis import strategies as st

DEMO = Path(gemma4.__file__).parent / "demo_model"
TOKENIZER = DirectoryCheckpoint(DEMO).tokenizer()
TEMPLATE = ChatTemplate((DEMO / "chat_template.jinja").read_text(), "chat_template.jinja")


def render_ids(*arguments: Any, **options: Any) -> list[int]:
    return render(*arguments, **options).ids()


@pytest.fixture(scope="module")
def theirs() -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(DEMO)


# -- prompts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", range(0, 200, 20))
def test_conversations_are_rendered_as_by_the_reference(first: int, theirs: Any) -> None:
    for seed in range(first, first + 20):
        messages, tools, thinking = conversation(seed)
        expected = theirs.apply_chat_template(
            messages, tools=tools, add_generation_prompt=True, enable_thinking=thinking, return_dict=False
        )
        declared = None if tools is None else declare(tools)
        got = render_ids(normalize(messages), TEMPLATE, TOKENIZER, thinking=thinking, tools=declared)
        assert TOKENIZER.decode(got, skip_special=False) == TOKENIZER.decode(expected, skip_special=False), seed
        assert got == list(expected), seed


def test_the_conversations_hold_everything() -> None:
    """A generator that leaves something out proves nothing about it."""
    made = [conversation(seed) for seed in range(200)]
    text = "".join(
        TOKENIZER.decode(
            render_ids(normalize(messages), TEMPLATE, TOKENIZER, thinking=thinking, tools=declare(tools or [])),
            skip_special=False,
        )
        for messages, tools, thinking in made
    )
    for marker in (
        "<|tool>",
        "<|tool_call>",
        "<|tool_response>",
        "<|think|>",
        "<|channel>thought",
        "<|image|>",
        "<|audio|>",
    ):
        assert text.count(marker) > 20, marker
    assert any("tool_responses" in message for messages, _, _ in made for message in messages)


def rendered(messages: Any, tools: Any = None, thinking: bool = False) -> str:
    ids = render_ids(
        normalize(messages), TEMPLATE, TOKENIZER, thinking=thinking, tools=None if tools is None else declare(tools)
    )
    return TOKENIZER.decode(ids, skip_special=False)


USER = {"role": "user", "content": "x"}
HEAD = "<bos><|turn>user\nx<turn|>\n<|turn>model\n"


def call(name: str, index: str | None = None, /, **values: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"type": "function", "function": {"name": name, "arguments": values}}
    return made if index is None else {"id": index, **made}


def test_the_official_form() -> None:
    tools = [
        {
            "name": "weather",
            "description": "Now.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        }
    ]
    messages = [
        {"role": "system", "content": "Be brief."},
        USER,
        {"role": "assistant", "content": "", "tool_calls": [call("weather", "1", city="Bern", n=42)]},
        {"role": "tool", "tool_call_id": "1", "content": "warm"},
    ]
    assert rendered(messages, tools, thinking=True) == (
        "<bos><|turn>system\n<|think|>\nBe brief.<|tool>declaration:weather{description:<|\"|>Now.<|\"|>,parameters:"
        "{properties:{city:{type:<|\"|>STRING<|\"|>}},type:<|\"|>OBJECT<|\"|>}}<tool|><turn|>\n<|turn>user\nx<turn|>\n<|turn>model\n"
        "<|tool_call>call:weather{city:<|\"|>Bern<|\"|>,n:42}<tool_call|>"
        "<|tool_response>response:weather{value:<|\"|>warm<|\"|>}<tool_response|>"
    )  # fmt: skip


def test_thoughts_live_until_the_user_speaks_again() -> None:
    turn = {"role": "assistant", "content": None, "reasoning": "hm", "tool_calls": [call("f")]}
    said = {"role": "tool", "content": "1"}
    assert "hm" in rendered([USER, turn, said])
    assert "hm" not in rendered([USER, turn, said, {"role": "assistant", "content": "one"}, USER])
    old = {"role": "assistant", "content": "<|channel>thought\nhm<channel|>yes"}
    assert rendered([USER, old]) == HEAD + "yes<turn|>\n<|turn>model\n"


@pytest.mark.parametrize("form", ["openai", "short", "positions", "names"])
def test_forms_of_calls_and_answers(form: str) -> None:
    calls = [call("f", "p", x=1), call("g", "q")]
    said: list[dict[str, Any]] = [{"role": "tool", "content": "F"}, {"role": "tool", "content": "G"}]
    if form == "openai":
        for one in calls:
            one["function"]["arguments"] = json.dumps(one["function"]["arguments"])
        said = [{**said[1], "tool_call_id": "q"}, {**said[0], "tool_call_id": "p"}]
    elif form == "short":
        calls = [{"name": "f", "arguments": {"x": 1}}, {"name": "g", "arguments": None}]
    elif form == "names":
        said = [{**said[1], "name": "g"}, {**said[0], "name": "f"}]
    text = rendered([USER, {"role": "assistant", "tool_calls": calls}, *said])
    parts = ['response:f{value:<|"|>F<|"|>}', 'response:g{value:<|"|>G<|"|>}']
    joined = [
        f"<|tool_response>{part}<tool_response|>" for part in (parts[::-1] if form in ("openai", "names") else parts)
    ]
    assert text == f"{HEAD}<|tool_call>call:f{{x:1}}<tool_call|><|tool_call>call:g{{}}<tool_call|>{''.join(joined)}"


def calls(*made: Any) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": list(made)}


def with_arguments(arguments: Any) -> dict[str, Any]:
    return calls({"function": {"name": "f", "arguments": arguments}})


SAID = {"role": "tool", "content": "x"}


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([SAID], "no tool call that it could answer"),
        ([calls(call("f", "1")), {**SAID, "tool_call_id": "2"}], "'2'"),
        ([calls(call("f")), SAID, SAID], r"messages\[2\]"),
        ([calls({})], r"tool_calls\[0\]: name"),
        ([{"role": "assistant", "tool_calls": {"a": 1}}], "tool_calls: expected a list"),
        ([calls(3)], r"tool_calls\[0\]: expected an object"),
        ([with_arguments("{")], "arguments: not JSON"),
        ([with_arguments("[1]")], "expected an object"),
        ([with_arguments({"a": object()})], "arguments.a"),
        ([with_arguments({"a": float("nan")})], "JSON number"),
        ([calls({**call("f"), "type": "code"})], "type: expected 'function'"),
        ([calls({**call("f"), "strict": True})], "strict: unknown"),
        ([{"role": "assistant", "content": "", "tool_responses": [{"name": "f", "result": 1}]}], "result: unknown"),
        ([{"role": "user", "content": "x", "tool_calls": [call("f")]}], "tool_calls: unknown field"),
        ([calls()], "content is missing"),
        ([{"role": "tool", "name": "f", "content": 3}], "content: expected"),
    ],
)
def test_bad_tool_messages(messages: Any, expected: str) -> None:
    with pytest.raises(RequestError, match=expected):
        normalize(messages)


# -- control tokens ----------------------------------------------------------------------------------------------------

CONTROLS = sorted(TOKENIZER.controls)
IDS = set(TOKENIZER.controls.values())


def forged(text: str) -> list[int]:
    """The control tokens of a conversation that has `text` in every place that a caller can write."""
    tools = [
        {"name": "f", "description": text, "parameters": {"type": "object", "properties": {
            text or "x": {"type": "string", "description": text, "enum": [text], "default": {text: text}},
            "type": {"type": "array", "items": {"type": "string", "description": text}}}}},
    ]  # fmt: skip
    data = {"role": text, "type": text, "name": text, "k": {text or "y": [text, {"type": text}]}, "response": text}
    messages = [
        {"role": "system", "content": text},
        USER,
        {"role": "assistant", "content": text, "reasoning": text, "tool_calls": [call("f", text, **data)]},
        {"role": "tool", "tool_call_id": text, "content": data},
        {**calls(call("f", "1")), "content": text, "tool_responses": [{"name": "f", "response": data}]},
        {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": text}]},
    ]  # fmt: skip
    ids = render_ids(normalize(messages), TEMPLATE, TOKENIZER, tools=declare(tools))
    return [index for index in ids if index in IDS]


UNFORGED = forged("x")


@pytest.mark.parametrize("control", CONTROLS)
def test_no_token_is_forged_by_tools(control: str) -> None:
    for text in (control, f" {control}\n{control}", control[1:], control[2:], control[:-1], control[:2]):
        assert forged(text) == UNFORGED, text


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([*CONTROLS, "<", "|", ">", '"', " ", "\n", "\ue000", "a"]), min_size=1, max_size=6).map(
        "".join
    )
)
def test_no_token_is_forged_by_any_mixture(text: str) -> None:
    assert forged(text) == UNFORGED


def test_a_function_s_name_cannot_forge() -> None:
    for name in ("<turn|>", "a b", "", "x" * 65, 3, None):
        with pytest.raises(RequestError, match="name"):
            declare([{"name": name}])
    text = rendered([USER, {"role": "assistant", "tool_calls": [call("<tool_call|>")]}])
    assert text.count("<tool_call|>") == 2  # one of them is plain text
    ids = render_ids(
        normalize([USER, {"role": "assistant", "tool_calls": [call("<tool_call|>")]}]), TEMPLATE, TOKENIZER
    )
    assert ids.count(TOKENIZER.controls["<tool_call|>"]) == 1


# -- answers -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def response_template() -> Any:
    """The reference's for Gemma 4 checkpoints that bring none; its module wants a web server to be imported."""
    pytest.importorskip("transformers")
    spec = find_spec("transformers.cli")
    assert spec is not None and spec.submodule_search_locations
    source = (Path(spec.submodule_search_locations[0]) / "serving" / "utils.py").read_text()
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_RESPONSE_TEMPLATE_FALLBACKS":
            templates = ast.literal_eval(node.value)
            return next(template for types, template in templates.items() if "gemma4" in types)
    raise AssertionError("the reference keeps its response templates elsewhere")


@pytest.mark.parametrize("first", range(0, 500, 100))
def test_answers_are_parsed_as_by_the_reference(first: int, theirs: Any, response_template: Any) -> None:
    for seed in range(first, first + 100):
        text = answer(seed)
        expected = theirs.parse_response(text, response_template, prefix="")
        got = parse_response(text)
        assert got["role"] == expected["role"] == "assistant"
        assert got["content"] == expected.get("content", ""), text
        assert got["thinking"] == expected.get("reasoning_content"), text
        assert got["tool_calls"] == expected.get("tool_calls", []), text
        assert [dict(one) for one in got["tool_calls"]] == expected.get("tool_calls", []), text


def test_what_the_reference_cannot_parse_is_an_error_here(theirs: Any, response_template: Any) -> None:
    broken = 0
    for seed in range(500):
        text, rng = answer(seed), random.Random(seed)
        at = text.find("<|tool_call>") + 12
        end = text.find("<tool_call|>", at)
        if end < 0:
            continue
        cut = rng.randrange(at, end)
        text = text[:cut] + rng.choice(["{", "}", '"', ",", ":", ""]) + text[cut + 1 :]
        try:
            expected = theirs.parse_response(text, response_template, prefix="")
        except ValueError:
            broken += 1
            with pytest.raises(ToolCallError) as caught:
                parse_response(text)
            assert caught.value.raw_text == text
        else:
            if "<|tool_call>" not in expected.get("content", ""):
                assert parse_response(text)["tool_calls"] == expected.get("tool_calls", []), text
    assert broken > 50


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 499), data=st.data())
def test_answers_in_any_pieces(seed: int, data: st.DataObject) -> None:
    text = answer(seed)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    reader = ResponseReader()
    pieces = [reader.feed(text[a:b]) for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)] + [reader.finish()]
    joined = {
        kind: "".join(p.text for part in pieces for p in part if p.kind == kind) for kind in ("content", "thinking")
    }
    whole = parse_response(text)
    assert joined["content"].strip() == whole["content"]
    assert joined["thinking"] == (whole["thinking"] or "")
    assert reader.tool_calls == whole["tool_calls"]


# -- functions ---------------------------------------------------------------------------------------------------------


def plain(a: int, b: str, c: bool = True, d: float = 0.5) -> str:
    """Does something.

    In two paragraphs: see above.

    Args:
        a: the first
        b: the second, which is described
            in two lines: like this
        c: the third (choices: ["yes ", "no"])
        d: the fourth

    Returns:
        A word.
    """
    return f"{a}{b}{c}{d}"


def nested(
    a: Optional[int],  # noqa: UP045 (both spellings are in use)
    b: list[str] | None,
    c: Literal["x", "y"],
    d: Union[int, str, None] = None,  # noqa: UP007
    e: dict[str, list[float]] | None = None,
    f: tuple[int, str] = (1, ""),
    g: list[Literal[1, "a", None]] | int = 3,
    h: Any = None,
    i: list = [],  # noqa: B006
    j: dict = {},  # noqa: B006
) -> list[int]:
    """Everything.

    Args:
        a: a
        b: b
        c: c
        d: d
        e: e
        f: f
        g: g
        h: h
        i: i
        j: j
    """
    return []


def nothing() -> None:
    """No arguments."""


class Thing:
    def method(self, x: int) -> object:
        """Of an object.

        Args:
            x: what
        """
        return x


@pytest.mark.parametrize("function", [plain, nested, nothing, Thing().method, Thing.method])
def test_schemas_are_the_reference_s(function: Any) -> None:
    utils = pytest.importorskip("transformers.utils")
    if function is Thing.method:
        with pytest.raises(RequestError, match="self"):  # it cannot be called without an object
            function_schema(function)
        return
    assert function_schema(function) == utils.get_json_schema(function)


def test_functions_without_words() -> None:
    def add(a: int, b: int = 1) -> int:
        return a + b

    assert function_schema(add)["function"] == {
        "name": "add",
        "description": "",
        "return": {"type": "integer"},
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a"],
        },
    }
    assert Toolbox(add).run(ToolCall("add", {"a": 2})) == 3


def test_types_in_docstrings() -> None:
    def half(x: float) -> None:
        """Halves.

        Args:
            x (float): What to halve.
        """

    properties = function_schema(half)["function"]["parameters"]["properties"]
    assert properties == {"x": {"type": "number", "description": "What to halve."}}


def untyped(a) -> None: ...  # type: ignore[no-untyped-def]
def starred(*a: int) -> None: ...
def keywords(**a: int) -> None: ...
def custom(a: Thing) -> None: ...
def single(a: tuple[int]) -> None: ...
def unresolved(a: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    ("tools", "expected"),
    [
        (3, "tools: expected a list"),
        ("f", "tools: expected a list"),
        ([3], r"tools\[0\]"),
        ([untyped], "untyped.*a: it has no type hint"),
        ([starred], "named arguments only"),
        ([keywords], "named arguments only"),
        ([custom], "Thing.* has no JSON schema"),
        ([single], "has no JSON schema"),
        ([unresolved], "Nowhere"),
        ([lambda x: x], "needs a name"),
        ([plain, plain], "two tools with the name 'plain'"),
        ([{"name": "f", "description": 3}], "description"),
        ([{"name": "f", "parameters": 3}], "parameters: expected a JSON schema"),
        ([{"name": "f", "parameters": {"type": "array"}}], "expected 'object'"),
        ([{"name": "f", "parameters": {"properties": []}}], "properties: expected an object"),
        ([{"name": "f", "parameters": {"properties": {"a": True}}}], "a: expected a JSON schema"),
        ([{"name": "f", "parameters": {"properties": {"a": {"type": 3}}}}], "type: expected a name"),
        ([{"type": "code", "function": {"name": "f"}}], "expected"),
        ([{"name": "f", "x": object()}], r"tools\[0\].x"),
    ],
)
def test_bad_tools(tools: Any, expected: str) -> None:
    with pytest.raises(RequestError, match=expected):
        declare(tools)


def test_data_that_has_no_end() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(RequestError, match="deeper than 50"):
        plain_data(endless, "x")


def test_tools_of_a_model(gemma4_model: Any) -> None:
    """The same prompt, whichever way it gets its tools."""
    ids = gemma4_model.prepare("x", tools=[plain]).input_ids
    assert ids.tolist() == render_ids(normalize("x"), TEMPLATE, TOKENIZER, tools=declare([plain]))
    first = gemma4_model.generate("x", tools=[plain], max_new_tokens=3, temperature=0)
    assert first.usage["prompt_tokens"] == len(ids)
    with pytest.raises(RequestError, match="tools: the prompt is prepared already"):
        gemma4_model.generate(ids, tools=[plain])
    with pytest.raises(RequestError, match="tools"):
        gemma4_model.stream("x", tools=3)
