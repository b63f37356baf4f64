"""Rows of parquet files and lines of JSONL files as items.

Knows: which fields hold what. Must not know: what is asked about an item.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import Gemma4Error, RequestError
from ..extras import extra
from ..jsonfile import parse_object
from .items import KINDS, Item, Wanted, clean, medium_of

__all__ = ["Lines", "Table"]

_IDS = ("id", "image_id")
_PATHS = ("path", "file_name")  # of a medium that is not named by its kind
_OWN = ("labels", "prompt", "messages")
_MOST_LINE = 64 << 20  # bytes; a picture may be in it, in base64
_ROWS = 16  # read at once


@dataclass(frozen=True)
class Lines:
    """A JSONL file: an object in each line."""

    path: str
    wanted: Wanted
    own_questions: bool = field(default=True, init=False)

    def count(self) -> int:
        """Lines that are not blank."""
        return sum(1 for _ in self._lines())

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """Each with its number; of one that is too long, so much that this is seen."""
        with open(self.path, "rb") as file:
            number = 0
            while line := file.readline(_MOST_LINE + 1):
                number += 1
                rest = line
                while len(rest) > _MOST_LINE and not rest.endswith(b"\n"):
                    rest = file.readline(_MOST_LINE + 1)
                if line.strip():
                    yield number, line

    def items(self) -> Iterator[Item]:
        """One for each line that is not blank."""
        folder = Path(self.path).parent
        for number, line in self._lines():
            where = f"{clean(self.path)}:{number}"
            try:
                if len(line) > _MOST_LINE:
                    raise RequestError(f"{where}: a line of more than {_MOST_LINE >> 20} MB")
                fields = parse_object(line.removeprefix(b"\xef\xbb\xbf"), where)
            except Gemma4Error as error:
                yield Item(where, error=RequestError(str(error)))
            else:
                yield item_of(fields, where, folder, self.wanted)


@dataclass(frozen=True)
class Table:
    """A parquet file: pictures or sounds as paths, as bytes, or as `datasets` writes them, `{"bytes", "path"}`."""

    path: str
    wanted: Wanted
    own_questions: bool = field(default=True, init=False)

    def _open(self) -> Any:
        try:
            # A group of rows is often hundreds of megabytes of pictures: it is read page by page.
            return extra("pyarrow.parquet", "data").ParquetFile(
                self.path, buffer_size=1 << 20, pre_buffer=False, page_checksum_verification=True
            )
        except (OSError, ValueError) as error:
            raise RequestError(f"{clean(self.path)}: not a parquet file that can be read: {error}") from None

    def count(self) -> int:
        """Raises RequestError where the file cannot be read or none of its columns holds what is wanted."""
        with self._open() as file:
            self._columns(file.schema_arrow)
            return int(file.metadata.num_rows)

    def items(self) -> Iterator[Item]:
        """One for each row."""
        folder, number = Path(self.path).parent, 0
        where = clean(self.path)
        try:
            with self._open() as file:
                own, media = self._columns(file.schema_arrow)
                for batch in file.iter_batches(_ROWS, columns=[*own, *media]):
                    for row in batch.to_pylist():
                        yield item_of(row, f"{where}:{number}", folder, self.wanted, media)
                        number += 1
        except (OSError, ValueError) as error:
            yield Item(f"{where}:{number}", error=RequestError(f"{where}: row {number} cannot be read: {error}"))

    def _columns(self, schema: Any) -> tuple[list[str], dict[str, str]]:
        """The columns to read: what a row says of itself, and media with their kinds."""
        types = extra("pyarrow", "data").types

        def is_text(kind: Any) -> bool:
            kind = kind.value_type if types.is_dictionary(kind) or types.is_list(kind) else kind
            return bool(types.is_string(kind) or types.is_large_string(kind))

        kinds = {column.name: column.type for column in schema}
        own = [name for name in _IDS if name in kinds and not types.is_nested(kinds[name])]
        own += [name for name in _OWN if name in kinds and (is_text(kinds[name]) or name == "messages")]
        media = media_fields(kinds, self.wanted)
        if not media and self.wanted.column is None:
            encoded = [n for n, kind in kinds.items() if types.is_struct(kind) and {f.name for f in kind} >= {"bytes"}]
            media = {encoded[0]: self.wanted.kinds[0]} if len(encoded) == 1 else {}
        if not media and (self.wanted.column is not None or not {"prompt", "messages"} & set(own)):
            raise RequestError(
                f"{clean(self.path)}: no column {self.wanted.column or self.wanted.kinds[0]!r} "
                f"(columns: {', '.join(kinds)[:200]}); "
                "name the right one with --column"
            )
        return own, media


def media_fields(names: Collection[str], wanted: Wanted) -> dict[str, str]:
    """Fields that hold media, each with its kind, or `"path"` where the name of the file says which."""
    if wanted.column is not None:
        return {wanted.column: wanted.kinds[0]} if wanted.column in names else {}
    found = {kind: kind for kind in wanted.kinds if kind in names} or {kind: kind for kind in KINDS if kind in names}
    return found or {name: "path" for name in _PATHS if name in names}


def item_of(
    row: Mapping[str, Any], where: str, folder: Path, wanted: Wanted, media: Mapping[str, str] | None = None
) -> Item:
    """A row as an item; one that cannot be used has an error.

    Args:
        row: its fields; those that are null are as if they were not there.
        where: what to call it, unless it says itself.
        folder: that paths are meant from.
        wanted: by the task.
        media: the fields that hold media, each with its kind; by default what they are called.
    """
    fields = {name: value for name, value in row.items() if value is not None}
    own = next((fields[name] for name in _IDS if type(fields.get(name)) in (int, str)), where)
    name = clean(own) if isinstance(own, str) else own
    try:
        if wanted.column is not None and wanted.column not in row:
            raise RequestError(f"{wanted.column}: there is no such field")
        path, given = _given(fields, folder, wanted, media_fields(fields, wanted) if media is None else media)
    except RequestError as error:
        return Item(name, error=RequestError(f"{where}: {error}"))
    return Item(name, path, given)


def _given(
    fields: Mapping[str, Any], folder: Path, wanted: Wanted, media: Mapping[str, str]
) -> tuple[str | None, dict[str, Any]]:
    """The name of a row's medium, and everything that is asked about."""
    given: dict[str, Any] = {}
    path = None
    for source, kind in media.items():
        if source not in fields:
            continue
        medium, shown = _medium(fields[source], source, folder)
        if kind == "path":
            kind = medium_of(os.path.splitext(shown or "")[1], wanted)
        if kind not in wanted.kinds:
            raise RequestError(f"{source}: this task takes {' or '.join(wanted.kinds)}")
        timed = kind == "video" and wanted.fps is not None and not isinstance(medium, list)
        given[kind], path = {"video": medium, "fps": wanted.fps} if timed else medium, path or shown
    if "labels" in fields:
        given["labels"] = _labels(fields["labels"])
    if "prompt" in fields:
        if not isinstance(fields["prompt"], str):
            raise RequestError(f"prompt: expected a string, found {str(fields['prompt'])[:40]}")
        given["prompt"] = fields["prompt"]
    if "messages" in fields:
        given["messages"] = fields["messages"]
    return path, given


def _medium(value: Any, source: str, folder: Path) -> tuple[Any, str | None]:
    """A picture, a sound or a video as the library takes it, or a list of them, and what to call it."""
    if isinstance(value, Mapping) and value.get("bytes") is not None:
        name = value.get("path")
        return value["bytes"], clean(name) if isinstance(name, str) else None
    if isinstance(value, Mapping) and isinstance(value.get("path"), str):
        value = value["path"]
    if isinstance(value, str):
        place = _located(value, folder)
        return place, None if place[:5].lower() == "data:" else clean(place)
    if isinstance(value, bytes):
        return value, None
    if isinstance(value, list) and value and all(isinstance(one, str | Mapping) for one in value):
        media = [_medium(one, source, folder) for one in value]
        return [medium for medium, _ in media], media[0][1]
    raise RequestError(f"{source}: expected a path, bytes or {{bytes, path}}, found {str(value)[:40]}")


def _labels(value: Any) -> str | list[str]:
    """Raises RequestError for anything but one or more strings."""
    if isinstance(value, str):
        return value
    if isinstance(value, Iterable) and not isinstance(value, Mapping | bytes):
        names = list(value)
        if all(isinstance(name, str) for name in names):
            return names
    raise RequestError(f"labels: expected a string or a list of strings, found {str(value)[:40]}")


def _located(value: str, folder: Path) -> str:
    """A path of a row, which is meant from where the row's file lies; a `data:` URL stays as it is."""
    if value[:5].lower() == "data:" or "://" in value[:12]:
        return value
    path = Path(value)
    with contextlib.suppress(RuntimeError):  # names such as ~$photo.png are nobody's home
        path = path.expanduser()
    return str(folder / path)
