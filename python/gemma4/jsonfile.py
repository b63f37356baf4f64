"""JSON of a checkpoint, read as untrusted data.

Knows: bytes, JSON, limits. Must not know: what a field means. A number may be anything that Python's own writer
writes, NaN, Infinity and integers of any length included (`model_max_length` is 1e30 in most checkpoints): whoever uses
a field checks it, and what nobody uses is not judged. Duplicate keys, of which Python's reader takes the last in
silence, and unlimited depth are refused.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from .errors import ModelFileError
from .links import open_inside

MAX_CONFIG_BYTES = 2_000_000  # the largest published has 20,000; half a second's work
MAX_DEPTH = 64
MAX_CONTAINERS = 1 << 18  # arrays and objects in all; each takes far more time and memory than text

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_INTEGER_DIGITS = 4300  # more, Python neither writes nor reads


def read_json(path: Path, limit: int = MAX_CONFIG_BYTES, containers: int = MAX_CONTAINERS) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        path: the file.
        limit: bytes that the file may have.
        containers: arrays and objects that it may have.

    Raises:
        ModelFileError: missing, unreadable, too large, a git-LFS pointer, or not one strict JSON object.
    """
    return parse_object(read_bytes(path, limit), str(path), containers)


def read_bytes(path: Path, limit: int) -> bytes:
    """All bytes of a regular file of at most ``limit`` bytes. Raises ModelFileError naming the file otherwise."""
    try:
        with open_inside(path) as file:
            size, data = os.fstat(file.fileno()).st_size, file.read(limit + 1)
    except OSError as error:
        raise ModelFileError(f"{path}: {error.strerror or error}") from error
    if max(size, len(data)) > limit:
        raise ModelFileError(f"{path}: {max(size, len(data))} bytes, at most {limit} are read")
    if data.startswith(_LFS_POINTER):
        raise ModelFileError(lfs_message(path))
    return data


def present(path: Path) -> bool:
    """Whether a folder has such an entry: also one that cannot be read, which is an error and not absence."""
    return path.exists() or path.is_symlink()


def lfs_message(path: Path) -> str:
    return f"{path}: a git-LFS pointer, not the file itself; run `git lfs pull` in the repository, or download it again"


def is_lfs_pointer(head: bytes) -> bool:
    return head.startswith(_LFS_POINTER)


def parse_object(data: bytes, where: str, containers: int = MAX_CONTAINERS) -> dict[str, Any]:
    """JSON in UTF-8 without a byte order mark: one object, no key twice, at most 64 levels. Numbers of any size.

    >>> parse_object(b'{"a": 1, "b": Infinity}', "config.json")
    {'a': 1, 'b': inf}
    """
    if data.startswith(b"\xef\xbb\xbf"):
        raise ModelFileError(f"{where}: begins with a byte order mark; JSON has none")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ModelFileError(f"{where}: not UTF-8 (byte {error.start})") from None
    _check_nesting(text, where, containers)

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(items)
        if len(result) != len(items):
            seen: set[str] = set()
            twice = next(key for key, _ in items if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise ModelFileError(f"{where}: the key {twice[:80]!r} appears twice")
        return result

    def integer(digits: str) -> int | float:
        return int(digits) if len(digits) <= _INTEGER_DIGITS else float(digits)

    try:
        try:
            value = json.loads(text, object_pairs_hook=pairs)
        except json.JSONDecodeError:
            raise
        except ValueError:  # an integer that is too long; our own errors are ValueErrors too
            value = json.loads(text, object_pairs_hook=pairs, parse_int=integer)
    except json.JSONDecodeError as error:
        raise ModelFileError(f"{where}: not JSON: {error.msg} at line {error.lineno} column {error.colno}") from None
    if not isinstance(value, dict):
        raise ModelFileError(f"{where}: expected a JSON object, found {type_name(value)}")
    return value


# A string (also one that never ends), so that brackets inside it do not count.
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[\]{}]', re.DOTALL)


def _check_nesting(text: str, where: str, most: int) -> None:
    """Before the parser recurses, since its stack is not ours to size."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    depth = containers = 0
    for match in _TOKEN.finditer(text):
        token = match.group()
        if token in "[{":
            depth += 1
            containers += 1
            if containers > most:
                raise ModelFileError(f"{where}: more than {most} arrays and objects")
            if depth > MAX_DEPTH:
                raise ModelFileError(f"{where}: nested deeper than {MAX_DEPTH} levels")
        elif token in "]}":
            depth -= 1


_SURROGATE = re.compile("[\ud800-\udfff]")


def is_text(text: str) -> bool:
    """Whether a string can be UTF-8: JSON can spell lone surrogates."""
    return _SURROGATE.search(text) is None


def type_name(value: Any) -> str:
    """How JSON calls the type of a value.

    >>> type_name(True), type_name(1), type_name(None), type_name([])
    ('true', 'an integer', 'null', 'an array')
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    names = {int: "an integer", float: "a number", str: "a string", list: "an array", dict: "an object"}
    return names.get(type(value), type(value).__name__)
