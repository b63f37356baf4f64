"""Loops are seen, and only loops: against a definition that is slow and plain."""

from __future__ import annotations

import random

import gemma4
import numpy as np
import pytest
from gemma4.answer.repetition import LEAST_REPEATS, LEAST_TOKENS, LONGEST_BLOCK, RepetitionGuard
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import say


def fires(ids: list[int]) -> int | None:
    """At which id the guard first says so."""
    guard = RepetitionGuard()
    return next((position for position, index in enumerate(ids) if guard.push(index)), None)


def loops(ids: list[int]) -> bool:
    """The definition: the last ids are one block, 8 times or more and 256 ids or more."""
    for block in range(1, LONGEST_BLOCK + 1):
        span = max(LEAST_TOKENS, LEAST_REPEATS * block)
        if len(ids) >= span and all(ids[-i] == ids[-i - block] for i in range(1, span - block + 1)):
            return True
    return False


@settings(max_examples=60, deadline=None)
@given(
    head=st.lists(st.integers(0, 3), max_size=40),
    block=st.lists(st.integers(0, 3), min_size=1, max_size=60),
    rounds=st.integers(0, 300),
    tail=st.lists(st.integers(0, 3), max_size=5),
)
def test_it_is_the_definition(head: list[int], block: list[int], rounds: int, tail: list[int]) -> None:
    ids = (head + block * rounds)[:700] + tail
    expected = next((n - 1 for n in range(LEAST_TOKENS, len(ids) + 1) if loops(ids[:n])), None)
    assert fires(ids) == expected


@pytest.mark.parametrize("block", [1, 2, 31, 32, 33, 511, 512])
def test_every_block_to_the_longest(block: int) -> None:
    ids = random.Random(block).sample(range(100_000), block)
    head = [200_000] * 50
    needed = len(head) + max(LEAST_TOKENS, LEAST_REPEATS * block)
    assert fires(head + ids * 300) == needed - 1
    assert fires((head + ids * 300)[: needed - 1]) is None


def test_longer_blocks_are_no_loops() -> None:
    assert fires(random.Random(1).sample(range(100_000), LONGEST_BLOCK + 1) * 20) is None


def test_the_past_is_kept_where_the_buffer_turns() -> None:
    ids = random.Random(2).sample(range(100_000), 90)
    for head in range(8 * LONGEST_BLOCK - 1600, 8 * LONGEST_BLOCK - 400, 97):
        assert fires([*range(200_000, 200_000 + head), *ids * 9]) == head + 8 * len(ids) - 1


SENSIBLE = {
    "laughter": "ha " * 60,
    "a rule": "-" * 100 + "\n" + "=" * 100,
    "numbers": ", ".join(map(str, range(1, 800))),
    "a table of one value": "\n".join(f"| {row} | yes | no | yes |" for row in range(200)),
    "an empty table": "| | | |\n" * 20,
    "boxes in a grid": "["
    + ", ".join(
        f'{{"box_2d": [{y}, {x}, {y + 90}, {x + 90}], "label": "window"}}'
        for y in range(0, 900, 100)
        for x in range(0, 900, 100)
    )
    + "]",
    "one box three times": '{"box_2d": [0, 0, 1000, 1000], "label": "cat"}, ' * 3,
    "a refrain": ("Row, row, row your boat, gently down the stream. " * 4 + "Merrily, merrily. ") * 3,
}


@pytest.mark.parametrize("name", SENSIBLE)
def test_sensible_answers_pass(gemma4_model: gemma4.Model, name: str) -> None:
    assert fires(gemma4_model.tokenizer.encode(SENSIBLE[name])) is None


def test_a_loop_ends_an_answer(gemma4_model: gemma4.Model) -> None:
    loop = "red circle, " * 400
    ids = gemma4_model.tokenizer.encode(loop)
    options = {"max_new_tokens": 600, "temperature": 0}
    out = say(gemma4_model, ids, **options)
    assert out.finish_reason == "repetition"
    assert len(out.token_ids) == fires(ids) + 1  # type: ignore[operator]
    assert loop.startswith(out.text)
    for off in ({"repetition_guard": False}, {"ignore_eos": True}):
        out = say(gemma4_model, ids, **options, **off)
        assert (out.finish_reason, len(out.token_ids)) == ("length", 600)
    with pytest.raises(gemma4.RequestError, match="repetition_guard"):
        gemma4_model.generate("x", repetition_guard=None)  # type: ignore[arg-type]


def test_an_end_of_sequence_comes_before_a_loop(gemma4_model: gemma4.Model) -> None:
    one = gemma4_model.tokenizer.encode("a")
    assert say(gemma4_model, one * 255, max_new_tokens=400).finish_reason == "stop"
    assert say(gemma4_model, one * 256, max_new_tokens=400).finish_reason == "repetition"


def test_it_costs_microseconds() -> None:
    import time

    guard, ids = RepetitionGuard(), np.random.default_rng(0).integers(0, 262144, 20_000).tolist()
    started = time.process_time()
    for index in ids:
        guard.push(index)
    assert (time.process_time() - started) / len(ids) < 200e-6  # some 5 on an idle machine
