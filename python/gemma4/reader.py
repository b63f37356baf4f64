"""Generated ids to text: thoughts apart from the answer, stop strings, and where each token's characters are.

Knows: the tokenizer, how a thought is marked. Must not know: logits, sampling, prompts.
"""

from __future__ import annotations

from .tokenizer import Detokenizer, Tokenizer

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
    """Splits generated ids into thoughts and text, as they come."""

    def __init__(self, tokenizer: Tokenizer, stops: tuple[str, ...] = ()) -> None:
        self._detokenizer = Detokenizer(tokenizer)
        self._stops = _StopFilter(stops)
        self._open = tokenizer.id_of("<|channel>")
        self._close = {tokenizer.id_of("<channel|>"), tokenizer.id_of("<|tool_call>")} - {None}
        self._thinking = False
        self._header: str | None = None  # the channel's name, up to its line end, is no thought
        self.thought = False
        self._decoded = 0
        self.spans: list[tuple[int, int]] = []

    @property
    def stopped(self) -> bool:
        return self._stops.hit

    def push(self, index: int) -> tuple[str, str]:
        """(text, thinking) that this id completes."""
        if index == self._open and not self._thinking:
            text = self._flush()[0]
            self._thinking, self._header, self.thought = True, "", True
            self.spans.append((self._decoded, self._decoded))
            return text, ""
        if index in self._close and self._thinking:
            thinking = self._flush()[1]
            self._thinking = False
            self.spans.append((self._decoded, self._decoded))
            return "", thinking
        piece = self._detokenizer.push(index)
        return self._take(piece, 1)

    def finish(self) -> tuple[str, str]:
        """(text, thinking) left over once no id follows."""
        text, thinking = self._flush()
        return text + ("" if self.stopped else self._stops.finish()), thinking

    def _flush(self) -> tuple[str, str]:
        return self._take(self._detokenizer.finish(), 0)

    def _take(self, piece: str, ids: int) -> tuple[str, str]:
        if self._thinking:
            self.spans += [(self._decoded, self._decoded)] * ids
            return "", self._without_header(piece)
        start, self._decoded = self._decoded, self._decoded + len(piece)
        self.spans += [(start, self._decoded)] * ids
        return self._stops.push(piece), ""

    def _without_header(self, piece: str) -> str:
        if self._header is None:
            return piece
        self._header += piece
        name, line_end, rest = self._header.partition("\n")
        if line_end:
            self._header = None
            return rest
        if len(name) > 64:  # no channel's name is so long: it is the thought itself
            self._header = None
            return name
        return ""
