"""gemma4.Detections and Points: the sequence, the picture, the forms other packages take."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from gemma4 import boxes, errors, testing
from gemma4.boxes import parser
from gemma4.detections import Detection, Detections, Point, Points, coco, detections, drawing, kept, points, results
from gemma4.errors import DetectionParseError, MediaError, RequestError
from PIL import Image

SIZE = (200, 100)
ANSWER = (
    '[{"box_2d": [100, 200, 500, 600], "label": "cat"}, {"box_2d": [0, 0, 1000, 1000], "label": "dog"}, '
    '{"box_2d": [500, 500, 700, 800], "label": "cat"}]'
)


@pytest.fixture
def picture():
    return Image.new("RGB", SIZE, (90, 120, 150))


@pytest.fixture
def found():
    return Detections.from_answer(ANSWER, SIZE, scores=[0.5, 0.25, 1.0])


def test_examples_in_docstrings():
    for module in (parser, boxes, coco, detections, drawing, errors, kept, points, results, testing):
        assert doctest.testmod(module).failed == 0, module.__name__


def test_one_detection(found):
    assert found[0] == Detection("cat", (100, 200, 500, 600), (40.0, 10.0, 120.0, 50.0), 0.5)
    assert found[-1].label == "cat" and found[2].score == 1.0
    with pytest.raises(AttributeError):
        found[0].label = "dog"
    with pytest.raises(IndexError):
        found[3]


def test_arrays(found):
    assert found.xyxy.dtype == np.float32 and found.xyxy.shape == (3, 4)
    assert found.xyxy[0].tolist() == [40, 10, 120, 50]
    assert found.box_2d.tolist()[1] == [0, 0, 1000, 1000] and found.box_2d.dtype == np.int64
    assert found.scores.dtype == np.float32 and found.scores.tolist() == [0.5, 0.25, 1.0]
    assert found.labels == ["cat", "dog", "cat"]


def test_nothing_found():
    empty = Detections.from_answer("[]", SIZE)
    assert not empty and len(empty) == 0 and empty.labels == []
    assert empty.xyxy.shape == empty.box_2d.shape == (0, 4) and empty.scores.shape == (0,)
    assert empty.to_coco() == empty.to_hf() == empty.to_dicts() == []
    assert "nothing found" in empty._repr_html_() and repr(empty) == "Detections(0 in 200 x 100 pixels)"
    assert empty.draw(Image.new("RGB", SIZE, "red")).tobytes() == Image.new("RGB", SIZE, "red").tobytes()


def test_sequence(found):
    assert isinstance(found[1:], Detections) and len(found[1:]) == 2 and found[1:].image_size == SIZE
    assert [d.score for d in found] == [0.5, 0.25, 1.0] and next(reversed(found)) is found[2]
    assert found[0] in found and found.index(found[1]) == 1
    assert found == Detections.from_answer(ANSWER, SIZE, [0.5, 0.25, 1.0]) and hash(found) == hash(found[:])
    assert found != found[:2] and found != list(found)


def test_filter(found):
    assert len(found.filter("cat")) == 2 and len(found.filter(["cat", "dog"], min_score=0.5)) == 2
    assert found.filter() == found and not found.filter("bird")
    with pytest.raises(RequestError):
        found.filter(min_score=float("nan"))


def test_immutable(found):
    for name in ("raw_text", "image_size", "new"):
        with pytest.raises(AttributeError):
            setattr(found, name, 1)
    with pytest.raises(AttributeError):
        del found.raw_text
    found.xyxy[:] = 0
    assert found.xyxy.any()


def test_wrong_arguments():
    with pytest.raises(DetectionParseError):
        Detections.from_answer("no", SIZE)
    with pytest.raises(RequestError, match="2 scores for 3"):
        Detections.from_answer(ANSWER, SIZE, scores=[1, 1])
    with pytest.raises(RequestError, match="score"):
        Detections.from_answer(ANSWER, SIZE, scores=[1, 1, float("nan")])
    with pytest.raises(RequestError, match="size"):
        Detections([], (0, 5))
    with pytest.raises(RequestError, match="outside"):
        Detections.from_xyxy([("cat", [0, 0, 201, 50])], SIZE)


def test_points():
    points = Points.from_answer('[{"point": [500, 250], "label": "nose"}]', SIZE, [0.5])
    assert points[0] == Point("nose", (500, 250), (50.0, 50.0), 0.5)
    assert points.xy.tolist() == [[50, 50]] and points.xy.dtype == np.float32
    drawn = points.draw(Image.new("RGB", SIZE))
    assert drawn.getpixel((50, 50)) == drawing.label_colors(["nose"], {})["nose"]
    assert "50.0" in points._repr_html_()


# --- drawing


def test_draw_leaves_the_input_alone_and_marks_the_box(found, picture):
    before = picture.tobytes()
    drawn = found[:1].draw(picture)
    assert picture.tobytes() == before and drawn is not picture and drawn.size == SIZE and drawn.mode == "RGB"
    assert drawn.getpixel((80, 50)) == drawing.label_colors(["cat"], {})["cat"]
    assert drawn.getpixel((160, 80)) == (90, 120, 150)


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (8, 8), (40, 30), (1601, 1), (333, 777)])
def test_draw_on_pictures_of_any_size(size):
    items = [Detection("a label", (0, 0, 1000, 1000), (0, 0, *map(float, size))), Detection("x", (0,) * 4, (0.0,) * 4)]
    items.append(Detection("y", (1000,) * 4, (*map(float, size), *map(float, size))))
    assert Detections(items, size).draw(Image.new("L", size), show_scores=True).size == size


@pytest.mark.parametrize("label", ["", " ", "a" * 10_000, "line\nbreak\x1b[31m", "猫 кот", "\N{REPLACEMENT CHARACTER}"])
def test_draw_any_label(label, picture):
    found = Detections([Detection(label, (0, 0, 500, 500), (0, 0, 100, 50))], SIZE, image=picture)
    assert found.draw().size == SIZE
    assert "<script>" not in Detections([Detection("<script>", (0,) * 4, (0,) * 4)], SIZE)._repr_html_()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "I", "F", "YCbCr"])
def test_draw_on_any_mode(mode, found):
    assert found.draw(Image.new(mode, SIZE)).mode == "RGB"


def test_draw_takes_paths_arrays_and_resized_pictures(found, picture, tmp_path):
    picture.save(tmp_path / "in.png")
    expected = found.draw(picture).tobytes()
    assert found.draw(tmp_path / "in.png").tobytes() == found.draw(str(tmp_path / "in.png")).tobytes() == expected
    assert found.draw(np.asarray(picture)).tobytes() == expected
    assert found.draw(picture.resize((67, 33))).size == (67, 33)


def test_draw_turns_a_photo_upright(found):
    photo = Image.new("RGB", (100, 200))
    photo.getexif()[0x0112] = 6
    assert found.draw(photo).size == SIZE


def test_draw_refuses(found, picture, tmp_path):
    with pytest.raises(RequestError, match=r"draw\(image\)"):
        found.draw()
    with pytest.raises(RequestError, match="100 x 200"):
        found.draw(picture.resize((100, 200)))
    with pytest.raises(MediaError, match=r"gone\.png"):
        found.draw(tmp_path / "gone.png")
    with pytest.raises(MediaError, match="uint8"):
        found.draw(np.full((100, 200, 3), "x"))
    with pytest.raises(RequestError, match="expected a path"):
        found.draw(3)
    for option in ({"line_width": 0}, {"font_size": -1}, {"colors": {"cat": "nocolour"}}, {"font": "/gone.ttf"}):
        with pytest.raises(RequestError):
            found.draw(picture, **option)


def test_colors_are_stable_and_distinct():
    labels = [f"label {index}" for index in range(16)]
    colors = drawing.label_colors(labels, {})
    assert len(set(colors.values())) == 16
    assert drawing.label_colors(["cat"], {}) == drawing.label_colors(["cat", "cat"], {})
    assert drawing.label_colors(["cat"], {"cat": "#010203"}) == {"cat": (1, 2, 3)}


def test_tags_do_not_cover_each_other_when_there_is_room(picture):
    tags = drawing._Tags(picture.resize((800, 400)), drawing.Style())
    for label in ("one", "two", "three"):
        tags.draw(Detection(label, (0,) * 4, (0,) * 4), (300, 100, 500, 300), (9, 9, 9), gap=0)
    assert len(tags.placed) == 3
    assert not any(drawing._overlap(a, b) for i, a in enumerate(tags.placed) for b in tags.placed[:i])


def test_notebook_forms(found, picture):
    assert found._repr_png_() is None and "<img" not in found._repr_html_()
    shown = Detections(found, SIZE, image=picture)
    assert shown._repr_png_().startswith(b"\x89PNG") and "data:image/png" in shown._repr_html_()
    assert f'alt="{len(found)} detections in 200 x 100 pixels"' in shown._repr_html_()


def test_a_photograph_in_a_notebook_is_small():
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    shown = Detections([], (640, 480), image=Image.fromarray(noise).resize((320, 240)))
    assert "data:image/jpeg" in shown._repr_html_() and len(shown._repr_html_()) < 0.7 * len(shown._repr_png_())


def test_repr(found):
    assert "0: 'cat' at [40.0, 10.0, 120.0, 50.0], score 0.50" in repr(found)
    assert "and 280 more" in repr(Detections(list(found) * 100, SIZE))


def test_crops_end_at_the_edge() -> None:
    """A box may leave its picture by half a cell of the grid."""
    found = Detections.from_xyxy([("cat", [10, 20, 4001.5, 60])], (4000, 3000))
    (crop,) = found.crop(Image.new("RGB", (4000, 3000), "white"))
    assert crop.size == (3990, 40) and crop.getextrema() == ((255, 255),) * 3
