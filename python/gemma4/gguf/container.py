"""The GGUF container: metadata and the table of tensors, checked against the size of the file before anything is used.

Knows: the container (versions 2 and 3, little endian), tensor types. Must not know: what a key or a tensor means.
Every count, length and offset of the file is compared with the bytes that are there before it is used, and sizes are
computed in Python's unbounded integers, so nothing can overflow.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..errors import ModelFileError
from ..jsonfile import MAX_CONFIG_BYTES, is_lfs_pointer, lfs_message

__all__ = ["TYPES", "GgufFile", "GgufTensor", "read_gguf"]

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT = 32  # where the file does not say otherwise
MAX_HEADER_BYTES = 64_000_000  # everything before the tensors; the largest known, of a vocabulary of 262,144, is 16 MB
MAX_KEYS = 1 << 16  # each of these and of the tensors takes microseconds
MAX_TENSORS = 1 << 15
MAX_KEY = 65_535
MAX_NAME = 63
MAX_ALIGNMENT = 1 << 20
MAX_RANK = 4
_MOST_IDS = 1 << 20
_SMALLEST_ENTRY = 8 + 1 + 4 + 1  # bytes of a key and its value
_SMALLEST_TENSOR = 8 + 1 + 4 + 8 + 4 + 8


class TensorType(NamedTuple):
    """A storage format: `block_elems` consecutive elements of a row take `block_bytes` bytes."""

    name: str
    id: int
    block_elems: int
    block_bytes: int


# What the engine computes with. A row of a matrix is a whole number of blocks.
TYPES: dict[str, TensorType] = {
    kind.name: kind
    for kind in (
        TensorType("F32", 0, 1, 4),
        TensorType("F16", 1, 1, 2),
        TensorType("Q4_0", 2, 32, 18),
        TensorType("Q4_1", 3, 32, 20),
        TensorType("Q5_0", 6, 32, 22),
        TensorType("Q5_1", 7, 32, 24),
        TensorType("Q8_0", 8, 32, 34),
        TensorType("Q2_K", 10, 256, 84),
        TensorType("Q3_K", 11, 256, 110),
        TensorType("Q4_K", 12, 256, 144),
        TensorType("Q5_K", 13, 256, 176),
        TensorType("Q6_K", 14, 256, 210),
        TensorType("IQ2_XXS", 16, 256, 66),
        TensorType("IQ2_XS", 17, 256, 74),
        TensorType("IQ3_XXS", 18, 256, 98),
        TensorType("IQ4_NL", 20, 32, 18),
        TensorType("IQ3_S", 21, 256, 110),
        TensorType("IQ2_S", 22, 256, 82),
        TensorType("IQ4_XS", 23, 256, 136),
        TensorType("BF16", 30, 1, 2),
        TensorType("MXFP4", 39, 32, 17),
    )
}
_BY_ID = {kind.id: kind for kind in TYPES.values()}
# Types that exist and are refused by name.
_OTHERS = {
    **{4: "Q4_2", 5: "Q4_3", 9: "Q8_1", 15: "Q8_K", 19: "IQ1_S"},
    **dict(enumerate(("I8", "I16", "I32", "I64", "F64", "IQ1_M"), 24)),
    **{34: "TQ1_0", 35: "TQ2_0", 40: "NVFP4", 41: "Q1_0", 42: "Q2_0"},
}

_STRING, _ARRAY, _BOOL = 8, 9, 7
_VALUE_NAMES = {
    0: "uint8", 1: "int8", 2: "uint16", 3: "int16", 4: "uint32", 5: "int32", 6: "float32",
    7: "bool", 8: "string", 9: "array", 10: "uint64", 11: "int64", 12: "float64",
}  # fmt: skip
_NUMBERS = {
    index: np.dtype(name).newbyteorder("<")
    for index, name in _VALUE_NAMES.items()
    if name not in ("bool", "string", "array")
}
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


@dataclass(frozen=True)
class GgufTensor:
    """One row of the tensor table."""

    name: str
    dtype: str
    """The name of its type in `TYPES`."""
    shape: tuple[int, ...]
    """As NumPy has it, the last dimension being the one that lies together in memory (the file stores the reverse)."""
    begin: int
    end: int
    """[begin, end) in bytes after the file's `data_start`."""


@dataclass(frozen=True)
class GgufFile:
    """What stands before the tensors of a GGUF file. The getters check the type and range of a value.

    >>> import gemma4.gguf, pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "a.gguf")
    >>> gemma4.gguf.write_gguf(path, {"general.name": "a", "a.size": 3}, [])
    >>> file = read_gguf(path)
    >>> file.text("general.name"), file.integer("a.size"), len(file.tensors)
    ('a', 3, 0)
    """

    path: Path
    metadata: dict[str, Any] = field(repr=False)
    """int, float, bool, str, `_core.Strings`, or a NumPy array of numbers or truth values."""
    tensors: dict[str, GgufTensor] = field(repr=False)
    data_start: int
    alignment: int
    parts: tuple[GgufFile, ...] = field(default=(), repr=False)
    """Where the tensors lie in several files: each of them, the first being this one."""

    @property
    def containers(self) -> tuple[GgufFile, ...]:
        """The files with the tensors: the parts, or this one."""
        return self.parts or (self,)

    def error(self, key: str, problem: str) -> ModelFileError:
        return ModelFileError(f"{self.path}: {key}: {problem}")

    def integer(self, key: str, default: int | None = None, low: int = 0, high: int = (1 << 31) - 1) -> int:
        value = self._value(key, default)
        if type(value) is not int:
            raise self.error(key, f"expected an integer, found {_kind(value)}")
        if not low <= value <= high:
            raise self.error(key, f"expected {low} to {high}, found {value}")
        return value

    def real(self, key: str, default: float | None = None) -> float:
        return float(self.number(key, default))

    def number(self, key: str, default: float | None = None) -> int | float:
        value = self._value(key, default)
        if type(value) is not int and type(value) is not float:
            raise self.error(key, f"expected a number, found {_kind(value)}")
        if not math.isfinite(value):
            raise self.error(key, f"expected a finite number, found {value}")
        return value

    def boolean(self, key: str, default: bool | None = None) -> bool:
        value = self._value(key, default)
        if type(value) is not bool:
            raise self.error(key, f"expected true or false, found {_kind(value)}")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        value = self._value(key, default)
        if type(value) is not str:
            raise self.error(key, f"expected a string, found {_kind(value)}")
        return value

    def strings(self, key: str) -> _core.Strings:
        value = self._value(key, None)
        if not isinstance(value, _core.Strings):
            raise self.error(key, f"expected an array of strings, found {_kind(value)}")
        return value

    def array(self, key: str, kinds: str, count: int | None = None) -> NDArray[Any]:
        """An array whose elements are of one of NumPy's `kinds` ("i", "u", "b", "f"), with `count` of them if given."""
        value = self._value(key, None)
        if not isinstance(value, np.ndarray) or value.dtype.kind not in kinds:
            raise self.error(key, f"expected an array of {_KINDS[kinds]}, found {_kind(value)}")
        if count is not None and len(value) != count:
            raise self.error(key, f"expected {count} elements, found {len(value)}")
        return value

    def ids(self, key: str) -> list[int]:
        """An array of token ids."""
        values = self.array(key, "iu")
        if len(values) > _MOST_IDS:
            raise self.error(key, f"expected at most {_MOST_IDS} ids, found {len(values)}")
        return [int(value) for value in values]

    def per_layer(self, key: str, count: int, default: int | None = None) -> list[int]:
        """`count` integers, from an array or from one number that holds for all."""
        if not isinstance(self.metadata.get(key), np.ndarray):
            return [self.integer(key, default)] * count
        return [int(value) for value in self.array(key, "iu", count)]

    def _value(self, key: str, default: Any) -> Any:
        value = self.metadata.get(key, default)
        if value is None:
            raise self.error(key, "is missing")
        return value


_KINDS = {"iu": "integers", "b": "truth values", "biu": "truth values", "f": "floating-point numbers"}


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype.name}"
    if isinstance(value, _core.Strings):
        return "an array of strings"
    names = {bool: "a truth value", int: "an integer", float: "a number", str: "a string"}
    return names.get(type(value), type(value).__name__)


def read_gguf(path: str | os.PathLike[str]) -> GgufFile:
    """Read and check everything before the tensors, and where the tensors are.

    Raises:
        ModelFileError: not a GGUF file, truncated, malformed, or with a tensor type that the engine does not know; the
            message names the file, the key or tensor, and what was found.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise ModelFileError(f"{path}: {'is not a regular file' if path.exists() else 'does not exist'}")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(64)
            if is_lfs_pointer(head):
                raise ModelFileError(lfs_message(path))
            if len(head) < 24:
                raise ModelFileError(f"{path}: {len(head)} bytes are too few for a GGUF file")
            with mmap.mmap(file.fileno(), min(size, MAX_HEADER_BYTES), access=mmap.ACCESS_READ) as data:
                return _Reader(path, data, size).file()
    except (OSError, ValueError) as error:
        if isinstance(error, ModelFileError):
            raise
        raise ModelFileError(f"{path}: {error}") from error


class _Reader:
    """A position in the mapped header. Every read checks first that the bytes are there."""

    def __init__(self, path: Path, data: mmap.mmap, size: int) -> None:
        self._path = path
        self._data = data
        self._limit = len(data)
        self._size = size
        self._at = 0

    def file(self) -> GgufFile:
        tensor_count, entry_count = self._preamble()
        metadata = dict(self._entries(entry_count))
        alignment = self._alignment(metadata)
        table = [self._tensor(alignment) for _ in range(tensor_count)]
        data_start = -(-self._at // alignment) * alignment
        tensors = self._checked(table, data_start, alignment)
        return GgufFile(self._path, metadata, tensors, data_start, alignment)

    def _fail(self, problem: str) -> NoReturn:
        raise ModelFileError(f"{self._path}: {problem}")

    # -- the parts of the header ---------------------------------------------------------------------------------------

    def _preamble(self) -> tuple[int, int]:
        magic = self._take(4, "the header")
        if magic != MAGIC:
            self._fail(f"not a GGUF file: it begins with {magic!r}")
        version = self._u32("version")
        if version & 0xFFFF == 0 and version:
            self._fail("a big-endian GGUF file; only little-endian ones can be read")
        if version not in VERSIONS:
            self._fail(f"GGUF version {version} is not supported (2 and 3 are)")
        tensor_count, entry_count = self._u64("number of tensors"), self._u64("number of keys")
        self._fits(tensor_count, _SMALLEST_TENSOR, "tensors", MAX_TENSORS)
        self._fits(entry_count, _SMALLEST_ENTRY, "keys", MAX_KEYS)
        return tensor_count, entry_count

    def _entries(self, count: int) -> Iterator[tuple[str, Any]]:
        seen = set()
        for index in range(count):
            key = self._string(f"key {index}", MAX_KEY)
            if not key:
                self._fail(f"key {index} is empty")
            if key in seen:
                self._fail(f"the key {key[:80]!r} appears twice")
            seen.add(key)
            where = f"key {key[:80]!r}"
            kind = self._u32(where)
            yield key, self._array(where) if kind == _ARRAY else self._scalar(kind, where)

    def _alignment(self, metadata: dict[str, Any]) -> int:
        value = metadata.get("general.alignment", ALIGNMENT)
        if type(value) is not int:
            self._fail(f"general.alignment: expected an integer, found {_kind(value)}")
        if not 0 < value <= MAX_ALIGNMENT or value & (value - 1):
            self._fail(f"general.alignment: expected a power of two up to {MAX_ALIGNMENT}, found {value}")
        return value

    def _tensor(self, alignment: int) -> GgufTensor:
        name = self._string("the name of a tensor", MAX_NAME)
        where = f"tensor {name!r}"
        if not name or "\0" in name:
            self._fail(f"{where}: a name must have 1 to {MAX_NAME} bytes and no NUL")
        rank = self._u32(where)
        if not 1 <= rank <= MAX_RANK:
            self._fail(f"{where}: expected 1 to {MAX_RANK} dimensions, found {rank}")
        shape = tuple(self._u64(where) for _ in range(rank))[::-1]
        if 0 in shape:
            self._fail(f"{where}: a dimension of {list(shape)} is zero")
        kind = self._type(self._u32(where), where)
        if shape[-1] % kind.block_elems:
            self._fail(f"{where}: a row of {shape[-1]} is not a multiple of the {kind.block_elems} of {kind.name}")
        begin = self._u64(where)
        if begin % alignment:
            self._fail(f"{where}: begins at byte {begin}, which is not a multiple of the alignment {alignment}")
        end = begin + math.prod(shape) // kind.block_elems * kind.block_bytes
        return GgufTensor(name, kind.name, shape, begin, end)

    def _type(self, index: int, where: str) -> TensorType:
        if index not in _BY_ID:
            name = _OTHERS.get(index, f"number {index}")
            self._fail(f"{where}: type {name} is not supported (supported: {', '.join(TYPES)})")
        return _BY_ID[index]

    def _checked(self, table: list[GgufTensor], data_start: int, alignment: int) -> dict[str, GgufTensor]:
        """The table by name, once every tensor lies inside the file, and all bytes belong to one or are padding."""
        tensors: dict[str, GgufTensor] = {}
        for tensor in table:
            if tensor.name in tensors:
                self._fail(f"tensor {tensor.name!r} appears twice")
            tensors[tensor.name] = tensor
        at = 0
        for tensor in sorted(table, key=lambda tensor: tensor.begin):
            expected = -(-at // alignment) * alignment
            if tensor.begin != expected:
                self._fail(
                    f"tensor {tensor.name!r} begins at byte {tensor.begin} of the data, expected {expected} "
                    "(a gap or an overlap)"
                )
            at = tensor.end
            if data_start + at > self._size:
                self._fail(
                    f"tensor {tensor.name!r} ends at byte {data_start + at}, but the file has {self._size}: truncated?"
                )
        if self._size - min(data_start, self._size) - at >= alignment:
            self._fail(f"{self._size - data_start - at} bytes after the last tensor belong to none")
        return tensors

    # -- values --------------------------------------------------------------------------------------------------------

    def _scalar(self, kind: int, where: str) -> Any:
        if kind == _STRING:
            return self._string(where, MAX_CONFIG_BYTES)
        if kind == _BOOL:
            return self._truth(self._take(1, where), where)[0].item()
        if kind not in _NUMBERS:
            self._fail(f"{where}: there is no value type {kind}")
        dtype = _NUMBERS[kind]
        return np.frombuffer(self._take(dtype.itemsize, where), dtype)[0].item()

    def _array(self, where: str) -> Any:
        kind, count = self._u32(where), self._u64(where)
        if kind == _STRING:
            return self._strings(count, where)
        if kind == _ARRAY:
            self._fail(f"{where}: arrays of arrays are not supported")
        if kind == _BOOL:
            return self._truth(self._take(count, where), where)
        if kind not in _NUMBERS:
            self._fail(f"{where}: there is no value type {kind}")
        dtype = _NUMBERS[kind]
        return np.frombuffer(self._take(count * dtype.itemsize, where), dtype)

    def _truth(self, data: bytes, where: str) -> NDArray[np.bool_]:
        values = np.frombuffer(data, np.uint8)
        if values.size and values.max() > 1:
            self._fail(f"{where}: a truth value must be 0 or 1, found {values.max()}")
        return values.astype(bool)

    def _strings(self, count: int, where: str) -> _core.Strings:
        self._fits(count, 8, f"strings in {where}")
        # A vocabulary and its merges are most of a million strings, which become strings of Python's one by one only.
        read = _core.read_strings(self._data, self._at, count)
        if read is None:  # one is wrong: find out which
            return _core.Strings([self._string(f"{where}: string {index}") for index in range(count)])
        result, self._at = read
        return result

    def _string(self, where: str, most: int | None = None) -> str:
        length = self._u64(where)
        if most is not None and length > most:
            self._fail(f"{where}: {length} bytes long, at most {most} are allowed")
        try:
            return str(self._take(length, where), "utf-8")
        except UnicodeDecodeError as error:
            self._fail(f"{where}: a string is not UTF-8 ({error.reason})")

    def _u32(self, where: str) -> int:
        return int(_U32.unpack(self._take(4, where))[0])

    def _u64(self, where: str) -> int:
        return int(_U64.unpack(self._take(8, where))[0])

    def _take(self, count: int, where: str) -> bytes:
        end = self._at + count
        if end > self._limit:
            self._missing(self._at, count, where)
        data = self._data[self._at : end]
        self._at = end
        return data

    def _fits(self, count: int, smallest: int, what: str, most: int | None = None) -> None:
        if count * smallest > self._limit - self._at:
            self._fail(f"{count} {what} cannot fit in the {self._limit - self._at} bytes that follow")
        if most is not None and count > most:
            self._fail(f"{count} {what}, at most {most} are read")

    def _missing(self, at: int, count: int, where: str) -> NoReturn:
        if self._limit < self._size:
            self._fail(f"{where}: the header is longer than {MAX_HEADER_BYTES} bytes")
        self._fail(f"{where}: needs {count} bytes at byte {at}, but the file has {self._size}: truncated?")
