"""Guesses of an answer's next ids, from what earlier answers and the prompt say, or from a drafter where those are
silent: several are then checked in one step.

Knows: ids, and which came after which. Must not know: text, logits, how guesses are checked, how a drafter makes its
own. A wrong guess changes no answer, it only costs time, so guesses are made where the same ids came twice, and rest
where they were often wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Draft", "Drafts"]

_NUMBER = -1  # stands for any number: what follows one seldom depends on which it is
_CONTEXTS = (16, 6, 3)  # ids that an id is guessed from; the longest that came before decides
_MOST_CONTEXTS = 1 << 16  # that are remembered
_PROMPT_CONTEXT = 4  # of what is copied from the prompt, which says it only once
_LONGEST_PROMPT = 8192
_LEAST_KEPT = 0.6  # share of right guesses below which guessing rests
_LEAST_DRAFTED = 0.45  # the same of a drafter's, which come by threes or more: the later ones are wrong more often
_JUDGED = 12  # guesses before it is judged
_REST = 32  # ids
_LONGEST_REST = 1024  # of a drafter, whose rests double each time that one has not helped: its guesses cost work,
_PROBED = 4  # so few of which say after a rest whether it is worth it now
_FIRST_REACH = 3  # guesses of a drafter's first draft


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


@dataclass
class Judge:
    """Whether guesses of one source pay."""

    least: float
    """Share of right ones below which they rest."""
    longest: int = _REST
    """Rest, up to which they double."""
    probed: int = _JUDGED
    """Guesses after a rest before they are judged again."""
    rest: int = 0
    """Ids for which there are to be no guesses."""
    _made: int = 0  # since the last judgement
    _kept: int = 0
    _judged: int = _JUDGED  # guesses before the next judgement
    _next_rest: int = _REST

    def judge(self, made: int, kept: int) -> None:
        """How many guesses were right."""
        self._made, self._kept = self._made + made, self._kept + kept
        if self._made >= self._judged:
            if self._kept < self.least * self._made:
                self.rest, self._next_rest = self._next_rest, min(2 * self._next_rest, self.longest)
                self._judged = self.probed
            else:
                self._judged, self._next_rest = _JUDGED, _REST
            self._made = self._kept = 0


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
        self._known, self._drafter = Judge(_LEAST_KEPT), Judge(_LEAST_DRAFTED, _LONGEST_REST, _PROBED)
        self._reach = _FIRST_REACH  # guesses of the drafter's next draft
        self._drafted = False  # whether the last guesses were a drafter's

    def say(self, index: int) -> None:
        """The id that was chosen."""
        self._said.append(index)
        for judge in (self._known, self._drafter):
            judge.rest = max(0, judge.rest - 1)

    def guess(self, most: int, drafter: Callable[[int], list[int]] | None = None) -> list[int]:
        """At most so many ids that may come next. `drafter` gives at most so many as it is asked for, where nothing
        that came before says more: that costs no computation."""
        self._drafted = False
        if most < 1:
            return []
        known = [] if self._known.rest > 0 else self._drafts.after(self._said, most) or self._from_prompt(most)
        if known or drafter is None or self._drafter.rest > 0:
            return known
        self._drafted = True
        return drafter(min(most, self._reach))

    def judge(self, made: int, kept: int) -> None:
        """How many of the last guesses were right."""
        self.made, self.kept = self.made + made, self.kept + kept
        drafted, self._drafted = self._drafted, False  # what a grammar forces is nobody's guess
        if not drafted:
            self._known.judge(made, kept)
            return
        self._drafter.judge(max(made, 1), kept)  # a drafter that is unsure has worked, too
        # As far as it was right the last time, and one further.
        self._reach = kept + 1 if kept < made else max(self._reach, made + 1)

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
