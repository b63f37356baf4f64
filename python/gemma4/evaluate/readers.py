"""Labelled pictures in files: COCO, YOLO, parquet.

Knows: fields, where pictures lie. Must not know: models, metrics. A mistake in a file is an error that names the entry.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..boxes import shown
from ..errors import MediaError, RequestError
from .dataset import Dataset, Sample, Truth, four
from .optional import optional

__all__ = ["class_names", "named", "read_coco", "read_parquet", "read_yolo"]

_MOST_BYTES = 1 << 30
_PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
_SPLITS = ("val", "test", "train")


def read_coco(path: Path, images: Path | None) -> Dataset:
    """Of COCO's object detection: `images`, `annotations` with `bbox`, `categories`."""
    data = _json(path)
    for name in ("images", "annotations", "categories"):
        if not isinstance(data.get(name), list):
            raise RequestError(f"{path}: expected COCO's object detection, but {name!r} is not a list in it")
    names: dict[Any, str] = {}
    for entry, where in _objects(data, "categories", path):
        names[_unused(_id(entry, where), names, where)] = _text(entry, "name", where)
    if len(set(names.values())) < len(names):
        raise RequestError(f"{path}: categories: a name appears twice")
    found: dict[Any, list[Truth]] = {_id(entry, where): [] for entry, where in _objects(data, "images", path)}
    for entry, where in _objects(data, "annotations", path):
        picture, category = entry.get("image_id"), entry.get("category_id")
        if not _hashable(picture) or picture not in found:
            raise RequestError(f"{where}: image_id {shown(picture)} is not among the images")
        if not _hashable(category) or category not in names:
            raise RequestError(f"{where}: category_id {shown(category)} is not among the categories")
        x, y, width, height = four(entry.get("bbox"), f"{where}: bbox")
        box = (x, y, x + width, y + height)
        found[picture].append(Truth(names[category], box, where, crowd=bool(entry.get("iscrowd"))))
    folders = _folders(path, images)
    samples, seen = [], dict[Any, str]()
    for entry, where in _objects(data, "images", path):
        name = _text(entry, "file_name", where)
        seen[_unused(_id(entry, where), seen, where)] = name
        size: tuple[Any, Any] = entry.get("width"), entry.get("height")
        sized = (size[0], size[1]) if all(isinstance(side, int) and side > 0 for side in size) else None
        samples.append(Sample(name, _picture(name, folders, where), tuple(found[entry["id"]]), sized))
    if not samples:
        raise RequestError(f"{path}: holds no images")
    return Dataset(path.name, tuple(samples), tuple(names.values()), closed=True)


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise RequestError(f"{path}: more than {_MOST_BYTES >> 20} MB")
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise RequestError(f"{path}: {error.strerror or error}") from error
    except RecursionError:
        raise RequestError(f"{path}: nested too deeply") from None
    except RequestError:
        raise
    except ValueError as error:
        raise RequestError(f"{path}: not JSON: {error}") from None
    if not isinstance(data, dict):
        raise RequestError(f"{path}: expected a JSON object, as COCO writes it")
    return data


def _objects(data: Mapping[str, Any], name: str, path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    for index, entry in enumerate(data[name]):
        where = f"{path}: {name}[{index}]"
        if not isinstance(entry, dict):
            raise RequestError(f"{where}: expected an object, found {shown(entry)}")
        yield entry, where


def _id(entry: Mapping[str, Any], where: str) -> Any:
    value = entry.get("id")
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise RequestError(f"{where}: id: expected a number or a string, found {shown(value)}")
    return value


def _hashable(value: Any) -> bool:
    return isinstance(value, int | str)


def _unused(value: Any, seen: Mapping[Any, Any], where: str) -> Any:
    if value in seen:
        raise RequestError(f"{where}: id {shown(value)} appears twice")
    return value


def _text(entry: Mapping[str, Any], name: str, where: str) -> str:
    value = entry.get(name)
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise RequestError(f"{where}: {name}: expected a string, found {shown(value)}")
    return value


def _folders(path: Path, images: Path | None) -> list[Path]:
    """Where the pictures of a COCO file may be."""
    if images is not None:
        return [images]
    home = path.parent
    return [home, home / "images", home / path.stem, home.parent / "images", home.parent]


def _picture(name: str, folders: list[Path], where: str) -> Path:
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise MediaError(f"{where}: {name}: no such picture in {', '.join(map(str, folders))}; images= names a folder")


# ----------------------------------------------------------------------------------------------------------------------
# YOLO


def read_yolo(path: Path, split: str | None) -> Dataset:
    """`data.yaml` with `names`, and a label file `labels/….txt` for each picture `images/…`: `class cx cy w h`."""
    config = (
        path if path.is_file() else next((path / n for n in ("data.yaml", "data.yml") if (path / n).exists()), None)
    )
    if config is None:
        folder, names = _plain_yolo(path)
    else:
        folder, names = _configured(config, split)
    pictures = sorted(file for file in folder.rglob("*") if file.suffix.lower() in _PICTURES and file.is_file())
    if not pictures:
        raise RequestError(f"{folder}: holds no pictures ({', '.join(_PICTURES)})")
    labels = [_label_file(picture, folder) for picture in pictures]
    if not any(file.is_file() for file in labels):
        raise RequestError(f"{labels[0].parent}: no label files: {labels[0].name} and all others are missing")
    samples = [
        Sample(picture.relative_to(folder).as_posix(), picture, _yolo_objects(file, names))
        for picture, file in zip(pictures, labels, strict=True)
    ]
    name = path.name if path.is_dir() else path.parent.name
    return Dataset(name or str(path), tuple(samples), tuple(names), closed=True)


def _plain_yolo(path: Path) -> tuple[Path, list[str]]:
    for file in (path / "classes.txt", path / "labels" / "classes.txt"):
        if file.is_file():
            names = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
            if not names or not all(names):
                raise RequestError(f"{file}: expected a name on each line")
            return (path / "images" if (path / "images").is_dir() else path), names
    raise RequestError(f"{path}: expected a YOLO folder with data.yaml, or with classes.txt beside images and labels")


def _configured(config: Path, split: str | None) -> tuple[Path, list[str]]:
    yaml = optional("yaml", "data")
    try:
        data = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RequestError(f"{config}: cannot be read: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(data, dict):
        raise RequestError(f"{config}: expected names, and folders for {', '.join(_SPLITS)}")
    given = data.get("names")
    if isinstance(given, dict) and sorted(given, key=str) and set(given) == set(range(len(given))):
        given = [given[index] for index in range(len(given))]
    if not isinstance(given, list) or not given or not all(isinstance(name, str) and name.strip() for name in given):
        raise RequestError(
            f"{config}: names: expected a list, or numbers from 0 with a name each, found {shown(given)}"
        )
    if len(set(given)) < len(given):
        raise RequestError(f"{config}: names: a name appears twice")
    there = [name for name in _SPLITS if data.get(name)]
    if split is not None and split not in there:
        raise RequestError(f"split: {config} has {', '.join(there) or 'none'}, not {shown(split)}")
    if not there:
        raise RequestError(f"{config}: expected a folder for one of {', '.join(_SPLITS)}")
    folder = data[split or there[0]]
    if not isinstance(folder, str):
        raise RequestError(f"{config}: {split or there[0]}: expected one folder, found {shown(folder)}")
    base = data.get("path")
    roots = [config.parent / base] if isinstance(base, str) else []
    # Exports write `../valid/images` for what lies beside data.yaml.
    places = [root / folder for root in (*roots, config.parent)] + [config.parent / folder.removeprefix("../")]
    for place in places:
        if place.is_dir():
            return place, given
    raise RequestError(f"{config}: {split or there[0]}: no folder {places[0]}")


def _label_file(picture: Path, folder: Path) -> Path:
    """`…/labels/a.txt` of `…/images/a.jpg`, by the last folder of that name; beside the picture without."""
    parts = list(picture.parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] == "images":
            parts[index] = "labels"
            return Path(*parts).with_suffix(".txt")
    inside = folder / "labels" / picture.relative_to(folder).with_suffix(".txt")
    return inside if inside.is_file() else picture.with_suffix(".txt")


def _yolo_objects(file: Path, names: list[str]) -> tuple[Truth, ...]:
    if not file.is_file():
        return ()  # nothing is on it
    found = []
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise RequestError(f"{file}: {error}") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where, fields = f"{file}:{number}", line.split()
        if len(fields) != 5:
            raise RequestError(f"{where}: expected `class cx cy w h`, found {len(fields)} fields")
        if not fields[0].isdecimal() or int(fields[0]) >= len(names):
            raise RequestError(f"{where}: class: expected 0 to {len(names) - 1}, found {fields[0][:40]!r}")
        x, y, width, height = four(fields[1:], where)
        if not all(0 <= value <= 1 for value in (x, y, width, height)):
            raise RequestError(f"{where}: expected numbers from 0 to 1 of the picture's sides")
        box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        found.append(Truth(names[int(fields[0])], box, where, "sides"))
    return tuple(found)


# ----------------------------------------------------------------------------------------------------------------------
# parquet


def read_parquet(path: Path) -> Iterator[dict[str, Any]]:
    """The rows, with `image` and `objects`; numbers of a `ClassLabel` of `datasets` as its names."""
    parquet = optional("pyarrow.parquet", "data")
    pyarrow = optional("pyarrow", "data")
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
