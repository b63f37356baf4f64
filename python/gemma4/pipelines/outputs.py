"""Rows as files: JSONL, parquet, COCO's JSON, a folder for YOLO.

Knows: formats, rows. Must not know: how a row came about, how a file takes its place. Rows are read again for every
pass that a format needs, so that memory does not grow with them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, count, islice
from pathlib import Path
from typing import Any, TypeAlias

from ..detections import coco_annotation, yolo_box
from ..errors import RequestError
from ..extras import extra

__all__ = ["Format", "format_of"]

Rows: TypeAlias = "Callable[[], Iterator[dict[str, Any]]]"
Format: TypeAlias = "Callable[[Path, Rows, Mapping[str, str], Sequence[str]], None]"
"""Writes rows, whose columns have these types, with these labels first, to a new place."""

_GROUP = 1000  # rows that are written at once
_LONGEST = 200  # bytes of a file's name
_YOLO = {"labels", "data.yaml", "results.jsonl"}


def format_of(out: Path, boxes: bool) -> Format:
    """How `out` is written. Raises RequestError where its name does not say, or it cannot hold what it is to hold."""
    suffix = out.suffix.lower()
    if suffix in (".jsonl", ".ndjson"):
        return write_jsonl
    if suffix in (".parquet", ".pq"):
        extra("pyarrow.parquet", "data")  # whether it is there is known before anything is computed
        return write_parquet
    if suffix == ".json" or suffix == "" or out.is_dir():
        what = "COCO's JSON" if suffix == ".json" else "a folder for YOLO"
        if not boxes:
            raise RequestError(
                f"{out}: {what} holds boxes, which only the task detect gives; name a .jsonl or .parquet"
            )
        return write_coco if suffix == ".json" else write_yolo
    raise RequestError(f"{out}: expected a name that ends in .jsonl, .parquet or .json, or a folder's")


def check_place(out: Path) -> None:
    """Raises RequestError where `out` could not be replaced: a folder of something else, or in no folder."""
    if not out.parent.is_dir():
        raise RequestError(f"{out}: the folder that it should be in does not exist")
    if out.is_dir() and not {entry.name for entry in os.scandir(out)} <= _YOLO:
        raise RequestError(f"{out} is a folder with other files in it, which is not written to")


# ---------------------------------------------------------------------------------------------------------------------
# Rows as they are


def write_jsonl(path: Path, rows: Rows, columns: Mapping[str, str], labels: Sequence[str]) -> None:
    """A row in each line."""
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for row in rows():
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def write_parquet(path: Path, rows: Rows, columns: Mapping[str, str], labels: Sequence[str]) -> None:
    """A row each; ids are integers if all of them are ones of 64 bits."""
    pyarrow, parquet = extra("pyarrow", "data"), extra("pyarrow.parquet", "data")
    numbers = all(isinstance(row["id"], int) and abs(row["id"]) < 1 << 63 for row in rows())
    kinds = _arrow_types(pyarrow)
    schema = pyarrow.schema(
        [(name, kinds["integer" if name == "id" and numbers else kind]) for name, kind in columns.items()]
    )
    with parquet.ParquetWriter(path, schema) as file:
        for group in _groups(rows()):
            if not numbers:
                group = [{**row, "id": str(row["id"])} for row in group]
            file.write_table(pyarrow.Table.from_pylist(group, schema=schema))


def _arrow_types(pyarrow: Any) -> dict[str, Any]:
    text, number, integer = pyarrow.string(), pyarrow.float64(), pyarrow.int64()
    several, struct = pyarrow.list_, pyarrow.struct
    return {
        "text": text,
        "texts": several(text),
        "integer": integer,
        "number": number,
        "size": several(integer),
        "error": struct([("type", text), ("message", text)]),
        "boxes": several(
            struct([("label", text), ("box_2d", several(integer)), ("xyxy", several(number)), ("score", number)])
        ),
        "points": several(
            struct([("label", text), ("point", several(integer)), ("xy", several(number)), ("score", number)])
        ),
        "segments": several(struct([("start", number), ("end", number), ("text", text)])),
    }


def _groups(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    while group := list(islice(rows, _GROUP)):
        yield group


# ---------------------------------------------------------------------------------------------------------------------
# Boxes


def _classes(rows: Rows, labels: Sequence[str]) -> list[str]:
    """The labels that were asked for, then the others that there are, by name."""
    found = {box["label"] for row in rows() for box in row["result"] or ()}
    return list(dict.fromkeys([*labels, *sorted(found)]))


def write_coco(path: Path, rows: Rows, columns: Mapping[str, str], labels: Sequence[str]) -> None:
    """`images`, `categories`, and `annotations` with scores, which are COCO's results too; rows without a result are in
    `errors`. Images keep their ids where all rows have a number of their own, else they count from 1."""
    categories = {name: index for index, name in enumerate(_classes(rows, labels), start=1)}
    ids = [row["id"] for row in rows()]
    own = all(isinstance(one, int) for one in ids) and len(set(ids)) == len(ids)
    del ids

    def numbered(failed: bool) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, row in enumerate(rows(), start=1):
            if (row["error"] is not None) is failed:
                yield (row["id"] if own else index), row

    def images() -> Iterator[Any]:
        for image, row in numbered(failed=False):
            width, height = row["image_size"]
            name = row["path"] if row["seconds"] is None and row["path"] is not None else str(row["id"])
            yield {"id": image, "file_name": name, "width": width, "height": height}

    def annotations() -> Iterator[Any]:
        count = 0
        for image, row in numbered(failed=False):
            for box in row["result"]:
                count += 1
                entry = coco_annotation(count, image, categories[box["label"]], box["xyxy"])
                yield {**entry, "score": box["score"]}

    errors = ({"image_id": image, "file_name": row["path"] or str(row["id"]), **row["error"]}
              for image, row in numbered(failed=True))  # fmt: skip
    parts: dict[str, Iterable[Any]] = {
        "images": images(),
        "categories": ({"id": index, "name": name} for name, index in categories.items()),
        "annotations": annotations(),
        "errors": errors,
    }
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for index, (name, values) in enumerate(parts.items()):
            file.write(("{" if index == 0 else ",\n") + json.dumps(name) + ": [")
            for place, value in enumerate(values):
                file.write((",\n" if place else "\n") + json.dumps(value, ensure_ascii=False))
            file.write("]")
        file.write("}\n")


def write_yolo(path: Path, rows: Rows, columns: Mapping[str, str], labels: Sequence[str]) -> None:
    """`labels/*.txt`, called as the pictures and in folders as they are, a line `class x y width height` for each box,
    in shares of the picture; `data.yaml` names the classes; `results.jsonl` has every row, with scores and errors."""
    classes = _classes(rows, labels)
    (path / "labels").mkdir(parents=True)
    numbers = {name: index for index, name in enumerate(classes)}
    base = _common_folder(rows)
    taken: set[str] = set()
    for row in rows():
        if row["error"] is not None:
            continue
        target = path / "labels" / _label_file(row, base, taken)
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target, "w", encoding="utf-8") as file:
            for box in row["result"]:
                shares = yolo_box(box["xyxy"], row["image_size"])
                file.write(f"{numbers[box['label']]} {' '.join(f'{share:.6f}' for share in shares)}\n")
    with open(path / "data.yaml", "w", encoding="utf-8") as file:
        file.write("path: .\ntrain: images\nval: images\n")
        file.write(f"nc: {len(classes)}\nnames:" + ("" if classes else " {}") + "\n")
        file.writelines(f"  {index}: {json.dumps(name, ensure_ascii=False)}\n" for index, name in enumerate(classes))
    write_jsonl(path / "results.jsonl", rows, columns, labels)


def _common_folder(rows: Rows) -> str:
    """The innermost folder that all pictures are in."""
    common: str | None = None
    for row in rows():
        if row["path"] is not None:
            folder = os.path.dirname(os.path.abspath(row["path"]))
            common = folder if common is None else os.path.commonpath([common, folder])
    return common or ""


def _label_file(row: Mapping[str, Any], base: str, taken: set[str]) -> str:
    """Under which name; no two have the same."""
    if row["path"] is None:
        stem = name = _bounded(re.sub(r"[^\w.-]+", "_", str(row["id"])).lstrip(".") or "_")
    else:
        name = os.path.relpath(os.path.abspath(row["path"]), base)
        stem = os.path.splitext(name)[0]
        if row["seconds"] is not None:
            stem = name = f"{stem}_{row['seconds']:010.3f}"
    # Two pictures that differ in their endings alone cannot both have the usual name.
    tries = chain((stem, name), (f"{name}_{number}" for number in count(2)))
    chosen = next(one for one in tries if one.casefold() not in taken)
    taken.add(chosen.casefold())
    return f"{chosen}.txt"


def _bounded(name: str) -> str:
    """The name of a file that any file system can hold, another for another name."""
    data = name.encode()
    if len(data) <= _LONGEST:
        return name
    return f"{data[:_LONGEST].decode('utf-8', 'ignore')}_{hashlib.blake2b(data, digest_size=6).hexdigest()}"
