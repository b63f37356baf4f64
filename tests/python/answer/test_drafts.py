"""Guesses: made where ids come again, judged, and without an influence on an answer."""

from __future__ import annotations

from typing import Any

import gemma4
import numpy as np
import pytest
from gemma4.answer.drafts import Draft, Drafts

PROMPT = np.array([1, 2, 3], np.int32)


def test_what_came_twice_is_guessed() -> None:
    drafts = Drafts()
    drafts.learn([1, 2, 3, 4, 5, 6])
    assert drafts.after([1, 2, 3], 9) == []
    drafts.learn([1, 2, 3, 4, 5, 7])
    assert drafts.after([1, 2, 3], 9) == [4, 5], "6 or 7 is not sure"
    assert drafts.after([0, 1, 2, 3], 1) == [4]
    drafts.learn([1, 2, 3, 9])
    assert drafts.after([1, 2, 3], 9) == []


def test_numbers_are_not_guessed_and_do_not_matter() -> None:
    drafts = Drafts(frozenset(range(100, 200)))
    for number in (100, 117, 123):
        drafts.learn([1, 2, 3, number, number + 1, 4, 5, number, 6])
    assert drafts.after([1, 2, 3], 9) == []
    assert drafts.after([3, 150, 170], 9) == [4, 5]
    assert drafts.after([170, 4, 5, 199], 9) == [6]


def test_the_longest_context_decides() -> None:
    drafts = Drafts()
    for _ in range(3):
        drafts.learn([9, 9, 9, 1, 2, 3, 4, 8, 8, 8, 1, 2, 3, 5])
    assert drafts.after([1, 2, 3], 1) == [], "4 or 5"
    assert drafts.after([9, 9, 9, 1, 2, 3], 1) == [4]
    assert drafts.after([8, 8, 8, 1, 2, 3], 1) == [5]


def test_bad_guesses_rest() -> None:
    drafts = Drafts()
    for _ in range(2):
        drafts.learn([1, 2, 3, 4, 5])
    draft = Draft(drafts, PROMPT)
    assert draft.guess(5) == [4, 5]
    for _ in range(6):
        draft.judge(2, 0)
    assert draft.guess(5) == []
    for _ in range(29):
        draft.say(8)
    for index in (1, 2, 3):
        draft.say(index)
    assert draft.guess(5) == [4, 5]
    assert (draft.made, draft.kept) == (12, 0)


def test_a_copied_prompt_is_guessed() -> None:
    draft = Draft(Drafts(), np.array([9, 1, 2, 3, 4, 5, 6, 7, 8], np.int32))
    for index in (1, 2, 3, 4):
        draft.say(index)
    assert draft.guess(3) == [5, 6, 7]


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0},
        {"temperature": 1.3, "seed": 5},
        {"temperature": 0, "response_format": {"type": "regex", "regex": '\\{"a": [0-9]+, "bcdefgh": "[a-z]+"\\}'}},
        {"temperature": 0, "repetition_penalty": 1.3, "no_repeat_ngram_size": 3},
        {"temperature": 0, "stop": ["a"]},
    ],
)
def test_no_answer_changes(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Guesses that are right, wrong, and half right."""
    model = gemma4.Model.from_pretrained("demo", cache_bytes=0)
    asked: dict[str, Any] = {"max_new_tokens": 30, "ignore_eos": True, "logprobs": 3, **options}
    # However many would pay on a busy machine.
    monkeypatch.setattr("gemma4.runtime.scheduler.Scheduler.worth", lambda self, guesses: guesses)
    monkeypatch.setattr(Draft, "guess", lambda self, most, drafter=None: [])
    plain = model.generate("Describe the red circle", **asked)
    truth = plain.token_ids.tolist()
    for wrong_after in (0, 1, 3, 100):

        def guess(self: Draft, most: int, drafter: Any = None, after: int = wrong_after) -> list[int]:
            said = len(self._said) - 3
            return [index if i < after else index + 1 for i, index in enumerate(truth[said : said + most])]

        monkeypatch.setattr(Draft, "guess", guess)
        out = model.generate("Describe the red circle", **asked)
        assert out.token_ids.tolist() == truth and out.text == plain.text and out.finish_reason == plain.finish_reason
        assert np.array_equal(out.logprobs, plain.logprobs) and out.top_logprobs == plain.top_logprobs
        if wrong_after == 100 and len(truth) > 10:
            assert out.timings["accepted_tokens"] > len(truth) / 2
