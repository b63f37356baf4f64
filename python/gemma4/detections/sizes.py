"""How large a picture is, and which boxes are in it.

Knows: picture files, numbers. Must not know: formats of annotations.
"""

from __future__ import annotations

import os

from ..errors import RequestError
from ..media import picture_size

__all__ = ["inside", "upright_size"]

_MARGIN = 0.01  # of the side: what annotators' tools and rounding put outside


def upright_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(width, height) in pixels of a picture as it is shown. Raises MediaError naming a file that is none."""
    return picture_size(path, os.fspath(path))


def inside(
    box: tuple[float, ...], size: tuple[int, int], clip: bool, where: str, hint: str = "; clip=True cuts it"
) -> tuple[float, ...]:
    """``(x1, y1, x2, y2)`` cut off at the edges of a picture.

    Raises:
        RequestError: a box that leaves it by more than a pixel or a hundredth of its side, without `clip`; and one that
            lies outside altogether.
    """
    sides = (*size, *size)
    cut = tuple(min(max(value, 0.0), float(side)) for value, side in zip(box, sides, strict=True))
    shown = "[" + ", ".join(f"{value:g}" for value in box) + "]"
    picture = f"{size[0]} x {size[1]} pixels"
    if box[0] > size[0] or box[1] > size[1] or box[2] < 0 or box[3] < 0:
        raise RequestError(f"{where}: {shown} (x1, y1, x2, y2) lies outside the picture of {picture}")
    far = any(abs(a - b) > max(1.0, _MARGIN * side) for a, b, side in zip(box, cut, sides, strict=True))
    if far and not clip:
        raise RequestError(f"{where}: {shown} (x1, y1, x2, y2) leaves the picture of {picture}{hint}")
    return cut
