"""Guesses of an answer's next ids, from what earlier answers and the prompt say: several are then checked in one step.

Knows: ids, and which came after which. Must not know: text, logits, how guesses are checked. A wrong guess changes no
answer, it only costs time, so guesses are made where the same ids came twice, and rest where they were often wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["Draft", "Drafts"]

_CONTEXTS = (16, 6, 3)  # ids that an id is guessed from; the longest that came before decides
_MOST_CONTEXTS = 1 << 16  # that are remembered
_PROMPT_CONTEXT = 4  # of what is copied from the prompt, which says it only once
_LONGEST_PROMPT = 8192
_LEAST_KEPT = 0.6  # share of right guesses below which guessing rests
_JUDGED = 12  # guesses before it is judged
_REST = 32  # ids
_NUMBER = -1  # stands for any number: what follows one seldom depends on which it is


class Drafts:
    """What came after what in earlier answers of a model. For many threads."""

    def __init__(self, numbers: frozenset[int] = frozenset()) -> None:
        """Nothing yet.

        Args:
            numbers: ids of numbers and digits, which are never guessed.
        """
        self._numbers = numbers
        self._after: dict[tuple[int, ...], tuple[int, bool]] = {}  # the next id, and whether it came twice in a row

    def learn(self, ids: Sequence[int]) -> None:
        """Remember a whole answer."""
        after, shape = self._after, self._shape(ids)
        if len(after) > _MOST_CONTEXTS:
            self._after = after = {}
        for size in _CONTEXTS:
            for end in range(size, len(shape)):
                context, index = tuple(shape[end - size : end]), shape[end]
                after[context] = (index, after.get(context, (None, False))[0] == index)

    def after(self, ids: Sequence[int], most: int) -> list[int]:
        """Ids that came after the last of `ids`, each time that they came."""
        shape, guesses = self._shape(ids[-_CONTEXTS[0] :]), list[int]()
        while len(guesses) < most:
            contexts = (tuple(shape[-size:]) for size in _CONTEXTS if size <= len(shape))
            index, sure = next((self._after[one] for one in contexts if one in self._after), (_NUMBER, False))
            if not sure or index == _NUMBER:
                break
            guesses.append(index)
            shape.append(index)
        return guesses

    def _shape(self, ids: Sequence[int]) -> list[int]:
        return [_NUMBER if index in self._numbers else index for index in ids]


class Draft:
    """The guesses for one answer."""

    def __init__(self, drafts: Drafts, prompt: NDArray[np.int32]) -> None:
        """Begin an answer.

        Args:
            drafts: what earlier answers say.
            prompt: (T,) ids.
        """
        self._drafts = drafts
        self._said = prompt[-_CONTEXTS[-1] :].tolist()  # the end of the prompt, then the answer
        self._prompt = prompt.tolist() if len(prompt) <= _LONGEST_PROMPT else []
        self._copied: dict[tuple[int, ...], int] | None = None  # where the prompt goes on after some ids
        self.made = self.kept = 0
        """Guesses so far, and those that were right."""
        self._judged = [0, 0]  # the same since the last rest
        self._rest = 0

    def say(self, index: int) -> None:
        """The id that was chosen."""
        self._said.append(index)
        self._rest = max(0, self._rest - 1)

    def guess(self, most: int) -> list[int]:
        """At most so many ids that may come next."""
        if self._rest > 0 or most < 1:
            return []
        return self._drafts.after(self._said, most) or self._from_prompt(most)

    def judge(self, made: int, kept: int) -> None:
        """How many guesses were right."""
        self.made, self.kept = self.made + made, self.kept + kept
        self._judged = [self._judged[0] + made, self._judged[1] + kept]
        if self._judged[0] >= _JUDGED:
            if self._judged[1] < _LEAST_KEPT * self._judged[0]:
                self._rest = _REST
            self._judged = [0, 0]

    def end(self) -> None:
        """Remember the answer."""
        self._drafts.learn(self._said)

    def _from_prompt(self, most: int) -> list[int]:
        prompt = self._prompt
        if self._copied is None:
            self._copied = {
                tuple(prompt[end - _PROMPT_CONTEXT : end]): end for end in range(_PROMPT_CONTEXT, len(prompt))
            }
        end = self._copied.get(tuple(self._said[-_PROMPT_CONTEXT:]))
        return [] if end is None else prompt[end : end + most]
