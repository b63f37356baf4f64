"""A finished answer with its control tokens, taken apart."""

from __future__ import annotations

import re
from typing import Any

from .errors import RequestError

__all__ = ["parse_response"]

_THOUGHT = re.compile(r"<\|channel>([^\n<]{0,64})\n?(.*?)(?:<channel\|>|\Z)", re.DOTALL)
_END = re.compile(r"(?:<turn\|>|<eos>)\s*\Z")


def parse_response(text: str) -> dict[str, Any]:
    """Role, content, thinking and tool calls of an answer; see :meth:`gemma4.Model.parse_response`.

    >>> parse_response("<|channel>thought\\nIt is a cat.<channel|>A cat.<turn|>")
    {'role': 'assistant', 'content': 'A cat.', 'thinking': 'It is a cat.', 'tool_calls': []}
    """
    if not isinstance(text, str):
        raise RequestError(f"text: expected a string, found {type(text).__name__}")
    if "<|tool_call>" in text:
        raise RequestError("text: it holds a tool call, which this version does not read")
    thoughts = [match.group(2) for match in _THOUGHT.finditer(text)]
    content = _END.sub("", _THOUGHT.sub("", text))
    thinking = "\n".join(thought.strip() for thought in thoughts if thought.strip())
    return {"role": "assistant", "content": content, "thinking": thinking or None, "tool_calls": []}
