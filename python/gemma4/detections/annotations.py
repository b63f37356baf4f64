"""Pictures with what a file says is on them, before it is compared with the pictures.

Knows: labels, boxes in pixels, how large a picture is. Must not know: formats of files, evaluation.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import RequestError
from .detections import Detections
from .sizes import inside, upright_size

__all__ = ["AnnotatedObject", "AnnotatedPicture", "Annotations"]


@dataclass(frozen=True)
class AnnotatedObject:
    """An object as its file has it."""

    label: str
    xyxy: tuple[float, ...]
    """In pixels; it may leave the picture."""
    where: str
    """Names it in messages."""
    score: float = 1.0
    crowd: bool = False
    """A region of many such objects (COCO's `iscrowd`)."""


@dataclass(frozen=True)
class AnnotatedPicture:
    """A picture as its file has it."""

    name: str
    where: str
    """What says so, named in messages: an entry of a COCO file, or the file of a picture's labels."""
    size: tuple[int, int] | None
    """(width, height), where it is known."""
    path: Path | None = None
    """Of the picture, where it is known."""
    objects: list[AnnotatedObject] = field(default_factory=list)

    def detections(self, clip: bool, crowds: bool = True, folder: str | os.PathLike[str] | None = None) -> Detections:
        """Raises RequestError for a box that leaves the picture, unless `clip`, and where nothing says how large the
        picture is, nor in which folder."""
        size = self._sized(folder)
        rows = [
            {"label": one.label, "xyxy": inside(one.xyxy, size, clip, one.where), "score": one.score}
            for one in self.objects
            if crowds or not one.crowd
        ]
        return Detections.from_dicts(rows, size)

    def _sized(self, folder: str | os.PathLike[str] | None) -> tuple[int, int]:
        if self.size is not None:
            return self.size
        if folder is None:
            raise RequestError(f"{self.where}: width: missing, expected an integer; or give the folder as images=")
        return upright_size(os.path.join(folder, self.name))


@dataclass(frozen=True)
class Annotations:
    """What a file, or a folder of files, holds."""

    labels: tuple[str, ...]
    """Of all classes that there are."""
    pictures: list[AnnotatedPicture]
    folder: Path
    """Where the file lies; of YOLO, the one that the pictures are in."""
