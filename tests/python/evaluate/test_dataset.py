"""gemma4.evaluate: labelled pictures, from files that other packages wrote."""

from __future__ import annotations

import json
import os
import warnings

import numpy as np
import pytest
from gemma4.boxes import from_pixels
from gemma4.detections import Detections
from gemma4.errors import Gemma4Error, MediaError, RequestError
from gemma4.evaluate import AnswerCache, load_dataset
from labelled import LABELS, scene
from PIL import Image

SCENES = [scene(seed, count) for seed, count in enumerate((2, 1, 2, 0))]
NOTHING = AnswerCache(None)


def found(dataset):
    """(label, box) of each picture, by the picture's name."""
    result = {}
    for sample in dataset.samples:
        truth = sample.truth(sample.identity(NOTHING)[1])
        result[sample.name] = sorted((one.label, tuple(round(edge) for edge in box)) for one, box in truth)
    return result


def expected(names):
    return {
        name: sorted((label, tuple(map(round, box))) for label, box in SCENES[i][1]) for i, name in enumerate(names)
    }


NAMES = [f"scène {index}.png" for index in range(len(SCENES))]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    for name, (picture, _) in zip(NAMES, SCENES, strict=True):
        picture.save(tmp_path / "images" / name)
    return tmp_path


@pytest.fixture
def in_supervision(folder):
    """The same, as supervision has it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that OpenCV is not there
        import supervision

    paths = [str(folder / "images" / name) for name in NAMES]
    annotations = {
        path: supervision.Detections(
            xyxy=np.array([box for _, box in objects], dtype=float).reshape(-1, 4),
            class_id=np.array([LABELS.index(label) for label, _ in objects], dtype=int),
        )
        for path, (_, objects) in zip(paths, SCENES, strict=True)
    }
    return supervision.DetectionDataset(classes=list(LABELS), images=paths, annotations=annotations)


@pytest.mark.filterwarnings("ignore")  # supervision's own
def test_coco_by_supervision(in_supervision, folder):
    in_supervision.as_coco(annotations_path=str(folder / "annotations.json"))
    dataset = load_dataset(folder / "annotations.json")
    assert set(dataset.labels) == set(LABELS) and dataset.closed
    assert found(dataset) == expected(NAMES)


@pytest.mark.filterwarnings("ignore")
def test_yolo_by_supervision(in_supervision, folder):
    in_supervision.as_yolo(annotations_directory_path=str(folder / "labels"), data_yaml_path=str(folder / "data.yaml"))
    with (folder / "data.yaml").open("a") as file:
        file.write("val: images\n")
    for source in (folder, folder / "data.yaml"):
        dataset = load_dataset(str(source))
        assert set(dataset.labels) == set(LABELS)
        assert found(dataset) == expected(NAMES)
    (folder / "data.yaml").unlink()
    (folder / "classes.txt").write_text("\n".join(dataset.labels))
    assert found(load_dataset(folder)) == expected(NAMES)


def rows(way):
    for name, (picture, objects) in zip(NAMES, SCENES, strict=True):
        if way == "datasets":
            yield {
                "image": picture,
                "objects": {
                    "category": [LABELS.index(label) for label, _ in objects],
                    "bbox": [[b[0], b[1], b[2] - b[0], b[3] - b[1]] for _, b in objects],
                },
            }
        else:
            size = picture.size
            yield {
                "image": f"images/{name}",
                "objects": [
                    {"label": label, "box_2d": from_pixels(box, size).tolist()}
                    if way == "grid"
                    else {"label": label, "xyxy": list(box)}
                    for label, box in objects
                ],
            }


def test_parquet_by_datasets(tmp_path):
    from datasets import ClassLabel, Dataset, Features, Sequence, Value
    from datasets import Image as ImageFeature

    features = Features(
        {
            "image": ImageFeature(),
            "objects": Sequence(
                {"category": ClassLabel(names=list(LABELS)), "bbox": Sequence(Value("float32"), length=4)}
            ),
        }
    )
    table = Dataset.from_list(list(rows("datasets")), features=features)
    table.to_parquet(tmp_path / "scenes.parquet")
    names = [f"picture {index}" for index in range(len(SCENES))]
    for source in (tmp_path / "scenes.parquet", table):
        assert found(load_dataset(source)) == expected(names)


def test_parquet_by_pandas(folder):
    import pandas

    table = pandas.DataFrame(list(rows("pixels")))
    table.to_parquet(folder / "scenes.parquet")
    assert found(load_dataset(folder / "scenes.parquet")) == expected(NAMES)
    table["image"] = [str(folder / name) for name in table["image"]]
    assert found(load_dataset(table)) == expected(NAMES)


def test_grid_boxes_are_within_a_step(folder):
    dataset = load_dataset([{**row, "image": folder / row["image"]} for row in rows("grid")])
    for sample, (picture, objects) in zip(dataset.samples, SCENES, strict=True):
        step = max(picture.size) / 1000
        truth = sample.truth(picture.size)
        boxes = [box for _, box in truth]
        assert np.allclose(np.array(boxes).reshape(-1, 4), np.array([b for _, b in objects]).reshape(-1, 4), atol=step)


def test_lists():
    picture, objects = SCENES[0]
    same = Detections.from_xyxy(objects, picture.size)
    array = np.asarray(picture)
    dataset = load_dataset([(picture, objects), (array, same), (picture, [])])
    assert not dataset.closed and dataset.labels == tuple(sorted(label for label, _ in objects))
    first, second, third = found(dataset).values()
    assert first == second and third == []
    assert dataset.samples[0].identity(NOTHING) == dataset.samples[1].identity(NOTHING)


def test_thousands():
    blank = np.zeros((4, 4, 3), np.uint8)
    assert len(load_dataset([(blank, [(f"label {i}", (0, 0, 3, 3))]) for i in range(5000)]).labels) == 5000


COCO = {
    "images": [{"id": 1, "file_name": "a.png", "width": 8, "height": 6}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 4]}],
    "categories": [{"id": 1, "name": "cat"}],
}


def coco_with(part, **changes):
    return {**COCO, part: [{**COCO[part][0], **changes}]}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "a list, as COCO results are"),
        ({"images": []}, "categories: missing, expected a list"),
        ({**COCO, "images": []}, r"annotations\[0\]: image_id: there is no picture 1"),
        ({**COCO, "images": [], "annotations": []}, "holds no images"),
        (coco_with("annotations", bbox=[1, 1, 4]), r"annotations\[0\]: bbox: expected 4 numbers"),
        (coco_with("annotations", bbox=[1, 1, float("nan"), 4]), r"NaN is not JSON"),
        (coco_with("annotations", bbox=[1, 1, 0, 4]), r"annotations\[0\]: bbox: 'cat': an empty or inverted box"),
        (
            coco_with("annotations", bbox=[1, 1, 40, 4]),
            "'cat': .* leaves the picture of 8 x 6 pixels$",
        ),
        (coco_with("annotations", category_id=7), r"annotations\[0\]: category_id: there is no category 7"),
        (coco_with("annotations", category_id=[]), r"annotations\[0\]: category_id: expected an integer, found \[\]"),
        (coco_with("categories", name=""), r"a\.json: the name of a class is empty"),
        (coco_with("categories", name=3), r"categories\[0\]: name: expected a string"),
        ({**COCO, "categories": [*COCO["categories"], {"id": 2, "name": "cat"}]}, "'cat' is the name of two classes"),
        ({**COCO, "annotations": [], "categories": []}, "names no classes"),
        ({**COCO, "categories": COCO["categories"] * 2}, r"categories\[1\]: id: 1 is another category's, too"),
        ({**COCO, "images": COCO["images"] * 2}, r"images\[1\]: id: 1 is another picture's, too"),
        (coco_with("images", file_name="b.png"), r"images\[0\]: b.png: no such picture in .*images= names a folder"),
        (coco_with("images", width=16), "annotations are for 16 x 6 pixels, the picture has 8 x 6"),
        ({**COCO, "annotations": [3]}, r"annotations\[0\]: expected an object, found 3"),
    ],
)
def test_mistakes_in_coco(tmp_path, data, message):
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    (tmp_path / "a.json").write_text(json.dumps(data))
    with pytest.raises(Gemma4Error, match=message):
        found(load_dataset(tmp_path / "a.json"))


@pytest.mark.parametrize("text", ["{", '{"a": ' + "[" * 100_000, "\xff", ""])
def test_what_is_not_json(tmp_path, text):
    (tmp_path / "a.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(RequestError, match=r"a\.json: (not JSON|not UTF-8|nested too deeply)"):
        load_dataset(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.1", r"a\.txt: row 1: expected a class and a box or a polygon, found 4 numbers"),
        ("3 0.5 0.5 0.1 0.1", r"a\.txt: row 1: there is no class 3; there are 1"),
        ("\n0 0.5 0.5 x 0.1", r"a\.txt: row 2: expected numbers, found '0 0\.5 0\.5 x"),
        ("0 50 50 10 10", r"a\.txt: row 1: 'cat': .* lies outside the picture"),
        ("0 0.5 0.5 0 0.1", r"a\.txt: row 1: 'cat': an empty or inverted box"),
    ],
)
def test_mistakes_in_yolo(tmp_path, line, message):
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (80, 60)).save(tmp_path / "images" / "a.png")
    (tmp_path / "classes.txt").write_text("cat\n")
    with pytest.raises(RequestError, match="no label files"):
        load_dataset(tmp_path)
    (tmp_path / "labels" / "a.txt").write_text(line)
    with pytest.raises(RequestError, match=message):
        found(load_dataset(tmp_path))


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("names: [a", "data.yaml: not YAML"),
        ("names: 3\nval: images", "names: expected a list"),
        ("names: {0: a, 1: no}\nval: images", "names: 1: expected a name, found False; put it into quotes"),
        ("names: [a, a]\nval: images", "'a' is the name of two classes"),
        ("names: [a]", "expected train, val or test with the places of pictures"),
        ("names: [a]\nval: nowhere", "val: .*nowhere: no such file or folder"),
        ("names: [a]\ntrain: images", "val: the file names no such pictures, but train"),
    ],
)
def test_mistakes_in_data_yaml(tmp_path, yaml, message):
    (tmp_path / "data.yaml").write_text(yaml)
    if "images" in yaml:
        (tmp_path / "images").mkdir()
        Image.new("RGB", (8, 6)).save(tmp_path / "images" / "a.png")
        (tmp_path / "labels").mkdir()
        (tmp_path / "labels" / "a.txt").touch()
    with pytest.raises(RequestError, match=message):
        load_dataset(tmp_path, split="val" if "train" in yaml else None)


BLANK = np.zeros((4, 4, 3), np.uint8)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (7, "expected a path, or a list"),
        ([], "holds no pictures"),
        ({"image": BLANK}, "expected a path, or a list"),
        ([BLANK], r"dataset\[0\]: expected \(image"),
        ([(BLANK, "cat")], r"dataset\[0\]: expected a list of \(label, xyxy\)"),
        ([(BLANK, [("cat",)])], r"dataset\[0\]\[0\]: expected \(label, xyxy\)"),
        ([(BLANK, []), (BLANK, [("", [0, 0, 1, 1])])], r"dataset\[1\]\[0\]: expected a label"),
        ([{"image": BLANK, "objects": None}], "an empty one says that there is nothing"),
        ([{"image": BLANK, "boxes": []}], "expected the columns image and objects, found image, boxes"),
        ([{"image": BLANK, "objects": [{"category": 3, "bbox": [0, 0, 1, 1]}]}], "a number says no name"),
        ([{"image": BLANK, "objects": {"label": ["a"], "xyxy": []}}], "different lengths"),
        ([{"image": None, "objects": []}], "there is no image"),
        ([{"image": {"bytes": None, "path": None}, "objects": []}], "neither bytes nor a path"),
        ("nowhere.json", "nowhere.json: no such file or folder"),
        (__file__, "expected a COCO .json file"),
    ],
)
def test_mistakes_in_arguments(source, message):
    with pytest.raises(RequestError, match=message):
        load_dataset(source)


def test_broken_files(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(RequestError, match=r"a\.parquet: cannot be read as parquet"):
        load_dataset(tmp_path / "a.parquet")
    with pytest.raises(MediaError, match=r"dataset\[0\]: .*nowhere\.png: no such picture"):
        load_dataset([("nowhere.png", [])])
    (tmp_path / "a.png").write_bytes(b"no picture")
    dataset = load_dataset([(os.fspath(tmp_path / "a.png"), [])])
    with pytest.raises(MediaError, match=r"a\.png"):
        found(dataset)


@pytest.mark.filterwarnings("ignore")
def test_other_layouts_of_yolo(in_supervision, folder):
    """Classes alone, labels in a folder beside the pictures; one split of several; polygons."""
    place = folder / "images/labels"
    in_supervision.as_yolo(annotations_directory_path=str(place), data_yaml_path=str(folder / "theirs.yaml"))
    (folder / "images").rename(folder / "pictures")
    names = list(in_supervision.classes)
    (folder / "pictures" / "classes.txt").write_text("\n".join(names))
    assert found(load_dataset(folder / "pictures")) == expected(NAMES)
    for split, picture in (("val", "a.png"), ("train", "b.png")):
        (folder / split / "images").mkdir(parents=True)
        (folder / split / "labels").mkdir()
        Image.new("RGB", (100, 50)).save(folder / split / "images" / picture)
        (folder / split / "labels" / f"{picture[0]}.txt").write_text("0 .1 .2 .3 .2 .3 .4 .1 .4\n")
    (folder / "data.yml").write_text(f"names: {names}\ntrain: ../train/images\nval: ../val/images\n")
    box = [(names[0], (10, 10, 30, 20))]
    assert found(load_dataset(folder)) == {"a.png": box}
    assert found(load_dataset(folder, split="train")) == {"b.png": box}
