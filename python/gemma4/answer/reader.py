"""Generated ids to text: thoughts and tool calls apart from the answer, stop strings, and where each token's characters
are.

Knows: the tokenizer, which markers mean something where. Must not know: logits, sampling, prompts.
"""

from __future__ import annotations

from typing import Any

from ..tokens import Detokenizer, Tokenizer, markers
from .markup import MARKERS, Kind, Piece, ResponseReader

__all__ = ["AnswerReader"]


class _StopFilter:
    """Passes text on, except what might be the beginning of a stop string."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._held = ""
        self.hit = False

    def push(self, text: str) -> str:
        if not self._stops:
            return text
        self._held += text
        found = [position for position in (self._held.find(stop) for stop in self._stops) if position >= 0]
        if found:
            out, self._held, self.hit = self._held[: min(found)], "", True
            return out
        keep = max(self._overlap(stop) for stop in self._stops)
        out = self._held[: len(self._held) - keep]
        self._held = self._held[len(out) :]
        return out

    def _overlap(self, stop: str) -> int:
        """Length of the longest end of the held text that begins `stop`."""
        for length in range(min(len(stop) - 1, len(self._held)), 0, -1):
            if self._held.endswith(stop[:length]):
                return length
        return 0

    def finish(self) -> str:
        out, self._held = self._held, ""
        return out


class AnswerReader:
    """Splits generated ids into thoughts, text and tool calls, as they come."""

    def __init__(
        self, tokenizer: Tokenizer, stops: tuple[str, ...] = (), *, tools: bool = False, opening: str = ""
    ) -> None:
        """Begin an answer.

        Args:
            tokenizer: the checkpoint's.
            stops: strings that end the text; they are not looked for in thoughts and tool calls.
            tools: whether tools are declared. Without them a tool call's markers mean nothing, but end a thought.
            opening: what the prompt has opened already: the marker of a thought and the thought's beginning.
        """
        self._tokenizer = tokenizer
        self._detokenizer = Detokenizer(tokenizer)
        self._stops = _StopFilter(stops)
        self._reader = ResponseReader()
        self._reader.feed(opening)
        self._tools = tools
        self._marks = {index: text for text in MARKERS if (index := tokenizer.id_of(text)) is not None}
        self._undecided: list[tuple[int, int]] = []  # (position of the id, characters) that the reader withholds
        self._decoded = 0
        self.spans: list[tuple[int, int]] = []
        """(start, end) of each id's characters in the text."""
        self.ends_in_call = False
        """Whether nothing was said after the last tool call."""

    @property
    def inside(self) -> Kind:
        """What the next id would be part of."""
        return self._reader.inside

    @property
    def stopped(self) -> bool:
        return self._stops.hit

    @property
    def thought(self) -> bool:
        """Whether a thought was begun, be it an empty one."""
        return self._reader.thought

    @property
    def tool_calls(self) -> list[dict[str, Any]]:
        """Those that are complete."""
        return self._reader.tool_calls

    def push(self, index: int) -> tuple[str, str]:
        """(text, thinking) that this id completes.

        Raises:
            ToolCallError: a tool call that cannot be read.
        """
        self.spans.append((self._decoded, self._decoded))
        last = len(self.spans) - 1
        if index not in self._marks and not self._tokenizer.is_special(index):
            return self._read(self._detokenizer.push(index), last)
        text, thinking = self._read(self._detokenizer.finish(), last - 1)  # bytes that the control token cuts off
        more = self._read(self._mark(self._marks.get(index, "")), last, marker=True)
        return text + more[0], thinking + more[1]

    def finish(self) -> tuple[str, str]:
        """(text, thinking) left over once no id follows.

        Raises:
            ToolCallError: a tool call that was not closed.
        """
        text, thinking = self._read(self._detokenizer.finish(), len(self.spans) - 1)
        if self.stopped:
            return text, thinking
        rest = self._sort(self._reader.finish(), sum(count for _, count in self._undecided))
        return text + rest[0] + self._stops.finish(), thinking + rest[1]

    def _mark(self, marker: str) -> str:
        """A marker as the reader is to see it: nothing where it means nothing."""
        inside = self._reader.inside
        if inside == "tool_call":
            return marker
        if marker == markers.CALL and not self._tools:
            marker = markers.CHANNEL_END
        return marker if self._reader.watches(marker) else ""

    def _read(self, piece: str, position: int, marker: bool = False) -> tuple[str, str]:
        """(text, thinking) that a piece completes, which comes from the id at `position`.

        Only a control token is a marker: other tokens that spell one are text.
        """
        before = self._reader.withheld
        pieces = self._reader.feed(piece) if marker else self._reader.say(piece)
        if piece:
            self._undecided.append((position, len(piece)))
        return self._sort(pieces, before + len(piece) - self._reader.withheld)

    def _sort(self, pieces: list[Piece], decided: int) -> tuple[str, str]:
        """(text, thinking) of what the reader says about the first `decided` of the undecided characters."""
        said = "".join(piece.text for piece in pieces if piece.kind == "content")
        self._place(len(said), decided)
        for piece in pieces:
            if piece.kind == "tool_call" or (piece.kind == "content" and piece.text.strip()):
                self.ends_in_call = piece.kind == "tool_call"
        return self._stops.push(said), "".join(piece.text for piece in pieces if piece.kind == "thinking")

    def _place(self, said: int, decided: int) -> None:
        """Notes which ids the first `said` of the decided characters come from; the others are no part of the text."""
        while decided > 0:
            position, count = self._undecided.pop(0)
            taken = min(count, decided)
            if taken < count:
                self._undecided.insert(0, (position, count - taken))
            decided -= taken
            new = min(taken, said)
            if new > 0:
                begin, end = self.spans[position]
                begin = begin if begin < end else self._decoded
                self._decoded += new
                said -= new
                self.spans[position] = (begin, self._decoded)
                for later in range(position + 1, len(self.spans)):
                    self.spans[later] = (self._decoded, self._decoded)
