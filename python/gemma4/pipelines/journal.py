"""The rows that are done, kept so that a run which ends anywhere can go on.

Knows: lines of JSON, one process at a time. Must not know: what is in a row. The first line says what the run was begun
with, each further one is a row. A line is handed to the system as soon as it is there, so that it outlives the process;
one that is torn all the same is cut off and made again.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import RequestError
from .items import clean

__all__ = ["Journal"]

_KEY = "gemma4 batch"


class Journal:
    """An open journal. Nobody else writes to it until it is closed."""

    def __init__(self, path: Path, settings: Mapping[str, Any], restart: bool = False) -> None:
        """Go on with what is there, or begin.

        Args:
            path: the file; it is made if it is missing.
            settings: that all rows depend on, ready for JSON.
            restart: forget the rows that are there.

        Raises:
            RequestError: it was begun with other settings, belongs to a run on its way, is damaged, or is another file.
        """
        self.path = path
        self.count = self.failed = 0
        self._file = _locked(path)
        try:
            self._begin({_KEY: json.loads(json.dumps(settings))}, restart)
        except BaseException:
            self._file.close()
            raise

    def _begin(self, head: dict[str, Any], restart: bool) -> None:
        first = self._file.readline()
        there = _parsed(first)
        if first.endswith(b"\n") and (there is None or _KEY not in there):
            raise RequestError(f"{self.path} is in the way: it is not the journal of a run; move it elsewhere")
        if restart or there is None:
            self._file.truncate(0)
            self._file.seek(0)
            self._write(head)
        elif there != head:
            raise RequestError(self._differs(there[_KEY], head[_KEY]))
        else:
            self._read()
        self._end = self._file.seek(0, os.SEEK_END)

    def _differs(self, there: Mapping[str, Any], given: Mapping[str, Any]) -> str:
        name = next(name for name in {**given, **there} if there.get(name) != given.get(name))
        before, now = (json.dumps(one.get(name), ensure_ascii=False)[:80] for one in (there, given))
        return (
            f"{self.path} was begun with another {name}: {before}, not {now}; "
            "give the same again, or --restart to begin anew"
        )

    def _read(self) -> None:
        """Count the rows; what is torn at the end is cut off."""
        end = self._file.tell()
        torn = False
        for line in self._file:
            if torn:
                raise RequestError(f"{self.path}: line {self.count + 2} is damaged; --restart begins anew")
            row = _parsed(line)
            torn = row is None
            if row is not None:
                end += len(line)
                self.count += 1
                self.failed += row.get("error") is not None
        self._file.truncate(end)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Those that were there when it was asked for, in order; read one by one."""
        with open(self.path, "rb") as file:
            file.readline()
            for _, line in zip(range(self.count), file, strict=False):
                yield json.loads(line)

    def append(self, row: Mapping[str, Any]) -> None:
        """One more row."""
        self._write(row)
        self.count += 1
        self.failed += row.get("error") is not None

    def _write(self, value: Mapping[str, Any]) -> None:
        self._file.write(clean(json.dumps(value, ensure_ascii=False)).encode() + b"\n")
        self._file.flush()

    def remove(self) -> None:
        """Of a run that is at its end."""
        self.path.unlink()
        self._file.close()

    def close(self) -> None:
        """Leave it for another time."""
        self._file.close()


def _locked(path: Path) -> Any:
    """The file, opened for reading and writing, which the system gives back whatever becomes of this process."""
    while True:
        file = open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+b")  # noqa: SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise RequestError(f"{path}: another run is writing to it") from None
        except OSError:  # a file system without locks
            return file
        try:
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        except FileNotFoundError:  # another run came to its end meanwhile
            pass
        file.close()


def _parsed(line: bytes) -> dict[str, Any] | None:
    """A whole line's object."""
    if not line.endswith(b"\n"):
        return None
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
