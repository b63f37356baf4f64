"""One tool call as the model writes it, `call:name{key:<|"|>text<|"|>,n:42}`, to plain data.

Knows: Gemma 4's JSON dialect. Must not know: where a call stands in an answer, tools, messages.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from .errors import ToolCallError

__all__ = ["QUOTE", "ToolCall", "parse_call"]

QUOTE = '<|"|>'

_HEAD = re.compile(r"call:([\w.-]+)\s*(?=\{)")
# A string between the model's quotes, a JSON string, or a bare key: what differs from JSON, or must not be looked into.
_DIALECT = re.compile(
    r'<\|"\|>(?P<quoted>.*?)<\|"\|>|(?P<json>"(?:[^"\\]|\\.)*\\?(?:"|\Z))|(?P<before>[{,]\s*)(?P<key>[\w.$-]+)(?=\s*:)',
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

    __hash__ = None  # type: ignore[assignment]

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
