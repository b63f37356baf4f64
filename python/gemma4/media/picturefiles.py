"""Encoded pictures and Pillow's own to upright RGB pixels.

Knows: Pillow, which formats are read. Must not know: paths, sizes that an encoder wants, arrays of a user.
Only what opens a picture imports this module: a text costs neither Pillow's memory nor its time.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from ..errors import MediaError
from .pixels import MAX_PIXELS, Pixels, float_pixels, reason

__all__ = ["from_pillow", "open_picture", "to_rgb", "upright_size"]

_USUAL = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
# Rasters that Pillow decodes by itself. None of those for which it runs another program (EPS, WMF), none that is a
# container for others or a stub. TGA comes last: it has no mark by which it is known.
_OTHERS = ("TIFF", "AVIF", "JPEG2000", "PPM", "ICO", "PCX", "QOI", "SGI", "DDS", "PSD", "TGA")
_TURNED = (5, 6, 7, 8)  # EXIF orientations that swap the sides


def open_picture(data: bytes, where: str, formats: tuple[str, ...] | None = None) -> Image.Image:
    """The header of a picture or an animation, nothing decoded; of several frames or pages the first.

    Raises:
        MediaError: it is none of `formats`, or is broken; names `where`.
    """
    if not data:
        raise MediaError(f"{where}: empty, 0 bytes")
    try:
        try:
            return Image.open(io.BytesIO(data), formats=formats or _USUAL)
        except UnidentifiedImageError:
            if formats is not None:
                raise
        Image.init()  # every format that this Pillow has
        return Image.open(io.BytesIO(data), formats=[name for name in _OTHERS if name in Image.OPEN])
    except UnidentifiedImageError:
        what = "looks like HTML, " if data.lstrip()[:1] == b"<" else ""
        known = ", ".join(formats or _USUAL + _OTHERS)
        raise MediaError(f"{where}: {what}not a picture that can be read ({known})") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):  # the latter where warnings are errors
        raise MediaError(f"{where}: more than {MAX_PIXELS} pixels") from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plugins raise almost anything on a broken file
        raise MediaError(f"{where}: {reason(error)}") from None


def from_pillow(picture: Image.Image, where: str) -> Pixels:
    width, height = picture.size
    if width < 1 or height < 1:
        raise MediaError(f"{where}: {width} x {height} pixels, an empty picture")
    if width * height > MAX_PIXELS:  # known from the header, before anything is decoded
        raise MediaError(f"{where}: {width} x {height} is more than {MAX_PIXELS} pixels")
    try:
        if getattr(picture, "is_animated", False) and picture.tell() != 0:
            picture = picture.copy()  # the frame that the caller chose; theirs is left as it is
        picture.load()
        if picture.width * picture.height > MAX_PIXELS:  # an icon's picture has a size of its own
            raise MediaError(f"{where}: {picture.width} x {picture.height} is more than {MAX_PIXELS} pixels")
        return np.asarray(to_rgb(_upright(picture), where))
    except (MediaError, MemoryError):
        raise
    except Exception as error:
        raise MediaError(f"{where}: {reason(error)}") from None


def upright_size(picture: Image.Image) -> tuple[int, int]:
    """(width, height) of a picture as it is shown, from its header."""
    width, height = picture.size
    if picture.format == "TIFF":  # of which Pillow turns the size already, or not, by its version
        width, height = (picture.tag_v2.get(tag, side) for tag, side in zip((256, 257), picture.size, strict=True))  # type: ignore[attr-defined]
    try:
        turned = picture.getexif().get(ExifTags.Base.Orientation) in _TURNED
    except Exception:  # a broken EXIF block says nothing about the pixels
        turned = False
    return (height, width) if turned else (width, height)


def _upright(picture: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # a broken EXIF block says nothing about the pixels
        return picture


def to_rgb(picture: Image.Image, where: str) -> Image.Image:
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return picture
    if picture.mode.startswith("I") or picture.mode == "F":
        return Image.fromarray(_eight_bits(np.asarray(picture), where)).convert("RGB")
    if "A" in picture.getbands() or "a" in picture.getbands() or picture.info.get("transparency") is not None:
        layer = picture.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return picture.convert("RGB")


def _eight_bits(values: NDArray[Any], where: str) -> Pixels:
    """Grey values of more than 8 bits: 16-bit integers by their high byte, floats from 0 to 1."""
    if values.dtype.kind == "f":
        return float_pixels(values, where)
    if values.min() < 0 or values.max() > 65_535:
        raise MediaError(f"{where}: grey values from {values.min()} to {values.max()}, expected 0 to 65535")
    wide = values.dtype.itemsize == 2 or values.max() > 255
    return np.asarray(np.rint(values / 257.0) if wide else values, dtype=np.uint8)
