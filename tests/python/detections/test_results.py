"""Detections and Points as a data type: light, indexed, added, sorted, thinned, cropped, and saved."""

from __future__ import annotations

import errno
import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gemma4.detections import Detection, Detections, Point, Points, kept_picture
from gemma4.detections.kept import Preview
from gemma4.errors import MediaError, RequestError
from PIL import Image

SIZE = (200, 100)
LABELS = ["cat", "dog", "猫", "cat"]


@pytest.fixture
def found() -> Detections:
    dicts = [
        {"label": label, "xyxy": [10 * i, 5 * i, 10 * i + 40, 5 * i + 20], "score": (3, 1, 4, 2)[i] / 5}
        for i, label in enumerate(LABELS)
    ]
    return Detections.from_dicts(dicts, SIZE)


@pytest.fixture
def points() -> Points:
    return Points.from_dicts([{"label": label, "xy": [20 * i, 10 * i]} for i, label in enumerate(LABELS)], SIZE)


def crowd(count: int, seed: int = 0) -> Detections:
    """Boxes that overlap much, with scores of which no two are the same."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 80, (count, 2))
    boxes = np.hstack([corners, corners + rng.uniform(5, 20, (count, 2))])
    scores = rng.permutation(count) / count
    rows = zip(rng.choice(["a", "b", "c"], count), boxes, scores, strict=True)
    return Detections.from_dicts([{"label": str(n), "xyxy": b, "score": s} for n, b, s in rows], (100, 100))


# --- what is kept of a picture


def photograph() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(3000, 4000, 3): every pixel is noise, the worst for an encoder."""
    return np.random.default_rng(0).integers(0, 256, (3000, 4000, 3), dtype=np.uint8)


def test_a_photograph_is_not_kept(tmp_path: Path) -> None:
    """Of 36 MB of pixels 50 kB stay at most, of a path nothing but the path."""
    pixels = photograph()
    box = [{"label": "cat", "xyxy": [10, 20, 3000, 2000]}]
    bare = Detections.from_dicts(box, (4000, 3000))
    shown = Detections(bare, bare.image_size, "", kept_picture(pixels, pixels))
    named = Detections(bare, bare.image_size, "", kept_picture(tmp_path / "photo.jpg", pixels))
    whole = Detections(bare, bare.image_size, "", kept_picture(pixels, pixels, keep=True))
    sizes = [len(pickle.dumps(one)) for one in (bare, named, shown, whole)]
    assert sizes[0] < 500 and sizes[1] < 700 and sizes[2] < 50_000 and sizes[3] > 36_000_000
    assert named.image == str(tmp_path / "photo.jpg") and shown.image is None
    again = pickle.loads(pickle.dumps(shown))
    assert again == shown and again._repr_png_() == shown._repr_png_() and again._repr_png_() is not None


def test_nothing_that_is_kept_aliases_the_callers_array() -> None:
    pixels = np.full((60, 80, 3), 200, np.uint8)
    results = [Detections([], (80, 60), "", kept_picture(pixels, pixels, keep)) for keep in (False, True)]
    before = [one._repr_png_() for one in results]
    pixels[:] = 0
    assert [one._repr_png_() for one in results] == before
    assert results[1].draw().getpixel((0, 0)) == (200, 200, 200)


@pytest.mark.parametrize(
    "size", [(1, 1), (3, 2), (640, 480), (641, 480), (1279, 5), (5000, 30), (5000, 3), (4000, 3000)]
)
def test_previews_of_any_size(size: tuple[int, int]) -> None:
    width, height = size
    pixels = np.broadcast_to(np.linspace(0, 255, width).astype(np.uint8)[None, :, None], (height, width, 3))
    preview = kept_picture(None, pixels)
    assert isinstance(preview, Preview) and len(preview.jpeg) < 50_000
    found = Detections([], size, "", preview)
    assert found._repr_png_() is not None
    with pytest.raises(RequestError, match="no picture was kept"):
        found.draw()


def test_a_path_is_drawn_on_and_shown(found: Detections, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", SIZE, "white").save("a.png")
    named = Detections(found, SIZE, "", "a.png")
    assert named.image == "a.png" and named.draw().size == SIZE and "<img" in named._repr_html_()
    assert [crop.size for crop in named.crop()] == [(40, 20)] * 4
    Image.new("RGB", (50, 50)).save("a.png")  # another picture in its place: the table alone
    assert named._repr_png_() is None and "<table" in named._repr_html_()
    with pytest.raises(RequestError, match="50 x 50"):
        named.draw()
    Path("a.png").unlink()
    assert named._repr_png_() is None
    with pytest.raises(MediaError, match=r"a\.png: no such file"):
        named.draw()


def test_what_is_given_as_a_picture(found: Detections) -> None:
    assert isinstance(kept_picture("data:image/png;base64,AAAA", np.zeros((4, 4, 3), np.uint8)), Preview)
    assert Detections(found, SIZE, image=Path("x/y.jpg")).image == str(Path("x/y.jpg"))
    with pytest.raises(RequestError, match=r"image: expected a PIL\.Image or a path, found ndarray"):
        Detections(found, SIZE, image=np.zeros((100, 200, 3), np.uint8))


# --- items


def test_items_take_arrays_and_numpy_numbers() -> None:
    item = Detection("cat", np.array([1, 2, 3, 4]), np.array([1, 2, 3, 4], np.float32), np.float32(0.5))  # type: ignore[arg-type]
    assert item == Detection("cat", (1, 2, 3, 4), (1.0, 2.0, 3.0, 4.0), 0.5) and hash(item)
    assert {type(value) for value in (*item.box_2d, *item.xyxy, item.score)} == {int, float}
    assert Point("x", [1, 2], [3, 4]) == Point("x", (1, 2), (3.0, 4.0))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"label": 3}, "label: expected a string"),
        ({"box_2d": (1, 2, 3)}, "box_2d of 'cat': expected 4 numbers"),
        ({"box_2d": (1, 2, 3, 1001)}, "0 to 1000"),
        ({"box_2d": (1.5, 2, 3, 4)}, "an integer"),
        ({"box_2d": (5, 2, 3, 4)}, "box_2d of 'cat': .* inverted"),
        ({"xyxy": (5, 2, 3, 4)}, "xyxy of 'cat': .* inverted"),
        ({"xyxy": (0, 0, float("nan"), 4)}, "xyxy of 'cat'"),
        ({"xyxy": "1234"}, "xyxy of 'cat': expected 4 numbers"),
        ({"score": 1.5}, "score of 'cat': expected 0 to 1"),
        ({"score": None}, "score of 'cat': expected a number"),
    ],
)
def test_items_refuse(fields: dict[str, Any], named: str) -> None:
    given = {"label": "cat", "box_2d": (0, 0, 9, 9), "xyxy": (0.0, 0.0, 9.0, 9.0), **fields}
    with pytest.raises(RequestError, match=named):
        Detection(**given)


def test_only_their_own_items(found: Detections, points: Points) -> None:
    with pytest.raises(RequestError, match="item 0: expected Detection, found Point"):
        Detections(points, SIZE)  # type: ignore[arg-type]
    assert found != points and found.__add__(points) is NotImplemented


# --- the sequence


@pytest.mark.parametrize(
    "index",
    [
        [0, 2], (3, 0, 0), [-1], [], np.array([1, 2]), np.array([True, False, True, True]), [True, False, False, False],
        np.zeros(4, bool), np.array([], int), slice(None, None, -1), slice(1, 3), slice(9, 12),
    ],
)  # fmt: skip
def test_indices_are_numpys(found: Detections, points: Points, index: Any) -> None:
    numbers = np.arange(4)[list(index) if isinstance(index, tuple) else index if len_of(index) else slice(0)]
    for many in (found, points):
        chosen = many[index]
        assert type(chosen) is type(many) and chosen.image_size == SIZE
        assert list(chosen) == [many[int(number)] for number in numbers]


def len_of(index: Any) -> int:
    return 1 if isinstance(index, slice) else len(index)


def test_masks_of_scores_and_of_pandas(found: Detections) -> None:
    pandas = pytest.importorskip("pandas")
    assert found[found.scores >= 0.6].labels == ["cat", "猫"]
    table = found.to_pandas()
    assert found[table.label == "cat"] == found.filter("cat")
    assert found[np.int64(2)] == found[2] == found[-2]
    assert found[pandas.Series([3, 1])].labels == ["cat", "dog"]


@pytest.mark.parametrize(
    ("index", "error"),
    [
        ([True], RequestError), (np.ones(5, bool), RequestError), ([0.5], RequestError), ("cat", RequestError),
        (np.zeros((2, 2), int), RequestError), (True, RequestError), ([4], IndexError), (4, IndexError),
    ],
)  # fmt: skip
def test_wrong_indices(found: Detections, index: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        found[index]


def test_adding(found: Detections, points: Points) -> None:
    for many in (found, points):
        both = many[:1] + many[1:]
        assert both == many and len(many + many) == 8 and many + many[:0] == many
    first, second = Detections(found, SIZE, "one"), Detections(found, SIZE, "two", "a.png")
    assert (first + second).raw_text == "one\ntwo" and (first + second).image == "a.png"
    with pytest.raises(RequestError, match="200 x 100 and 100 x 200"):
        found + Detections([], (100, 200))
    with pytest.raises(TypeError):
        found + list(found)


def test_equality_sees_scores(found: Detections) -> None:
    again = Detections.from_dicts(found.to_dicts(), SIZE)
    assert again == found and hash(again) == hash(found) and found.to_dicts()[1]["score"] == 0.2
    assert Detections.from_dicts([{**d, "score": 0.25} for d in found.to_dicts()], SIZE) != found
    assert Detections(found, (200, 101)) != found


def test_sort_is_numpys(found: Detections, points: Points) -> None:
    many = crowd(300)
    for by, down in (("score", True), ("label", False), ("x1", False), ("y2", False), ("area", True)):
        table = many.to_pandas().assign(area=lambda t: (t.x2 - t.x1) * (t.y2 - t.y1))
        for descending in (None, True, False):
            order = table.sort_values(by, ascending=not (down if descending is None else descending), kind="stable")
            assert many.sort(by, descending) == many[order.index]
    assert points.sort("x", descending=True).labels == LABELS[::-1] and not len(points[:0].sort("y"))
    for wrong in ("size", "box_2d", None):
        with pytest.raises(RequestError, match="by: expected one of score, label"):
            found.sort(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [0, 1, 7, 500])
@pytest.mark.parametrize("together", [False, True])
def test_nms_is_supervisions(count: int, together: bool) -> None:
    pytest.importorskip("supervision")
    many = crowd(count)
    for iou in (0.1, 0.5, 0.9):
        ours = many.nms(iou, class_agnostic=together)
        theirs = many.to_supervision(["a", "b", "c"]).with_nms(iou, class_agnostic=together)
        assert np.array_equal(np.sort(ours.scores), np.sort(theirs.confidence)), (count, iou)
        kept = set(ours)
        assert ours == many.with_items(item for item in many if item in kept)  # the order of the answer


def test_nms_refuses_and_keeps_ties(found: Detections) -> None:
    twice = Detections.from_xyxy([("a", [0, 0, 9, 9])] * 3, (10, 10))
    assert len(twice.nms()) == 1 and len(twice.nms(1.0)) == 3
    for wrong in (-0.1, 1.1, float("nan"), "0.5"):
        with pytest.raises(RequestError, match="iou"):
            found.nms(wrong)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="class_agnostic"):
        found.nms(0.5, class_agnostic=1)  # type: ignore[arg-type]


def test_crops_are_supervisions() -> None:
    supervision = pytest.importorskip("supervision")
    pixels = np.random.default_rng(3).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    many = crowd(50)
    for crop, box in zip(many.crop(pixels), many.xyxy, strict=True):
        assert np.array_equal(np.asarray(crop), supervision.crop_image(pixels, box))
    half = many.crop(Image.fromarray(pixels).resize((50, 50)))
    assert all(abs(2 * small.width - large.width) <= 2 for small, large in zip(half, many.crop(pixels), strict=True))
    assert many[:0].crop() == []
    edges = [("a", [100, 100, 100, 100]), ("b", [0, 0, 0, 0]), ("c", [0, 0, 100, 100])]
    sizes = [crop.size for crop in Detections.from_xyxy(edges, (100, 100)).crop(pixels)]
    assert sizes == [(1, 1), (1, 1), (100, 100)]
    with pytest.raises(RequestError, match="pass it"):
        many.crop()


# --- JSON


@pytest.mark.parametrize("kind", [Detections, Points])
@pytest.mark.parametrize("count", [0, 1, 4])
def test_files(kind: Any, count: int, found: Detections, points: Points, tmp_path: Path) -> None:
    many = (found if kind is Detections else points)[:count]
    many = kind(many, SIZE, 'the "answer"\n猫', tmp_path / "a.png")
    path = tmp_path / "found 猫.json"
    many.save(path)
    for again in (
        kind.load(path),
        kind.load(str(path)),
        kind.from_json(many.to_json()),
        kind.from_json(path.read_text("utf-8")),
    ):
        assert again == many and again.raw_text == many.raw_text and again.image == str(tmp_path / "a.png")
    value = json.loads(path.read_text(encoding="utf-8"))
    assert value["image_size"] == [200, 100] and value[kind.__name__.lower()] == many.to_dicts()
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_places_in_pixels_or_on_the_grid() -> None:
    one = Detections.from_dicts([{"label": "a", "box_2d": [100, 200, 500, 600]}], (2000, 1000))
    assert one[0].xyxy == (400, 100, 1200, 500) and one[0].score == 1
    fine = {"label": "a", "box_2d": [100, 200, 500, 600], "xyxy": [400.3, 100.1, 1199.9, 500.2], "score": 0.25}
    assert Detections.from_dicts([fine], (2000, 1000)).to_dicts() == [fine]
    assert Points.from_dicts([{"label": "a", "point": [500, 250]}], SIZE)[0].xy == (50, 50)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"label": None}, "item 1: label"),
        ({"xyxy": [1, 2, 3]}, "item 1: xyxy: expected 4 numbers"),
        ({"xyxy": [1, 2, 3, float("inf")]}, "item 1: xyxy"),
        ({"xyxy": [0, 0, 500, 50]}, "item 1: .*outside the picture"),
        ({"xyxy": [9, 9, 3, 3]}, "item 1: .*inverted"),
        ({"score": 2}, "item 1: .*score"),
        ({"score": "high"}, "item 1: score: expected a finite number"),
        ({"xyxy": None}, "item 1: xyxy: expected 4 numbers"),
        ({"box_2d": 3}, "item 1"),
        ({"box": [1, 2, 3, 4]}, "item 1: box: unknown field"),
    ],
)
def test_dicts_refuse(change: dict[str, Any], named: str) -> None:
    good = {"label": "cat", "xyxy": [1, 2, 3, 4], "score": 0.5}
    with pytest.raises(RequestError, match=named):
        Detections.from_dicts([good, {**good, **change}], SIZE)
    with pytest.raises(RequestError, match="item 1: expected an object"):
        Detections.from_dicts([good, "cat"], SIZE)  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "not JSON: .* line 1"),
        ("[]", "expected an object"),
        ('{"detections": []}', "image_size: missing"),
        ('{"image_size": [0, 5], "detections": []}', "image_size"),
        ('{"image_size": [2.5, 5], "detections": []}', "image_size"),
        ('{"image_size": [5, 5]}', "detections: missing"),
        ('{"image_size": [5, 5], "points": []}', "points: unknown field"),
        ('{"image_size": [5, 5], "detections": [{"label": "a"}]}', r"detections\[0\]: xyxy: missing"),
        ('{"image_size": [5, NaN], "detections": []}', "NaN is not JSON"),
        ("[" * 100_000, "nested too deeply"),
    ],
)  # fmt: skip
def test_files_refuse(text: str, named: str, tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RequestError, match=named) as caught:
        Detections.load(path)
    assert str(path) in str(caught.value)
    with pytest.raises(RequestError, match="Detections: "):
        Detections.from_json(text)


def test_files_that_cannot_be(found: Detections, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match="nowhere"):
        Detections.load(tmp_path / "nowhere.json")
    (tmp_path / "latin.json").write_bytes(b'{"\xe9": 1}')
    with pytest.raises(RequestError, match="not UTF-8"):
        Detections.load(tmp_path / "latin.json")
    with pytest.raises(OSError):
        found.save(tmp_path / "no folder" / "a.json")
    good = tmp_path / "good.json"
    found.save(good)
    before = good.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):  # the file stays as it was
        patch.setattr(os, "replace", full)
        found[:0].save(good)
    assert good.read_bytes() == before and len(list(tmp_path.iterdir())) == 2
    Detections([Detection("\ud800", (0,) * 4, (0.0,) * 4)], SIZE).save(good)  # as names of files may be
    assert json.loads(good.read_text())["detections"][0]["label"] == "\ud800"
    assert Detections.load(good).labels == ["\ud800"]


@pytest.mark.parametrize(
    "wrong", [[1], ["x", 2], 5, "ab", [[1, 2], [3, 4]], [1, None], [[1], 2], [True, False], [0.5, 5]]
)
def test_places_of_the_wrong_shape(wrong: Any) -> None:
    for kind, name in ((Points, "point"), (Detections, "box_2d"), (Points, "xy"), (Detections, "xyxy")):
        if wrong != [0.5, 5] or name == "point":
            with pytest.raises(RequestError, match=f"item 0: .*{name}"):
                kind.from_dicts([{"label": "a", name: wrong}], (5, 5))
    if wrong != [0.5, 5]:
        with pytest.raises(RequestError, match="xy: expected 2 numbers"):
            Points.from_xy([("a", wrong)], (5, 5))
        with pytest.raises(RequestError, match="xyxy: expected 4 numbers"):
            Detections.from_xyxy([("a", wrong)], (5, 5))


def test_points_refuse() -> None:
    with pytest.raises(RequestError, match="outside the picture"):
        Points.from_xy([("a", [201, 3])], SIZE)
    with pytest.raises(RequestError, match="0 to 1000"):
        Points.from_dicts([{"label": "a", "point": [500, 1001]}], SIZE)
