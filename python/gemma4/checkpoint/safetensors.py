"""The tensors of a directory: safetensors, alone or in shards, as the engine's tensor store.

Knows: the header, shards. Must not know: where files come from, what a tensor is for.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..errors import ModelFileError, RequestError
from ..jsonfile import is_lfs_pointer, is_text, lfs_message, parse_object, present, read_json, type_name
from ..links import open_inside
from ..replacing import replacing
from . import quantized
from .hub import INDEX, MAX_INDEX_BYTES, SINGLE

__all__ = ["open_file", "open_tensors", "read_header", "write_file"]

MAX_HEADER_BYTES = 10_000_000
MAX_TENSORS = 1 << 16  # each takes microseconds; room for experts apart, with their scales
MAX_NAME = 1024
_VALUES = ("F32", "F16", "BF16")


def open_tensors(directory: Path, quants: bool = False) -> _core.TensorStore:
    """Map the tensors of a checkpoint, after checking every header against the size of its file.

    Args:
        directory: where they are, in one file or several.
        quants: they may be packed, as its config.json says.

    Raises:
        ModelFileError: a file is missing, truncated or malformed; names the file and the tensor.
    """
    store = _core.TensorStore()
    index = directory / INDEX
    if present(index):
        weight_map = _read_index(index)
        for shard in sorted(set(weight_map.values())):
            found = _add_file(store, directory / shard, quants)
            expected = {name for name, file in weight_map.items() if file == shard}
            _check_shard(directory / shard, expected, found)
    elif present(directory / SINGLE):
        _add_file(store, directory / SINGLE, quants)
    else:
        raise ModelFileError(f"{directory}: neither {SINGLE} nor {INDEX} is there")
    store.validate()
    return store


def open_file(path: Path, quants: bool = False) -> _core.TensorStore:
    """The tensors of one file alone; arguments and errors as :func:`open_tensors`."""
    store = _core.TensorStore()
    _add_file(store, path, quants)
    store.validate()
    return store


def write_file(path: Path, arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> None:
    """Write arrays of bytes or of float32, beside the path, and give it its name when it is whole.

    Raises:
        OSError: it cannot be written; nothing is left behind.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, array in arrays.items():
        begin, end = end, end + array.nbytes
        dtype = {"uint8": "U8", "float32": "F32"}[array.dtype.name]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [begin, end]}
    head = json.dumps(header, ensure_ascii=False).encode()
    if len(head) > MAX_HEADER_BYTES:
        raise RequestError(f"{path}: a header of {len(head)} bytes, at most {MAX_HEADER_BYTES} are read again")
    with replacing(path) as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for array in arrays.values():
            file.write(np.ascontiguousarray(array).data)


def _read_index(path: Path) -> dict[str, str]:
    weight_map = read_json(path, MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelFileError(f"{path}: weight_map: expected an object of tensor to file, found {type_name(weight_map)}")
    if len(weight_map) > MAX_TENSORS:
        raise ModelFileError(f"{path}: weight_map: {len(weight_map)} tensors, at most {MAX_TENSORS} are read")
    for name, file in weight_map.items():
        # A plain name only: a path could lead out of the checkpoint.
        if not isinstance(file, str) or not re.fullmatch(r"[A-Za-z0-9][\w.-]*\.safetensors", file, re.ASCII):
            raise ModelFileError(
                f"{path}: weight_map: tensor {name[:80]!r}: expected the name of a .safetensors file beside this one, "
                f"found {str(file)[:80]!r}"
            )
    return weight_map


def _check_shard(path: Path, expected: set[str], found: set[str]) -> None:
    missing, extra = sorted(expected - found), sorted(found - expected)
    if missing:
        raise ModelFileError(f"{path}: {_first(missing)} in {INDEX} but not in the file")
    if extra:
        raise ModelFileError(f"{path}: {_first(extra)} in the file but not listed for it in {INDEX}")


def _first(names: list[str]) -> str:
    shown = ", ".join(name[:80] for name in names[:5])
    return f"{len(names)} tensor{'s' if len(names) > 1 else ''} ({shown}{', …' if len(names) > 5 else ''})"


def _add_file(store: _core.TensorStore, path: Path, quants: bool) -> set[str]:
    """Add one safetensors file to the store; returns the names of its tensors. `quants`: it may hold packed ones."""
    header, data_start = read_header(path)
    header.pop("__metadata__", None)
    file = store.add_file(str(path), data_start)
    for name, entry in header.items():
        dtype, shape, begin, end = _entry(path, name, entry)
        if dtype not in _VALUES and not (quants and dtype in quantized.QUANTS):
            hint = "" if quants else "; config.json has no quantization_config that says what else it is"
            raise ModelFileError(
                f"{path}: tensor {name[:80]!r}: dtype {dtype} is not supported (expected {', '.join(_VALUES)}){hint}"
            )
        store.add(name, dtype, shape, file, begin, end)
    return set(header)


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The JSON header of a safetensors file, and the byte where the tensors begin.

    Raises:
        ModelFileError: too short, a length that the file does not have, not strict JSON, a git-LFS pointer.
    """
    try:
        with open_inside(path) as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(64)
            if is_lfs_pointer(head):
                raise ModelFileError(lfs_message(path))
            if size < 10:
                raise ModelFileError(f"{path}: {size} bytes are too few for safetensors")
            length = int.from_bytes(head[:8], "little")
            if not 2 <= length <= MAX_HEADER_BYTES or length > size - 8:
                raise ModelFileError(
                    f"{path}: not safetensors, or truncated: the header's length is given as {length} bytes, "
                    f"the file has {size}"
                )
            file.seek(8)
            data = file.read(length)
    except OSError as error:
        raise ModelFileError(f"{path}: {error.strerror or error}") from error
    if len(data) != length or not data.startswith(b"{"):
        raise ModelFileError(f"{path}: not safetensors: the header is not a JSON object")
    header = parse_object(data, f"{path}: header")
    if len(header) > MAX_TENSORS:
        raise ModelFileError(f"{path}: header: {len(header)} tensors, at most {MAX_TENSORS} are read")
    metadata = header.get("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ModelFileError(f"{path}: header: __metadata__: expected an object of strings")
    return header, 8 + length


def _entry(path: Path, name: str, entry: Any) -> tuple[str, list[int], int, int]:
    """dtype, shape, begin and end of a header entry, checked for type; the engine checks them against the file."""
    where = f"{path}: tensor {name[:80]!r}"
    if not name or len(name) > MAX_NAME or "\0" in name or not is_text(name):
        raise ModelFileError(f"{where}: a name must have 1 to {MAX_NAME} characters, no NUL and no half of one")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ModelFileError(f"{where}: expected dtype, shape and data_offsets, found {_keys(entry)}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str):
        raise ModelFileError(f"{where}: dtype: expected a string, found {type_name(dtype)}")
    if not _is_sizes(shape):
        raise ModelFileError(f"{where}: shape: expected an array of sizes, found {json.dumps(shape)[:60]}")
    if not _is_sizes(offsets) or len(offsets) != 2:
        raise ModelFileError(f"{where}: data_offsets: expected [begin, end], found {json.dumps(offsets)[:60]}")
    return dtype[:40], shape, offsets[0], offsets[1]


def _is_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 64 for item in value)


def _keys(entry: Any) -> str:
    return ", ".join(sorted(map(str, entry)))[:80] if isinstance(entry, dict) else type_name(entry)
