"""One thing to ask about, and which of them a task has a use for.

Knows: kinds of media, endings of files. Must not know: where an item comes from, what is asked about it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..media import PICTURE_SUFFIXES

__all__ = ["KINDS", "SUFFIXES", "Item", "Wanted", "clean", "medium_of"]

SUFFIXES = {
    "image": tuple(sorted(PICTURE_SUFFIXES)),
    "audio": (".flac", ".mp3", ".oga", ".ogg", ".opus", ".wav"),
    "video": (".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"),
}
"""Of the files that a folder is searched for."""
KINDS = tuple(SUFFIXES)


@dataclass(frozen=True)
class Wanted:
    """What a task has a use for."""

    kinds: tuple[str, ...]
    """Of `"image"`, `"audio"` and `"video"`; a video is taken apart into frames where pictures are wanted and none."""
    fps: float | None = None
    """Frames a second of a video; None for 1."""
    column: str | None = None
    """The field of a row that holds the picture or sound, if it is not called so."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Of the files that are taken from a folder."""
        frames = SUFFIXES["video"] if "image" in self.kinds else ()
        return (*(suffix for kind in self.kinds for suffix in SUFFIXES[kind]), *frames)


@dataclass(frozen=True)
class Item:
    """One thing to ask about."""

    id: str | int
    """Where it comes from, or what its row calls it."""
    path: str | None = None
    given: Mapping[str, Any] = field(default_factory=dict)
    """`image`, `audio` or `video`, as the library takes them; `labels`, `prompt`, `messages` of its own."""
    seconds: float | None = None
    """Of a frame of a video."""
    error: Exception | None = None
    """Why there is nothing to ask about."""


def clean(text: str) -> str:
    """`text` as UTF-8 can write it: names of files may hold any bytes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def medium_of(suffix: str, wanted: Wanted) -> str:
    """What a file is, by its name; what the task is about if that says nothing."""
    return next((kind for kind in wanted.kinds if suffix.lower() in SUFFIXES[kind]), wanted.kinds[0])
