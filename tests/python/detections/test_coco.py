"""COCO files: ours read by other tools, theirs and everybody else's read by us."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gemma4.detections import Detections, coco_dataset, load_coco, save_coco
from gemma4.errors import MediaError, RequestError
from PIL import Image

SIZE = (200, 100)


def boxes(*rows: tuple[Any, ...], size: tuple[int, int] = SIZE) -> Detections:
    return Detections.from_dicts(
        [{"label": row[0], "xyxy": row[1], "score": row[2] if len(row) > 2 else 1.0} for row in rows], size
    )


TRUTH = {
    "a.jpg": boxes(("cat", [10, 10, 50, 60]), ("dog", [100.5, 20.25, 180, 90])),
    "folder/a.jpg": boxes(("cat", [0, 0, 300, 200]), size=(300, 200)),
    "nothing 猫.png": boxes(size=(7, 9)),
}


def written(tmp_path: Path, **changes: Any) -> Path:
    """A file as others write it: ids from anywhere, fields missing, fields of their own."""
    data = {
        "info": {"year": 2026},
        "images": [
            {"id": 139, "file_name": "a/1.jpg", "width": 200, "height": 100, "license": 3},
            {"id": 7, "file_name": "b/1.jpg", "width": 50, "height": 60},
            {"id": 8, "file_name": "ohne Kästen.jpg", "width": 50, "height": 60},
        ],
        "categories": [{"id": 90, "name": "toothbrush"}, {"id": 3, "name": "Straßenbahn", "supercategory": "vehicle"}],
        "annotations": [
            {"id": 1, "image_id": 139, "category_id": 90, "bbox": [10, 20, 30, 40]},
            {"id": 2, "image_id": 7, "category_id": 3, "bbox": [0.5, 0, 49.75, 60.3], "iscrowd": 0, "area": 1.0},
        ],
        **changes,
    }
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def annotation(**changes: Any) -> dict[str, list[dict[str, Any]]]:
    row = {"id": 1, "image_id": 139, "category_id": 90, "bbox": [10, 20, 30, 40], **changes}
    return {"annotations": [{name: value for name, value in row.items() if value is not ...}]}


def test_there_and_back(tmp_path: Path) -> None:
    path = tmp_path / "truth.json"
    save_coco(path, TRUTH)
    assert load_coco(path) == TRUTH and list(load_coco(path)) == list(TRUTH)
    found = {name: boxes(*[(i.label, i.xyxy, 0.25) for i in one], size=one.image_size) for name, one in TRUTH.items()}
    save_coco(path, iter(found.items()), categories=["dog", "bird", "cat"])
    assert load_coco(path) == found and [file.name for file in tmp_path.iterdir()] == ["truth.json"]
    assert json.loads(path.read_text())["categories"] == [
        {"id": i + 1, "name": n} for i, n in enumerate(["dog", "bird", "cat"])
    ]
    save_coco(path, {})
    assert load_coco(path) == {}


def test_thousands(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    many = {}
    for index in range(1000):
        corners = np.sort(rng.uniform(0, 100, (2, 2, 2)), axis=1).reshape(2, 4)
        many[f"{index:06d}.jpg"] = boxes(*[(str(rng.integers(80)), box) for box in corners], size=(100, 100))
    save_coco(tmp_path / "many.json", many)
    again = load_coco(tmp_path / "many.json")
    assert list(again) == list(many)
    for name in many:
        assert again[name].labels == many[name].labels and np.allclose(again[name].xyxy, many[name].xyxy, atol=1e-4)


def test_faster_coco_eval_reads_it() -> None:
    """Truth and results of a perfect and of a worse model; results are numbered as the dataset's pictures."""
    evaluation = pytest.importorskip("faster_coco_eval")
    truth = evaluation.COCO(coco_dataset(TRUTH))
    ids = {image["file_name"]: image["id"] for image in truth.dataset["images"]}
    categories = truth.dataset["categories"]

    def precision(found: dict[str, Detections]) -> float:
        rows = [row for name, one in found.items() for row in one.to_coco(ids[name], categories)]
        judged = evaluation.COCOeval_faster(truth, truth.loadRes(rows), "bbox")
        judged.run()
        return float(judged.stats_as_dict["AP_50"])

    assert precision(TRUTH) == pytest.approx(1)
    assert precision({**TRUTH, "a.jpg": TRUTH["a.jpg"][:1]}) == pytest.approx(0.5, abs=0.01)


def test_results_of_a_file(tmp_path: Path) -> None:
    """What a detector gave for the pictures of a truth file."""
    path = written(tmp_path)
    rows = [{"image_id": 7, "category_id": 90, "bbox": [1, 2, 3, 4], "score": 0.5}]
    (tmp_path / "results.json").write_text(json.dumps(rows))
    for results in (tmp_path / "results.json", rows):
        found = load_coco(path, results=results)
        assert list(found) == ["a/1.jpg", "b/1.jpg", "ohne Kästen.jpg"] and list(map(len, found.values())) == [0, 1, 0]
        assert found["b/1.jpg"].to_coco(7, {"toothbrush": 90}) == rows
    with pytest.raises(RequestError, match=r"give the file of the pictures \(load_coco takes this as results=\)"):
        load_coco(tmp_path / "results.json")
    with pytest.raises(RequestError, match=r"results: results\[0\]: score: expected 0 to 1"):
        load_coco(path, results=[{**rows[0], "score": 7}])
    with pytest.raises(RequestError, match="expected a list of COCO results"):
        load_coco(path, results={"a": 1})  # type: ignore[arg-type]


def test_supervision_writes_and_reads(tmp_path: Path) -> None:
    supervision = pytest.importorskip("supervision")
    found = {
        "a.png": boxes(("cat", [10, 10, 50, 60]), ("dog", [100, 20, 180, 90])),
        "b.png": boxes(("cat", [0, 0, 9, 9])),
    }
    for name in found:
        Image.new("RGB", SIZE).save(tmp_path / name)
    save_coco(tmp_path / "ours.json", found)
    theirs = supervision.DetectionDataset.from_coco(str(tmp_path), str(tmp_path / "ours.json"))
    assert sorted(theirs.classes) == ["cat", "dog"] and len(theirs) == 2
    for path, _, one in theirs:
        assert np.allclose(one.xyxy, found[Path(path).name].xyxy)
        assert [theirs.classes[index] for index in one.class_id] == found[Path(path).name].labels
    theirs.as_coco(annotations_path=str(tmp_path / "theirs.json"))
    again = load_coco(tmp_path / "theirs.json")
    assert {name: (one.labels, one.xyxy.tolist()) for name, one in again.items()} == {
        name: (one.labels, one.xyxy.tolist()) for name, one in found.items()
    }


def test_files_of_others(tmp_path: Path) -> None:
    found = load_coco(written(tmp_path))
    assert found["a/1.jpg"].labels == ["toothbrush"] and found["a/1.jpg"].xyxy.tolist() == [[10, 20, 40, 60]]
    assert found["b/1.jpg"].xyxy.tolist() == [[0.5, 0, 50, 60]]  # a third of a pixel outside is cut off
    assert found["b/1.jpg"].labels == ["Straßenbahn"] and found["ohne Kästen.jpg"].labels == []
    text = written(tmp_path).read_text()
    (tmp_path / "marked.json").write_bytes(b"\xef\xbb\xbf" + text.encode())  # as Windows' editors save it
    assert load_coco(tmp_path / "marked.json") == found


def test_string_ids_and_whole_floats(tmp_path: Path) -> None:
    images = [{"id": "x", "file_name": "x.jpg", "width": 200.0, "height": 100}]
    rows = [{"image_id": "x", "category_id": 1.0, "bbox": [1, 2, 3, 4]}]
    path = written(tmp_path, images=images, annotations=rows, categories=[{"id": 1, "name": "a"}])
    assert load_coco(path)["x.jpg"].labels == ["a"]


def test_crowds(tmp_path: Path) -> None:
    path = written(tmp_path, **annotation(iscrowd=1))
    with pytest.warns(RuntimeWarning, match="truth.json: 1 regions of many objects"):
        assert [len(one) for one in load_coco(path).values()] == [0, 0, 0]
    assert len(load_coco(path, crowds=True)["a/1.jpg"]) == 1


def test_boxes_around_segmentations(tmp_path: Path) -> None:
    mask_tools = pytest.importorskip("faster_coco_eval.core.mask")
    mask = np.zeros((100, 200), np.uint8)
    mask[20:60, 10:40] = 1
    runs = mask_tools.encode(np.asfortranarray(mask))
    column = mask.T.reshape(-1)
    edges = np.flatnonzero(np.diff(column, prepend=0, append=0))
    counts = np.diff(edges, prepend=0, append=len(column)).tolist()
    for shape in (
        [[10, 20, 40, 20, 40, 60, 10, 60]],
        [[10, 20, 15, 20, 15, 60], [30, 30, 40, 30, 35, 50]],
        {"size": [100, 200], "counts": counts},
        {"size": [100, 200], "counts": runs["counts"].decode()},
    ):
        for box in (..., None):
            found = load_coco(written(tmp_path, **annotation(bbox=box, segmentation=shape)))
            assert found["a/1.jpg"].xyxy.tolist() == [[10, 20, 40, 60]], shape
    for wrong in ([], [[1, 2, 3]], [[1, 2, 3, 4, 5, "6"]], {"size": [5, 5], "counts": [1]}, "rle", {"counts": [1]}):
        with pytest.raises(RequestError, match=r"annotations\[0\]: segmentation"):
            load_coco(written(tmp_path, **annotation(bbox=..., segmentation=wrong)))


def test_sizes_from_the_pictures(tmp_path: Path) -> None:
    images = [{"id": 139, "file_name": "turned.jpg"}]
    photo, exif = Image.new("RGB", (100, 200)), Image.Exif()
    exif[0x0112] = 6
    photo.save(tmp_path / "turned.jpg", exif=exif)
    path = written(tmp_path, images=images, **annotation())
    assert load_coco(path, images=tmp_path)["turned.jpg"].image_size == (200, 100)
    with pytest.raises(RequestError, match=r"images\[0\]: width: missing.*images="):
        load_coco(path)
    (tmp_path / "turned.jpg").unlink()
    with pytest.raises(MediaError, match=r"turned\.jpg: no such file"):
        load_coco(path, images=tmp_path)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"images": ...}, "images: missing"),
        ({"images": {}}, "images: expected a list"),
        ({"images": [3]}, r"images\[0\]: expected an object"),
        ({"images": [{"id": 1}]}, r"images\[0\]: file_name: missing"),
        ({"images": [{"id": 1.5, "file_name": "a"}]}, r"images\[0\]: id: expected an integer, found 1.5"),
        ({"images": [{"id": 1, "file_name": "a", "width": 5}]}, r"images\[0\]: height: missing"),
        ({"images": [{"id": 1, "file_name": "a", "width": 0, "height": 5}]}, r"images\[0\]: 0 x 5"),
        ({"images": [{"id": i, "file_name": "a", "width": 5, "height": 5} for i in (1, 2)]}, r"images\[1\]: file_name"),
        ({"images": [{"id": 1, "file_name": n, "width": 5, "height": 5} for n in "ab"]}, r"images\[1\]: id: 1"),
        ({"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}, r"categories\[1\]: id: 1"),
        ({"categories": [{"id": 1}]}, r"categories\[0\]: name: missing"),
        (annotation(bbox=...), r"annotations\[0\]: bbox: missing"),
        (annotation(bbox=[1, 2, 3]), r"annotations\[0\]: bbox: expected 4 numbers"),
        (annotation(bbox=[1, 2, -3, 4]), r"annotations\[0\]: bbox: .*not below 0"),
        (annotation(bbox=[1, 2, "3", 4]), r"annotations\[0\]: bbox: expected 4 finite numbers"),
        (annotation(bbox=[1, 2, True, 4]), r"annotations\[0\]: bbox"),
        (annotation(bbox=[190, 20, 30, 40]), r"annotations\[0\]: bbox: .*leaves the picture of 200 x 100.*clip=True"),
        (annotation(bbox=[300, 20, 30, 40]), r"annotations\[0\]: bbox: .*lies outside"),
        (annotation(bbox=[10**400, 20, 30, 40]), r"annotations\[0\]: bbox"),
        (annotation(image_id=1), r"annotations\[0\]: image_id: there is no picture 1"),
        (annotation(category_id=1), r"annotations\[0\]: category_id: there is no category 1"),
        (annotation(category_id=...), r"annotations\[0\]: category_id: missing"),
    ],
)
def test_bad_files(changes: dict[str, Any], named: str, tmp_path: Path) -> None:
    path = written(tmp_path, **{name: value for name, value in changes.items() if value is not ...})
    if ... in changes.values():
        data = json.loads(path.read_text())
        path.write_text(json.dumps({name: value for name, value in data.items() if name not in changes}))
    with pytest.raises(RequestError, match=named) as caught:
        load_coco(path)
    assert str(path) in str(caught.value)


def test_boxes_that_leave_the_picture_are_cut_on_request(tmp_path: Path) -> None:
    path = written(tmp_path, **annotation(bbox=[190, -20, 30, 40]))
    assert load_coco(path, clip=True)["a/1.jpg"].xyxy.tolist() == [[190, 0, 200, 20]]
    with pytest.raises(RequestError, match="lies outside"):
        load_coco(written(tmp_path, **annotation(bbox=[300, 20, 30, 40])), clip=True)


def test_what_cannot_be_written(tmp_path: Path) -> None:
    one = boxes(("cat", [1, 2, 3, 4]))
    for found, named in (
        ([("a", one), ("a", one)], "'a' is given twice"),
        ([("a", [("cat", [1, 2, 3, 4])])], r"found\[0\]: expected a picture's name and its Detections"),
        ([one], r"found\[0\]"),
    ):
        with pytest.raises(RequestError, match=named):
            save_coco(tmp_path / "a.json", found)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="'cat' is not among 'dog'"):
        save_coco(tmp_path / "a.json", {"a": one}, ["dog"])
    with pytest.raises(OSError):
        save_coco(tmp_path / "no folder" / "a.json", {"a": one})
    assert not list(tmp_path.iterdir())


def test_ids_of_numpy_and_names_of_any_bytes(tmp_path: Path) -> None:
    name = "caf\udce9.png"  # as Linux gives a name that is no UTF-8
    one = Detections.from_xyxy([("cat", [1, 2, 3, 4])], (10, 10))
    save_coco(tmp_path / "a.json", {name: one}, categories={"cat": np.int64(3)})
    assert json.loads((tmp_path / "a.json").read_text())["images"][0]["file_name"] == name
    (found,) = load_coco(tmp_path / "a.json").items()
    assert found[0] == name and found[1].labels == ["cat"]
    results = one.to_coco(np.int64(1), {"cat": np.int64(3)})
    assert load_coco(tmp_path / "a.json", results=results)[name].labels == ["cat"]
    with pytest.raises(RequestError, match="categories: 'cat': expected an integer as its id, found 'three'"):
        save_coco(tmp_path / "b.json", {"a.png": one}, categories={"cat": "three"})  # type: ignore[dict-item]
