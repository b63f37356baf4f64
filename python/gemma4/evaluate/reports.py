"""Reports in files: `.html`, `.json`, `.parquet`.

Knows: which ending means what, what an entry holds. Must not know: pytest, HTML (`page`). An entry is plain data, so
that another process can send it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import RequestError
from ..extras import extra
from ..replacing import write_whole
from ..version import __version__
from .overlays import jpeg_base64, overlay
from .page import page

__all__ = ["check_path", "entry_of", "write_report"]

_ENDINGS = (".html", ".json", ".parquet")
_SHOWN, _RIGHT = 24, 6  # pictures of a row with faults, the worst first, and without
_OF_ROW = ("map", "map50", "map75", "precision", "recall", "f1", "mean_iou", "truth", "found", "right")


def check_path(path: str | os.PathLike[str]) -> Path:
    """Raises RequestError for an ending that means no report."""
    found = Path(path).expanduser()
    if found.suffix not in _ENDINGS:
        raise RequestError(f"{path}: a report ends in one of {', '.join(_ENDINGS)}")
    return found


def entry_of(result: Any, test: str = "", failure: str | None = None, overlays: bool = False) -> dict[str, Any]:
    """A :class:`Comparison` as JSON has it; with `overlays` the drawn pictures, as JPEG in base64."""
    return {
        "test": test, "failure": failure, "dataset": result.dataset, "iou": result.iou, "labels": list(result.labels),
        "table": result.table(),
        "rows": [_row(result, row, overlays) for row in result.rows],
    }  # fmt: skip


def _row(result: Any, row: Any, overlays: bool) -> dict[str, Any]:
    labels = {
        name: {**asdict(one), "precision": one.precision, "recall": one.recall, "f1": one.f1}
        for name, one in row.labels.items()
    }
    pictures = [asdict(picture) for picture in row.pictures]
    if overlays:
        order = sorted(range(len(pictures)), key=lambda index: -row.pictures[index].faults)
        faulty = sum(picture.faults > 0 for picture in row.pictures)
        for rank, index in enumerate([*order[: min(faulty, _SHOWN)], *order[faulty : faulty + _RIGHT]]):
            pixels = result.pixels(index)
            if pixels is not None:
                pictures[index]["jpeg"] = jpeg_base64(overlay(pixels, row.pictures[index]))
                pictures[index]["rank"] = rank
    found = {
        "name": row.name, "settings": dict(row.settings), **{name: getattr(row, name) for name in _OF_ROW},
        "seconds": row.seconds, "cached": row.cached, "errors": row.errors, "notes": list(row.notes), "labels": labels,
        "reliability": row.reliability, "confusion": {"labels": row.confusion_labels, "counts": row.confusion},
        "pictures": pictures,
    }  # fmt: skip
    plain: dict[str, Any] = json.loads(json.dumps(found))  # no tuples: what is sent is what arrives
    return plain


def write_report(path: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    """Write all of them into one file, which appears when it is complete. Raises OSError."""
    if path.suffix == ".html":
        data = page(entries, __version__).encode("utf-8", "xmlcharrefreplace")
    elif path.suffix == ".json":
        whole = {"format": 1, "gemma4": __version__, "evaluations": [_without_pictures(entry) for entry in entries]}
        data = json.dumps(whole, indent=1, ensure_ascii=True).encode("ascii")
    else:
        data = _parquet(entries)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, data)


def _without_pictures(entry: Mapping[str, Any]) -> dict[str, Any]:
    drawn = ("jpeg", "rank")
    rows = [
        {**row, "pictures": [{k: v for k, v in one.items() if k not in drawn} for one in row["pictures"]]}
        for row in entry["rows"]
    ]
    return {**{name: value for name, value in entry.items() if name != "table"}, "rows": rows}


def _parquet(entries: Sequence[Mapping[str, Any]]) -> bytes:
    """A row for each object, true or found; one of kind `error` for an answer that cannot be read."""
    pyarrow, parquet = extra("pyarrow", "data"), extra("pyarrow.parquet", "data")
    text, real = pyarrow.string(), pyarrow.float64()
    box = pyarrow.list_(real)
    schema = pyarrow.schema([
        ("test", text), ("dataset", text), ("row", text), ("model", text), ("prompt", text),
        ("max_soft_tokens", pyarrow.int64()), ("picture", text), ("kind", text), ("label", text), ("box", box),
        ("found_label", text), ("found_box", box), ("score", real), ("iou", real), ("near", text), ("error", text),
        ("seconds", real), ("cached", pyarrow.bool_()),
    ])  # fmt: skip
    lines = []
    for entry in entries:
        for row in entry["rows"]:
            settings = row["settings"]
            of_row = {
                "test": entry["test"], "dataset": entry["dataset"], "row": row["name"],
                **{name: settings[name] for name in ("model", "prompt", "max_soft_tokens")},
            }  # fmt: skip
            for picture in row["pictures"]:
                common = {**of_row, **{name: picture[name] for name in ("picture", "error", "seconds", "cached")}}
                lines += [{**common, **outcome} for outcome in picture["outcomes"]]
                if picture["error"] is not None or not picture["outcomes"]:
                    lines.append({**common, "kind": "error" if picture["error"] is not None else "nothing"})
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.Table.from_pylist(lines, schema=schema), sink)
    data: bytes = sink.getvalue().to_pybytes()
    return data
