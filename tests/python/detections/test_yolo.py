"""YOLO folders: ours read by another tool, that tool's and everybody else's layouts read by us."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from gemma4.detections import Detections, load_yolo, save_yolo
from gemma4.errors import MediaError, RequestError
from PIL import Image

SIZE = (200, 100)
TRUTH = {
    "a.png": Detections.from_xyxy([("cat", [10, 10, 50, 60]), ("dog", [100.5, 20.25, 180, 90])], SIZE),
    "deep/er/b 猫.png": Detections.from_xyxy([("cat", [0, 0, 300, 200])], (300, 200)),
    "c.png": Detections([], (7, 9)),
}


def pictures(folder: Path, found: dict[str, Detections] = TRUTH) -> None:
    for name, one in found.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", one.image_size).save(folder / name)


def figures(found: dict[str, Detections], prefix: str = "") -> dict[str, Any]:
    return {prefix + name: (one.image_size, one.labels, np.round(one.xyxy, 3).tolist()) for name, one in found.items()}


def label(folder: Path, *rows: str, names: str = "cat\ndog\n") -> Path:
    """One picture with these rows."""
    Image.new("RGB", SIZE).save(folder / "a.png")
    (folder / "a.txt").write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    (folder / "classes.txt").write_text(names, encoding="utf-8")
    return folder


def test_there_and_back(tmp_path: Path) -> None:
    root = tmp_path / "set"
    pictures(root / "images")
    save_yolo(root, TRUTH)
    assert figures(load_yolo(root)) == figures(dict(sorted(TRUTH.items())), "images/")
    assert sorted(p.relative_to(root).as_posix() for p in root.rglob("*.*") if "images" not in p.parts) == [
        "classes.txt", "data.yaml", "labels/a.txt", "labels/c.txt", "labels/deep/er/b 猫.txt",
    ]  # fmt: skip
    assert (root / "labels/a.txt").read_text().splitlines()[0] == "0 0.15 0.35 0.2 0.5"
    assert yaml.safe_load((root / "data.yaml").read_text()) == {
        "path": ".", "train": "images", "val": "images", "nc": 2, "names": ["cat", "dog"],
    }  # fmt: skip
    (root / "data.yaml").unlink()  # labelImg has classes.txt alone
    assert figures(load_yolo(root)) == figures(dict(sorted(TRUTH.items())), "images/")


def test_nothing_found_at_all(tmp_path: Path) -> None:
    empty = {"c.png": TRUTH["c.png"]}
    pictures(tmp_path / "images", empty)
    save_yolo(tmp_path, empty)
    assert figures(load_yolo(tmp_path)) == figures(empty, "images/")


def test_scores_and_classes(tmp_path: Path) -> None:
    found = {"a.png": Detections.from_dicts([{"label": "dog", "xyxy": [10, 10, 50, 60], "score": 0.375}], SIZE)}
    pictures(tmp_path / "images", found)
    save_yolo(tmp_path, found, ["bird", "dog"], scores=True)
    assert (tmp_path / "labels/a.txt").read_text() == "1 0.15 0.35 0.2 0.5 0.375\n"
    again = load_yolo(tmp_path)["images/a.png"]
    assert again.scores.tolist() == [0.375] and again.labels == ["dog"]


def test_supervision_reads_and_writes(tmp_path: Path) -> None:
    supervision = pytest.importorskip("supervision")
    flat = {Path(name).name: one for name, one in TRUTH.items()}
    pictures(tmp_path / "images", flat)
    save_yolo(tmp_path, flat)
    places = [str(tmp_path / name) for name in ("images", "labels", "data.yaml")]
    theirs = supervision.DetectionDataset.from_yolo(*places)
    assert theirs.classes == ["cat", "dog"] and len(theirs) == 3
    for path, _, one in theirs:
        assert np.allclose(one.xyxy, flat[Path(path).name].xyxy, atol=0.01)
        assert [theirs.classes[index] for index in one.class_id] == flat[Path(path).name].labels
    other = tmp_path / "other"
    theirs.as_yolo(str(other / "images"), str(other / "labels"), str(other / "data.yaml"))
    ours = load_yolo(other)
    assert {name.removeprefix("images/") for name in ours} == set(flat)
    for name, one in ours.items():
        assert np.allclose(one.xyxy, flat[Path(name).name].xyxy, atol=0.01)


@pytest.mark.parametrize(
    ("described", "split", "expected"),
    [
        ({"path": "..", "train": "set/train/images", "val": ["set/val/images"]}, None, ["train", "val"]),
        ({"train": "../train/images", "val": "../val/images"}, None, ["train", "val"]),  # as Roboflow writes it
        ({"path": "/a/place/of/another/machine", "val": "val/images", "train": "train/images"}, "val", ["val"]),
        ({"train": "train.txt"}, None, ["train"]),
    ],
)
@pytest.mark.parametrize("names", [["cat", "dog"], {0: "cat", 1: "dog"}])
def test_layouts(described: dict[str, Any], split: str | None, expected: list[str], names: Any, tmp_path: Path) -> None:
    root = tmp_path / "set"
    for part in ("train", "val"):
        (root / part / "images").mkdir(parents=True)
        (root / part / "labels").mkdir()
        Image.new("RGB", SIZE).save(root / part / "images" / "a.JPG", "JPEG")
        (root / part / "labels" / "a.txt").write_text("1 0.5 0.5 0.1 0.2\n\n")
    (root / "train.txt").write_text("./train/images/a.JPG\n")
    (root / "data.yaml").write_text(yaml.safe_dump({**described, "names": names}))
    for given in (root, root / "data.yaml"):
        found = load_yolo(given, split)
        assert list(found) == [f"{part}/images/a.JPG" for part in expected]
        for one in found.values():
            assert one.labels == ["dog"] and np.allclose(one.xyxy, [[90, 40, 110, 60]])
    with pytest.raises(RequestError, match=r"names: the file names no such pictures, but .*train"):
        load_yolo(root, "names")


def test_rows(tmp_path: Path) -> None:
    rows = ("0 0.5 0.5 0.1 0.2", "1.0 .1 .2 .3 .2 .2 .4", "1 .1 .2 .3 .2 .3 .4 .1 .4", "0 0.999 0.5 0.01 1.0", "", "  ")
    found = load_yolo(label(tmp_path, *rows))["a.png"]
    expected = [[90, 40, 110, 60], [20, 20, 60, 40], [20, 20, 60, 40], [198.8, 0, 200, 100]]
    assert found.labels == ["cat", "dog", "dog", "cat"] and np.allclose(found.xyxy, expected, atol=1e-3)


def test_a_turned_photograph(tmp_path: Path) -> None:
    label(tmp_path, "0 0.5 0.5 1 1")
    (tmp_path / "a.png").unlink()
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.new("RGB", (100, 200)).save(tmp_path / "a.jpg", exif=exif)
    assert load_yolo(tmp_path)["a.jpg"].image_size == (200, 100)


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ("0 0.5 0.5 0.1", "expected a class and a box or a polygon, found 4 numbers"),
        ("0 0.5 0.5 0.1 0.2 0.5 0.5 0.5", "found 8 numbers"),
        ("cat 0.5 0.5 0.1 0.2", "expected numbers, found 'cat"),
        ("2 0.5 0.5 0.1 0.2", "there is no class 2; there are 2"),
        ("-1 0.5 0.5 0.1 0.2", "there is no class -1"),
        ("0.5 0.5 0.5 0.1 0.2", "there is no class 0.5"),
        ("0 nan 0.5 0.1 0.2", "relative to the picture"),
        ("0 90 40 20 20", "outside the picture"),
        ("0 1.0 0.5 0.2 0.2", "leaves the picture"),
        ("0 0.5 0.5 -0.1 0.2", "below 0"),
        ("0 0.5 0.5 0.1 0.2 1.5", "score from 0 to 1"),
    ],
)
def test_bad_rows(row: str, named: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=named) as caught:
        load_yolo(label(tmp_path, "0 0.5 0.5 0.1 0.2", row))
    assert f"{tmp_path / 'a.txt'}: row 2" in str(caught.value)


def test_boxes_are_cut_on_request(tmp_path: Path) -> None:
    found = load_yolo(label(tmp_path, "0 1.0 0.5 0.2 0.2"), clip=True)["a.png"]
    assert np.allclose(found.xyxy, [[180, 40, 200, 60]])


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("names: [a", "not YAML"),
        ("- a", "expected names, train and val"),
        ("train: .", "names: expected a list"),
        ("names: {a: b}\ntrain: .", "names: expected a list"),
        ("names: [a]", "expected train, val or test"),
        ("names: [a]\ntrain: gone", "train: .*gone: no such file or folder"),
        ("names: [a]\ntrain: list.txt", "gone.png: no such file"),
        ("names: [a]\ntrain: empty", "empty: no pictures"),
    ],
)
def test_bad_descriptions(text: str, named: str, tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text(text)
    (tmp_path / "list.txt").write_text("gone.png\n")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match=named):
        load_yolo(tmp_path)
    with pytest.raises(RequestError, match="test"):
        load_yolo(tmp_path, "test")


def test_bad_folders(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no such folder"):
        load_yolo(tmp_path / "gone")
    with pytest.raises(RequestError, match=r"expected data\.yaml or classes\.txt"):
        load_yolo(tmp_path)
    with pytest.raises(RequestError, match=r"data\.yaml: no such file; only it says what 'val' is"):
        load_yolo(tmp_path, "val")
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    (tmp_path / "classes.txt").write_text("cat\n")
    with pytest.raises(RequestError, match="no pictures"):
        load_yolo(tmp_path)
    Image.new("RGB", SIZE).save(tmp_path / "images/a.png")
    (tmp_path / "labels/b.txt").write_text("0 .5 .5 .1 .1\n")
    with pytest.raises(RequestError, match=r"b\.txt: there is no picture for these labels"):
        load_yolo(tmp_path)
    (tmp_path / "labels/b.txt").unlink()
    Image.new("RGB", SIZE).save(tmp_path / "images/a.jpg")
    with pytest.raises(RequestError, match=r"a\.txt: belongs to both a\.jpg and a\.png"):
        load_yolo(tmp_path)
    (tmp_path / "images/a.png").unlink()
    (tmp_path / "images/a.jpg").write_bytes(b"no picture")
    with pytest.raises(MediaError, match=r"a\.jpg: not a picture"):
        load_yolo(tmp_path)


def test_what_cannot_be_written(tmp_path: Path) -> None:
    one = Detections.from_xyxy([("cat", [10, 10, 50, 60])], SIZE)
    for found, classes, named in (
        ({"/a.png": one}, None, "relative"),
        ({"../a.png": one}, None, "relative"),
        ({"a.png": one, "a.jpg": one}, None, "another picture has the same label file"),
        ({"a.png": one}, ["dog"], "'cat' is not among"),
        ({"a.png": one}, ["cat", "cat"], "twice"),
        ({"a.png": one}, ["cat", "a\nb"], "cannot be a line"),
    ):
        with pytest.raises(RequestError, match=named):
            save_yolo(tmp_path / "set", found, classes)
        assert not (tmp_path / "set").exists()
    save_yolo(tmp_path / "set", {"a.png": one})
    before = (tmp_path / "set/labels/a.txt").read_bytes()
    with pytest.raises(RequestError, match="labels: is there already; nothing is overwritten"):
        save_yolo(tmp_path / "set", {"a.png": one[:0]})
    assert (tmp_path / "set/labels/a.txt").read_bytes() == before


def test_a_folder_above_may_be_called_images(tmp_path: Path) -> None:
    folder = tmp_path / "images" / "set"
    folder.mkdir(parents=True)
    assert load_yolo(label(folder, "0 0.5 0.5 0.2 0.4"))["a.png"].labels == ["cat"]


def test_classes_are_names(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="classes: expected names, found "):
        save_yolo(tmp_path / "set", TRUTH, classes=[{"id": 1, "name": "cat"}])  # type: ignore[list-item]
