"""From what a user names to a checkpoint on this machine.

Knows: which of the two kinds a name stands for. Must not know: what is in it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..errors import ModelFileError
from . import places
from .directory import DirectoryCheckpoint
from .files import Checkpoint
from .ggufs import open_gguf

__all__ = ["open_checkpoint", "resolve"]


def open_checkpoint(source: str | os.PathLike[str], revision: str | None = None, mmproj: Any = None) -> Checkpoint:
    """A directory or a GGUF file; arguments and errors as :func:`places.find`."""
    place = places.find(source, revision, mmproj)
    return open_gguf(place.path, place.encoders, place.beside) if place.gguf else DirectoryCheckpoint(place.path)


def resolve(source: str | os.PathLike[str], revision: str | None = None) -> Path:
    """The directory of a checkpoint with safetensors; arguments and errors as :func:`places.find`.

    >>> resolve("demo").name
    'demo_model'
    """
    place = places.find(source, revision)
    if place.gguf:
        raise ModelFileError(f"{place.path}: expected a directory with config.json and safetensors, found a GGUF file")
    return place.path
