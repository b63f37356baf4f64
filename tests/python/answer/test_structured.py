"""Answers in a given form: always valid, thoughts and tool calls beside them, and every form of asking for one."""

from __future__ import annotations

import json
import re
from typing import Any

import gemma4
import jsonschema
import numpy as np
import pydantic
import pytest
from gemma4 import RequestError
from gemma4.answer.grammar import Grammars, read_format
from gemma4.tasks import vision
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from scripted import answer, say

MODELS: list[Any] = []


def demo() -> Any:
    """Hypothesis runs a test many times within one call of a fixture."""
    if not MODELS:
        MODELS.append(gemma4.Model.from_pretrained("demo"))
    return MODELS[0]


def schema_format(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}


# -- the bytes of a vocabulary -----------------------------------------------------------------------------------------


def test_bytes_of_every_token() -> None:
    tokenizer = demo().tokenizer
    texts = tokenizer.token_bytes()
    assert len(texts) == tokenizer.vocab_size
    assert texts[tokenizer.id_of("<0xE2>")] == b"\xe2"
    assert texts[tokenizer.id_of("▁red")] == b" red"
    scaffold = tokenizer.encode('[{"box_2d": [')
    assert len(scaffold) == 1 and texts[scaffold[0]] == b'[{"box_2d": ['
    rng = np.random.default_rng(5)
    ordinary = [
        index for index in range(len(texts)) if not tokenizer.is_special(index) and not tokenizer.is_byte(index)
    ]
    for _ in range(50):  # the text of many ids is that of each, one after the other
        ids = rng.choice(ordinary, 20).tolist()
        assert tokenizer.decode(ids) == b"".join(texts[index] for index in ids).decode()


def test_masks_against_the_text() -> None:
    """Of every id of the vocabulary: it may come next exactly if some text of the form goes on with its bytes."""
    model, tokenizer = demo(), demo().tokenizer
    texts = tokenizer.token_bytes()
    grammars = Grammars(tokenizer, tokenizer.vocab_size + 40, (1, 16, 9))
    words = ["[]", '[{"box_2d": [1', "a red circle", " red", "é", "€", "\n", "<turn|>", "<", "ab"]
    matcher = grammars.matcher(read_format({"type": "regex", "regex": "|".join(map(re.escape, words))}))  # type: ignore[arg-type]
    bits = np.unpackbits(matcher.mask().view(np.uint8), bitorder="little").astype(bool)
    for index, text in enumerate(texts):
        usable = bool(text) and not tokenizer.is_special(index)
        expected = usable and any(word.encode().startswith(text) for word in words)
        assert bits[index] == expected, (index, text)
    assert not bits[len(texts) :].any()
    assert model.tokenizer.id_of("<turn|>") is not None and not bits[model.tokenizer.id_of("<turn|>")]


# -- always valid ------------------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "box_2d", "label", "red circle", "é", 'quo"te', "<turn|>", "<|channel>"])


EXACT = st.integers(-(2**53), 2**53)
SMALL, COUNT = st.integers(-50, 50), st.integers(0, 9)


def schemas() -> st.SearchStrategy[Any]:
    leaves = st.one_of(
        st.just({"type": "boolean"}),
        st.just({"type": "null"}),
        st.builds(lambda a, b: {"type": "integer", "minimum": a, "maximum": a + b}, SMALL, st.integers(0, 1000)),
        st.builds(lambda a, b: {"type": "number", "minimum": a, "maximum": a + b}, SMALL, st.integers(0, 9)),
        st.builds(lambda a, b: {"type": "string", "minLength": a, "maxLength": a + b}, st.integers(0, 3), COUNT),
        st.builds(lambda v: {"enum": v}, st.lists(st.one_of(NAMES, EXACT, st.none()), min_size=1, max_size=3)),
        st.builds(lambda v: {"const": v}, NAMES),
        st.just({"type": "string", "pattern": "^[a-z]{1,4}-[0-9]+$", "maxLength": 20}),
        st.just({"type": "string", "format": "date"}),
    )  # fmt: skip

    def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.one_of(
            st.builds(
                lambda items, n: {"type": "array", "items": items, "minItems": n, "maxItems": n + 2},
                inner, st.integers(0, 2),
            ),
            st.builds(lambda options: {"anyOf": options}, st.lists(inner, min_size=1, max_size=3)),
            st.builds(
                lambda properties, optional: {
                    "type": "object", "properties": properties, "additionalProperties": False,
                    "required": [name for name in properties if name not in optional],
                },
                st.dictionaries(NAMES, inner, max_size=3), st.sets(NAMES, max_size=2),
            ),
        )  # fmt: skip

    return st.recursive(leaves, nested, max_leaves=5)


RUN = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@RUN
@given(schema=schemas(), seed=st.integers(0, 99), temperature=st.sampled_from([0, 1.0, 3.0]))
def test_every_answer_fits_its_schema(schema: Any, seed: int, temperature: float) -> None:
    out = demo().generate(
        "x", response_format=schema_format(schema), seed=seed, temperature=temperature, max_new_tokens=400
    )
    if out.finish_reason == "stop":
        jsonschema.validate(json.loads(out.text), schema, format_checker=jsonschema.FormatChecker())
    else:  # white space and digits may go on for long where nothing weighs against them
        assert out.finish_reason in ("length", "repetition")
        assert temperature > 0 or len(out.token_ids) == 400 or out.finish_reason == "repetition"


@RUN
@given(
    regex=st.recursive(
        st.sampled_from(["a", "[a-f]", "red", r"\d{2}", "é", "€", "[^a]", r"\[\{", " "]),
        lambda inner: st.one_of(
            st.lists(inner, min_size=1, max_size=3).map("".join),
            st.lists(inner, min_size=2, max_size=3).map(lambda parts: f"({'|'.join(parts)})"),
            inner.map(lambda part: f"({part}){{1,3}}"),
            inner.map(lambda part: f"({part})?"),
        ),
        max_leaves=6,
    ),
    seed=st.integers(0, 99),
    temperature=st.sampled_from([0, 2.0]),
)
def test_every_answer_fits_its_regex(regex: str, seed: int, temperature: float) -> None:
    form = {"type": "regex", "pattern": regex}
    options = {"response_format": form, "seed": seed, "temperature": temperature, "max_new_tokens": 300}
    out = demo().generate("x", **options)
    assert out.finish_reason == "stop"
    assert re.fullmatch(regex, out.text, re.DOTALL), (regex, out.text)
    chunks = list(demo().stream("x", **options))
    assert "".join(chunk.text for chunk in chunks) == out.text
    assert out.token_ids[-1] in (1, 9, 16)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_random_boxes_are_valid(seed: int) -> None:
    """With the model's own wishes drowned in noise the form alone makes the answer."""
    form = {"type": "regex", "regex": vision.answer_pattern("box_2d", 4)}
    out = demo().generate("x", response_format=form, seed=seed, temperature=20.0, max_new_tokens=600)
    assume(out.finish_reason == "stop")
    boxes = json.loads(out.text.removeprefix("```json").removeprefix("```").removesuffix("```"))
    for item in boxes:
        assert set(item) == {"box_2d", "label"}
        assert len(item["box_2d"]) == 4 and all(type(n) is int and 0 <= n <= 1000 for n in item["box_2d"])
        assert not re.search(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", item["label"])


def accepted(text: str, schema: Any) -> bool:
    """Whether an answer may be `text`, written in any tokens: each is the longest that is allowed."""
    tokenizer = demo().tokenizer
    texts, rest = tokenizer.token_bytes(), text.encode()
    matcher = Grammars(tokenizer, tokenizer.vocab_size, (1,)).matcher(read_format(schema))  # type: ignore[arg-type]
    while rest:
        bits = np.unpackbits(matcher.mask().view(np.uint8), bitorder="little")
        fitting = [index for index in np.flatnonzero(bits).tolist() if index != 1 and rest.startswith(texts[index])]
        if not fitting:
            return False
        best = max(fitting, key=lambda index: len(texts[index]))
        matcher.take(best)
        rest = rest[len(texts[best]) :]
    return bool(matcher.mask()[0] >> np.uint32(1) & np.uint32(1))  # 1 ends it


@pytest.mark.parametrize("space", ["", " ", "  ", "\n", "\r\n", "\n    ", "\n\t\t", "\r\n\t ", "\n" + " " * 40])
def test_white_space_between_values(space: str) -> None:
    """What JSON is printed with: a space, or a new line with its indentation."""
    for text in ('{S"a":Strue,S"b":S[1,S2S]S}', "[S[]S]", "[S{}S]"):
        text = text.replace("S", space)
        schema = {"type": "array"} if text.startswith("[") else {"type": "object"}
        assert accepted(text, schema), text


@pytest.mark.parametrize(
    "space", ["   ", "\t", "\r", "\n\n", "\r\n\r\n", " \n", "\n" + " " * 41, "\n \n", "\v", "\u00a0", "\u2003"]
)
def test_no_other_white_space_between_values(space: str) -> None:
    """Anything that could go on for ever, or that a line cannot begin with."""
    for text in ("[S1]", "[1S]", "[1,S2]", '{S"a": 1}', '{"a":S1}', '{"a"S: 1}', '{"a": 1S}'):
        text = text.replace("S", space)
        schema = {"type": "array"} if text.startswith("[") else {"type": "object"}
        assert not accepted(text, schema), text
    assert not accepted(space + "[]", {"type": "array"}) and not accepted("[]" + space, {"type": "array"})


def test_white_space_within_a_text_is_its_own() -> None:
    assert accepted('["   a          b  "]', {"type": "array", "items": {"type": "string"}})


# -- detect's form -----------------------------------------------------------------------------------------------------

VALID = [
    "[]",
    '[{"box_2d": [100, 200, 500, 600], "label": "red circle"}]',
    '[{"box_2d": [0, 0, 1000, 1000], "label": "a"}, {"box_2d": [1, 22, 333, 999], "label": "\\"Käse\\" / 犬 \\u00e9"}]',
    '```json\n[{"box_2d": [1, 2, 3, 4], "label": "x"}]\n```',
    '```json\n[\n  {"box_2d": [1, 2, 3, 4], "label": "x"},\n  {"label": "y", "box_2d": [1, 2, 3, 4]}\n]\n```',
    '[{"box_2d":[1,2,3,4],"label":""}]',
]
INVALID = [
    "",
    "[",
    "red circle",
    '{"box_2d": [1, 2, 3, 4], "label": "x"}',
    '[{"box_2d": [1, 2, 3], "label": "x"}]',
    '[{"box_2d": [1, 2, 3, 4, 5], "label": "x"}]',
    '[{"box_2d": [1, 2, 3, 1001], "label": "x"}]',
    '[{"box_2d": [01, 2, 3, 4], "label": "x"}]',
    '[{"box_2d": [-1, 2, 3, 4], "label": "x"}]',
    '[{"box_2d": [1.5, 2, 3, 4], "label": "x"}]',
    '[{"box_2d": [1, 2, 3, 4]}]',
    '[{"box_2d": [1, 2, 3, 4], "label": "a\nb"}]',
    '[{"box_2d": [1, 2, 3, 4], "label": "a\\nb"}]',
    '[{"box_2d": [1, 2, 3, 4], "label": "a\\u0007b"}]',
    '[{"box_2d": [1, 2, 3, 4], "label": "\\ud83d"}]',
    '[{"box_2d": [1, 2, 3, 4], "label": "x"},]',
    '```json\n[{"box_2d": [1, 2, 3, 4], "label": "x"}]',
]


@pytest.mark.parametrize("text", VALID)
def test_valid_answers_are_left_alone(gemma4_model: Any, text: str) -> None:
    """A mask changes nothing where the model would have given a valid answer by itself, down to its tokens."""
    assert re.fullmatch(vision.answer_pattern("box_2d", 4), text)
    form = {"type": "regex", "regex": vision.answer_pattern("box_2d", 4)}
    free = say(gemma4_model, text, temperature=0, logprobs=True)
    held = say(gemma4_model, text, temperature=0, logprobs=True, response_format=form)
    assert held.text == free.text == text
    assert held.token_ids.tolist() == free.token_ids.tolist()
    assert np.array_equal(held.logprobs, free.logprobs)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", INVALID)
def test_other_answers_become_valid(gemma4_model: Any, text: str) -> None:
    pattern = vision.answer_pattern("box_2d", 4)
    assert not re.fullmatch(pattern, text)
    out = say(
        gemma4_model, text, temperature=0, response_format={"type": "regex", "regex": pattern}, max_new_tokens=2000
    )
    assert out.finish_reason in ("length", "repetition") or re.fullmatch(pattern, out.text)
    assert out.text != text


def test_detect_asks_for_its_form(gemma4_model: Any) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    found = gemma4_model.detect(picture, prompt="Write a poem.")
    assert re.fullmatch(vision.answer_pattern("box_2d", 4), found.raw_text)
    places = gemma4_model.point(picture, "poem")
    assert re.fullmatch(vision.answer_pattern("point", 2), places.raw_text)


# -- forms of asking ---------------------------------------------------------------------------------------------------


class City(pydantic.BaseModel):
    name: str
    size: int


BOOLEAN = {"type": "boolean"}


@pytest.mark.parametrize(
    ("form", "script", "text"),
    [
        ({"type": "text"}, "red", "red"),
        ({"type": "json_object"}, "{}", "{}"),
        ({"type": "json_object", "schema": BOOLEAN}, "true", "true"),
        ({"type": "json_schema", "json_schema": {"schema": BOOLEAN}}, "false", "false"),
        ({"type": "json_schema", "schema": BOOLEAN}, "false", "false"),
        (BOOLEAN, "true", "true"),
        ({"enum": ["a", "b"]}, '"b"', '"b"'),
        ({"type": ["null", "boolean"]}, "null", "null"),
        (City, '{"name": "Bern", "size": 3}', '{"name": "Bern", "size": 3}'),
        ({"type": "regex", "regex": "[ab]+c"}, "abc", "abc"),
        ({"type": "regex", "pattern": "[ab]+c"}, "abc", "abc"),
        ({"type": "lark", "lark": 'start: "a" | "b"'}, "b", "b"),
        ({"type": "grammar", "grammar": 'start: "a" | "b"'}, "b", "b"),
        ({"type": "grammar", "grammar": 'root ::= "a" | "b"'}, "b", "b"),
    ],
)
def test_forms(gemma4_model: Any, form: Any, script: str, text: str) -> None:
    out = say(gemma4_model, script, response_format=form)
    assert (out.text, out.finish_reason) == (text, "stop")
    if form != {"type": "text"}:
        assert say(gemma4_model, "!" + script, response_format=form).text != "!" + text


@pytest.mark.parametrize(
    ("form", "match"),
    [
        ("json", "expected a dict or a pydantic model, found str"),
        (["json"], "found list"),
        (int, "found int"),
        ({}, "type: expected one of"),
        ({"type": "jsonschema"}, "'jsonschema'"),
        ({"type": "xml"}, "'xml'"),
        ({"type": 3}, "type"),
        ({"type": "json_object", "shema": {}}, "unexpected field 'shema'"),
        ({"type": "json_schema"}, "json_schema: expected"),
        ({"type": "json_schema", "json_schema": {"schema": 3}}, "schema: expected a dict, found int"),
        ({"type": "json_schema", "json_schema": {"schema": BOOLEAN}, "schema": BOOLEAN}, "once"),
        ({"type": "json_schema", "schema": {"const": float("nan")}}, "not JSON"),
        ({"type": "json_schema", "schema": {"const": object()}}, "object in a schema"),
        ({"type": "regex"}, "regex"),
        ({"type": "regex", "regex": ""}, "regex"),
        ({"type": "regex", "regex": 3}, "regex.*found int"),
        ({"type": "regex", "regex": "a", "pattern": "b"}, "give one of"),
        ({"type": "regex", "regex": "("}, "unclosed group"),
        ({"type": "regex", "regex": "(?=a)b"}, "look-ahead"),
        ({"type": "regex", "regex": "a" * 1_000_001}, "1000000 characters"),
        ({"type": "lark", "lark": "start: nope"}, "nope"),
        ({"type": "lark", "lark": 'begin: "a"'}, "start"),
        ({"type": "lark", "lark": "start: start"}, "nothing"),
        ({"type": "grammar", "grammar": "root ::= ("}, "cannot be applied"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "string", "format": "colour"}, "colour"),
        ({"type": "object", "x-guidance": {"lenient": True}, "not": {}}, "not"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "minimum"),
        ({"$ref": "#/nope"}, "nope"),
        ({"$ref": "http://example.org/x"}, "example.org"),
        ({"enum": []}, "cannot be applied"),
        ({"enum": [2**53 + 1]}, "9007199254740993"),
        ({"minimum": -(10**400), "type": "integer"}, "beyond 2"),
        ({"type": "string", "pattern": "("}, "unclosed group"),
    ],
)  # fmt: skip
def test_bad_forms(gemma4_model: Any, form: Any, match: str) -> None:
    with pytest.raises(RequestError, match=match) as caught:
        gemma4_model.stream("x", response_format=form)  # before anything is computed
    assert str(caught.value).startswith("response_format: ")
    assert len(str(caught.value)) < 700


def test_deep_schemas_are_refused(gemma4_model: Any) -> None:
    for depth in (500, 100_000):
        schema: Any = {"type": "integer"}
        for _ in range(depth):
            schema = {"type": "array", "items": schema}
        with pytest.raises(RequestError, match="response_format"):
            gemma4_model.generate("x", response_format=schema, max_new_tokens=3)
        while isinstance(schema, dict) and "items" in schema:  # taken apart here: freeing it recurses
            schema = schema["items"]


# -- beside thoughts, tools, streams, log-probabilities ----------------------------------------------------------------

FORM = {"response_format": {"type": "regex", "regex": "(yes|no)!"}, "temperature": 0}
THINK = "<|turn>system\n<|think|><turn|>\n<|turn>model\n"
TOOLS = "<|turn>system\n<|tool>declaration:f{}<tool|><turn|>\n<|turn>model\n"
THOUGHT = "<|channel>thought\nHm, no? [{<channel|>"
CALL = '<|tool_call>call:f{x:<|"|>no}<|"|>}<tool_call|>'


@pytest.mark.parametrize(
    ("prompt", "script", "text", "thinking", "calls"),
    [
        ("x", "yes!", "yes!", None, 0),
        (THINK, THOUGHT + "no!", "no!", "Hm, no? [{", 0),
        (THINK, "no!", "no!", None, 0),
        (THINK + "<|channel>", "thought\nHm<channel|>yes!", "yes!", "Hm", 0),
        (THINK + "<|channel>thought\n", "Hm<channel|>yes!", "yes!", "Hm", 0),
        (TOOLS, CALL, "", None, 1),
        (TOOLS, CALL + CALL, "", None, 2),
        (TOOLS, CALL + "yes!", "yes!", None, 1),
        (TOOLS, "yes!", "yes!", None, 0),
        (TOOLS + THINK, "<|channel>thought\nHm" + CALL, "", "Hm", 1),
        (TOOLS + THINK, THOUGHT + CALL + "no!", "no!", "Hm, no? [{", 1),
    ],
)
def test_the_form_holds_for_the_answer_alone(
    gemma4_model: Any, prompt: str, script: str, text: str, thinking: str | None, calls: int
) -> None:
    out = say(gemma4_model, script, prompt, **FORM, logprobs=3)
    assert (out.text, out.thinking, len(out.tool_calls)) == (text, thinking, calls)
    assert out.finish_reason == ("stop" if text else "tool_calls")
    assert all(call["function"]["arguments"] == {"x": "no}"} for call in out.tool_calls)
    free = say(gemma4_model, script, prompt, temperature=0)
    assert free.token_ids.tolist() == out.token_ids.tolist()  # it was valid, so it is what it was
    assert free.finish_reason == out.finish_reason
    chunks = list(answer(gemma4_model, script, prompt, **FORM, logprobs=3).chunks())
    assert "".join(chunk.text for chunk in chunks) == text
    assert "".join(chunk.thinking for chunk in chunks) == (thinking or "")
    assert [call for chunk in chunks for call in chunk.tool_calls] == out.tool_calls
    assert [index for chunk in chunks for index in chunk.token_ids] == out.token_ids.tolist()
    assert [p for chunk in chunks for p in chunk.logprobs or ()] == pytest.approx(out.logprobs.tolist())  # type: ignore[union-attr]
    assert [top for chunk in chunks for top in chunk.top_logprobs or ()] == out.top_logprobs


@pytest.mark.parametrize(
    ("prompt", "script"),
    [
        ("x", "<|channel>thought\nHm<channel|>perhaps"),  # no thoughts asked for
        ("x", CALL),  # no tools
        (THINK, CALL),
        (THINK, "<|channel>thought\nHm<turn|>"),  # the turn would end within the thought
        (THINK, "<|channel>thought\nHm<channel|><turn|>"),
        (TOOLS, "perhaps"),
        ("x", "yes! no! yes!"),
        ("x", "<turn|>"),
    ],
)
def test_what_does_not_fit_is_not_said(gemma4_model: Any, prompt: str, script: str) -> None:
    out = say(gemma4_model, script, prompt, **FORM, thinking=40, max_new_tokens=100)
    assert out.finish_reason == "stop"
    assert re.fullmatch("(yes|no)!", out.text)
    assert out.tool_calls == []


@pytest.mark.parametrize(
    ("thought", "budget"),
    [
        ("<|channel>", 1), ("<|channel>", 6), ("<|channel><channel|>", 1), ("<|channel><channel|>", True),
        ("<|channel>thought\nHm<channel|>", 2), ("<|channel>thought\nHm<channel|>", 40),
        ("<|channel>thought\nHm<channel|>", True),
    ],
)  # fmt: skip
@pytest.mark.parametrize("prompt", [THINK, THINK + "<|channel>thought\n"])
def test_one_thought_comes_before_the_form(gemma4_model: Any, prompt: str, thought: str, budget: int) -> None:
    """A model that would open another thought whenever one is closed has to answer after the first."""
    out = say(gemma4_model, thought * 200, prompt, **FORM, thinking=budget, max_new_tokens=500)
    close = gemma4_model.tokenizer.id_of("<channel|>")
    assert out.token_ids.tolist().count(close) == 1
    assert re.fullmatch("(yes|no)!", out.text) and out.finish_reason == "stop"


def test_the_form_ends_an_answer_that_ignores_the_end(gemma4_model: Any) -> None:
    out = say(gemma4_model, "yes!", **FORM, ignore_eos=True)
    assert (out.text, out.finish_reason) == ("yes!", "stop")


def test_a_cut_answer_is_the_beginning_of_one(gemma4_model: Any) -> None:
    form = {"type": "regex", "regex": "[a-c]{40}"}
    out = gemma4_model.generate("x", response_format=form, max_new_tokens=7, temperature=0)
    assert out.finish_reason == "length"
    assert re.fullmatch("[a-c]{1,39}", out.text)


def test_answers_side_by_side(gemma4_model: Any) -> None:
    """One compiled grammar serves many answers at once."""
    options = {"response_format": {"type": "regex", "regex": "[a-z]{3} [0-9]{2}"}, "temperature": 2.0}
    alone = [gemma4_model.generate("x", seed=seed, **options).text for seed in range(3)]
    streams = [gemma4_model.stream("x", seed=seed, **options) for seed in range(3)]
    texts = ["", "", ""]
    for _ in range(40):
        for which, stream in enumerate(streams):
            chunk = next(stream, None)
            texts[which] += chunk.text if chunk else ""
    assert texts == alone
