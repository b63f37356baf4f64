"""Keeps what callers write from becoming control tokens.

Knows: how control tokens are spelled, which words of messages and schemas templates compare. Must not know: media, ids.

Before a template is rendered, a character that occurs nowhere else is put into every string wherever it could begin or
continue a control token; once the template's own tokens are found, it is taken out.
"""

from __future__ import annotations

from typing import Any

from ..errors import RequestError
from ..tokens import Tokenizer

__all__ = ["Shield"]

# Keys that templates ask for by name; no control token can come of them, as whatever is beside them carries the mark.
_STRUCTURE = frozenset(
    {
        "role", "content", "type", "text", "name", "response", "thinking", "reasoning", "reasoning_content", "id",
        "tool_calls", "tool_responses", "tool_call_id", "function", "arguments", "parameters", "description", "format",
        "properties", "required", "items", "enum", "nullable", "default", "anyOf", "oneOf", "allOf",
        "additionalProperties", "minimum", "maximum", "return",
    }
)  # fmt: skip
# Roles and types that templates compare.
_TYPES = ("string", "number", "integer", "boolean", "object", "array", "null")
_WORDS = frozenset(
    {
        "system",
        "developer",
        "user",
        "assistant",
        "model",
        "tool",
        "text",
        "image",
        "audio",
        "video",
        "function",
        *_TYPES,
    }
    | {name.upper() for name in _TYPES}
)


class Shield:
    """A mark for one conversation, and how it is put into texts.

    The mark follows every character that begins a control token, so that none can form inside a text. Where a text
    could continue a token that the template began, the mark also comes before its first character that is not white
    space, so that trimming works as ever. Keys are texts too.
    """

    def __init__(self, tokenizer: Tokenizer, source: str, *values: Any) -> None:
        """Choose a mark.

        Args:
            tokenizer: knows the control tokens.
            source: the template's.
            values: everything the template will be given, as plain data.

        Raises:
            RequestError: no character is free.
        """
        self.mark = _unused_character([source, *(text for value in values for text in _strings(value))])
        self._starts = {ord(start): start + self.mark for start in tokenizer.control_starts}
        self._tails = {token[cut:] for token in tokenizer.controls for cut in range(1, len(token))}
        self._longest = max(map(len, self._tails), default=0)

    def apply(self, value: Any, key: str = "") -> Any:
        """Plain data with the mark in all its texts and keys."""
        if isinstance(value, list):
            return [self.apply(item, key) for item in value]
        if isinstance(value, dict):
            return {n if n in _STRUCTURE else self._text(n): self.apply(item, n) for n, item in value.items()}
        if not isinstance(value, str) or (key in ("role", "type") and value in _WORDS):
            return value
        return self._text(value)

    def _text(self, text: str) -> str:
        marked = text.translate(self._starts)
        body = marked.lstrip()
        head = body[: self._longest]
        if any(head.startswith(tail) or tail.startswith(body) for tail in self._tails) and body:
            marked = marked[: len(marked) - len(body)] + self.mark + body
        return marked


def _unused_character(texts: list[str]) -> str:
    """A private-use character that no text here holds, neither itself nor as a JSON escape."""
    used = set().union(*texts)
    for code in range(0xE000, 0xF900):
        mark, escape = chr(code), f"\\u{code:04x}"
        if mark not in used and not any(escape in text for text in texts):
            return mark
    raise RequestError("messages: the text uses every private-use character; at least one must be free")


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [*value, *(text for item in value.values() for text in _strings(item))]
    return [text for item in value for text in _strings(item)] if isinstance(value, list) else []
