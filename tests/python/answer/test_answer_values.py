"""An answer as a value: compared, turned into JSON, and read in the form that was asked for."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from typing import Any

import gemma4
import numpy as np
import pydantic
import pytest
from gemma4.answer import GenerationOptions, GenerationResult, TopLogprobs
from gemma4.config import GenerationDefaults


class Animal(pydantic.BaseModel):
    name: str
    legs: int


class Quadruped(Animal):
    @pydantic.field_validator("legs")
    @classmethod
    def four(cls, value: int) -> int:
        if value != 4:
            raise ValueError("four legs are expected")
        return value


def made(text: str = '{"name": "cat", "legs": 4}', response_format: Any = None, **fields: Any) -> GenerationResult:
    options = GenerationOptions.resolve(GenerationDefaults(), response_format=response_format)
    return replace(
        GenerationResult(
            text=text,
            thinking=None,
            tool_calls=[{"type": "function", "function": {"name": "f", "arguments": {"ä": [1]}}}],
            token_ids=np.array([1, 2], np.int32),
            logprobs=np.array([-0.5, -1.25], np.float32),
            finish_reason="stop",
            usage={"prompt_tokens": 3},
            timings={"decode_s": 0.5},
            token_spans=[(0, 1), (1, 2)],
            top_logprobs=TopLogprobs([[(1, -0.5)], [(2, -np.inf)]], None),
            reader=options.reader,
        ),
        **fields,
    )


def test_equality() -> None:
    one = made()
    assert one == made() and one == pickle.loads(pickle.dumps(one)) and one != made().text and one != None  # noqa: E711
    assert one == made(timings={}) and one == made(response_format=Animal)
    different: list[dict[str, Any]] = [
        {"text": "x"}, {"thinking": ""}, {"tool_calls": []}, {"token_ids": np.array([1, 3], np.int32)},
        {"token_ids": np.array([1], np.int32)}, {"logprobs": None}, {"logprobs": np.array([-0.5, -1.5], np.float32)},
        {"finish_reason": "length"}, {"usage": {}}, {"token_spans": []}, {"top_logprobs": None},
        {"top_logprobs": TopLogprobs([[(1, -0.5)]], None)},
    ]  # fmt: skip
    assert {name for fields in different for name in fields} == set(one.to_dict()) - {"timings"}
    for fields in different:
        assert one != made(**fields) and made(**fields) != one and made(**fields) == made(**fields), fields
    with pytest.raises(TypeError):
        hash(one)


def test_to_dict_is_json() -> None:
    value = made().to_dict()
    assert json.loads(json.dumps(value, allow_nan=False)) == value
    assert (
        value["token_ids"] == [1, 2] and value["logprobs"] == [-0.5, -1.25] and value["token_spans"] == [[0, 1], [1, 2]]
    )
    assert value["top_logprobs"] == [
        [{"id": 1, "token": "", "logprob": -0.5}],
        [{"id": 2, "token": "", "logprob": None}],
    ]
    bare = made(logprobs=None, top_logprobs=None)
    assert bare.to_dict()["logprobs"] is None and bare.to_dict()["top_logprobs"] is None
    bare.to_dict()["tool_calls"][0]["function"]["arguments"]["ä"].append(2)
    assert bare == made(logprobs=None, top_logprobs=None)  # nothing is shared


@pytest.mark.parametrize(
    ("response_format", "expected"),
    [
        (None, None),
        ({"type": "text"}, None),
        ({"type": "regex", "regex": ".*"}, None),
        ({"type": "lark", "lark": "start: /.*/"}, None),
        (Animal, Animal(name="cat", legs=4)),
        (Animal.model_json_schema(), {"name": "cat", "legs": 4}),
        ({"type": "json_object"}, {"name": "cat", "legs": 4}),
        ({"type": "json_schema", "json_schema": {"schema": Animal.model_json_schema()}}, {"name": "cat", "legs": 4}),
    ],
)
def test_parsed(response_format: Any, expected: Any) -> None:
    out = made(response_format=response_format)
    assert out.parsed == expected and type(out.parsed) is type(expected) and out.parsed is out.parsed
    assert pickle.loads(pickle.dumps(out)).parsed == expected
    for cut in ({"finish_reason": "length"}, {"finish_reason": "repetition"}, {"text": '{"name": "c'}, {"text": ""}):
        assert replace(out, **cut).parsed is None  # type: ignore[arg-type]


def test_a_value_that_the_model_itself_refuses() -> None:
    """A validator is not in the schema: its error is the caller's own, and the answer is not lost."""
    out = made('{"name": "hen", "legs": 2}', Quadruped)
    with pytest.raises(pydantic.ValidationError, match="four legs"):
        out.parsed  # noqa: B018
    assert out.text == '{"name": "hen", "legs": 2}' and out.to_dict()["text"] == out.text


def test_of_a_model(gemma4_model: Any) -> None:
    """The whole way, greedy: asked twice it is equal, with times that are not."""
    asked: dict[str, Any] = {"temperature": 0, "max_new_tokens": 60, "logprobs": 3}
    first, second = (gemma4_model.generate("What is it?", response_format=Shape, **asked) for _ in range(2))
    assert first == second and json.loads(json.dumps(first.to_dict())) == first.to_dict()
    assert first.finish_reason == "stop" and isinstance(first.parsed, Shape)
    assert first.parsed.model_dump(mode="json") == json.loads(first.text)
    cut = gemma4_model.generate("What is it?", response_format=Shape, **{**asked, "max_new_tokens": 2})
    assert cut.finish_reason == "length" and cut.parsed is None and cut != first
    assert gemma4_model.generate("Hello", **asked).parsed is None
    assert isinstance(first, gemma4.GenerationResult)


class Shape(pydantic.BaseModel, extra="forbid"):
    large: bool
    red: bool
