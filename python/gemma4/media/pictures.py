"""Pictures from wherever they are to upright RGB pixels of the size that the vision encoder reads.

Knows: arrays, the soft-token budget, what a picture may be. Must not know: encoded pictures (`picturefiles`), tokens.
Everything that decodes a picture passes through :func:`load_image`, so its limits hold on every way in.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..errors import MediaError, RequestError
from .opening import read_source, to_array
from .pixels import MAX_PIXELS, Pixels, float_pixels, reason

__all__ = [
    "BUDGETS", "PICTURE_BUDGET", "PICTURE_SUFFIXES", "RESIZES", "check_budget", "check_resize", "load_image",
    "picture_size", "resize", "target_size",
]  # fmt: skip

BUDGETS = (70, 140, 280, 560, 1120)
"""Soft tokens that a picture may take at most."""
PICTURE_BUDGET = 280
RESIZES = ("torchvision", "pillow")
"""Whose arithmetic resizes pictures: the reference's `Gemma4ImageProcessor`, or its `Gemma4ImageProcessorPil`."""
PICTURE_SUFFIXES = frozenset({
    ".apng", ".avif", ".avifs", ".bmp", ".bw", ".dds", ".dib", ".gif", ".ico", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg",
    ".jpg", ".jpx", ".mpo", ".pbm", ".pcx", ".pfm", ".pgm", ".png", ".pnm", ".ppm", ".psd", ".qoi", ".rgb", ".sgi",
    ".tga", ".tif", ".tiff", ".webp",
})  # fmt: skip
"""How the names of picture files end, in lower case."""
_MOST_SIDE = 1 << 20


def load_image(source: Any, name: str = "image") -> Pixels:
    """A picture as (height, width, 3) uint8 RGB, upright, transparency laid on white.

    The reference does the same to a `PIL.Image.Image` with transparency. It differs with the way in: it turns files
    upright but no `PIL.Image.Image`, and drops the transparency of files that it decodes itself.

    Args:
        source: a path, a `data:` URL, bytes, an open binary file, a `PIL.Image.Image`, or an array: (H, W, 3),
            (H, W, 4) or (H, W), uint8 or float from 0 to 1, NumPy or anything with `__array__` or DLPack. A uint8
            array of shape (H, W, 3) is used in place. Files may be PNG, JPEG, WebP, GIF, BMP, TIFF, AVIF, JPEG 2000,
            PPM and its kin, ICO, PCX, QOI, SGI, DDS, PSD or TGA; of several frames or pages the first is read.
        name: what to call it in messages.

    Raises:
        MediaError: it cannot be read as a picture, has no pixels, or more than 89 million.
        RequestError: a URL, or a type that is none of the above.

    >>> load_image(np.zeros((2, 3), np.uint8)).shape
    (2, 3, 3)
    """
    from PIL import Image  # here, and so below: a text costs neither Pillow's memory nor its time

    from .picturefiles import from_pillow, open_picture

    if isinstance(source, Image.Image):
        return from_pillow(source, f"{name} (PIL image)")
    is_array = any(hasattr(source, way) for way in ("__array__", "__array_interface__", "__dlpack__"))
    if is_array and not isinstance(source, str):  # NumPy's own strings are both
        return _from_array(source, name)
    read = read_source(source, name, "image/png")
    if read is not None:
        return from_pillow(open_picture(*read), read[1])
    raise RequestError(
        f"{name}: expected a path, bytes, a PIL image or an array, found {type(source).__name__}"
        + (" (give each picture as its own item)" if isinstance(source, list | tuple) else "")
    )


def picture_size(source: Any, name: str = "image") -> tuple[int, int]:
    """(width, height) that :func:`load_image` would give a file, from its header alone.

    Raises:
        MediaError, RequestError: as :func:`load_image`, of a path, a `data:` URL, bytes or an open binary file.
    """
    from .picturefiles import open_picture, upright_size

    read = read_source(source, name, "image/png")
    if read is None:
        raise RequestError(f"{name}: expected a path or bytes, found {type(source).__name__}")
    with open_picture(*read) as picture:
        return upright_size(picture)


# ----------------------------------------------------------------------------------------------------------------------
# Size


def check_budget(value: Any, name: str = "max_soft_tokens") -> int:
    """One of 70, 140, 280, 560, 1120. Raises RequestError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value not in BUDGETS:
        raise RequestError(f"{name}: expected one of {', '.join(map(str, BUDGETS))}, found {str(value)[:40]}")
    return int(value)


def target_size(
    height: int, width: int, budget: int = PICTURE_BUDGET, patch: int = 16, pool: int = 3
) -> tuple[int, int]:
    """(height, width) in pixels to which a picture is resized: its aspect kept, as large as the budget allows.

    Args:
        height: of the picture, in pixels.
        width: of the picture, in pixels.
        budget: soft tokens at most; a small picture is scaled up until it fills them.
        patch: pixels on a side of a patch.
        pool: patches on a side of a soft token; both sides of the result are multiples of `patch * pool`.

    Raises:
        MediaError: a picture without pixels, or of an aspect that no size within the budget has.

    >>> target_size(480, 640), target_size(100, 100, budget=70)
    ((672, 912), (384, 384))
    """
    if height < 1 or width < 1:
        raise MediaError(f"a picture of {width} x {height} pixels is empty")
    cell = patch * pool
    pixels = budget * cell**2
    factor = math.sqrt(pixels / (height * width))
    rows, columns = math.floor(factor * height / cell), math.floor(factor * width / cell)
    if rows == 0 and columns == 0:
        raise MediaError(f"a picture of {width} x {height} pixels fits no grid of {budget} soft tokens")
    if rows == 0:
        rows, columns = 1, min(math.floor(width / height), budget)
    elif columns == 0:
        rows, columns = min(math.floor(height / width), budget), 1
    if rows * columns > budget:
        raise MediaError(f"a picture of {width} x {height} pixels fits no grid of {budget} soft tokens")
    return rows * cell, columns * cell


def check_resize(value: Any, name: str = "resize") -> str:
    """One of `RESIZES`. Raises RequestError otherwise."""
    if not isinstance(value, str) or value not in RESIZES:
        found = repr(value[:40]) if isinstance(value, str) else type(value).__name__
        raise RequestError(f"{name}: expected one of {', '.join(map(repr, RESIZES))}, found {found}")
    return value


def resize(pixels: Pixels, size: tuple[int, int], how: str = "torchvision") -> Pixels:
    """Bicubic with antialiasing on 8-bit RGB.

    Args:
        pixels: (H, W, 3) uint8.
        size: (height, width) wanted.
        how: whose arithmetic, one of `RESIZES`. Their results differ by a few levels of 255 at most, where there are
            edges: Pillow keeps more bits of each weight, and may begin with the other axis.

    Returns:
        (height, width, 3) uint8, bit for bit what `how` gives; `pixels` itself where it has that size already.

    Raises:
        MediaError: a side of more than 2^20 pixels, whose weights alone would fill the memory.

    >>> resize(np.full((5, 7, 3), 9, np.uint8), (48, 96)).shape
    (48, 96, 3)
    """
    height, width = size
    if pixels.shape[:2] == (height, width):
        return pixels
    if max(pixels.shape) > _MOST_SIDE:
        raise MediaError(f"a picture of {pixels.shape[1]} x {pixels.shape[0]} pixels is too long to resize")
    pixels = np.ascontiguousarray(pixels)
    if how == "torchvision":
        return _core.resample(pixels, height, width)
    from PIL import Image

    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))


# ----------------------------------------------------------------------------------------------------------------------
# Arrays


def _from_array(source: Any, name: str) -> Pixels:
    try:
        array = to_array(source)
    except Exception as error:
        raise MediaError(f"{name}: {type(source).__name__} cannot be read as an array: {reason(error)}") from None
    where = f"{name} (array of {array.dtype}, shape {array.shape})"
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        hint = "; move the channels last" if array.ndim == 3 and array.shape[0] in (1, 3, 4) else ""
        raise MediaError(f"{where}: expected (H, W, 3), (H, W, 4) or (H, W){hint}")
    if array.size == 0:
        raise MediaError(f"{where}: an empty picture")
    if array.shape[0] * array.shape[1] > MAX_PIXELS:
        raise MediaError(f"{where}: more than {MAX_PIXELS} pixels")
    array = _array_bytes(array, where)
    if array.ndim == 2:
        return np.ascontiguousarray(np.broadcast_to(array[:, :, None], (*array.shape, 3)))
    if array.shape[2] == 4:
        from PIL import Image

        from .picturefiles import to_rgb

        return np.asarray(to_rgb(Image.fromarray(np.ascontiguousarray(array), "RGBA"), where))
    return np.ascontiguousarray(array)


def _array_bytes(array: NDArray[Any], where: str) -> Pixels:
    kind = array.dtype.kind
    if array.dtype == np.uint8:
        return array
    if kind == "b":
        mask: Pixels = array.astype(np.uint8) * np.uint8(255)
        return mask
    if kind in "iu":
        if array.min() < 0 or array.max() > 255:
            raise MediaError(f"{where}: values from {array.min()} to {array.max()}, expected 0 to 255")
        return array.astype(np.uint8, copy=False)
    if kind == "f" or array.dtype.name == "bfloat16":
        return float_pixels(array, where)
    raise MediaError(f"{where}: expected uint8, or float from 0 to 1")
