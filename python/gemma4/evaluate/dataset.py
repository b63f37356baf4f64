"""Pictures with the objects that are truly on them.

Knows: Python lists and rows, and which reader a path needs. Must not know: file formats (`readers`), models, metrics.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..boxes import shown, to_pixels
from ..errors import MediaError, RequestError
from ..media import Pixels, load_image
from .cache import AnswerCache

__all__ = ["Dataset", "Sample", "Truth", "load_dataset"]

_OUTSIDE = 1.0  # pixels by which a box may stick out of its picture: rounding, not an error


@dataclass(frozen=True)
class Truth:
    """An object as its file has it."""

    label: str
    box: tuple[float, float, float, float]
    """`x1, y1, x2, y2` in pixels, or from 0 to 1 of the picture's sides, or `y1, x1, y2, x2` on the grid."""
    where: str
    """Names it in messages."""
    unit: str = "pixels"
    """`"pixels"`, `"sides"` or `"grid"`."""
    crowd: bool = False
    """A region of many such objects, which need not be found one by one (COCO's `iscrowd`)."""


@dataclass(frozen=True)
class Sample:
    """A picture and its objects."""

    name: str
    image: Any = field(repr=False)
    """Anything that :func:`gemma4.media.load_image` takes."""
    objects: tuple[Truth, ...]
    size: tuple[int, int] | None = None
    """(width, height) that the boxes were drawn for, where the file says it."""

    def pixels(self) -> Pixels:
        """(height, width, 3) uint8. Raises MediaError naming the picture."""
        return load_image(self.image, self.name)

    def identity(self, cache: AnswerCache) -> tuple[str, tuple[int, int]]:
        """A digest of the decoded pixels, and (width, height); a file that was seen before is not opened."""
        path = Path(self.image) if isinstance(self.image, str | os.PathLike) else None
        if path is None or not path.is_file():
            holds = _seen(self.pixels())
        else:
            holds = cache.of_file("pixels", path, lambda _: _seen(self.pixels()))
        width, height = holds["size"]
        return holds["digest"], (width, height)

    def truth(self, size: tuple[int, int]) -> list[tuple[Truth, tuple[float, float, float, float]]]:
        """Each object with its `xyxy` in pixels of the picture, which has this (width, height).

        Raises:
            MediaError: the file says another size.
            RequestError: a box that is inverted, empty, not finite, or outside.
        """
        if self.size is not None and self.size != size:
            raise MediaError(
                f"{self.name}: the annotations are for {self.size[0]} x {self.size[1]} pixels, the picture has "
                f"{size[0]} x {size[1]} (upright, as its EXIF orientation says)"
            )
        return [(one, _placed(one, size)) for one in self.objects]


@dataclass(frozen=True)
class Dataset:
    """Samples with the labels that may be on them.

    >>> from PIL import Image
    >>> dataset = load_dataset([(Image.new("RGB", (64, 48)), [("cat", [1, 2, 30, 40])])])
    >>> dataset.labels, len(dataset.samples), dataset.samples[0].name
    (('cat',), 1, 'picture 0')
    """

    name: str
    samples: tuple[Sample, ...] = field(repr=False)
    labels: tuple[str, ...]
    closed: bool = False
    """Whether the file lists its labels, so that any other is a mistake."""


def load_dataset(source: Any, images: Any = None, split: str | None = None) -> Dataset:
    """Labelled pictures from wherever they are.

    Args:
        source: a COCO `.json` file; a YOLO folder, or its `data.yaml`; a `.parquet` file; a pandas or `datasets` table;
            or a list of `(image, truth)`, where truth is a list of `(label, xyxy)` in pixels or
            :class:`~gemma4.Detections`, or of rows `{"image": …, "objects": […]}`.
        images: the folder that file names of pictures are relative to, where it is not one of the usual.
        split: of a YOLO folder, `"train"`, `"val"` or `"test"`; None for the first of val, test and train that is there.

    Raises:
        RequestError: it is none of these, or malformed; the message names the file and the entry.
        MediaError: a picture is missing.
        ImportError: a parquet file needs pyarrow.
    """
    if isinstance(source, Dataset):
        return source
    if not isinstance(source, str | os.PathLike):
        return _from_rows(_records(source))
    from . import readers

    path = Path(source).expanduser()
    if not path.exists():
        raise RequestError(f"dataset: {path}: no such file or folder")
    folder = None if images is None else Path(images).expanduser()
    if path.is_dir() or path.suffix in (".yaml", ".yml"):
        return readers.read_yolo(path, split)
    if path.suffix == ".json":
        return readers.read_coco(path, folder)
    if path.suffix == ".parquet":
        return _from_rows(readers.read_parquet(path), path.name, folder or path.parent, names=str(path))
    raise RequestError(
        f"dataset: {path}: expected a COCO .json file, a .parquet file, or a YOLO folder or its data.yaml"
    )


def _records(source: Any) -> Iterable[Any]:
    if hasattr(source, "to_dict") and hasattr(source, "columns"):  # pandas
        found: Iterable[Any] = source.to_dict("records")
        return found
    if hasattr(source, "features") and hasattr(source, "column_names"):  # datasets
        from .readers import class_names, named

        names = class_names(source.features.to_dict().get("objects"))
        return ({**row, "objects": named(row.get("objects"), names)} for row in source)
    if isinstance(source, Mapping | bytes) or not isinstance(source, Iterable):
        raise RequestError(
            f"dataset: expected a path, or a list of (image, [(label, xyxy), …]), not {shown(source)}"
        )
    return source


def _from_rows(
    rows: Iterable[Any], name: str = "list", folder: Path | None = None, names: str = "dataset"
) -> Dataset:
    samples = []
    for index, row in enumerate(rows):
        where = f"{names}[{index}]"
        if isinstance(row, Mapping):
            if "image" not in row or "objects" not in row:
                raise RequestError(f"{where}: expected the columns image and objects, found {', '.join(map(str, row))}")
            image, objects = row["image"], _entries(row["objects"], f"{where}: objects")
        elif isinstance(row, Sequence) and not isinstance(row, str | bytes) and len(row) == 2:
            image, objects = row[0], _pairs(row[1], where)
        else:
            raise RequestError(f"{where}: expected (image, [(label, xyxy), …]), not {shown(row)}")
        image, called = _image(image, folder, f"picture {index}", where)
        samples.append(Sample(called, image, objects))
    if not samples:
        raise RequestError(f"{names}: holds no pictures")
    return Dataset(name, tuple(samples), tuple(sorted({one.label for s in samples for one in s.objects})))


def _image(image: Any, folder: Path | None, otherwise: str, where: str) -> tuple[Any, str]:
    """What can be loaded, and a name for it; Hugging Face's structs hold bytes, a path, or both."""
    if isinstance(image, Mapping):
        named = image.get("path")
        if image.get("bytes") is not None:
            return image["bytes"], Path(named).name if named else otherwise
        if not named:
            raise RequestError(f"{where}: image has neither bytes nor a path")
        image = named
    if isinstance(image, str | os.PathLike):
        path = Path(image).expanduser()
        path = path if folder is None or path.is_absolute() else folder / path
        if not path.is_file():
            raise MediaError(f"{where}: {path}: no such picture")
        return path, path.name
    if image is None:
        raise RequestError(f"{where}: there is no image")
    return image, otherwise


def _pairs(objects: Any, where: str) -> tuple[Truth, ...]:
    if isinstance(objects, str | bytes | Mapping) or not isinstance(objects, Iterable):
        raise RequestError(f"{where}: expected a list of (label, xyxy), not {shown(objects)}")
    found = []
    for index, one in enumerate(objects):
        at = f"{where}[{index}]"
        pair = (one.label, one.xyxy) if hasattr(one, "xyxy") and hasattr(one, "label") else one
        if isinstance(pair, Mapping):
            found.append(_entry(pair, at))
        elif isinstance(pair, Sequence) and len(pair) == 2 and isinstance(pair[0], str):
            found.append(Truth(_label(pair[0], at), four(pair[1], at), at))
        else:
            raise RequestError(f"{at}: expected (label, xyxy), not {shown(one)}")
    return tuple(found)


_BOXES = {"xyxy": "pixels", "bbox": "pixels", "box_2d": "grid"}
_LABELS = ("label", "category", "name")


def _entries(objects: Any, where: str) -> tuple[Truth, ...]:
    """A list of mappings, or a mapping of lists, as `datasets` writes sequences of structs."""
    if objects is None:
        raise RequestError(f"{where}: expected a list, found null; an empty one says that there is nothing")
    if isinstance(objects, Mapping):
        columns = {name: list(values) for name, values in objects.items() if isinstance(values, Iterable)}
        counts = {len(values) for values in columns.values()}
        if len(counts) > 1:
            raise RequestError(f"{where}: its lists have different lengths: {sorted(counts)}")
        objects = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return _pairs(objects, where)


def _entry(row: Mapping[str, Any], where: str) -> Truth:
    label = next((name for name in _LABELS if row.get(name) is not None), None)
    box = next((name for name in _BOXES if row.get(name) is not None), None)
    if label is None or box is None:
        raise RequestError(
            f"{where}: expected one of {', '.join(_LABELS)} and one of {', '.join(_BOXES)}, found {', '.join(row)}"
        )
    x, y, third, fourth = four(row[box], f"{where}: {box}")
    place = (x, y, x + third, y + fourth) if box == "bbox" else (x, y, third, fourth)  # COCO's has width and height
    return Truth(_label(row[label], where), place, where, _BOXES[box], bool(row.get("iscrowd")))


def _label(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        hint = "; a number says no name" if isinstance(value, int | np.integer) else ""
        raise RequestError(f"{where}: expected a label, found {shown(value)}{hint}")
    return str(value)


def four(value: Any, where: str) -> tuple[float, float, float, float]:
    """Four finite numbers."""
    try:
        numbers = [float(number) for number in value]
    except (TypeError, ValueError):
        numbers = []
    if isinstance(value, str) or len(numbers) != 4 or not all(map(math.isfinite, numbers)):
        raise RequestError(f"{where}: expected four finite numbers, found {shown(value)}")
    return (numbers[0], numbers[1], numbers[2], numbers[3])


def _placed(one: Truth, size: tuple[int, int]) -> tuple[float, float, float, float]:
    width, height = size
    if one.unit == "grid":
        left, top, right, bottom = (float(number) for number in to_pixels(np.array(one.box), size))
    elif one.unit == "sides":
        left, right = one.box[0] * width, one.box[2] * width
        top, bottom = one.box[1] * height, one.box[3] * height
    else:
        left, top, right, bottom = one.box
    if not (left < right and top < bottom):
        raise RequestError(f"{one.where}: {one.label!r}: an empty or inverted box: {shown(list(one.box))}")
    if left < -_OUTSIDE or top < -_OUTSIDE or right > width + _OUTSIDE or bottom > height + _OUTSIDE:
        raise RequestError(
            f"{one.where}: {one.label!r}: the box [{left:.1f}, {top:.1f}, {right:.1f}, {bottom:.1f}] lies outside of "
            f"the picture of {width} x {height} pixels"
        )
    return max(0.0, left), max(0.0, top), min(float(width), right), min(float(height), bottom)


def _seen(pixels: Pixels) -> dict[str, Any]:
    found = hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=20)
    found.update(f"{pixels.shape}".encode())
    return {"digest": found.hexdigest(), "size": [pixels.shape[1], pixels.shape[0]]}
