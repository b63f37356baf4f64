"""An answer with its control tokens taken apart: what is said, what is thought, which tools are called.

Knows: the markers of thoughts, tool calls and ends of turns. Must not know: token ids, prompts, tools.

The text comes in pieces of any size and a marker may be spread over several; whatever could be the beginning of one is
withheld until it is decided. The result is the same for every way to cut the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import RequestError, ToolCallError
from ..prompt import parse_call
from ..tokens import markers

__all__ = ["MARKERS", "Kind", "Piece", "ResponseReader", "parse_response"]


MARKERS = (markers.CHANNEL, markers.CHANNEL_END, markers.CALL, markers.CALL_END, markers.QUOTE, *markers.ENDS)
"""Every control token that means something to a :class:`ResponseReader`."""

Kind = Literal["content", "thinking", "tool_call"]
_State = Literal["content", "channel", "thinking", "tool_call", "quoted"]
_WATCHED: dict[_State, tuple[str, ...]] = {
    "content": (markers.CHANNEL, markers.CALL, *markers.ENDS),
    "thinking": (markers.CHANNEL_END, markers.CALL, *markers.ENDS),
    "tool_call": (markers.CALL_END, markers.QUOTE),
    "quoted": (markers.QUOTE,),
}
_FOUND = {state: re.compile("|".join(map(re.escape, markers))) for state, markers in _WATCHED.items()}
_CHANNEL = "thought"
_NAME = re.compile(r"\w{0,64}")


@dataclass(frozen=True)
class Piece:
    """Some characters of an answer and what they are; markers belong to no piece."""

    kind: Kind
    text: str


class ResponseReader:
    """Says, of an answer's raw text as it comes, which part of it each character belongs to.

    Joined, the pieces of a kind are: what was said, as it was written; the thoughts, each without white space around
    it, "\\n" between two; the tool calls without their markers. After an error it must not be used again.

    >>> reader = ResponseReader()
    >>> reader.feed("<|chan")
    []
    >>> reader.feed("nel>thought\\nA cat?<channel|>Yes") + reader.finish()
    [Piece(kind='thinking', text='A cat?'), Piece(kind='content', text='Yes')]
    """

    def __init__(self, thinking_open: bool = False) -> None:
        """Begin to read.

        Args:
            thinking_open: the prompt itself has opened a thought, name and line end included.
        """
        self.tool_calls: list[dict[str, Any]] = []
        """The calls that are complete, each a :class:`gemma4.prompt.ToolCall`."""
        self.thought = thinking_open
        """Whether a thought was begun, be it an empty one."""
        self._state: _State = "thinking" if thinking_open else "content"
        self._raw: list[str] = []  # all that was fed
        self._buffer = ""
        self._at = 0  # what comes before is read
        self._call: list[str] = []  # the open call's text
        self._thought_text = False  # whether the open thought has any
        self._thoughts = False  # whether one before it had
        self._space = ""  # white space that counts only if more of the thought follows
        self._out: list[Piece] = []
        self._step: dict[_State, Callable[[str], None]] = {
            "content": self._after_content,
            "thinking": self._after_thought,
            "tool_call": self._after_call,
            "quoted": self._after_call,
        }

    @property
    def inside(self) -> Kind:
        """What the next character would be part of."""
        if self._state in ("tool_call", "quoted"):
            return "tool_call"
        return "content" if self._state == "content" else "thinking"

    def watches(self, marker: str) -> bool:
        """Whether `marker` would mean something next."""
        return marker in _WATCHED["thinking" if self._state == "channel" else self._state]

    @property
    def withheld(self) -> int:
        """How many of the last characters are not decided yet."""
        return len(self._buffer) - self._at

    def feed(self, piece: str) -> list[Piece]:
        """What `piece` decides, in order; neighbours of one kind are joined.

        Raises:
            ToolCallError: a complete tool call that cannot be read; `raw_text` is all that was fed.
        """
        self._raw.append(piece)
        self._buffer = self._buffer[self._at :] + piece
        self._at = 0
        while self._advance():
            pass
        return self._taken()

    def say(self, text: str) -> list[Piece]:
        """What `text` decides where it is known to hold no marker, though it may spell one.

        It belongs to whatever is open; only the name of a channel is still looked for.
        """
        self._raw.append(text)
        self._buffer = self._buffer[self._at :] + text
        self._at = 0
        if self._state == "channel":
            self._channel_name()
        if self._state != "channel":
            self._emit(self._buffer[self._at :])
            self._at = len(self._buffer)
        return self._taken()

    def finish(self) -> list[Piece]:
        """What was withheld, once no text follows. A thought that was not closed is one all the same.

        Raises:
            ToolCallError: a tool call that was not closed.
        """
        if self._state in ("tool_call", "quoted"):
            call = "".join(self._call) + self._buffer[self._at :]
            raise ToolCallError(f"the answer ends inside the tool call {call[:100]!r}", "".join(self._raw))
        rest = self._buffer[self._at :]
        self._buffer, self._at = "", 0
        if self._state == "channel":
            self._state = "thinking"
            rest = "" if _CHANNEL.startswith(rest) else rest
        self._emit(rest)
        return self._taken()

    def _taken(self) -> list[Piece]:
        pieces, self._out = self._out, []
        return pieces

    # -- one marker at a time ------------------------------------------------------------------------------------------

    def _advance(self) -> bool:
        """Read up to and including the next marker, or all that is certain. Returns whether there may be more."""
        if self._state == "channel":
            return self._channel_name()
        found = _FOUND[self._state].search(self._buffer, self._at)
        if found is None:
            end = len(self._buffer) - _overlap(self._buffer[self._at :], _WATCHED[self._state])
            self._emit(self._buffer[self._at : end])
            self._at = end
            return False
        self._emit(self._buffer[self._at : found.start()])
        self._at = found.end()
        self._step[self._state](found.group())
        return True

    def _channel_name(self) -> bool:
        """A channel's name and its line end are no part of the thought."""
        name = _NAME.match(self._buffer, self._at)
        assert name is not None
        if name.end() == len(self._buffer):
            if len(name.group()) < 64:
                return False
        elif self._buffer[name.end()] == "\n":
            self._at = name.end() + 1
        elif name.group() == _CHANNEL:
            self._at = name.end()
        self._state = "thinking"
        return True

    def _after_content(self, marker: str) -> None:
        if marker == markers.CHANNEL:
            self._state, self.thought = "channel", True
            self._thoughts, self._thought_text, self._space = self._thoughts or self._thought_text, False, ""
        elif marker == markers.CALL:
            self._state = "tool_call"

    def _after_thought(self, marker: str) -> None:
        self._state = "tool_call" if marker == markers.CALL else "content"

    def _after_call(self, marker: str) -> None:
        if marker == markers.CALL_END:
            text, self._call = "".join(self._call), []
            self._state = "content"
            try:
                self.tool_calls.append(parse_call(text))
            except ToolCallError as error:
                raise ToolCallError(str(error), "".join(self._raw)) from None
        else:
            self._state = "quoted" if self._state == "tool_call" else "tool_call"
            self._emit(markers.QUOTE)

    # -- what comes out ------------------------------------------------------------------------------------------------

    def _emit(self, text: str) -> None:
        kind: Kind
        if self._state == "content":
            kind = "content"
        elif self._state == "thinking":
            kind, text = "thinking", self._trimmed(text)
        else:
            kind = "tool_call"
            self._call.append(text)
        if not text:
            return
        if self._out and self._out[-1].kind == kind:
            text = self._out.pop().text + text
        self._out.append(Piece(kind, text))

    def _trimmed(self, text: str) -> str:
        """What of a thought's next text is certain to be inside it, with what was held back before it."""
        body = text.strip()
        if not body:
            self._space += text if self._thought_text else ""
            return ""
        start = text.index(body)
        before = self._space + text[:start] if self._thought_text else "\n" if self._thoughts else ""
        self._space = text[start + len(body) :]
        self._thought_text = True
        return before + body


def _overlap(text: str, markers: tuple[str, ...]) -> int:
    """Length of the longest end of `text` that begins a marker without being one."""
    tail = text[text.rfind("<") :] if "<" in text else ""  # a marker has no "<" but its first character
    return len(tail) if tail and any(marker.startswith(tail) for marker in markers) else 0


def parse_response(text: str) -> dict[str, Any]:
    """An answer with its control tokens in it, taken apart as the reference does it.

    Args:
        text: as from `tokenizer.decode(ids, skip_special=False)`.

    Returns:
        `{"role": "assistant", "content", "thinking", "tool_calls"}`: all that was said, and all that was thought (None
        for nothing), each without white space around it; and the calls, each
        `{"type": "function", "function": {"name", "arguments"}}`. A thought that is not closed is one all the same.

    Raises:
        RequestError: not a string.
        ToolCallError: a tool call that is malformed or not closed; `raw_text` is the text.

    >>> parse_response("<|channel>thought\\nIt is a cat.<channel|>A cat.<turn|>")
    {'role': 'assistant', 'content': 'A cat.', 'thinking': 'It is a cat.', 'tool_calls': []}
    >>> text = '<|tool_call>call:weather{city:<|"|>Bern<|"|>,days:3}<tool_call|>'
    >>> parse_response(text)["tool_calls"][0]["function"]
    {'name': 'weather', 'arguments': {'city': 'Bern', 'days': 3}}
    """
    if not isinstance(text, str):
        raise RequestError(f"text: expected a string, found {type(text).__name__}")
    reader = ResponseReader()
    parts: dict[str, list[str]] = {"content": [], "thinking": [], "tool_call": []}
    for piece in [*reader.feed(text), *reader.finish()]:
        parts[piece.kind].append(piece.text)
    return {
        "role": "assistant",
        "content": "".join(parts["content"]).strip(),
        "thinking": "".join(parts["thinking"]) or None,
        "tool_calls": reader.tool_calls,
    }
