"""JSON and text files of results and of other tools, read with care.

Knows: files, JSON. Must not know: what is in them.
"""

from __future__ import annotations

import json
import math
import os
from typing import Any

import numpy as np

from ..errors import RequestError

__all__ = ["MAX_BYTES", "Fields", "parse_json", "read_json", "read_text"]

MAX_BYTES = 1 << 30
"""Of a file that is read; the annotations of a hundred thousand pictures have half of it."""


def read_text(path: str | os.PathLike[str], most: int = MAX_BYTES) -> str:
    """A file in UTF-8, a byte order mark left out. Raises RequestError naming it."""
    where = os.fspath(path)
    try:
        with open(path, "rb") as file:
            data = file.read(min(most, os.fstat(file.fileno()).st_size) + 1)
        if len(data) > most:
            raise RequestError(f"{where}: more than {most} bytes")
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(f"{where}: not UTF-8 (byte {error.start})") from None
    except OSError as error:
        raise RequestError(f"{where}: {error.strerror or error}") from error


def read_json(path: str | os.PathLike[str]) -> Any:
    """Raises RequestError naming the file, the line and the column."""
    return parse_json(read_text(path), os.fspath(path))


def parse_json(text: str, where: str) -> Any:
    """Strict JSON: NaN and Infinity are refused. Raises RequestError naming the line and the column."""

    def refuse(name: str) -> Any:
        raise RequestError(f"{where}: {name} is not JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise RequestError(f"{where}: not JSON: {error.msg} at line {error.lineno} column {error.colno}") from None
    except RecursionError:
        raise RequestError(f"{where}: nested too deeply") from None
    except ValueError as error:
        if isinstance(error, RequestError):
            raise
        raise RequestError(f"{where}: not JSON: {error}") from None


class Fields:
    """An object of somebody's JSON, whose fields are checked when they are read. Errors name the file and the field."""

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise RequestError(f"{where}: expected an object, found {_kind(value)}")
        self._value, self.where = value, where

    def __contains__(self, name: str) -> bool:
        return self._value.get(name) is not None

    def __iter__(self) -> Any:
        return iter(self._value)

    def get(self, name: str) -> Any:
        return self._value.get(name)

    def items(self, name: str) -> list[Any]:
        value = self._value.get(name)
        if not isinstance(value, list | tuple):
            raise self.wrong(name, "a list")
        return list(value)

    def text(self, name: str) -> str:
        value = self._value.get(name)
        if not isinstance(value, str):
            raise self.wrong(name, "a string")
        return value

    def integer(self, name: str) -> int:
        value = self._value.get(name)
        if isinstance(value, float) and value.is_integer():  # as pandas and JavaScript write integers
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise self.wrong(name, "an integer")
        return int(value)

    def identifier(self, name: str) -> int | str:
        """An integer or a string: both are used."""
        value = self._value.get(name)
        return value if isinstance(value, str) else self.integer(name)

    def number(self, name: str) -> float:
        return _number(self._value.get(name), lambda: self.wrong(name, "a finite number"))

    def numbers(self, name: str, count: int) -> tuple[float, ...]:
        values = self._value.get(name)
        values = values.tolist() if isinstance(values, np.ndarray) else values
        if not isinstance(values, list | tuple) or len(values) != count:
            raise self.wrong(name, f"{count} numbers")
        return tuple(_number(value, lambda: self.wrong(name, f"{count} finite numbers")) for value in values)

    def wrong(self, name: str, expected: str) -> RequestError:
        if name not in self._value:
            return RequestError(f"{self.where}: {name}: missing, expected {expected}")
        return RequestError(f"{self.where}: {name}: expected {expected}, found {_kind(self._value[name])}")


def _number(value: Any, wrong: Any) -> float:
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.number):
        raise wrong()
    try:
        found = float(value)
    except OverflowError:
        raise wrong() from None
    if not math.isfinite(found):
        raise wrong()
    return found


def _kind(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
