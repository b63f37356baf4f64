"""A picture with what became of its objects drawn on it.

Knows: outcomes, pixels, JPEG. Must not know: figures, HTML.
"""

from __future__ import annotations

from base64 import b64encode
from io import BytesIO
from typing import TYPE_CHECKING, Any

from ..detections import Detections
from .outcomes import Box, Kind, Outcome, PictureOutcome

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["COLORS", "jpeg_base64", "overlay"]

COLORS: dict[Kind, str] = {"right": "#12945a", "wrong": "#e07b00", "missed": "#d92b3a", "invented": "#8a3ffc"}
_SIDE = 480  # pixels of the longer side in a report
_FONT = 15
_QUALITY = 82


def overlay(pixels: Any, picture: PictureOutcome, side: int | None = _SIDE) -> Image:
    """The picture, at most `side` pixels long, with a box for each outcome in the colour of its kind: the found box
    where there is one, else the true one."""
    from PIL import Image

    image = Image.fromarray(pixels)
    width, height = image.size
    if side is not None:
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
    pairs, colors = [], {}
    for one in picture.outcomes:
        box = _within(one.found_box or one.box, (width, height))
        if box is not None:
            name = _named(one)
            pairs.append((name, box))
            colors[name] = COLORS[one.kind]
    return Detections.from_xyxy(pairs, (width, height)).draw(
        image, colors=colors, font_size=max(_FONT, min(image.size) // 40)
    )


def _named(one: Outcome) -> str:
    if one.kind == "right":
        return f"{one.label} {one.score or 0:.2f}"
    if one.kind == "missed":
        return f"missed: {one.label}"
    if one.kind == "invented":
        return f"invented: {one.found_label} {one.score or 0:.2f}"
    return f"wrong: {one.found_label} {one.score or 0:.2f}, is {one.label}"


def _within(box: Box | None, size: tuple[int, int]) -> Box | None:
    """What of a box lies on the picture."""
    if box is None:
        return None
    left, top, right, bottom = max(0.0, box[0]), max(0.0, box[1]), min(size[0], box[2]), min(size[1], box[3])
    return (left, top, right, bottom) if left < right and top < bottom else None


def jpeg_base64(image: Image) -> str:
    file = BytesIO()
    image.save(file, "JPEG", quality=_QUALITY)
    return b64encode(file.getvalue()).decode("ascii")
