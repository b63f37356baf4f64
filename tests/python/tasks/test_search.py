"""What is kept of the answer to "where is the …?": with the bundled model, and with answers of the test's choice."""

from __future__ import annotations

import itertools
import math
import warnings
from pathlib import Path
from typing import Any

import gemma4
import numpy as np
import pytest
from gemma4 import DetectionParseError, RequestError
from gemma4.answer import GenerationResult, TokenLogprob
from gemma4.boxes import iou
from gemma4.tasks import Search
from gemma4.tasks.tiling import tiles
from labelled import paint
from other_demos import demo_with
from PIL import Image
from scripted import answers_instead

# What the demo model is asked for in vain; of some it says much, until it is cut.
NOT_SHAPES = [
    "dog",
    "cat",
    "person",
    "car",
    "hexagon",
    "rectangle",
    "cyan square",
    "tree",
    "face",
    "Straße",
    'a "b"',
    "a|b",
]


@pytest.fixture(scope="module")
def shapes() -> Image.Image:
    picture = Image.new("RGB", (640, 480), "white")
    paint(picture, "red circle", (60, 60, 220, 220))
    paint(picture, "blue square", (340, 200, 520, 380))
    return picture


@pytest.mark.filterwarnings("ignore:the answer was cut")
def test_a_dog_or_nothing(gemma4_model: Any, shapes: Image.Image) -> None:
    for name in NOT_SHAPES:
        assert len(gemma4_model.detect(shapes, name, max_new_tokens=400)) == 0, name
    assert len(gemma4_model.detect(shapes, ["dog", "cat"])) == 0
    assert gemma4_model.detect(shapes, ["dog", "red circle"]).labels == ["red circle"]


def test_a_budget_that_a_checkpoint_was_not_trained_with_warns(shapes: Image.Image, tmp_path: Path) -> None:
    directory = demo_with(tmp_path / "demo", processor={"image_processor": {"soft_token_budgets": [70, 140]}})
    with gemma4.Model.from_pretrained(directory) as model:
        with pytest.warns(RuntimeWarning, match="was trained with pictures of 70, 140 soft tokens: with 560") as caught:
            model.detect(shapes, "red circle", max_soft_tokens=560)
        assert caught[0].filename == __file__
        model.detect(shapes, "red circle", max_soft_tokens=140)  # a warning would be an error


@pytest.mark.parametrize("budget", [70, 140, 280, 560, 1120])
def test_every_budget_finds_what_is_there_and_nothing_else(gemma4_model: Any, shapes: Image.Image, budget: int) -> None:
    found = gemma4_model.detect(shapes, max_soft_tokens=budget)
    assert found.labels == ["red circle", "blue square"]
    for one, box in zip(found, [(60, 60, 220, 220), (340, 200, 520, 380)], strict=True):
        assert iou(one.xyxy, box) > 0.75
    assert len(gemma4_model.detect(shapes, ["dog", "yellow star"], max_soft_tokens=budget)) == 0


@pytest.mark.parametrize("name", ["red circle", "Red Circle", "RED CIRCLE"])
def test_capitals_do_not_matter(gemma4_model: Any, shapes: Image.Image, name: str) -> None:
    (one,) = gemma4_model.detect(shapes, name)
    assert one.label == name and iou(one.xyxy, (60, 60, 220, 220)) > 0.8


def test_labels_come_in_any_collection(gemma4_model: Any, shapes: Image.Image) -> None:
    import pandas as pd

    names = ["red circle", "blue square"]
    expected = gemma4_model.detect(shapes, names)
    assert {*expected.labels} == {*names}
    for given in (
        tuple(names),
        np.array(names),
        pd.Series(names),
        (name for name in names),
        dict.fromkeys(names).keys(),
    ):
        assert gemma4_model.detect(shapes, given) == expected
    assert gemma4_model.detect(shapes, {*names}) == gemma4_model.detect(shapes, sorted(names))


def test_threshold(gemma4_model: Any, shapes: Image.Image) -> None:
    found = gemma4_model.detect(shapes)
    least = float(np.median(found.scores))
    kept = gemma4_model.detect(shapes, threshold=least)
    assert kept.scores.tolist() == [score for score in found.scores if score >= least]
    assert len(gemma4_model.detect(shapes, threshold=1)) == 0
    assert len(gemma4_model.point(shapes, "red circle", threshold=1)) == 0
    for wrong in (-0.1, 1.1, math.nan, "0.5", True):
        with pytest.raises(RequestError, match="threshold"):
            gemma4_model.detect(shapes, threshold=wrong)


def test_refine_moves_edges_within_what_is_near(gemma4_model: Any, shapes: Image.Image) -> None:
    plain, finer = gemma4_model.detect(shapes), gemma4_model.detect(shapes, refine=True)
    assert [one.box_2d for one in plain] == [one.box_2d for one in finer]
    assert plain.scores.tolist() == finer.scores.tolist()
    moved = np.abs(plain.xyxy - finer.xyxy)
    assert 0 < moved.max() < 20
    (here,), (there,) = gemma4_model.point(shapes, "red circle"), gemma4_model.point(shapes, "red circle", refine=True)
    assert here.point == there.point and 0 < np.abs(np.subtract(here.xy, there.xy)).max() < 20


@pytest.mark.filterwarnings("ignore:the answer was cut")
def test_a_thousand_labels(gemma4_model: Any, shapes: Image.Image) -> None:
    names = ["red circle", *(f"thing {number}" for number in range(80))]
    assert {*gemma4_model.detect(shapes, names).labels} <= {"red circle"}


def test_pixels_are_kept_only_if_asked(gemma4_model: Any, shapes: Image.Image) -> None:
    import pickle

    array = np.asarray(shapes).copy()
    light, whole = gemma4_model.detect(array), gemma4_model.detect(array, keep_image=True)
    assert len(pickle.dumps(light)) < 50_000 < array.nbytes < len(pickle.dumps(whole))
    assert light == whole and light.image is None
    array[:] = 0  # the caller's own
    assert np.array_equal(np.asarray(whole.image), np.asarray(shapes))
    assert np.asarray(gemma4_model.point(shapes, "red circle", keep_image=True).image).shape == (480, 640, 3)


# -- answers of the test's choice --------------------------------------------------------------------------------------


Piece = str | tuple[str, float] | tuple[str, float, dict[str, float]]
"""A token; with its probability; with those of others in its place."""


@pytest.fixture
def says(gemma4_model: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets the model give an answer in these tokens."""

    def set_answer(*pieces: Piece) -> None:
        def asked(messages: Any, options: Any) -> GenerationResult:
            whole = [(piece, 1.0, {}) if isinstance(piece, str) else (*piece, {})[:3] for piece in pieces]
            ends = np.cumsum([len(piece) for piece, *_ in whole]).tolist()
            tops = [
                [
                    TokenLogprob(0, piece, math.log(chance)),
                    *(TokenLogprob(9, o, math.log(p)) for o, p in others.items()),
                ]
                for piece, chance, others in whole
            ]
            return GenerationResult(
                text="".join(piece for piece, *_ in whole), thinking=None, tool_calls=[],
                token_ids=np.zeros(len(whole), np.int32), finish_reason="stop", usage={}, timings={},
                logprobs=np.array([top[0].logprob for top in tops], np.float32), top_logprobs=tops,
                token_spans=list(zip([0, *ends[:-1]], ends, strict=True)),
            )  # fmt: skip

        answers_instead(monkeypatch, gemma4_model, asked)

    return set_answer


PICTURE = np.zeros((100, 200, 3), np.uint8)
HEAD = '[{"box_2d": [100, 200, 500, 600], "label": "'


def test_open_labels_let_it_say_what_it_likes(gemma4_model: Any, says: Any) -> None:
    says(HEAD, ("wolf", 0.8), '"}]')
    assert gemma4_model.detect(PICTURE, "dog", open_labels=True).labels == ["wolf"]
    assert len(gemma4_model.detect(PICTURE, "dog")) == 0


def test_a_threshold_of_0_tells_what_it_would_hardly_call_so(gemma4_model: Any, says: Any) -> None:
    says(HEAD, ("wolf", 0.8, {"dog": 0.02}), '"}]')
    (one,) = gemma4_model.detect(PICTURE, "dog", threshold=0)
    assert one.label == "dog" and 0 < one.score < 0.05
    assert len(gemma4_model.detect(PICTURE, "dog")) == 0


@pytest.mark.parametrize(
    ("label", "names", "expected"),
    [
        ([("wolf", 0.8, {"dog": 0.09})], ["dog"], None),
        ([("wolf", 0.8, {"dog": 0.11})], ["dog"], ("dog", 0.11)),
        ([("wolf", 0.8, {"Do": 0.11, "d": 0.02})], ["DOG"], ("DOG", 0.13)),
        ([("wolf", 0.8, {"dog": 0.11, "cat": 0.2})], ["dog", "cat"], ("cat", 0.2)),
        ([("dog", 0.3)], ["dog"], ("dog", 0.3)),
        ([("dog", 0.05)], ["dog"], None),  # a word that it is not sure of at all
        # Where the names part decides: what they have in common says nothing.
        ([("red", 0.9), (" square", 0.9, {" circle": 0.05})], ["red circle"], None),
        ([("red", 0.5), (" square", 0.7, {" circle": 0.3})], ["red circle"], ("red circle", 0.15)),
        ([("red", 0.9), (" circle", 0.8)], ["red"], None),  # the name ends where the label goes on
        ([("red", 0.9), (" circle", 0.6, {'"': 0.2})], ["red"], ("red", 0.18)),
        ([("dog", 0.9), ("house", 0.5, {'"}]': 0.4})], ["dog"], ("dog", 0.36)),
        ([("dogs", 0.9)], ["dog"], ("dog", 0.9)),
        ([("dog", 0.9)], ["Dogs"], ("Dogs", 0.9)),
        ([("buses", 0.9)], ["bus"], ("bus", 0.9)),
        ([("wolf", 0.9)], ["wol"], None),
        ([("stra\u00dfe", 0.9)], ["STRASSE"], ("STRASSE", 0.9)),
        ([("a ", 0.9), (r"\"b\"", 0.9)], ['a "b"'], ('a "b"', 0.81)),
    ],
)
def test_labels_are_held_to_those_that_were_asked(
    gemma4_model: Any, says: Any, label: list[Piece], names: list[str], expected: tuple[str, float] | None
) -> None:
    says(HEAD, *label, '"}]')
    found = gemma4_model.detect(PICTURE, names)
    if expected is None:
        assert len(found) == 0
    else:
        assert found.labels == [expected[0]] and found[0].score == pytest.approx(expected[1])
    (freed,) = gemma4_model.detect(PICTURE, names, open_labels=True)
    assert freed.label.casefold() in "".join(piece[0] for piece in label).casefold().replace("\\", "")
    assert len(gemma4_model.detect(PICTURE)) == len(gemma4_model.detect(PICTURE, prompt="Any?")) == 1
    if expected is not None:
        assert gemma4_model.detect(PICTURE, names, prompt="Any?") == found


def test_a_question_of_ones_own_may_be_answered_by_kinds(gemma4_model: Any, says: Any) -> None:
    says(HEAD, ("blue ", 0.9), ("star", 0.8), '"}]')
    assert len(gemma4_model.detect(PICTURE, ["star", "tar"])) == 0
    (one,) = gemma4_model.detect(PICTURE, ["star", "tar", "dog"], prompt="What is there?")
    assert one.label == "star" and one.score == pytest.approx(0.72)
    (one,) = gemma4_model.detect(PICTURE, ["star", "Blue star"], prompt="What is there?")
    assert one.label == "Blue star"


def test_a_box_that_cannot_be_does_not_lose_the_others(gemma4_model: Any, says: Any) -> None:
    says(
        '[{"box_2d": [500, 200, 100, 600], "label": "dog"}, {"box_2d": [100, 200, 500, 600], "label": "dog"}, '
        '{"box_2d": [1, 9, 9, 2], "label": "dog"}]'
    )
    with pytest.warns(RuntimeWarning, match=r"left out .*: \[500, 200, 100, 600\] of 'dog', \[1, 9, 9, 2\] of 'dog'"):
        (one,) = gemma4_model.detect(PICTURE, "dog")
    assert one.box_2d == (100, 200, 500, 600)
    with pytest.raises(DetectionParseError, match="inverted"):
        gemma4_model.detect(PICTURE, "dog", on_invalid="raise")
    with pytest.raises(RequestError, match="on_invalid"):
        gemma4_model.detect(PICTURE, "dog", on_invalid="skip")
    says('[{"box_2d": [500, 200, 100, 600], "label": "', ("wolf", 0.9), '"}]')
    with warnings.catch_warnings():  # of what is none anyway nothing is said
        warnings.simplefilter("error")
        assert len(gemma4_model.detect(PICTURE, "dog")) == 0


# -- tiles -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(100, 100), (101, 100), (640, 480), (1000, 333), (97, 2000), (5000, 33)])
@pytest.mark.parametrize("tile", [(100, 100), (320, 64), (33, 700)])
def test_tiles_cover_the_picture_and_overlap(size: tuple[int, int], tile: tuple[int, int]) -> None:
    parts = tiles(size, tile)
    width, height = min(tile[0], size[0]), min(tile[1], size[1])
    if (width, height) == size:
        assert parts == []
        return
    covered = np.zeros(size[::-1], bool)
    for part in parts:
        assert (part.right - part.left, part.bottom - part.top) == (width, height)
        assert part.left >= 0 and part.top >= 0 and part.right <= size[0] and part.bottom <= size[1]
        covered[part.top : part.bottom, part.left : part.right] = True
    assert covered.all()
    for begins, side in (
        (sorted({part.left for part in parts}), width),
        (sorted({part.top for part in parts}), height),
    ):
        assert all(side - (after - before) >= side // 5 for before, after in itertools.pairwise(begins))


def test_small_things_are_found_in_tiles(gemma4_model: Any) -> None:
    picture = Image.new("RGB", (1500, 1000), (225, 225, 220))
    truth = [("red square", (100, 80, 160, 140)), ("blue circle", (1200, 700, 1260, 760))]
    truth += [("green circle", (460, 300, 520, 360)), ("yellow square", (745, 510, 805, 570))]
    for label, box in truth:
        paint(picture, label, box)
    whole = gemma4.boxes.evaluate(gemma4_model.detect(picture, max_soft_tokens=70, threshold=0.5), truth)
    assert whole.true_positives < len(truth)  # which is what tiles are for
    found = gemma4_model.detect(picture, tile=320, threshold=0.3)
    for label, box in truth:
        near = [one for one in found if one.label == label and iou(one.xyxy, box) > 0.5]
        assert len(near) == 1, (label, found)
    (one,) = gemma4_model.detect(picture, "blue circle", tile=(320, 300), threshold=0.3)
    assert iou(one.xyxy, (1200, 700, 1260, 760)) > 0.5
    # The box on the grid is that of the whole picture.
    assert np.abs(np.array(one.box_2d)[[1, 0, 3, 2]] * [1.5, 1, 1.5, 1] - one.xyxy).max() <= 1
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)


def test_a_large_thing_is_found_once(gemma4_model: Any, shapes: Image.Image) -> None:
    found = gemma4_model.detect(shapes, tile=300, threshold=0.3)
    assert sorted(found.labels) == ["blue square", "red circle"]
    (whole,) = gemma4_model.detect([shapes], tile=640)
    assert whole == gemma4_model.detect(shapes)  # one tile is the picture


@pytest.mark.parametrize("wrong", [0, 31, -5, 1.5, "320", (320,), (320, 8), (1, 2, 3), True, [320, None]])
def test_bad_tiles(wrong: Any) -> None:
    with pytest.raises(RequestError, match="tile"):
        Search.of(None, tile=wrong)


def test_too_many_tiles(gemma4_model: Any) -> None:
    with pytest.raises(RequestError, match="at most 1024"):
        gemma4_model.detect(np.zeros((2000, 2000, 3), np.uint8), tile=32)


@pytest.mark.filterwarnings("ignore:boxes that end", "ignore:the answer was cut")
def test_scores_tell_right_from_wrong(gemma4_model: Any) -> None:
    """Named things that are there against names of things that are not, with labels free. Of these hardly any is."""
    right, wrong = [], []
    draw = np.random.default_rng(3)
    for _ in range(12):
        picture = Image.new("RGB", (320, 240), "white")
        x, y, side = (int(v) for v in (draw.integers(10, 180), draw.integers(10, 120), draw.integers(60, 110)))
        color = ["red", "green", "blue", "orange"][draw.integers(4)]
        paint(picture, f"{color} circle", (x, y, x + side, y + side))
        for name in (f"{color} circle", "dog", "hexagon"):
            for one in gemma4_model.detect(picture, name, open_labels=True, max_new_tokens=200):
                good = one.label == name and iou(one.xyxy, (x, y, x + side, y + side)) >= 0.5
                (right if good else wrong).append(one.score)
    assert len(right) >= 10 and len(wrong) <= 2
    assert all(np.mean([high > low for high in right]) >= 0.95 for low in wrong)
