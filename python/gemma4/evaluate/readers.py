"""Labelled pictures in files: COCO, YOLO, parquet.

Knows: columns of parquet, where pictures lie. Must not know: COCO's and YOLO's formats (`detections`), models, metrics.
A mistake in a file is an error that names the entry.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..boxes import shown
from ..detections import AnnotatedPicture, Annotations, read_coco, read_yolo
from ..errors import MediaError, RequestError
from ..extras import extra
from .dataset import Dataset, Sample, Truth, four

__all__ = ["class_names", "from_coco", "from_yolo", "named", "read_parquet"]


def from_coco(path: Path, images: Path | None) -> Dataset:
    """Of a COCO file; its pictures have to be there."""
    found = read_coco(path)
    if not found.pictures:
        raise RequestError(f"{path}: holds no images")
    home = path.parent
    usual = [home, home / "images", home / path.stem, home.parent / "images", home.parent]
    folders = usual if images is None else [images]
    samples = [_sample(one, one.name, _picture(one, folders)) for one in found.pictures]
    return Dataset(path.name, tuple(samples), _labels(found, path), closed=True)


def from_yolo(path: Path, split: str | None) -> Dataset:
    """Of a YOLO folder or its `data.yaml`; pictures are called by their places in the folder that is read."""
    found = read_yolo(path, split, alone=True)
    if not any(os.path.exists(one.where) for one in found.pictures):
        first = Path(found.pictures[0].where)
        raise RequestError(f"{first.parent}: no label files: {first.name} and all others are missing")
    pictures = [(one, one.path) for one in found.pictures if one.path is not None]
    samples = [_sample(one, Path(os.path.relpath(at, found.folder)).as_posix(), at) for one, at in pictures]
    name = path.name if path.is_dir() else path.parent.name
    return Dataset(name or str(path), tuple(samples), _labels(found, path), closed=True)


def _sample(picture: AnnotatedPicture, name: str, path: Path) -> Sample:
    objects = (Truth(one.label, four(one.xyxy, one.where), one.where, crowd=one.crowd) for one in picture.objects)
    return Sample(name, path, tuple(objects), picture.size)


def _labels(found: Annotations, path: Path) -> tuple[str, ...]:
    for label in found.labels:
        if not label.strip():
            raise RequestError(f"{path}: the name of a class is empty")
    if len(set(found.labels)) < len(found.labels):
        twice = Counter(found.labels).most_common(1)[0][0]
        raise RequestError(f"{path}: {shown(twice)} is the name of two classes")
    if not found.labels:
        raise RequestError(f"{path}: names no classes")
    return found.labels


def _picture(picture: AnnotatedPicture, folders: list[Path]) -> Path:
    for folder in folders:
        if (folder / picture.name).is_file():
            return folder / picture.name
    places = ", ".join(map(str, folders))
    raise MediaError(f"{picture.where}: {picture.name}: no such picture in {places}; images= names a folder")


# ----------------------------------------------------------------------------------------------------------------------
# parquet


def read_parquet(path: Path) -> Iterator[dict[str, Any]]:
    """The rows, with `image` and `objects`; numbers of a `ClassLabel` of `datasets` as its names."""
    parquet = extra("pyarrow.parquet", "data")
    pyarrow = extra("pyarrow", "data")
    try:
        file = parquet.ParquetFile(os.fspath(path))
        missing = {"image", "objects"} - set(file.schema_arrow.names)
        if missing:
            found = ", ".join(file.schema_arrow.names)
            raise RequestError(f"{path}: has no column {' and no column '.join(sorted(missing))}; found {found}")
        names = _class_names((file.schema_arrow.metadata or {}).get(b"huggingface"))
        for batch in file.iter_batches(batch_size=64, columns=["image", "objects"]):
            for row in batch.to_pylist():
                yield {"image": row["image"], "objects": named(row["objects"], names)}
    except (OSError, pyarrow.ArrowException) as error:
        raise RequestError(f"{path}: cannot be read as parquet: {' '.join(str(error).split())[:200]}") from None


def _class_names(metadata: bytes | None) -> dict[str, list[str]]:
    """From the features that `datasets` writes beside the schema."""
    try:
        return class_names(json.loads(metadata or b"{}")["info"]["features"]["objects"])
    except (ValueError, TypeError, KeyError):
        return {}


def class_names(feature: Any) -> dict[str, list[str]]:
    """Names of the classes of each field of `objects`, of what `datasets` says of it: a list of structs, or a struct of
    lists."""
    found = {}
    feature = feature[0] if isinstance(feature, list) and feature else feature
    inner = feature.get("feature", feature) if isinstance(feature, Mapping) else {}
    for name, field in inner.items():
        field = field.get("feature", field) if isinstance(field, Mapping) else {}
        if isinstance(field, Mapping) and isinstance(field.get("names"), list):
            found[name] = [str(one) for one in field["names"]]
    return found


def named(objects: Any, names: Mapping[str, list[str]]) -> Any:
    if not names or objects is None:
        return objects

    def spelled(name: str, value: Any) -> Any:
        if name in names and isinstance(value, list):
            return [spelled(name, one) for one in value]
        known = name in names and isinstance(value, int) and 0 <= value < len(names[name])
        return names[name][value] if known else value

    if isinstance(objects, Mapping):
        return {name: spelled(name, value) for name, value in objects.items()}
    return [{name: spelled(name, value) for name, value in one.items()} for one in objects]
