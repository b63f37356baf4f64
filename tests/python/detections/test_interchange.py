"""Each form that another package takes, read back by that package."""

from __future__ import annotations

import json
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import jsonschema
import numpy as np
import pytest
from gemma4.detections import Detections, Points
from gemma4.errors import RequestError

SIZE = (200, 100)


@pytest.fixture
def found() -> Detections:
    rows = [("cat", [40, 10, 120, 50], 0.5), ("dog", [0, 0, 200, 100], 0.25), ("cat", [100.5, 50, 160, 70.25], 1.0)]
    return Detections.from_dicts([{"label": n, "xyxy": b, "score": s} for n, b, s in rows], SIZE)


@pytest.fixture
def points() -> Points:
    return Points.from_dicts([{"label": "nose", "xy": [50, 50], "score": 0.5}, {"label": "猫", "xy": [200, 0]}], SIZE)


def test_to_coco(found: Detections) -> None:
    first = {"image_id": 3, "category_id": 17, "bbox": [40.0, 10.0, 80.0, 40.0], "score": 0.5}
    assert found.to_coco(3, {"cat": 17, "dog": 18})[0] == first
    assert [r["category_id"] for r in found.to_coco(categories=["dog", "cat"])] == [2, 1, 2]
    own = [{"id": 5, "name": "dog"}, {"id": 6, "name": "cat"}]
    assert [r["category_id"] for r in found.to_coco(categories=own)] == [6, 5, 6]
    assert [r["category_id"] for r in found.to_coco()] == [1, 2, 1]
    for wrong in (["cat"], "cat", ["cat", "cat", "dog"], [{"name": "cat"}]):
        with pytest.raises(RequestError):
            found.to_coco(categories=wrong)
    json.dumps(found.to_coco())


def test_to_hf(found: Detections) -> None:
    best = {"score": 1.0, "label": "cat", "box": {"xmin": 100, "ymin": 50, "xmax": 160, "ymax": 70}}
    assert Detections.from_xyxy([("cat", [10.9, 20.2, 40.9, 60.5])], (100, 100)).to_hf()[0]["box"] == {
        "xmin": 10, "ymin": 20, "xmax": 40, "ymax": 60,
    }  # fmt: skip
    assert found.to_hf()[0] == best and [entry["score"] for entry in found.to_hf()] == [1.0, 0.5, 0.25]


def test_supervision(found: Detections) -> None:
    pytest.importorskip("supervision")
    theirs = found.to_supervision(classes=["bird", "cat", "dog"])
    assert theirs.class_id.tolist() == [1, 2, 1] and theirs["class_name"].tolist() == found.labels
    assert np.array_equal(theirs.xyxy, found.xyxy) and np.array_equal(theirs.confidence, found.scores)
    assert found.to_supervision().class_id.tolist() == [0, 1, 0] and len(found[:0].to_supervision()) == 0
    with pytest.raises(RequestError, match="'dog'"):
        found.to_supervision(classes=["cat"])


def test_bbox_2d_is_what_qwens_readers_read(found: Detections) -> None:
    supervision = pytest.importorskip("supervision")
    text = f"```json\n{json.dumps(found.to_bbox_2d())}\n```"
    theirs = supervision.Detections.from_vlm("qwen_2_5_vl", text, input_wh=SIZE, resolution_wh=SIZE)
    assert np.allclose(theirs.xyxy, found.xyxy) and theirs["class_name"].tolist() == found.labels


@pytest.mark.parametrize("count", [0, 1, 3])
def test_pandas(found: Detections, points: Points, count: int) -> None:
    pytest.importorskip("pandas")
    table = found[:count].to_pandas()
    assert list(table.columns) == ["label", "score", "x1", "y1", "x2", "y2", "box_2d"] and len(table) == count
    assert table[["x1", "y1", "x2", "y2"]].to_numpy(np.float32).tolist() == found[:count].xyxy.tolist()
    assert [list(cells) for cells in table.box_2d] == found[:count].box_2d.tolist()
    places = points[:count].to_pandas()
    assert list(places.columns) == ["label", "score", "x", "y", "point"]
    assert places[["x", "y"]].to_numpy(np.float32).tolist() == points[:count].xy.tolist()


@pytest.mark.parametrize("count", [0, 1, 3])
def test_arrow_and_parquet(found: Detections, points: Points, count: int, tmp_path: Any) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for many, columns, key in (
        (found[:count], ["x1", "y1", "x2", "y2"], "box_2d"),
        (points[:count], ["x", "y"], "point"),
    ):
        parquet.write_table(many.to_arrow(), tmp_path / "found.parquet")
        table = parquet.read_table(tmp_path / "found.parquet")
        assert table.column_names == ["label", "score", *columns, key]
        assert table.schema.field(key).type == pyarrow.list_(pyarrow.int16(), len(columns))
        rows = [{"label": r["label"], "score": r["score"], key: r[key]} for r in table.to_pylist()]
        pixels = [[r[c] for c in columns] for r in table.to_pylist()]
        name = "xyxy" if key == "box_2d" else "xy"
        given = [{**row, name: place} for row, place in zip(rows, pixels, strict=True)]
        assert type(many).from_dicts(given, SIZE) == many


def test_datasets(found: Detections, points: Points) -> None:
    datasets = pytest.importorskip("datasets")
    for many in (found, points):
        rows = datasets.Dataset.from_list(many.to_dicts())
        assert type(many).from_dicts(rows, SIZE) == many
        assert datasets.Dataset(many.to_arrow())["label"][:] == many.labels


def test_torch_boxes(found: Detections) -> None:
    """As torchvision's operators take them; those of transformers are the same."""
    torch = pytest.importorskip("torch")
    from transformers.image_transforms import center_to_corners_format, corners_to_center_format
    from transformers.loss.loss_for_object_detection import box_area

    boxes = torch.as_tensor(found.xyxy)
    assert boxes.dtype == torch.float32 and boxes.shape == (3, 4)
    assert torch.allclose(center_to_corners_format(torch.as_tensor(corners_to_center_format(found.xyxy))), boxes)
    assert box_area(boxes).tolist() == pytest.approx([3200, 20000, 59.5 * 20.25])
    assert torch.as_tensor(found[:0].xyxy).shape == (0, 4)


# --- packages that are not here: their documented forms


@pytest.fixture
def fiftyone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The four classes, with the fields that fiftyone 1.22 declares and the types that it accepts for them."""

    def declared(name: str, **fields: Any) -> Any:
        def make(**given: Any) -> SimpleNamespace:
            assert given.keys() <= fields.keys(), f"{name} has no {given.keys() - fields.keys()}"
            for key, value in given.items():
                assert isinstance(value, fields[key]), f"{name}.{key}: {value!r}"
            return SimpleNamespace(kind=name, **given)

        return make

    module: Any = ModuleType("fiftyone")
    module.Detection = declared("Detection", label=str, bounding_box=list, confidence=float)
    module.Detections = declared("Detections", detections=list)
    module.Keypoint = declared("Keypoint", label=str, points=list, confidence=list)
    module.Keypoints = declared("Keypoints", keypoints=list)
    monkeypatch.setitem(sys.modules, "fiftyone", module)


@pytest.mark.usefixtures("fiftyone")
def test_fiftyone(found: Detections, points: Points) -> None:
    theirs = found.to_fiftyone()
    assert theirs.kind == "Detections" and [one.label for one in theirs.detections] == found.labels
    assert theirs.detections[0].bounding_box == [0.2, 0.1, 0.4, 0.4] and theirs.detections[0].confidence == 0.5
    assert found[:0].to_fiftyone().detections == []
    places = points.to_fiftyone()
    assert [one.points for one in places.keypoints] == [[(0.25, 0.5)], [(1.0, 0.0)]]
    assert places.keypoints[0].confidence == [0.5]


_SHARE = {"type": "number", "minimum": 0, "maximum": 100}
_PREDICTION: dict[str, Any] = {
    "type": "object",
    "required": ["result"],
    "properties": {
        "model_version": {"type": "string"},
        "score": {"type": "number"},
        "result": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["type", "value", "from_name", "to_name", "original_width", "original_height"],
                "properties": {
                    "type": {"enum": ["rectanglelabels", "keypointlabels"]},
                    "original_width": {"type": "integer", "minimum": 1},
                    "original_height": {"type": "integer", "minimum": 1},
                    "score": {"type": "number", "minimum": 0, "maximum": 1},
                    "value": {
                        "type": "object",
                        "required": ["x", "y", "width"],
                        "properties": dict.fromkeys(("x", "y", "width", "height"), _SHARE)
                        | {key: {"type": "array", "minItems": 1} for key in ("rectanglelabels", "keypointlabels")},
                    },
                },
            },
        },
    },
}  # fmt: skip


def test_label_studio(found: Detections, points: Points) -> None:
    for many, kind in ((found, "rectanglelabels"), (points, "keypointlabels"), (found[:0], ""), (points[:0], "")):
        prediction = many.to_label_studio("box", "picture")
        jsonschema.validate(json.loads(json.dumps(prediction)), _PREDICTION)
        assert [one["value"][kind] for one in prediction["result"]] == [[label] for label in many.labels]
        assert {(one["from_name"], one["to_name"]) for one in prediction["result"]} <= {("box", "picture")}
        assert len({one["id"] for one in prediction["result"]}) == len(many)
    for item, one in zip(found, found.to_label_studio()["result"], strict=True):
        value, (width, height) = one["value"], (one["original_width"], one["original_height"])
        left, top = value["x"] * width / 100, value["y"] * height / 100
        back = (left, top, left + value["width"] * width / 100, top + value["height"] * height / 100)
        assert back == pytest.approx(item.xyxy)


@pytest.mark.parametrize(
    ("module", "call", "hint"),
    [
        ("pandas", "to_pandas", r"gemma4\[data\]"),
        ("pyarrow", "to_arrow", r"gemma4\[data\]"),
        ("supervision", "to_supervision", r"gemma4\[eval\]"),
        ("fiftyone", "to_fiftyone", "pip install fiftyone"),
    ],
)
def test_a_missing_package_is_named(
    module: str, call: str, hint: str, found: Detections, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=hint):
        getattr(found, call)()
