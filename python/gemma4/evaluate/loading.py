"""`load_dataset`: labelled pictures from wherever they are.

Knows: Python lists and rows, and which reader a path needs. Must not know: file formats (`readers`), models, metrics.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..boxes import shown
from ..errors import MediaError, RequestError
from . import readers
from .dataset import Dataset, Sample, Truth, four

__all__ = ["load_dataset"]


def load_dataset(source: Any, images: Any = None, split: str | None = None) -> Dataset:
    """Labelled pictures from wherever they are.

    Args:
        source: a COCO `.json` file; a YOLO folder, or its `data.yaml`; a `.parquet` file; a pandas or `datasets` table;
            or a list of `(image, truth)`, where truth is a list of `(label, xyxy)` in pixels or
            :class:`~gemma4.Detections`, or of rows `{"image": …, "objects": […]}`. Files are read as
            :func:`~gemma4.detections.load_coco` and :func:`~gemma4.detections.load_yolo` read them; scores are not.
        images: the folder that file names of pictures are relative to, where it is not one of the usual.
        split: of a YOLO folder, `"train"`, `"val"` or `"test"`; None for the first of val, test, train that is there.

    Raises:
        RequestError: it is none of these, or malformed; the message names the file and the entry.
        MediaError: a picture is missing.
        ImportError: a parquet file needs pyarrow.

    >>> from PIL import Image
    >>> dataset = load_dataset([(Image.new("RGB", (64, 48)), [("cat", [1, 2, 30, 40])])])
    >>> [(one.label, box) for one, box in dataset.samples[0].truth((64, 48))]
    [('cat', (1.0, 2.0, 30.0, 40.0))]
    """
    if isinstance(source, Dataset):
        return source
    if not isinstance(source, str | os.PathLike):
        return _from_rows(_records(source))
    path = Path(source).expanduser()
    if not path.exists():
        raise RequestError(f"dataset: {path}: no such file or folder")
    folder = None if images is None else Path(images).expanduser()
    if path.is_dir() or path.suffix in (".yaml", ".yml"):
        return readers.from_yolo(path, split)
    if path.suffix == ".json":
        return readers.from_coco(path, folder)
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
        names = readers.class_names(source.features.to_dict().get("objects"))
        return ({**row, "objects": readers.named(row.get("objects"), names)} for row in source)
    if isinstance(source, Mapping | bytes) or not isinstance(source, Iterable):
        raise RequestError(f"dataset: expected a path, or a list of (image, [(label, xyxy), …]), not {shown(source)}")
    return source


def _from_rows(rows: Iterable[Any], name: str = "list", folder: Path | None = None, names: str = "dataset") -> Dataset:
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
