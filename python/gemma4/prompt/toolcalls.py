"""Tool calls: as the model writes them, `call:name{key:<|"|>text<|"|>,n:42}`, and as callers write them in messages.

Knows: Gemma 4's JSON dialect, Hugging Face's and OpenAI's form of a call. Must not know: where a call stands in an
answer, which tools there are, templates.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np

from ..errors import RequestError, ToolCallError
from ..tokens import check_text, markers

__all__ = ["ToolCall", "parse_call", "plain_data", "read_calls", "read_responses"]

_QUOTE = re.escape(markers.QUOTE)
_HEAD = re.compile(r"call:([\w.-]+)\s*(?=\{)")
# A string between the model's quotes, a JSON string, or a bare key: what differs from JSON, or must not be looked into.
_DIALECT = re.compile(
    rf'{_QUOTE}(?P<quoted>.*?){_QUOTE}|(?P<json>"(?:[^"\\]|\\.)*\\?(?:"|\Z))|'
    r"(?P<before>[{,]\s*)(?P<key>[\w.$-]+)(?=\s*:)",
    re.DOTALL,
)


class ToolCall(dict[str, Any]):
    """A call in the form that chat templates and OpenAI use, `{"type": "function", "function": {"name", "arguments"}}`.

    `call.name` and `call["name"]` are short for `call["function"]["name"]`, likewise `arguments`; and it equals the
    short form.

    >>> call = ToolCall("weather", {"city": "Bern"})
    >>> call["function"]["name"], call.name, call["arguments"]
    ('weather', 'weather', {'city': 'Bern'})
    >>> call == {"name": "weather", "arguments": {"city": "Bern"}}
    True
    """

    __hash__ = None

    def __init__(self, name: str, arguments: dict[str, Any]) -> None:
        super().__init__(type="function", function={"name": name, "arguments": arguments})

    @property
    def name(self) -> str:
        """Of the function."""
        return str(self["function"]["name"])

    @property
    def arguments(self) -> dict[str, Any]:
        """By parameter name, plain data as from JSON."""
        values: dict[str, Any] = self["function"]["arguments"]
        return values

    def __missing__(self, key: str) -> Any:
        if key in ("name", "arguments"):
            return self["function"][key]
        raise KeyError(key)

    def __eq__(self, other: object) -> bool:
        return dict.__eq__(self, other) is True or (isinstance(other, dict) and other == self["function"])

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __reduce__(self) -> tuple[Any, ...]:
        return ToolCall, (self.name, self.arguments), None, None, iter(self.items())


def parse_call(text: str) -> ToolCall:
    """A call from the text between `<|tool_call>` and `<tool_call|>`.

    Args:
        text: such as `call:name{key:<|"|>text<|"|>,n:42}`; values may be nested.

    Raises:
        ToolCallError: it is no call, or its arguments cannot be read; `raw_text` is the text given.

    >>> parse_call('call:find{of:[<|"|>a{b}<|"|>,null],deep:{n:-1.5}}')["arguments"]
    {'of': ['a{b}', None], 'deep': {'n': -1.5}}
    """
    head = _HEAD.match(text)
    if head is None:
        raise ToolCallError(f"the tool call {_shown(text)} does not begin with call:name{{", text)
    try:
        arguments = json.loads(_DIALECT.sub(_as_json, text[head.end() :]), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ToolCallError(f"the arguments of the tool call {_shown(text)} cannot be read: {error}", text) from None
    return ToolCall(head.group(1), arguments)


def _as_json(match: re.Match[str]) -> str:
    if match["quoted"] is not None:
        return json.dumps(match["quoted"])
    return match["json"] or f'{match["before"]}"{match["key"]}"'


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _shown(text: str) -> str:
    return repr(text if len(text) <= 100 else text[:100] + "…")


# ----------------------------------------------------------------------------------------------------------------------
# Calls and answers in messages

_MAX_DEPTH = 50
_MAX_CALLS = 10_000


def read_calls(value: Any, where: str) -> list[dict[str, Any]]:
    """The `tool_calls` of a message as templates read them: type, function with name and arguments, id if given.

    Args:
        value: a list of calls in Hugging Face's form (`arguments` an object, "function" around it or not) or OpenAI's
            (`arguments` an object's JSON).
        where: the field, for messages.

    Raises:
        RequestError: names what is missing or wrong.

    >>> read_calls([{"id": "a", "function": {"name": "f", "arguments": '{"x": 1}'}}], "tool_calls")
    [{'type': 'function', 'function': {'name': 'f', 'arguments': {'x': 1}}, 'id': 'a'}]
    """
    return [_call(call, f"{where}[{index}]") for index, call in enumerate(_listed(value, where))]


def _call(call: Any, where: str) -> dict[str, Any]:
    call = _object(call, where)
    wrapped = "function" in call
    function = _object(call["function"], f"{where}: function") if wrapped else call
    outer = ("type", "function", "id", "index") if wrapped else ("type", "id", "name", "arguments")
    _only(call, where, outer)
    if wrapped:
        _only(function, f"{where}: function", ("name", "arguments"))
    if call.get("type", "function") != "function":
        raise RequestError(f"{where}: type: expected 'function', found {str(call['type'])[:40]!r}")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        arguments = _loaded(arguments, f"{where}: arguments")
    arguments = {} if arguments is None else plain_data(arguments, f"{where}: arguments")
    if not isinstance(arguments, dict):
        raise RequestError(f"{where}: arguments: expected an object, found {type(arguments).__name__}")
    name = _name(function.get("name"), f"{where}: name")
    plain: dict[str, Any] = {"type": "function", "function": {"name": name, "arguments": arguments}}
    if call.get("id") is not None:
        plain["id"] = check_text(call["id"], f"{where}: id")
    return plain


def read_responses(value: Any, where: str) -> list[dict[str, Any]]:
    """The `tool_responses` of a message: `{"name", "response"}` each. Raises RequestError."""
    result = []
    for index, item in enumerate(_listed(value, where)):
        answer, place = _object(item, f"{where}[{index}]"), f"{where}[{index}]"
        _only(answer, place, ("name", "response"))
        name = _name(answer.get("name"), f"{place}: name")
        result.append({"name": name, "response": plain_data(answer.get("response"), f"{place}: response")})
    return result


def plain_data(value: Any, where: str, depth: int = 0) -> Any:
    """A deep copy as JSON knows it: dicts with string keys, lists, strings, numbers, booleans, None.

    Raises:
        RequestError: something else, a number that is not finite, or more than 50 levels.

    >>> plain_data({"a": (1, np.float32(0.5))}, "x")
    {'a': [1, 0.5]}
    """
    if depth > _MAX_DEPTH:
        raise RequestError(f"{where}: nested deeper than {_MAX_DEPTH} levels")
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.size <= 10_000):
        value = value.tolist()
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise RequestError(f"{where}: {value} is no JSON number")
        return value
    if isinstance(value, str):
        return str(check_text(value, where))
    if isinstance(value, list | tuple):
        return [plain_data(item, f"{where}[{index}]", depth + 1) for index, item in enumerate(value)]
    if isinstance(value, Mapping):
        return {
            str(check_text(key, f"{where}: a key")): plain_data(item, f"{where}.{str(key)[:40]}", depth + 1)
            for key, item in value.items()
        }
    raise RequestError(f"{where}: expected JSON data, found {type(value).__name__}")


def _listed(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise RequestError(f"{where}: expected a list, found {type(value).__name__}")
    if len(value) > _MAX_CALLS:
        raise RequestError(f"{where}: at most {_MAX_CALLS}, found {len(value)}")
    return list(value)


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise RequestError(f"{where}: expected an object, found {type(value).__name__}")
    return value


def _only(value: Mapping[str, Any], where: str, known: tuple[str, ...]) -> None:
    for key, item in value.items():
        if key not in known and item is not None:
            raise RequestError(f"{where}: {str(key)[:40]}: unknown field (known: {', '.join(known)})")


def _name(name: Any, where: str) -> str:
    if not isinstance(name, str) or not name:
        raise RequestError(f"{where}: expected a function's name, found {str(name)[:40]!r}")
    return str(check_text(name, where))


def _loaded(text: str, where: str) -> Any:
    try:
        return json.loads(text or "{}", parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{where}: not JSON: {str(error)[:100]}") from None
