"""Writes GGUF files: metadata, the table of tensors, then the tensors one piece at a time.

Knows: the container. Must not know: what a key or a tensor means, or how its bytes are made.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..errors import RequestError
from ..replacing import replacing
from .container import ALIGNMENT, MAGIC, MAX_NAME, TYPES

__all__ = ["PlannedTensor", "write_gguf"]

_ARRAY = 9
_TYPE_IDS = {
    "uint8": 0, "int8": 1, "uint16": 2, "int16": 3, "uint32": 4, "int32": 5, "float32": 6,
    "bool": 7, "string": 8, "uint64": 10, "int64": 11, "float64": 12,
}  # fmt: skip


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor to be written. Its bytes are asked for when its turn comes."""

    name: str
    dtype: str
    """A name in `gguf.TYPES`."""
    shape: tuple[int, ...]
    """As NumPy has it; the last dimension is a whole number of blocks."""
    pieces: Callable[[], Iterator[NDArray[Any]]]
    """C-contiguous arrays whose bytes, joined, are the tensor's."""

    @property
    def nbytes(self) -> int:
        kind = TYPES[self.dtype]
        return math.prod(self.shape) // kind.block_elems * kind.block_bytes


def write_gguf(
    path: str | os.PathLike[str],
    metadata: Mapping[str, Any],
    tensors: Sequence[PlannedTensor],
    progress: Callable[[int], object] | None = None,
) -> None:
    """Write a file, version 3, little endian, alignment 32.

    Args:
        path: where it shall be; an existing file is replaced once the new one is complete.
        metadata: key to value. A str, bool, list of str, `_core.Strings`, or NumPy scalar or array has its own type in
            the file; an int becomes uint32 and a float float32.
        tensors: in the order of the file.
        progress: called with the number of bytes of every piece written.

    Raises:
        RequestError: a value that the format cannot express, or a tensor whose pieces do not add up to its shape.
        OSError: the file cannot be written; nothing is left behind.
    """
    header = _header(metadata, tensors)
    with replacing(path) as file:
        file.write(header)
        for tensor in tensors:
            _write_tensor(file, tensor, progress)


def _write_tensor(file: BinaryIO, tensor: PlannedTensor, progress: Callable[[int], object] | None) -> None:
    written = 0
    for piece in tensor.pieces():
        view = np.ascontiguousarray(piece).view(np.uint8).reshape(-1).data
        file.write(view)
        written += len(view)
        if progress is not None:
            progress(len(view))
    if written != tensor.nbytes:
        raise RequestError(f"tensor {tensor.name}: {written} bytes were made, {tensor.nbytes} are needed")
    file.write(bytes(-written % ALIGNMENT))


def _header(metadata: Mapping[str, Any], tensors: Sequence[PlannedTensor]) -> bytes:
    parts = [MAGIC, struct.pack("<IQQ", 3, len(tensors), len(metadata))]
    for key, value in metadata.items():
        parts += [_string(key), _value(key, value)]
    offset = 0
    for tensor in tensors:
        if not 1 <= len(tensor.name.encode()) <= MAX_NAME:
            raise RequestError(f"tensor {tensor.name[:80]}: a name must have 1 to {MAX_NAME} bytes")
        kind = TYPES[tensor.dtype]
        if tensor.shape[-1] % kind.block_elems:
            raise RequestError(
                f"tensor {tensor.name}: a row of {tensor.shape[-1]} is no multiple of {kind.block_elems}"
            )
        parts += [_string(tensor.name), struct.pack("<I", len(tensor.shape))]
        parts += [struct.pack("<Q", size) for size in reversed(tensor.shape)]
        parts.append(struct.pack("<IQ", kind.id, offset))
        offset += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
    header = b"".join(parts)
    return header + bytes(-len(header) % ALIGNMENT)


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(key: str, value: Any) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", _TYPE_IDS["string"]) + _string(value)
    if isinstance(value, list | _core.Strings):
        if not all(isinstance(item, str) for item in value):
            raise RequestError(f"{key}: a list must hold strings; give numbers as a NumPy array")
        head = struct.pack("<IIQ", _ARRAY, _TYPE_IDS["string"], len(value))
        return head + b"".join(map(_string, value))
    array = np.asarray(value)
    if not isinstance(value, np.ndarray | np.generic):
        array = array.astype({bool: np.bool_, int: np.uint32, float: np.float32}[type(value)])
        if isinstance(value, int) and int(array) != value:
            raise RequestError(f"{key}: {value} is not an unsigned 32-bit integer; give a NumPy scalar")
    kind = _TYPE_IDS.get(array.dtype.name)
    if kind is None or array.ndim > 1:
        raise RequestError(f"{key}: a GGUF file cannot hold {array.dtype} of shape {array.shape}")
    data = array.astype(array.dtype.newbyteorder("<")).tobytes()
    return struct.pack("<I", kind) + data if array.ndim == 0 else struct.pack("<IIQ", _ARRAY, kind, array.size) + data
