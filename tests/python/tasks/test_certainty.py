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
    return certainties(out, parse_places(text, key, inverted=True))


WHOLE = ['[{"box_2d": [', "100", ", ", "200", ", ", "500", ", ", "512", '], "label": "', "dog", '"}', "]"]


def test_a_certain_answer() -> None:
    assert sure(WHOLE) == [Certainty(1.0, "dog", 1.0, (100, 200, 500, 512), (100, 200, 500, 512))]


def test_what_keeps_half_the_iou_counts_as_right() -> None:
    # The box is 312 wide: with an edge at 356 or at 824 the IoU is 0.5, at 355 and 825 it is less.
    others = [("356", 0.1), ("824", 0.1), ("355", 0.1), ("825", 0.1), ("cat", 0.1), ("", 0.1)]
    (one,) = sure(WHOLE, {"512": others})
    assert one.score == pytest.approx(0.6) and one.label == 1


def test_edges_are_drawn_each_for_itself() -> None:
    rng = np.random.default_rng(0)
    likely = {
        "100": [("80", 0.2), ("300", 0.1)], "200": [("250", 0.3), ("350", 0.2)],
        "500": [("700", 0.4)], "512": [("600", 0.2), ("450", 0.3)],
    }  # fmt: skip
    (one,) = sure(WHOLE, likely)
    draws = []
    for name in ("100", "200", "500", "512"):
        numbers, chances = zip(*likely[name], strict=True)
        draws.append(rng.choice([*map(float, numbers), float(name)], 100_000, p=[*chances, 1 - sum(chances)]))
    y1, x1, y2, x2 = draws
    inside = np.clip(np.minimum(x2, 512) - np.maximum(x1, 200), 0, None) * np.clip(
        np.minimum(y2, 500) - np.maximum(y1, 100), 0, None
    )
    share = np.mean(inside / ((x2 - x1) * (y2 - y1) + 312 * 400 - inside) >= 0.5)
    assert one.score == pytest.approx(share, abs=4 * math.sqrt(0.25 / 100_000))


def test_the_mean_of_what_is_near() -> None:
    (one,) = sure(WHOLE, {"512": [("500", 0.2), ("552", 0.1), ("553", 0.1), ("471", 0.1)]})
    assert one.expected[:3] == (100, 200, 500)
    assert one.expected[3] == pytest.approx((0.5 * 512 + 0.2 * 500 + 0.1 * 552) / 0.8)


def test_tiny_boxes_and_boxes_without_area() -> None:
    pieces = ['[{"box_2d": [', "100", ", ", "200", ", ", "110", ", ", "210", '], "label": "', "dog", '"}', "]"]
    (one,) = sure(pieces, {"210": [("205", 0.25), ("220", 0.25), ("221", 0.25)]})
    assert one.score == pytest.approx(0.75)
    pieces[7] = "200"
    (one,) = sure(pieces, {"110": [("111", 0.5)]})
    assert one.score == pytest.approx(0.5)


def test_labels_and_going_on_count() -> None:
    (one,) = sure(WHOLE, {"dog": [("cat", 0.75)], '[{"box_2d": [': [("[]", 0.5)]})
    assert one.label == pytest.approx(0.25) and one.score == pytest.approx(0.125)
    two = [*WHOLE[:-1], ", ", '{"box_2d": [', "0", ", ", "0", ", ", "9", ", ", "9", '], "label": "', "cat", '"}', "]"]
    first, second = sure(two, {'{"box_2d": [': [("]", 0.5)]})  # whether there is a second one
    assert (first.score, second.score) == (1, pytest.approx(0.5))


def test_a_box_on_another_one_is_likely_that_object_once_more() -> None:
    def second(label: str, *numbers: int, begins: float = 1, goes_on: float = 1) -> tuple[float, float]:
        box = [piece for number in numbers for piece in (str(number), ", ")][:-1]
        more = [', {"box_2d": [', *box, '], "label": "', label, '"}', "]"]
        likely: Likely = {WHOLE[0]: [("[]", 1 - begins)], more[0]: [("]", 1 - goes_on)]}
        first, other = sure([*WHOLE[:-1], *more], {piece: rest for piece, rest in likely.items() if rest[0][1] > 0})
        return first.score, other.score

    assert second("dog", 101, 201, 499, 511) == (1, pytest.approx(1 - 398 * 310 / (400 * 312)))
    assert second("dog", 100, 200, 500, 512) == (1, 0)
    assert second("DOG", 100, 200, 500, 356) == (1, 0.5)  # in common: half
    assert second("dog", 100, 200, 500, 355) == (1, 1)  # less than half: another one
    assert second("cat", 100, 200, 500, 512) == (1, 1)
    assert second("dog", 500, 512, 100, 200) == (1, 0)  # ends before it begins
    common = 312 / 313
    assert second("dog", 100, 200, 500, 513, goes_on=0.4) == (1, pytest.approx(0.4 * (1 - common)))
    # The first one is less certain: then the second one is the object.
    assert second("dog", 100, 200, 500, 513, begins=0.4) == (pytest.approx(0.4 * (1 - common)), 1)


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
    (one,) = sure(digits, {"5": [("4", 0.3), ("9", 0.3)]})  # 400 to 499 keep half, 900 to 999 do not
    assert one.score == pytest.approx(0.7)
    # What follows a digit that was not chosen is not multiplied into what would have been near without it.
    (one,) = sure(digits, {"1": [("2", 0.5)], "2": [("x", 0.5)]})
    assert one.score == pytest.approx(0.75)


def test_points() -> None:
    pieces = ['[{"point": [', "500", ", ", "250", '], "label": "', "dog", '"}]']
    (one,) = sure(pieces, {"250": [("260", 0.25), ("261", 0.25)]}, "point")
    assert one.score == pytest.approx(0.75) and one.expected[1] == pytest.approx(0.5 * 250 + 0.25 * 260 + 0.25 * 261)


def test_rounding_makes_nothing_more_than_certain() -> None:
    text = "".join(WHOLE)
    out = GenerationResult(
        text=text, thinking=None, tool_calls=[], token_ids=np.zeros(1, np.int32), logprobs=np.array([1e-4], np.float32),
        finish_reason="stop", usage={}, timings={}, token_spans=[(0, len(text))],
    )  # fmt: skip
    (one,) = certainties(out, parse_places(text, "box_2d"))
    assert one.score == one.label == 1.0
