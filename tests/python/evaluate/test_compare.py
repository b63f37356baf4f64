"""gemma4.evaluate.compare: rows, figures, what became of each object."""

from __future__ import annotations

import json
import pickle
import random
import sys
import warnings
from xml.etree import ElementTree

import numpy as np
import pytest
from gemma4 import boxes
from gemma4.errors import DetectionParseError, MediaError, RequestError
from gemma4.evaluate import compare
from gemma4.evaluate.outcomes import judge
from gemma4.evaluate.results import Limits
from labelled import LABELS, Told, scene
from PIL import Image, ImageColor

BLANK = np.zeros((100, 200, 3), np.uint8)
CAT, DOG = ("cat", (0.0, 0.0, 20.0, 20.0)), ("dog", (100.0, 50.0, 150.0, 90.0))


def said(*answers, **arguments):
    """The only row of a comparison in which pictures have these (truth, found)."""
    told = Told(lambda index, _: answers[index][1])
    return compare([(BLANK, truth) for truth, _ in answers], models=told, **arguments).rows[0]


def kinds(found, truth, crowds=(), iou=0.5):
    scored = [(label, box, 0.5) for label, box in found]
    return sorted(one.kind for one in judge(scored, truth, crowds, iou))


def test_what_became_of_objects():
    off = ("cat", (10.0, 0.0, 30.0, 20.0))
    assert kinds([CAT, DOG], [DOG, CAT]) == ["right", "right"]
    assert kinds([], []) == []
    assert kinds([CAT], []) == ["invented"]
    assert kinds([], [CAT]) == ["missed"]
    assert kinds([("dog", CAT[1])], [CAT]) == ["wrong"]
    assert kinds([off], [CAT]) == ["invented", "missed"]
    assert kinds([off], [CAT], iou=0.3) == ["right"]
    assert kinds([CAT, CAT], [CAT]) == ["invented", "right"]
    # The right label goes before the better place.
    assert kinds([("dog", CAT[1]), ("cat", (0.0, 0.0, 20.0, 18.0))], [CAT]) == ["invented", "right"]


def test_a_crowd_need_not_be_found_and_hides_what_is_in_it():
    crowd = [("cat", (0.0, 0.0, 100.0, 100.0))]
    assert kinds([CAT], [], crowd) == []
    assert kinds([("dog", CAT[1])], [], crowd) == ["invented"]
    assert kinds([("cat", (90.0, 90.0, 140.0, 140.0))], [], crowd) == ["invented"]
    assert kinds([CAT], [CAT], crowd) == ["right"]


def test_counts_are_those_of_boxes_evaluate():
    draw = random.Random(3)

    def objects(most):
        for _ in range(draw.randint(0, most)):
            x, y = draw.uniform(0, 60), draw.uniform(0, 40)
            yield draw.choice(LABELS), (x, y, x + draw.uniform(15, 60), y + draw.uniform(15, 60))

    answers = [(list(objects(6)), list(objects(6))) for _ in range(60)]
    row = said(*answers, labels=list(LABELS), iou=0.2)
    theirs = boxes.evaluate([found for _, found in answers], [truth for truth, _ in answers], 0.2)
    assert theirs.true_positives > 10
    assert (row.right, row.found - row.right, row.truth - row.right) == (
        theirs.true_positives, theirs.false_positives, theirs.missed,
    )  # fmt: skip
    assert row.precision == theirs.precision and row.recall == theirs.recall and row.f1 == theirs.f1
    assert row.mean_iou == pytest.approx(theirs.mean_iou)
    assert sum(map(sum, row.confusion)) == sum(len(picture.outcomes) for picture in row.pictures)
    assert [sum(one) for one in row.confusion][:3] == [row.labels[label].truth for label in LABELS]
    assert sum(found for found, _, _ in row.reliability) == row.found
    assert sum(right for _, right, _ in row.reliability) == row.right


@pytest.mark.filterwarnings("ignore")  # supervision's own
def test_average_precision_is_that_of_supervision():
    import supervision
    from supervision.metrics import MeanAveragePrecision

    draw = random.Random(5)
    truth, found = [], []
    for _ in range(40):
        objects, ours = [], []
        for label in draw.choices(LABELS, k=draw.randint(0, 4)):
            x, y, w, h = draw.uniform(0, 140), draw.uniform(0, 50), draw.uniform(15, 50), draw.uniform(15, 45)
            objects.append((label, (x, y, x + w, y + h)))
            if draw.random() < 0.85:
                d = draw.uniform(0, 6)
                name = label if draw.random() < 0.9 else draw.choice(LABELS)
                ours.append((name, (x + d, y, x + w + d, y + h)))
        truth.append(objects)
        found.append(ours)
    scores = [[draw.random() for _ in ours] for ours in found]

    class Scored(Told):
        def detect(self, pictures, on_error, **arguments):
            start, results = self.asked, super().detect(pictures, on_error, **arguments)
            return [
                type(one)([item.__class__(item.label, item.box_2d, item.xyxy, s) for item, s in
                           zip(one, scores[start + index], strict=True)], one.image_size)
                for index, one in enumerate(results)
            ]  # fmt: skip

    row = compare(
        [(BLANK, objects) for objects in truth], models=Scored(lambda index, _: found[index]), labels=list(LABELS)
    ).rows[0]

    def theirs(objects, confidence=None):
        return supervision.Detections(
            xyxy=np.array([box for _, box in objects], dtype=float).reshape(-1, 4),
            class_id=np.array([LABELS.index(label) for label, _ in objects], dtype=int),
            confidence=None if confidence is None else np.array(confidence, dtype=float),
        )

    pairs = [(theirs(f, s), theirs(t)) for f, s, t in zip(found, scores, truth, strict=True)]
    metric = MeanAveragePrecision()
    expected = metric.update([f for f, _ in pairs], [t for _, t in pairs]).compute()
    assert 0.2 < row.map < 0.9
    assert row.map == pytest.approx(expected.map50_95, abs=1e-6)
    assert row.map50 == pytest.approx(expected.map50, abs=1e-6)
    assert row.map75 == pytest.approx(expected.map75, abs=1e-6)
    for label in LABELS:
        number = list(expected.matched_classes).index(LABELS.index(label))
        assert row.labels[label].ap == pytest.approx(expected.ap_per_class[number].mean(), abs=1e-6)
        assert np.mean(row.labels[label].curve) == pytest.approx(row.labels[label].ap50, abs=1e-9)


def test_with_nothing_to_count_there_is_no_figure():
    row = said(([], []), labels=["cat"])
    assert row.map is row.precision is row.recall is row.f1 is None
    line = compare([(BLANK, [])], models=Told(lambda *_: []), labels=["cat"]).table().splitlines()[-1]
    assert line.split()[:6] == ["default", "-", "-", "-", "-", "-"]
    row = said(([CAT], []), ([], []))
    assert (row.map, row.precision, row.recall, row.f1) == (0, None, 0, 0)
    row = said(([CAT], [CAT]), ([], [DOG]), labels=["cat", "dog"])
    assert row.map == 1 and row.precision == 0.5  # of a label without truth COCO says nothing
    assert row.labels["dog"].recall is None and row.labels["dog"].precision == 0 and row.labels["dog"].curve is None


def test_labels_nobody_asked_for():
    """Truth with another label does not count; what is found with one is invented."""
    row = said(([CAT, DOG], [CAT, ("bird", DOG[1])]), labels=["cat"])
    assert (row.truth, row.found, row.right) == (1, 2, 1)
    assert row.confusion_labels == ("cat", "bird") and row.confusion[-1][1] == 1


def test_words_for_labels():
    asked = []

    def answer(index, arguments):
        asked.append((arguments.get("labels"), arguments.get("prompt")))
        return [("CRIMSON disc", CAT[1])]

    result = compare(
        [(BLANK, [CAT])], models=Told(answer), labels={"cat": "crimson disc"}, prompts=[None, "Where are {labels}? {x}"]
    )
    assert asked == [("crimson disc", None), ("crimson disc", "Where are crimson disc? {x}")]
    assert [row.recall for row in result] == [1, 1]
    assert result.rows[1].settings["prompt"] == "Where are crimson disc? {x}"


def test_every_combination_is_a_row():
    seen = []

    def answer(index, arguments):
        seen.append(arguments)
        return [CAT] if arguments["max_soft_tokens"] == 280 else []

    told = Told(answer)
    result = compare(
        [(BLANK, [CAT])] , models={"a": told, "b": told}, labels={"one": ["cat"], "two": {"cat": "feline"}},
        prompts=[None, "x" * 100, "x" * 101], max_soft_tokens=[70, 280],
        options={"plain": {}, "cut": {"threshold": 0.3}},
    )  # fmt: skip
    assert len(result) == len(seen) == 48
    assert len({row.name for row in result}) == 48
    assert result.best.name == "a, one, default, 280, plain" and result.best.map == 1
    assert result.map == result.recall == 0 and result["b, two, default, 70, cut"].recall == 0
    assert sum("threshold" in arguments for arguments in seen) == 24
    with pytest.raises(KeyError, match="'c' is not among 'a, one"):
        result["c"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": []}, "labels: an empty list"),
        ({"labels": 7}, "labels: expected a list of strings"),
        ({"labels": ["cat", " "]}, "labels: expected strings"),
        ({"labels": {"cat": "x", "dog": "X"}}, "by the same word"),
        ({"labels": {"plain": ["cat"], "": ["dog"]}}, "labels: expected names"),
        ({"prompts": []}, "prompts: an empty list"),
        ({"prompts": [" "]}, "prompts: expected strings"),
        ({"prompts": 3}, "prompts: expected strings"),
        ({"options": 3}, "options: expected a mapping"),
        ({"options": {"prompt": "x"}}, "'prompt' is no further argument"),
        ({"options": {"x": object()}}, "options: expected what JSON can write"),
        ({"max_soft_tokens": list(range(201))}, "201 combinations of .* at most 200"),
        ({"models": 3}, "models: expected a name, a gemma4.Model or an object with detect"),
        ({"iou": 0}, "iou"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(RequestError, match=message):
        compare([(BLANK, [CAT])], **{"models": Told(lambda *_: []), **arguments})


def test_a_label_that_the_file_does_not_have(tmp_path):
    coco = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(coco))
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    with pytest.raises(RequestError, match="'cats' is not a label of the dataset; did you mean 'cat'"):
        compare(tmp_path / "a.json", labels=["cats"])
    with pytest.raises(RequestError, match="the dataset has no objects"):
        compare([(BLANK, [])])


def test_an_answer_that_cannot_be_read_is_the_prompts_doing():
    row = said(([CAT], DetectionParseError("no JSON", "I see a cat")), ([DOG], [DOG]))
    assert row.errors == 1 and row.pictures[0].error == "no JSON" and row.recall == 0.5
    with pytest.raises(MediaError, match="picture 0: broken"):
        said(([CAT], MediaError("broken")))
    with pytest.raises(ZeroDivisionError):
        said(([CAT], ZeroDivisionError()))


@pytest.mark.parametrize("module", ["faster_coco_eval", "pyarrow"])
def test_a_missing_package_names_its_extra(monkeypatch, tmp_path, module):
    told = Told(lambda *_: [])
    result = compare([(BLANK, [CAT])], models=told)
    monkeypatch.setitem(sys.modules, module, None)
    extra = {"faster_coco_eval": "eval", "pyarrow": "data"}[module]
    with pytest.raises(
        ImportError, match=rf"{module.replace('_', '-')} is not installed; run: pip install 'gemma4\[{extra}\]'"
    ):
        if module == "pyarrow":
            result.save(tmp_path / "out.parquet")
        else:
            compare([(BLANK, [CAT])], models=told)
    assert told.asked == 1 and not list(tmp_path.iterdir())


def test_warnings_are_kept_and_given_once():
    def answer(index, _):
        warnings.warn("it was cut", RuntimeWarning, stacklevel=2)
        return [CAT]

    with pytest.warns(RuntimeWarning, match="it was cut") as caught:
        result = compare([(BLANK, [CAT])] * 3, models=Told(answer), prompts=[None, "x"])
    assert len(caught) == 1 and result.rows[1].notes == ("it was cut",)


def test_notes_are_in_a_message():
    def answer(index, _):
        warnings.warn("it was cut", RuntimeWarning, stacklevel=2)
        return []

    with pytest.warns(RuntimeWarning, match="it was cut"):
        result = compare([(BLANK, [CAT])], models=Told(answer))
    assert "  note: it was cut" in result.check(Limits(recall=1)).splitlines()


def test_a_message_says_what_and_where():
    told = Told(lambda index, a: [[CAT], [("dog", CAT[1])], [DOG, CAT]][index % 3] if a.get("prompt") is None else [])
    result = compare([(BLANK, [CAT]), (BLANK, [CAT]), (BLANK, [DOG])], models=told, prompts={"good": None, "bad": "x"})
    assert result.check(Limits()) is None and result.check(Limits(recall=0, map={"cat": 0})) is None
    message = result.check(Limits(recall=0.6, precision={"dog": 0.6}))
    first, *lines = message.splitlines()
    assert first == (
        "good: precision of 'dog' 0.500 < 0.6; "
        "bad: precision of 'dog' is not known, since there is nothing to count, recall 0.000 < 0.6"
    )
    assert "  picture 1: wrong    'dog' for 'cat' at [0, 0, 20, 20], score 1.00, IoU 1.00" in lines
    assert "  picture 2: invented 'cat' at [0, 0, 20, 20], score 1.00; nothing overlaps it" in lines
    assert "  picture 2: missed   'dog' at [100, 50, 150, 90]; nothing overlaps it" in lines
    assert [line.split()[:2] for line in lines if line.startswith("x ")] == [["x", "good"], ["x", "bad"]]
    with pytest.raises(RequestError, match="min_recall: 'cow' is not among the labels cat, dog"):
        result.check(Limits(recall={"cow": 0.5}))
    with pytest.raises(RequestError, match="min_map"):
        Limits(map=2)


def test_a_long_message_stays_short():
    result = compare([(BLANK, [CAT] * 1)] * 500, models=Told(lambda *_: []))
    message = result.check(Limits(recall=1))
    assert "and 470 more" in message and len(message.splitlines()) < 50


def test_a_result_travels_without_its_pictures():
    result = compare([scene(1)], models=Told(lambda *_: []))
    again = pickle.loads(pickle.dumps(result))
    assert again == result and again.table() == result.table() == str(result)
    assert repr(result) == "<Comparison over list, 1 pictures, 'default': mAP 0.000>"
    table = ElementTree.fromstring(result._repr_html_())
    heads, cells = ([("".join(one.itertext())) for one in table.iter(tag)] for tag in ("th", "td"))
    assert dict(zip(heads[1:], cells[1:], strict=True))["missed"] == "2"
    assert result.pixels(0).shape == np.asarray(scene(1)[0]).shape and again.pixels(0) is None
    with pytest.raises(RequestError, match="another process"):
        again.draw("default", 0)


def test_a_picture_is_drawn_with_what_became_of_its_objects():
    picture, objects = scene(1)
    result = compare([(picture, objects)], models=Told(lambda *_: objects[:1]))
    drawn = np.asarray(result.draw("default", 0))
    assert drawn.shape == np.asarray(picture).shape
    for (_, box), color in zip(objects, ("#12945a", "#d92b3a"), strict=True):  # right, missed
        left, middle = round(box[0]), round((box[1] + box[3]) / 2)
        frame = drawn[middle, max(0, left - 4) : left + 5]
        assert (frame == ImageColor.getrgb(color)).all(axis=1).any()
    with pytest.raises(KeyError):
        result.draw("another", 0)
