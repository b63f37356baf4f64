"""When a drafter is asked, and for how much."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from gemma4.answer.drafts import Draft, Drafts


class Asked:
    """A drafter that guesses zeros, and remembers how many were wanted."""

    def __init__(self) -> None:
        self.wanted: list[int] = []

    def __call__(self, most: int) -> list[int]:
        self.wanted.append(most)
        return [0] * most


def begin() -> tuple[Draft, Asked]:
    return Draft(Drafts(), np.arange(100, 110, dtype=np.int32)), Asked()


def test_it_is_asked_for_more_while_it_is_right() -> None:
    draft, drafter = begin()
    for _ in range(6):
        guesses = draft.guess(7, drafter)
        draft.judge(len(guesses), len(guesses))
        draft.say(5)
    assert drafter.wanted == [3, 4, 5, 6, 7, 7]


def test_it_is_asked_for_less_where_it_was_wrong() -> None:
    draft, drafter = begin()
    for kept in (3, 1, 2):
        guesses = draft.guess(7, drafter)
        draft.judge(len(guesses), kept)
        draft.say(5)
    assert drafter.wanted == [3, 4, 2]


def test_it_rests_longer_each_time_that_a_rest_did_not_help() -> None:
    draft, drafter = begin()
    asked = []
    for step in range(400):
        before = len(drafter.wanted)
        guesses = draft.guess(7, drafter)
        if len(drafter.wanted) > before:
            asked.append(step)
        draft.judge(len(guesses), 0)
        draft.say(1000 + step)
    rests = [after - before for before, after in pairwise(asked) if after > before + 1]
    assert rests == [32, 64, 128]
    assert len(asked) <= 10 + 4 * 4


def test_one_that_is_unsure_rests_too() -> None:
    draft, _ = begin()
    asked = 0

    def unsure(most: int) -> list[int]:
        nonlocal asked
        asked += 1
        return []

    for step in range(40):
        draft.guess(7, unsure)
        draft.judge(0, 0)
        draft.say(1000 + step)
    assert asked == 12


def test_what_came_before_is_taken_first() -> None:
    """It costs nothing; and a drafter that was wrong does not silence it."""
    drafts = Drafts()
    for _ in range(2):
        drafts.learn([1, 2, 3, 4, 5, 6, 7])
    draft, drafter = Draft(drafts, np.array([9], np.int32)), Asked()
    for index in (1, 2, 3):
        draft.say(index)
    assert draft.guess(3, drafter) == [4, 5, 6] and not drafter.wanted
    draft.judge(3, 3)
    draft.say(99)
    assert draft.guess(3, drafter) == [0, 0, 0]
    assert (draft.made, draft.kept) == (3, 3)
    assert draft.guess(0, drafter) == []
