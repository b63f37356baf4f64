"""How sure a model is of a place: by hand, in whatever tokens its text is cut."""

from __future__ import annotations

import math

import numpy as np
import pytest
from gemma4.answer import GenerationResult, TokenLogprob
from gemma4.boxes import parse_places
from gemma4.tasks.certainty import Certainty, certainties

Likely = dict[str, list[tuple[str, float]]]


def sure(pieces: list[str], likely: Likely | None = None, key: str = "box_2d") -> list[Certainty]:
    """Of an answer in these tokens, each certain but those that `likely` gives other ones beside."""
    likely, text = likely or {}, "".join(pieces)
    ends = np.cumsum([len(piece) for piece in pieces]).tolist()
    chosen = {piece: 1 - sum(p for _, p in others) for piece, others in likely.items()}
    tops = [
        [TokenLogprob(0, piece, math.log(chosen.get(piece, 1)))]
        + [TokenLogprob(9, other, math.log(p)) for other, p in likely.get(piece, [])]
        for piece in pieces
    ]
    out = GenerationResult(
        text=text, thinking=None, tool_calls=[], token_ids=np.zeros(len(pieces), np.int32),
        logprobs=np.array([place[0].logprob for place in tops], np.float32), finish_reason="stop", usage={},
        timings={}, token_spans=list(zip([0, *ends[:-1]], ends, strict=True)), top_logprobs=tops,
    )  # fmt: skip
    return certainties(out, parse_places(text, key))


WHOLE = ['[{"box_2d": [', "100", ", ", "200", ", ", "500", ", ", "512", '], "label": "', "dog", '"}', "]"]


def test_a_certain_answer() -> None:
    assert sure(WHOLE) == [Certainty(1.0, "dog", 1.0, (100, 200, 500, 512))]


def test_what_is_near_counts_as_right() -> None:
    # A seventh of the width, 312, is 45: 467 and 557 are near, 466 and 558 are not; what is no number does not count.
    others = [("467", 0.1), ("557", 0.1), ("466", 0.1), ("558", 0.1), ("cat", 0.1), ("", 0.1)]
    (one,) = sure(WHOLE, {"512": others})
    assert one.score == pytest.approx(0.6) and one.label == 1
    assert one.expected[3] == pytest.approx((0.4 * 512 + 0.1 * 467 + 0.1 * 557) / 0.6)
    assert one.expected[:3] == (100, 200, 500)


def test_a_near_number_keeps_the_iou() -> None:
    """The bound that the word near is derived from: all four edges off by a seventh of the side."""
    from gemma4.boxes import iou

    for sign in (1, -1):
        off = [-sign * 10, -sign * 20, 70 + sign * 10, 140 + sign * 20]
        assert iou([0.0, 0.0, 70, 140], [float(n) for n in off]) >= 0.5


def test_tiny_boxes_may_be_rounded() -> None:
    pieces = ['[{"box_2d": [', "100", ", ", "200", ", ", "110", ", ", "210", '], "label": "', "dog", '"}', "]"]
    (one,) = sure(pieces, {"210": [("205", 0.25), ("215", 0.25), ("216", 0.25)]})
    assert one.score == pytest.approx(0.75)


def test_labels_and_going_on_count() -> None:
    (one,) = sure(WHOLE, {"dog": [("cat", 0.75)], '[{"box_2d": [': [("[]", 0.5)]})
    assert one.label == pytest.approx(0.25) and one.score == pytest.approx(0.125)
    two = [*WHOLE[:-1], ", ", '{"box_2d": [', "0", ", ", "0", ", ", "9", ", ", "9", '], "label": "', "cat", '"}', "]"]
    first, second = sure(two, {'{"box_2d": [': [("]", 0.5)]})  # whether there is a second one
    assert (first.score, second.score) == (1, pytest.approx(0.5))


@pytest.mark.parametrize("order", ["label", "box"])
def test_either_key_may_come_first(order: str) -> None:
    label = ['"label": "', "dog", '"']
    box = ['"box_2d": [', "100", ", ", "200", ", ", "500", ", ", "512", "]"]
    pieces = ["[{", *(label if order == "label" else box), ", ", *(box if order == "label" else label), "}]"]
    (one,) = sure(pieces, {"dog": [("cat", 0.5)], "[{": [("[]", 0.5)], "200": [("900", 0.5)]})
    assert one.score == pytest.approx(0.125)


def test_numbers_in_digits_and_with_spaces() -> None:
    spaced = [*WHOLE[:6], ",", " 512]", ', "label": "', "dog", '"}', "]"]
    (one,) = sure(spaced, {" 512]": [(" 510]", 0.2), ("510]", 0.2), (" 510", 0.2)]})
    assert one.score == pytest.approx(0.6)
    digits = [*WHOLE[:7], "5", "1", "2", *WHOLE[8:]]
    (one,) = sure(digits, {"2": [("9", 0.3), ("0", 0.3), (",", 0.1)]})
    assert one.score == pytest.approx(0.9)
    assert one.expected[3] == pytest.approx((0.3 * 512 + 0.3 * 519 + 0.3 * 510) / 0.9)
    (one,) = sure(digits, {"1": [("2", 0.3), ("9", 0.3)]})  # 520 to 529 are near, 590 to 599 are not
    assert one.score == pytest.approx(0.7)
    # What follows a digit that was not chosen is not multiplied into what would have been near without it.
    (one,) = sure(digits, {"1": [("2", 0.5)], "2": [("x", 0.5)]})
    assert one.score == pytest.approx(0.75)


def test_points() -> None:
    pieces = ['[{"point": [', "500", ", ", "250", '], "label": "', "dog", '"}]']
    (one,) = sure(pieces, {"250": [("260", 0.25), ("261", 0.25)]}, "point")
    assert one.score == pytest.approx(0.75) and one.expected[1] == pytest.approx((0.5 * 250 + 0.25 * 260) / 0.75)


def test_rounding_makes_nothing_more_than_certain() -> None:
    text = "".join(WHOLE)
    out = GenerationResult(
        text=text, thinking=None, tool_calls=[], token_ids=np.zeros(1, np.int32), logprobs=np.array([1e-4], np.float32),
        finish_reason="stop", usage={}, timings={}, token_spans=[(0, len(text))],
    )  # fmt: skip
    (one,) = certainties(out, parse_places(text, "box_2d"))
    assert one.score == one.label == 1.0
