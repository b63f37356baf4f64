"""What a result keeps of its picture, so that a notebook can show it: where it is, or little of what it looks like.

Knows: Pillow, files. Must not know: what was found. A photograph of 12 megapixels is 36 MB of pixels, and a pipeline
keeps thousands of results: nothing here holds the pixels of a caller's picture, unless he gives the picture to keep.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..errors import RequestError
from ..media import load_image

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Kept", "Preview", "as_kept", "kept_picture", "opened"]

PREVIEW_SIDE = 640
"""Pixels of the longer side of a preview at most."""
_QUALITY = 75


@dataclass(frozen=True)
class Preview:
    """A small JPEG of a picture: tens of kilobytes, independent of what it was made from."""

    jpeg: bytes

    @classmethod
    def of(cls, pixels: NDArray[np.uint8]) -> Preview:
        """Of (height, width, 3) RGB pixels, which are only read."""
        from PIL import Image

        longer = max(pixels.shape[:2])
        # Every so many pixels of a large picture, twice as many as are shown, then their averages: no pass over all.
        step = max(1, longer // (2 * PREVIEW_SIDE))
        picture = Image.fromarray(np.ascontiguousarray(pixels[::step, ::step]))
        if max(picture.size) > PREVIEW_SIDE:
            picture = picture.reduce(-(-max(picture.size) // PREVIEW_SIDE))
        file = BytesIO()
        picture.save(file, "JPEG", quality=_QUALITY)
        return cls(file.getvalue())

    def __repr__(self) -> str:
        return f"Preview({len(self.jpeg)} bytes)"


Kept: TypeAlias = "str | Preview | Image"
"""A path, a preview, or the picture itself."""


def kept_picture(source: Any, pixels: NDArray[np.uint8], keep: bool = False) -> Kept:
    """What a result keeps of a picture that was given as `source` and read as `pixels`.

    Args:
        source: what the caller gave. Of a path only the path is kept.
        pixels: (height, width, 3) uint8 RGB.
        keep: keep the whole picture, as a copy of the pixels.

    >>> kept_picture("photo.jpg", np.zeros((30, 40, 3), np.uint8))
    'photo.jpg'
    >>> kept_picture(None, np.zeros((30, 40, 3), np.uint8), keep=True).size
    (40, 30)
    """
    if keep:
        from PIL import Image

        return Image.fromarray(np.array(pixels))
    return path if (path := _path(source)) is not None else Preview.of(pixels)


def as_kept(image: Any) -> Kept | None:
    """What a caller gives as the picture of a result. Raises RequestError for what is neither picture nor path."""
    if image is None or isinstance(image, Preview):
        return image
    if (path := _path(image)) is not None:
        return path
    from PIL import Image

    if isinstance(image, Image.Image):
        return image
    raise RequestError(f"image: expected a PIL.Image or a path, found {type(image).__name__}")


def opened(kept: Kept) -> Any:
    """What :func:`gemma4.media.load_image` takes for what was kept."""
    return kept.jpeg if isinstance(kept, Preview) else kept


def pixels_of(source: Any) -> Image:
    """A new upright RGB picture from whatever :func:`gemma4.media.load_image` takes; it raises what that raises."""
    from PIL import Image

    return Image.fromarray(load_image(source))


def _path(source: Any) -> str | None:
    if not isinstance(source, str | os.PathLike):
        return None
    text = os.fsdecode(source)
    return None if text[:5].lower() == "data:" else text
