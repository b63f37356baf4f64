"""Which ids may come next in an answer: the thought up to its budget, then what the grammar allows.

Knows: the ids that mark thoughts and tool calls. Must not know: logits, text, how a grammar is written, where in the
answer a text stands (`reader` says it).
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..tokens import Tokenizer, markers
from .bans import bits_of
from .markup import Kind

if TYPE_CHECKING:
    from .grammar import Matcher

__all__ = ["PromptState", "TokenMask"]

_CHARACTER = 4  # bytes of the longest


class PromptState:
    """What a prompt says about the answer that follows it."""

    def __init__(self, tokenizer: Tokenizer, prompt_ids: NDArray[np.int32]) -> None:
        """Read it off the prompt's ids (T,), however they were made."""
        find = tokenizer.id_of
        self.channel, self.channel_end, self.call = (
            find(markers.CHANNEL), find(markers.CHANNEL_END), find(markers.CALL),
        )  # fmt: skip
        self.tools = _last(prompt_ids, find(markers.TOOL)) >= 0
        """Whether tools are declared, so that a tool call makes sense."""
        self.may_think = _last(prompt_ids, find(markers.THINK)) >= 0
        self.opening = ""
        """The text with which the prompt opens a thought that the answer goes on with."""
        opened = _last(prompt_ids, self.channel)
        if opened > max(_last(prompt_ids, self.channel_end), _last(prompt_ids, find(markers.TURN_END))):
            self.opening = tokenizer.decode(prompt_ids[opened:], skip_special=False)

    @staticmethod
    def can_think(tokenizer: Tokenizer) -> bool:
        """Whether the vocabulary has thoughts that can be ended."""
        return tokenizer.id_of(markers.CHANNEL_END) is not None


def _last(ids: NDArray[np.int32], index: int | None) -> int:
    """Position of the last `index` in ids (T,), -1 if there is none."""
    found = [] if index is None else np.flatnonzero(ids == index).tolist()
    return int(found[-1]) if found else -1


class TokenMask:
    """Follows one answer id by id."""

    def __init__(
        self,
        state: PromptState,
        tokenizer: Tokenizer,
        vocab_size: int,
        eos_ids: Iterable[int],
        matcher: Matcher | None = None,
        budget: int | None = None,
    ) -> None:
        """Begin an answer.

        Args:
            state: what its prompt says.
            tokenizer: for the characters that are spelled in bytes.
            vocab_size: of the logits.
            eos_ids: ids that end an answer.
            matcher: what the answer, without thoughts and tool calls, must fit.
            budget: ids that a thought may have.
        """
        self._at, self._tokenizer, self._eos = state, tokenizer, frozenset(eos_ids)
        self._matcher, self._budget = matcher, budget
        self._words = (vocab_size + 31) // 32
        self._begun = False  # whether the matcher has seen any of the answer
        self._called = False
        self._thought = False  # whether a thought is over
        self._spent = 0
        self._bytes = codecs.getincrementaldecoder("utf-8")("replace")  # of a character in the thought
        self.ended = False
        """Whether the answer that its grammar asks for is complete."""
        inside = {state.call} if state.tools else set()
        barred = (self._eos | {state.call}) - inside - {None}
        self._thought_mask = bits_of(barred, self._words, inverted=True) if matcher is not None else None
        self._spent_mask = bits_of({state.channel}, self._words, inverted=True)

    def mask(self, inside: Kind) -> NDArray[np.uint32] | None:
        """(ceil(vocab / 32),) a bit for each id that may come next; None where all may. Valid until the next call.

        Args:
            inside: what the next id would be part of.
        """
        if inside == "thinking":
            close = self._at.channel_end
            over = -1 if self._budget is None or close is None else self._spent - self._budget
            # A character that is begun is ended first, if it can be.
            spent = over >= _CHARACTER - 1 or (over >= 0 and not self._bytes.getstate()[0])
            return bits_of({close}, self._words) if spent else self._thought_mask
        if inside == "tool_call":
            return None
        if self._matcher is None:  # a thought that would be closed where it begins is none
            return self._spent_mask if self._budget is not None and self._spent >= self._budget else None
        mask = self._matcher.mask()
        if not self._begun:
            openers = {self._at.channel} if self._at.may_think and not (self._thought or self._called) else set()
            openers |= {self._at.call} if self._at.tools else set()
            openers |= self._eos if self._called else set()
            mask |= bits_of(openers, self._words)
        return mask

    def forced(self, inside: Kind) -> list[int]:
        """Ids that spell what the grammar demands next, if it leaves no choice. (Others may spell the same.)"""
        return self._matcher.forced() if self._matcher is not None and inside == "content" and self._begun else []

    def take(self, index: int, before: Kind, after: Kind) -> None:
        """The id that was chosen, and what comes before and after it was and will be part of."""
        if before == "thinking":
            self._spent += 1
            self._bytes.decode(self._tokenizer.byte(index) or b" ")  # a blank ends any character
            self._thought = self._thought or after != "thinking"
        self._called = self._called or (after == "tool_call" and before != "tool_call")
        if before == after == "content":
            if index in self._eos:
                self.ended = self._matcher is not None
            elif self._matcher is not None:
                self._matcher.take(index)
                self._begun = True
