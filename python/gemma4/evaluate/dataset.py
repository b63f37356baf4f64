"""Pictures with the objects that are truly on them.

Knows: pictures, boxes in several units. Must not know: where they come from (`loading`, `readers`), models, metrics.
"""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..boxes import shown, to_pixels
from ..detections import inside
from ..errors import MediaError, RequestError
from ..media import Pixels, load_image
from .cache import AnswerCache

__all__ = ["Dataset", "Sample", "Truth", "four"]


@dataclass(frozen=True)
class Truth:
    """An object as its file has it."""

    label: str
    box: tuple[float, float, float, float]
    """`x1, y1, x2, y2` in pixels, or `y1, x1, y2, x2` on the grid."""
    where: str
    """Names it in messages."""
    unit: str = "pixels"
    """`"pixels"` or `"grid"`."""
    crowd: bool = False
    """A region of many such objects, which need not be found one by one (COCO's `iscrowd`)."""


@dataclass(frozen=True)
class Sample:
    """A picture and its objects."""

    name: str
    image: Any = field(repr=False)
    """Anything that :func:`gemma4.media.load_image` takes."""
    objects: tuple[Truth, ...]
    size: tuple[int, int] | None = None
    """(width, height) that the boxes were drawn for, where the file says it."""

    def pixels(self) -> Pixels:
        """(height, width, 3) uint8. Raises MediaError naming the picture."""
        return load_image(self.image, self.name)

    def identity(self, cache: AnswerCache) -> tuple[str, tuple[int, int]]:
        """A digest of the decoded pixels, and (width, height); a file that was seen before is not opened."""
        path = Path(self.image) if isinstance(self.image, str | os.PathLike) else None
        if path is None or not path.is_file():
            holds = _seen(self.pixels())
        else:
            holds = cache.of_file("pixels", path, lambda _: _seen(self.pixels()))
        width, height = holds["size"]
        return holds["digest"], (width, height)

    def truth(self, size: tuple[int, int]) -> list[tuple[Truth, tuple[float, float, float, float]]]:
        """Each object with its `xyxy` in pixels of the picture, which has this (width, height).

        Raises:
            MediaError: the file says another size.
            RequestError: a box that is inverted, empty, not finite, or outside.
        """
        if self.size is not None and self.size != size:
            raise MediaError(
                f"{self.name}: the annotations are for {self.size[0]} x {self.size[1]} pixels, the picture has "
                f"{size[0]} x {size[1]} (upright, as its EXIF orientation says)"
            )
        return [(one, _placed(one, size)) for one in self.objects]


@dataclass(frozen=True)
class Dataset:
    """Samples with the labels that may be on them.

    >>> from PIL import Image
    >>> from gemma4.evaluate import load_dataset
    >>> dataset = load_dataset([(Image.new("RGB", (64, 48)), [("cat", [1, 2, 30, 40])])])
    >>> dataset.labels, len(dataset.samples), dataset.samples[0].name
    (('cat',), 1, 'picture 0')
    """

    name: str
    samples: tuple[Sample, ...] = field(repr=False)
    labels: tuple[str, ...]
    closed: bool = False
    """Whether the file lists its labels, so that any other is a mistake."""


def four(value: Any, where: str) -> tuple[float, float, float, float]:
    """Four finite numbers."""
    try:
        numbers = [float(number) for number in value]
    except (TypeError, ValueError):
        numbers = []
    if isinstance(value, str) or len(numbers) != 4 or not all(map(math.isfinite, numbers)):
        raise RequestError(f"{where}: expected four finite numbers, found {shown(value)}")
    return (numbers[0], numbers[1], numbers[2], numbers[3])


def _placed(one: Truth, size: tuple[int, int]) -> tuple[float, float, float, float]:
    if one.unit == "grid":
        left, top, right, bottom = (float(number) for number in to_pixels(np.array(one.box), size))
    else:
        left, top, right, bottom = one.box
    if not (left < right and top < bottom):
        raise RequestError(f"{one.where}: {one.label!r}: an empty or inverted box: {shown(list(one.box))}")
    return four(inside((left, top, right, bottom), size, False, f"{one.where}: {one.label!r}", hint=""), one.where)


def _seen(pixels: Pixels) -> dict[str, Any]:
    found = hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=20)
    found.update(f"{pixels.shape}".encode())
    return {"digest": found.hexdigest(), "size": [pixels.shape[1], pixels.shape[0]]}
