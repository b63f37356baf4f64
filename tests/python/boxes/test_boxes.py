"""gemma4.boxes: the grid, answers and their damage, overlap, evaluation."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from gemma4 import boxes
from gemma4.boxes import parser
from gemma4.errors import DetectionParseError, Gemma4Error, RequestError
from hypothesis import given, settings
from hypothesis import strategies as st

ONE = '[{"box_2d": [10, 20, 30, 40], "label": "cat"}]'
CAT = {"label": "cat", "box_2d": [10, 20, 30, 40]}

sizes = st.tuples(st.integers(1, 5000), st.integers(1, 5000))
cells = st.integers(0, 1000)
grid_boxes = st.tuples(cells, cells, cells, cells).map(
    lambda b: [min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3])]
)
objects = st.lists(st.fixed_dictionaries({"box_2d": grid_boxes, "label": st.text(max_size=12)}), max_size=6)


# --- the grid and pixels


def test_to_pixels_swaps_axes_and_scales_each_side():
    assert boxes.to_pixels([100, 200, 500, 600], size=(2000, 1000)).tolist() == [400, 100, 1200, 500]
    assert boxes.to_pixels(np.array([[0, 0, 1000, 1000]], np.int32), (321, 123)).tolist() == [[0, 0, 321, 123]]
    assert boxes.to_pixels([], (10, 10)).shape == (0, 4)


@given(grid_boxes, sizes)
def test_grid_to_pixels_and_back_is_exact(box, size):
    assert boxes.from_pixels(boxes.to_pixels(box, size), size).tolist() == box


@given(grid_boxes, sizes)
def test_pixels_to_grid_and_back_is_within_half_a_cell(box, size):
    pixels = np.clip(boxes.to_pixels(box, size) + 0.3 * min(size) / 1000, 0, [*size, *size])
    again = boxes.to_pixels(boxes.from_pixels(pixels, size), size)
    assert (np.abs(again - pixels) <= np.array([*size, *size]) / 2000 + 1e-9).all()


@pytest.mark.parametrize(
    "box",
    [
        *([1, 2, 3], [[1, 2, 3]], [[[1, 2, 3, 4]]], "1234", None, [1, 2, 3, "4"], [[1, 2, 3, 4], [1]], [True] * 4),
        *([0, 0, float("nan"), 1], [0, 0, float("inf"), 1], [-1, 0, 1, 1], [0, 0, 1, 1001], [5, 0, 4, 1], [0, 5, 1, 4]),
        *(10**400, [10**400, 0, 1, 1]),
    ],
)
def test_a_bad_box_from_the_caller_is_a_request_error(box):
    with pytest.raises(RequestError):
        boxes.to_pixels(box, (100, 100))
    with pytest.raises(RequestError):
        boxes.from_pixels(box, (50, 50))


@pytest.mark.parametrize("size", [(0, 10), (10, -1), (1,), 5, None, ("a", 1), (float("nan"), 1), (float("inf"), 1)])
def test_a_bad_size_is_a_request_error(size):
    with pytest.raises(RequestError, match="size"):
        boxes.to_pixels([0, 0, 1, 1], size)


def test_the_error_names_the_box():
    with pytest.raises(RequestError, match=r"\[0, 0, 5, 1200\]"):
        boxes.to_pixels([[0, 0, 1, 1], [0, 0, 5, 1200]], (10, 10))


# --- parser


@pytest.mark.parametrize(
    "text",
    [
        ONE,
        f"```json\n{ONE}\n```",
        f"I see [one] cat (it's 12\" wide): {ONE} {{as asked}}.",
        f'<|channel>thought\n[{{"box_2d": [1, 1, 2, 2], "label": "draft"}}]<channel|>{ONE}',
        f"thought\nA cat?<channel|>{ONE}",
        f'The format is [{{"box_2d": [y1, x1, y2, x2], "label": "..."}}].\n{ONE}',
        f'{{"boxes": {ONE}}}',
        f'{{"count": 1, "result": {{"objects": {ONE}}}, "tags": ["x"]}}',
        ONE[1:-1],
        f"[{ONE}]",
        ONE[:-1] + ",]",
        ONE[:-1] + ', {"box_2d": [50, 60, 70',
        ONE[:-1] + ', {"box_2d": [50, 60, 70, 80], "label": "do\\',
        '[{"box_2d": [10.0, 2e1, 30, 40], "label": "\\u0063at", "score": null, "mask": {"a": [1]}}]',
        ONE.replace(" ", "\n\t "),
        ONE + " again: " + ONE,
    ],
)
def test_parse_takes(text):
    assert boxes.parse(text) == [CAT]


def test_parse_joins_lists_and_objects_without_commas():
    dog = '{"box_2d": [1, 2, 3, 4], "label": "dog"}'
    expected = [CAT, {"label": "dog", "box_2d": [1, 2, 3, 4]}]
    assert boxes.parse(f"Cats: {ONE} Dogs: [{dog}]") == expected
    assert boxes.parse(f"{ONE[:-1]} {dog}]") == expected


@pytest.mark.parametrize(
    "text", ["[]", "```json\n[]\n```", '{"boxes": []}', "There is no cat: []", "see [1] []", "[[]]"]
)
def test_an_empty_list_means_no_objects(text):
    assert boxes.parse(text) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        *(("", "no JSON"), ("I see a cat.", "no JSON"), ("[1]", "no JSON"), ("{}", "no JSON"), ('"a"', "no JSON")),
        *(("[10, 20, 30, 40]", "no JSON"), ('{"note": 1}', "no JSON"), ("<|channel>thought\n" + ONE, "no JSON")),
        *(("[", "cut off"), (ONE[:20], "cut off"), ('{"boxes": [{"la', "cut off")),
        ('[{"box_2d": [1, 2, 3, 4]}]', "no label"),
        ('[{"label": "cat"}]', "no box_2d"),
        (ONE[:-1] + ', {"name": "x"}]', "no label"),
        (ONE[:-1] + ", 5]", "holds 5"),
        (ONE[:-1] + ", NaN]", "NaN"),
        (ONE.replace("20", "NaN"), "NaN"),
        (ONE.replace("20", "-Infinity"), "Infinity"),
        (ONE.replace('"label"', '"score": NaN, "label"') + " []", "NaN"),
        (ONE.replace("20", "true"), "4 integers"),
        (ONE.replace("20", "20.5"), "4 integers"),
        (ONE.replace("20", "1e999"), "4 integers"),
        (ONE.replace("20", '"20"'), "4 integers"),
        (ONE.replace("20, ", ""), "4 integers"),
        (ONE.replace("20", "2000"), "outside the grid"),
        (ONE.replace("20", "9" * 5000), "4 integers"),
        (ONE.replace("20", "-1"), "outside the grid"),
        (ONE.replace("30", "5"), "inverted"),
        (ONE.replace('"cat"', "7"), "not a string"),
        (ONE.replace('"cat"', '"c"a"t"'), "broken"),
        (ONE.replace('"label"', '"box_2d": [1, 2, 3, 4], "label"'), "twice"),
    ],
)
def test_parse_refuses(text, message):
    with pytest.raises(DetectionParseError, match=message) as caught:
        boxes.parse(text)
    assert caught.value.raw_text == text
    assert isinstance(caught.value, Gemma4Error) and isinstance(caught.value, ValueError)
    assert len(str(caught.value)) < 400


def test_points():
    text = '[{"point": [500, 250], "label": "nose"}]'
    assert boxes.parse_points(text) == [{"label": "nose", "point": [500, 250]}]
    with pytest.raises(DetectionParseError, match="no box_2d"):
        boxes.parse(text)
    with pytest.raises(DetectionParseError, match="2 integers"):
        boxes.parse_points(text.replace("250", "250, 1"))


def test_a_label_cannot_hide_other_objects():
    for marker in ("<|channel>", "<channel|>", "<|channel>thought\n<channel|>"):
        text = ONE[:-1] + ", " + ONE[1:].replace("cat", "x" + marker.replace("\n", ""))
        assert len(boxes.parse(text)) == 2


def test_labels_can_be_printed():
    (item,) = boxes.parse(ONE.replace("cat", "\\ud83d \\ud83d\\ude3a"))
    assert item["label"] == "\N{REPLACEMENT CHARACTER} \N{SMILING CAT FACE WITH OPEN MOUTH}"


@given(objects, st.sampled_from(["{}", "```json\n{}\n```", "Here [they] are: {} Anything else?", '{{"boxes": {}}}']))
def test_parse_reads_what_json_writes(items, frame):
    text = frame.format(json.dumps(items))
    assert boxes.parse(text) == items
    for place in parser.parse_places(text):
        assert json.loads(text[slice(*place.span)]) == place.item
        assert json.loads(f'"{text[slice(*place.label)]}"') == place.item["label"]
        assert [int(float(text[slice(*span)])) for span in place.numbers] == place.item["box_2d"]


@given(objects, st.sampled_from(["{}", "```json\n{}", '{{"boxes": {}}}']), st.booleans(), st.data())
def test_a_cut_answer_gives_its_complete_objects_and_invents_none(items, frame, ascii_only, data):
    text = frame.format(json.dumps(items, ensure_ascii=ascii_only))
    cut = text[: data.draw(st.integers(0, len(text)))]
    try:
        found = boxes.parse(cut)
    except DetectionParseError:
        found = []
    assert found == items[: len(found)]
    assert len(found) == sum(place.span[1] <= len(cut) for place in parser.parse_places(text))


@given(st.text(alphabet='[]{}",:\\-0123456789 .eEtruefalsn\n') | st.text())
@settings(max_examples=500)
def test_any_text_is_parsed_or_refused(text):
    for wrapped in (text, ONE + text, text + ONE, ONE[:-2] + text):
        try:
            for item in boxes.parse(wrapped):
                assert set(item) == {"label", "box_2d"}
        except DetectionParseError as error:
            assert error.raw_text == wrapped


@pytest.mark.parametrize(
    "unit",
    [
        "[{",
        "[",
        "{",
        '{"a":',
        '[{"',
        '"',
        '["\\"',
        "[1.",
        '[{"box_2d":[',
        "[[]",
        "[{},",
        "-",
        "[-",
        "<|channel>",
        '{"a":{},',
    ],
)
def test_hostile_text_takes_linear_time(unit):
    started = time.process_time()
    with pytest.raises(DetectionParseError):
        boxes.parse(unit * (500_000 // len(unit)))
    assert time.process_time() - started < 20  # a quadratic parser would need hours


# --- overlap


def test_iou_shapes_and_values():
    a, b = [0, 0, 10, 10], [5, 0, 15, 10]
    assert boxes.iou(a, b) == pytest.approx(1 / 3) and isinstance(boxes.iou(a, b), float)
    assert boxes.iou([a, b], [a, b, [20, 20, 30, 30]]).shape == (2, 3)
    assert boxes.iou([], [a]).shape == (0, 1)
    assert boxes.iou(a, a) == 1 and boxes.iou(a, [10, 0, 20, 10]) == 0
    assert boxes.iou([3, 3, 3, 3], [3, 3, 3, 3]) == 0
    assert boxes.iou([0, 0, 1e300, 1e300], [0, 0, 1e300, 5e299]) == pytest.approx(0.5)
    with pytest.raises(RequestError, match="inverted"):
        boxes.iou([10, 0, 0, 10], a)


@given(st.lists(grid_boxes, min_size=1, max_size=5), st.lists(grid_boxes, min_size=1, max_size=5))
def test_iou_is_symmetric_and_bounded(a, b):
    table = boxes.iou(a, b)
    assert ((table >= 0) & (table <= 1)).all()
    assert (table == boxes.iou(b, a).T).all()


# --- evaluation


def test_evaluate_matches_the_best_pair_first():
    truth = [("cat", [0, 0, 10, 10]), ("cat", [0, 0, 10, 14]), ("dog", [50, 50, 60, 60])]
    found = [("cat", [0, 0, 10, 13]), ("cat", [0, 0, 10, 11]), ("cat", [50, 50, 60, 60])]
    result = boxes.evaluate(found, truth)
    assert [(m.found, m.truth) for m in result.matches] == [(0, 1), (1, 0)]
    assert (result.true_positives, result.false_positives, result.missed) == (2, 1, 1)
    assert result.precision == result.recall == result.f1 == pytest.approx(2 / 3)
    assert result.mean_iou == pytest.approx((13 / 14 + 10 / 11) / 2)


def test_evaluate_counts_a_repeated_box_as_invented():
    result = boxes.evaluate([("cat", [0, 0, 9, 9])] * 3, [("cat", [0, 0, 9, 9])])
    assert (result.true_positives, result.false_positives, result.missed) == (1, 2, 0)


def test_the_threshold_is_included():
    pair = [("cat", [0, 0, 10, 5])], [("cat", [0, 0, 10, 10])]
    assert boxes.evaluate(*pair, iou=0.5).true_positives == 1
    assert boxes.evaluate(*pair, iou=0.51).true_positives == 0


def test_evaluate_without_objects():
    nothing = boxes.evaluate([], [])
    assert (nothing.precision, nothing.recall, nothing.f1, nothing.mean_iou) == (1, 1, 1, 0)
    assert boxes.evaluate([], [("cat", [0, 0, 1, 1])]).recall == 0
    assert boxes.evaluate([("cat", [0, 0, 1, 1])], []).precision == 0


def test_evaluate_many_pictures():
    cat = ("cat", [0, 0, 10, 10])
    result = boxes.evaluate([[cat], [], [cat]], [[cat], [cat], []])
    assert (result.true_positives, result.false_positives, result.missed) == (1, 1, 1)
    assert result.matches == (boxes.Match(0, 0, 1.0, 0),)


@pytest.mark.parametrize(
    ("found", "truth"),
    [
        *((5, []), ("cat", []), ([5], []), ([("cat",)], []), ([("cat", [1, 2, 3])], []), ([(5, [0, 0, 1, 1])], [])),
        *(([("cat", [[0, 0, 1, 1]])], []), ([[("cat", [0, 0, 1, 1])]], [("cat", [0, 0, 1, 1])]), ([[], []], [[]])),
        ([("cat", [0, 0, float("nan"), 1])], []),
    ],
)
def test_evaluate_refuses(found, truth):
    with pytest.raises(RequestError):
        boxes.evaluate(found, truth)


@pytest.mark.parametrize("iou", [0, -1, 1.1, float("nan"), "0.5", None, True])
def test_evaluate_refuses_a_threshold(iou):
    with pytest.raises(RequestError, match="iou"):
        boxes.evaluate([], [], iou=iou)


@given(objects)
def test_the_truth_is_right(items):
    truth = [(item["label"], boxes.to_pixels(item["box_2d"], (640, 480))) for item in items]
    with_area = [(label, box) for label, box in truth if (box[2:] > box[:2]).all()]
    result = boxes.evaluate(with_area, with_area)
    assert result.f1 == 1 and result.true_positives == len(with_area)
