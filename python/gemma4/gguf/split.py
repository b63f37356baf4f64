"""GGUF files in several parts, as `llama-gguf-split` writes them.

Knows: the names and the keys of parts. Must not know: what other keys or a tensor mean.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from ..errors import ModelFileError
from .container import GgufFile, GgufTensor, read_gguf
from .filenames import parts_of

__all__ = ["read_split"]

_COUNT, _NUMBER, _TENSORS = "split.count", "split.no", "split.tensors.count"


def read_split(path: str | os.PathLike[str]) -> GgufFile:
    """A GGUF file, or all parts of one, whichever of them is named: the keys of the first, the tensors of all.

    Raises:
        ModelFileError: as :func:`gemma4.gguf.read_gguf`, of any part; one that is missing, or not what its name says.
    """
    named = read_gguf(path)
    count = named.integer(_COUNT, 1, high=(1 << 16) - 1)
    if count < 2:
        return named
    names = parts_of(named.path.name)
    if len(names) != count or named.path.name not in names:
        raise named.error(
            _COUNT, f"one of several parts, whose names have to end in -00001-of-{count:05d}.gguf and so on"
        )
    parts = tuple(_part(named.path.with_name(name), named) for name in names)
    for index, part in enumerate(parts):
        if part.integer(_COUNT, 1) != count:
            raise part.error(_COUNT, f"a part of another file: expected {count}, found {part.metadata.get(_COUNT)}")
        if part.integer(_NUMBER) != index:
            raise part.error(_NUMBER, f"expected {index}, found {part.metadata[_NUMBER]}: another part under this name")
    tensors = _joined(parts)
    expected = parts[0].integer(_TENSORS)
    if len(tensors) != expected:
        raise parts[0].error(_TENSORS, f"{expected} are said to be in all parts, {len(tensors)} are")
    return replace(parts[0], tensors=tensors, parts=parts)


def _part(path: Path, named: GgufFile) -> GgufFile:
    if path.name == named.path.name:
        return named
    if not path.exists():
        raise ModelFileError(
            f"{path}: does not exist; {named.path.name} is one of several parts, which must be together"
        )
    return read_gguf(path)


def _joined(parts: tuple[GgufFile, ...]) -> dict[str, GgufTensor]:
    joined: dict[str, GgufTensor] = {}
    for part in parts:
        twice = joined.keys() & part.tensors.keys()
        if twice:
            raise ModelFileError(
                f"{part.path}: tensor {min(twice)!r} is in an earlier part too: a part of another file"
            )
        joined |= part.tensors
    return joined
