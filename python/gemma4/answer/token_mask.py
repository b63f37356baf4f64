"""Which ids may come next in an answer: the thought up to its budget, then what the grammar allows.

Knows: the ids that mark thoughts and tool calls. Must not know: logits, text, how a grammar is written.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..tokens import Tokenizer, markers
from .bans import bits_of

if TYPE_CHECKING:
    from .grammar import Matcher

__all__ = ["Situation", "Steering"]

_CHARACTER = 4  # bytes of the longest


class Situation:
    """What a prompt says about the answer that follows it."""

    def __init__(self, tokenizer: Tokenizer | None, prompt_ids: NDArray[np.int32]) -> None:
        """Read it off the prompt's ids (T,), however they were made."""

        def find(token: str) -> int | None:
            return None if tokenizer is None else tokenizer.id_of(token)

        self.thought, self.thought_end = find(markers.CHANNEL), find(markers.CHANNEL_END)
        self.call, self.call_end = find(markers.CALL), find(markers.CALL_END)
        self.tools = _last(prompt_ids, find(markers.TOOL)) >= 0
        """Whether tools are declared, so that a tool call makes sense."""
        self.may_think = _last(prompt_ids, find(markers.THINK)) >= 0
        self.opened = -1
        """Where the prompt opens a thought that the answer goes on with; -1 if it does not."""
        opening = _last(prompt_ids, self.thought)
        if opening > max(_last(prompt_ids, self.thought_end), _last(prompt_ids, find(markers.TURN_END))):
            self.opened = opening


def _last(ids: NDArray[np.int32], index: int | None) -> int:
    """Position of the last `index` in ids (T,), -1 if there is none."""
    found = [] if index is None else np.flatnonzero(ids == index).tolist()
    return int(found[-1]) if found else -1


class Steering:
    """Follows one answer id by id."""

    def __init__(
        self,
        situation: Situation,
        tokenizer: Tokenizer | None,
        vocab_size: int,
        eos_ids: Iterable[int],
        matcher: Matcher | None = None,
        budget: int | None = None,
    ) -> None:
        """Begin an answer.

        Args:
            situation: what its prompt says.
            tokenizer: for the characters that are spelled in bytes.
            vocab_size: of the logits.
            eos_ids: ids that end an answer.
            matcher: what the answer, without thoughts and tool calls, must fit.
            budget: ids that a thought may have.
        """
        self._at, self._tokenizer, self._eos = situation, tokenizer, frozenset(eos_ids)
        self._matcher, self._budget = matcher, budget
        self._words = (vocab_size + 31) // 32
        self._state = "thought" if situation.opened >= 0 else "start"
        self._called = False
        self._thought = False  # whether a thought is over
        self._spent = 0
        self._bytes = codecs.getincrementaldecoder("utf-8")("replace")  # of a character in the thought
        self.ended = False
        """Whether the answer that its grammar asks for is complete."""
        inside = {situation.call} if situation.tools else set()
        barred = (self._eos | {situation.call}) - inside - {None}
        self._thought_mask = bits_of(barred, self._words, inverted=True) if matcher is not None else None
        self._spent_mask = bits_of({situation.thought}, self._words, inverted=True)

    def mask(self) -> NDArray[np.uint32] | None:
        """(ceil(vocab / 32),) a bit for each id that may come next; None where all may. Valid until the next call."""
        if self._state == "thought":
            close = self._at.thought_end
            over = -1 if self._budget is None or close is None else self._spent - self._budget
            # A character that is begun is ended first, if it can be.
            spent = over >= _CHARACTER - 1 or (over >= 0 and not self._bytes.getstate()[0])
            return bits_of({close}, self._words) if spent else self._thought_mask
        if self._state == "call":
            return None
        if self._matcher is None:  # a thought that would be closed where it begins is none
            return self._spent_mask if self._budget is not None and self._spent >= self._budget else None
        mask = self._matcher.mask()
        if self._state == "start":
            openers = {self._at.thought} if self._at.may_think and not (self._thought or self._called) else set()
            openers |= {self._at.call} if self._at.tools else set()
            openers |= self._eos if self._called else set()
            mask |= bits_of(openers, self._words)
        return mask

    def take(self, index: int) -> None:
        """The id that was chosen."""
        at = self._at
        if self._state == "thought":
            self._think(index)
        elif self._state == "call":
            self._state = "start" if index == at.call_end else "call"
        elif self._state == "start" and index == at.thought:
            self._state = "thought"
        elif self._state == "start" and index == at.call and at.tools:
            self._state, self._called = "call", True
        elif index in self._eos:
            self.ended = self._matcher is not None
        elif self._matcher is not None:
            self._matcher.take(index)
            self._state = "answer"

    def _think(self, index: int) -> None:
        self._spent += 1
        byte = b"" if self._tokenizer is None else self._tokenizer.byte(index)
        self._bytes.decode(byte or b" ")  # a blank ends any character
        if index == self._at.thought_end or index in self._eos:
            self._state, self._thought = "start", True
        elif index == self._at.call:
            self._state, self._called = ("call", True) if self._at.tools else ("start", False)
            self._thought = True
