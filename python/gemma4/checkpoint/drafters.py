"""From what a user names as a drafter to its config and its tensors.

Knows: which of the two kinds of files a name stands for. Must not know: what is in them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from .. import _core, gguf
from . import places
from .directory import DirectoryCheckpoint
from .files import Settings

__all__ = ["DrafterFiles", "open_drafter"]


class DrafterFiles(NamedTuple):
    """A drafter that is on this machine."""

    name: str
    """What messages call it."""
    config: Settings
    """As config.json."""
    store: _core.TensorStore
    """Its tensors, under the names of the published directories."""


def open_drafter(source: Any) -> DrafterFiles:
    """A directory or a GGUF file; arguments and errors as :func:`places.find`."""
    place = places.find(source, mmproj=False)
    if not place.gguf:
        files = DirectoryCheckpoint(place.path)
        return DrafterFiles(str(files), files.config(), files.tensors(integers=True))
    file = gguf.read_split(place.path)
    found = file.text("general.architecture")
    if found not in gguf.DRAFTERS:
        raise file.error("general.architecture", f"expected a drafter, {gguf.DRAFTERS[0]!r}, found {found[:40]!r}")
    store = _core.TensorStore()
    rope = gguf.register_drafter(store, file)
    config = Settings(gguf.drafter_config(file, rope), f"{file.path}: config.json")
    return DrafterFiles(str(file.path), config, store)
