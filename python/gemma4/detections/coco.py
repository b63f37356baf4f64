"""COCO's JSON files: the objects of many pictures, written for other tools and read from them.

Knows: the format, and how freely it is written. Must not know: pixels of pictures, evaluation. Files of other tools are
untrusted: every field that is used is checked, and errors name the file, the entry and the field.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from ..errors import RequestError
from ..extras import extra
from ..notices import warn
from ..replacing import write_whole
from .annotations import AnnotatedObject, AnnotatedPicture, Annotations
from .detections import Detections
from .files import Fields, read_json
from .interchange import category_ids, category_of

__all__ = ["Found", "coco_annotation", "coco_dataset", "load_coco", "named", "read_coco", "save_coco"]

Found: TypeAlias = "Mapping[str, Detections] | Iterable[tuple[str, Detections]]"
"""The objects of each picture, under its name."""


def coco_dataset(found: Found, categories: Mapping[str, int] | Sequence[Any] | None = None) -> dict[str, Any]:
    """A COCO dataset of the objects of many pictures, as pycocotools and faster-coco-eval take it.

    Args:
        found: picture's name to :class:`~gemma4.Detections`, or pairs of them.
        categories: label to id, names (ids from 1), or COCO's own list; by default all labels, sorted, from 1. Give
            the ones of the truth for results that are to be compared with it.

    Returns:
        `images`, numbered from 1 in their order, `annotations` and `categories`. An annotation has its `score` unless
        that is 1, as that of a true object.

    Raises:
        RequestError: a name twice, something else than detections, or a label that is not among the categories.

    >>> cat = Detections.from_xyxy([("cat", [10, 20, 40, 60])], (100, 100))
    >>> coco_dataset({"a.jpg": cat})["annotations"][0]["bbox"]
    [10.0, 20.0, 30.0, 40.0]
    """
    pairs = named(found)
    labels = sorted({label for _, one in pairs for label in one.labels})
    ids = category_ids(labels if categories is None else categories)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for name, one in pairs:
        width, height = one.image_size
        images.append({"id": len(images) + 1, "file_name": name, "width": width, "height": height})
        for item in one:
            entry = coco_annotation(len(annotations) + 1, len(images), category_of(item.label, ids), item.xyxy)
            annotations.append(entry if item.score == 1 else {**entry, "score": item.score})
    entries = [{"id": number, "name": label} for label, number in ids.items()]
    return {"images": images, "annotations": annotations, "categories": entries}


def coco_annotation(number: int, image: int, category: int, xyxy: Sequence[float]) -> dict[str, Any]:
    """An entry of `annotations`, but for its score."""
    x1, y1, x2, y2 = xyxy
    return {
        "id": number, "image_id": image, "category_id": category,
        "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0,
    }  # fmt: skip


def save_coco(
    path: str | os.PathLike[str], found: Found, categories: Mapping[str, int] | Sequence[Any] | None = None
) -> None:
    """Write :func:`coco_dataset` to a JSON file, which appears when it is complete.

    Raises:
        RequestError: as :func:`coco_dataset`.
        OSError: the file cannot be written.

    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "truth.json")
    >>> save_coco(path, {"a.jpg": Detections.from_xyxy([("cat", [10, 20, 40, 60])], (100, 100))})
    >>> load_coco(path)["a.jpg"].labels
    ['cat']
    """
    write_whole(path, json.dumps(coco_dataset(found, categories), ensure_ascii=False) + "\n")


def load_coco(
    path: str | os.PathLike[str],
    *,
    results: str | os.PathLike[str] | Sequence[Mapping[str, Any]] | None = None,
    images: str | os.PathLike[str] | None = None,
    clip: bool = False,
    crowds: bool = False,
) -> dict[str, Detections]:
    """The objects of each picture of a COCO file, under the picture's `file_name`, in the order of the file.

    Args:
        path: of a file with `images`, `annotations` and `categories`; other fields are not read, ids may be any
            integers or strings. A box that is missing is the one around its `segmentation` (for one that is encoded in
            runs: `pip install 'gemma4[eval]'`). A picture without objects is there, too, with none.
        results: COCO results for these pictures, a file or a list of `{"image_id", "category_id", "bbox", "score"}`:
            they are returned instead of the annotations.
        images: the folder of the pictures, where the file does not say how large they are.
        clip: cut boxes off at the picture's edges. By default one that leaves it by more than a pixel or a hundredth
            of its side is an error; less is cut off.
        crowds: return regions of many objects (`iscrowd`) as objects, too. By default they are left out, with a
            RuntimeWarning that says how many.

    Raises:
        RequestError: names the file, the entry and the field that is wrong.
        MediaError: a picture whose size is needed cannot be read.

    :func:`save_coco` has an example.
    """
    found = read_coco(path, results)
    left_out = 0 if crowds else sum(one.crowd for picture in found.pictures for one in picture.objects)
    if left_out:
        source = path if results is None else _source(results)
        warn(f"{source}: {left_out} regions of many objects (iscrowd) are left out; crowds=True returns them")
    return {one.name: one.detections(clip, crowds, images) for one in found.pictures}


def read_coco(
    path: str | os.PathLike[str], results: str | os.PathLike[str] | Sequence[Mapping[str, Any]] | None = None
) -> Annotations:
    """The pictures of a COCO file with all that is on them, crowds too, as the file has it.

    A picture has no size where the file does not say it. Arguments and errors as :func:`load_coco`; boxes may leave
    their pictures.
    """
    where = os.fspath(path)
    data = Fields(_of_a_dataset(read_json(path), where), where)
    labels = _categories(data, where)
    pictures = _pictures(data, where)
    if results is None:
        rows, source, listed = data.items("annotations"), where, "annotations"
    else:
        source, listed = _source(results), "results"
        rows = _of_results(read_json(results) if isinstance(results, str | os.PathLike) else results, source)
    for index, row in enumerate(rows):
        entry = Fields(row, f"{source}: {listed}[{index}]")
        picture, label = entry.identifier("image_id"), entry.identifier("category_id")
        if picture not in pictures:
            raise RequestError(f"{entry.where}: image_id: there is no picture {picture!r}")
        if label not in labels:
            raise RequestError(f"{entry.where}: category_id: there is no category {label!r}")
        pictures[picture].objects.append(_object(entry, labels[label], pictures[picture].size))
    return Annotations(tuple(labels.values()), list(pictures.values()), Path(where).parent)


def _source(results: Any) -> str:
    return os.fspath(results) if isinstance(results, str | os.PathLike) else "results"


def named(found: Found) -> list[tuple[str, Detections]]:
    """Names and detections, checked; no name twice."""
    pairs = list(found.items() if isinstance(found, Mapping) else found)
    for index, pair in enumerate(pairs):
        is_pair = isinstance(pair, tuple | list) and len(pair) == 2 and isinstance(pair[0], str | os.PathLike)
        if not is_pair or not isinstance(pair[1], Detections):
            raise RequestError(f"found[{index}]: expected a picture's name and its Detections")
    checked = [(os.fsdecode(name), one) for name, one in pairs]
    if twice := [name for name, count in Counter(name for name, _ in checked).items() if count > 1]:
        raise RequestError(f"found: the picture {twice[0]!r} is given twice")
    return checked


def _of_a_dataset(value: Any, where: str) -> Any:
    if isinstance(value, list):
        raise RequestError(
            f"{where}: a list, as COCO results are; give the file of the pictures (load_coco takes this as results=)"
        )
    return value


def _of_results(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise RequestError(f"{where}: expected a list of COCO results, found {type(value).__name__}")
    return list(value)


def _categories(data: Fields, where: str) -> dict[int | str, str]:
    labels: dict[int | str, str] = {}
    for index, row in enumerate(data.items("categories")):
        entry = Fields(row, f"{where}: categories[{index}]")
        number = entry.identifier("id")
        if number in labels:
            raise RequestError(f"{entry.where}: id: {number!r} is another category's, too")
        labels[number] = entry.text("name")
    return labels


def _pictures(data: Fields, where: str) -> dict[int | str, AnnotatedPicture]:
    """Each picture by its id."""
    pictures: dict[int | str, AnnotatedPicture] = {}
    names: set[str] = set()
    for index, row in enumerate(data.items("images")):
        entry = Fields(row, f"{where}: images[{index}]")
        number, name = entry.identifier("id"), entry.text("file_name")
        if number in pictures:
            raise RequestError(f"{entry.where}: id: {number!r} is another picture's, too")
        if name in names:
            raise RequestError(f"{entry.where}: file_name: {name!r} is another picture's, too")
        names.add(name)
        size = None
        if "width" in entry or "height" in entry:
            size = entry.integer("width"), entry.integer("height")
            if min(size) < 1:
                raise RequestError(f"{entry.where}: {size[0]} x {size[1]} pixels, expected at least 1 x 1")
        pictures[number] = AnnotatedPicture(name, entry.where, size)
    return pictures


def _object(entry: Fields, label: str, size: tuple[int, int] | None) -> AnnotatedObject:
    score = entry.number("score") if "score" in entry else 1.0
    if not 0 <= score <= 1:
        raise entry.wrong("score", "0 to 1")
    if "bbox" in entry or "segmentation" not in entry:
        x, y, width, height = entry.numbers("bbox", 4)
        if width < 0 or height < 0:
            raise entry.wrong("bbox", "x, y, width and height, the last two not below 0")
    else:
        x, y, width, height = _around(entry, size)
    crowd = "iscrowd" in entry and entry.integer("iscrowd") != 0
    return AnnotatedObject(label, (x, y, x + width, y + height), f"{entry.where}: bbox", score, crowd)


def _around(entry: Fields, size: tuple[int, int] | None) -> tuple[float, ...]:
    """The box around a segmentation: polygons, or a mask encoded in runs."""
    shape = entry.get("segmentation")
    if isinstance(shape, list):
        shapes = Fields({str(i): polygon for i, polygon in enumerate(shape)}, f"{entry.where}: segmentation")
        points = [shapes.numbers(name, len(shapes.items(name))) for name in shapes]
        if not points or any(len(polygon) < 6 or len(polygon) % 2 for polygon in points):
            raise entry.wrong("segmentation", "polygons of at least 3 points x, y")
        xs, ys = ([n for polygon in points for n in polygon[axis::2]] for axis in (0, 1))
        return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)
    runs = Fields(shape, f"{entry.where}: segmentation")
    height, width = runs.numbers("size", 2)
    if size is not None and (int(width), int(height)) != size:
        raise runs.wrong("size", f"the picture's height and width, [{size[1]}, {size[0]}]")
    mask = extra("faster_coco_eval.core.mask", "eval")
    counts = runs.get("counts")
    try:
        encoded = mask.frPyObjects(shape, int(height), int(width)) if isinstance(counts, list) else shape
        return tuple(float(number) for number in mask.toBbox(encoded))
    except Exception as error:
        raise RequestError(f"{runs.where}: counts: not a mask encoded in runs: {error}") from None
