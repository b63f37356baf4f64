"""Frames, dots and label tags on a picture, with Pillow alone.

Knows: pixels, fonts, colours. Must not know: what an object is, files of results.
Every function that draws takes an RGB picture that it may change, never one that a user passed. Sizes follow the
picture's shorter side, edges are smooth, and every tag stays inside the picture.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont, ImageOps

from ..errors import RequestError

Color = tuple[int, int, int]
Rect = tuple[int, int, int, int]  # left, top, right, bottom in pixels, right and bottom not included

_PALETTE = (
    *("#ff3355", "#1e88ff", "#10b95f", "#ff8a00", "#a855f7", "#00b4cc", "#f02fc2", "#7cb518"),
    *("#5b5ff0", "#f2b400", "#0fa396", "#ff6242", "#2aa6f0", "#ff5fa2", "#7c3aed", "#c2410c"),
)
_FILL = 18  # opacity of the inside of a frame, of 255: enough to tie it to its object, too little to tint it
_HALO = 190  # opacity of the white line around a frame, which keeps it visible on its own colour
_SMOOTH = 4  # samples along each side of a pixel for small round shapes


@dataclass(frozen=True)
class Style:
    """How to draw; None follows the picture's size."""

    line_width: int | None = None
    font_size: int | None = None
    font: Any = None
    show_scores: bool = False
    colors: dict[str, Any] = field(default_factory=dict)


def draw_boxes(picture: Image.Image, found: Any, style: Style) -> Image.Image:
    """``picture`` with a frame and a tag for each of ``found``; the largest lie below the others."""
    scale_x, scale_y = (ours / theirs for ours, theirs in zip(picture.size, found.image_size, strict=True))
    line = _positive(style.line_width, "line_width") or max(2, round(min(picture.size) / 170))
    colors = label_colors(found.labels, style.colors)
    items = sorted(found, key=lambda item: -(item.xyxy[2] - item.xyxy[0]) * (item.xyxy[3] - item.xyxy[1]))
    frames = []
    for item in items:
        x1, y1, x2, y2 = item.xyxy
        frame = _frame_rect((x1 * scale_x, y1 * scale_y, x2 * scale_x, y2 * scale_y), picture.size, line)
        edge = max(1, line // 3)
        _draw_frame(picture, _grown(frame, edge, picture.size), line + 2 * edge, (255, 255, 255), _HALO, 0)
        _draw_frame(picture, frame, line, colors[item.label], 255, _FILL)
        frames.append((item, frame))
    tags = _Tags(picture, style)
    for item, frame in frames:
        tags.draw(item, frame, colors[item.label], gap=-line)
    return picture


def draw_points(picture: Image.Image, found: Any, style: Style) -> Image.Image:
    """``picture`` with a dot and a tag for each of ``found``."""
    scale_x, scale_y = (ours / theirs for ours, theirs in zip(picture.size, found.image_size, strict=True))
    colors = label_colors(found.labels, style.colors)
    radius = max(4, round(min(picture.size) / 80))
    rects = []
    for item in found:
        x, y = item.xy[0] * scale_x, item.xy[1] * scale_y
        for grow, color in ((1.05, (40, 40, 40)), (0.95, (255, 255, 255)), (0.65, colors[item.label])):
            _draw_dot(picture, (x, y), radius * grow, color)
        rects.append((item, (round(x) - radius, round(y) - radius, round(x) + radius, round(y) + radius)))
    tags = _Tags(picture, style)
    for item, rect in rects:
        tags.draw(item, rect, colors[item.label], gap=max(2, radius // 3))
    return picture


def label_colors(labels: Iterable[str], given: dict[str, Any]) -> dict[str, Color]:
    """A colour for each label: the one given, or one that the label keeps from picture to picture.

    Only where two labels of one picture would get the same colour does one of them take the next.
    """
    colors: dict[str, Color] = {}
    taken: set[int] = set()
    for label in sorted(set(labels)):
        if label in given:
            try:
                color = given[label]
                colors[label] = ImageColor.getrgb(color)[:3] if isinstance(color, str) else tuple(map(int, color))[:3]  # type: ignore[assignment]
            except (TypeError, ValueError):
                raise RequestError(f"the colour of {label!r} is not one: {given[label]!r}") from None
            continue
        slot = zlib.crc32(label.encode("utf-8", "replace")) % len(_PALETTE)
        while slot in taken and len(taken) < len(_PALETTE):
            slot = (slot + 1) % len(_PALETTE)
        taken.add(slot)
        colors[label] = ImageColor.getrgb(_PALETTE[slot])[:3]
    return colors


def _positive(value: int | None, name: str) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise RequestError(f"{name} must be a positive number of pixels, not {value!r}")
    return value


# ---------------------------------------------------------------------------------------------------------------------
# Frames and dots


def _frame_rect(xyxy: Sequence[float], size: tuple[int, int], line: int) -> Rect:
    """The outer edge of a frame whose line runs along the box's edge, kept inside the picture."""
    left, top = (max(0, min(round(xyxy[i]) - line // 2, size[i] - 1)) for i in (0, 1))
    right, bottom = (min(size[i], max(round(xyxy[i + 2]) + line // 2, (left, top)[i] + 1)) for i in (0, 1))
    return left, top, right, bottom


def _grown(rect: Rect, by: int, size: tuple[int, int]) -> Rect:
    return max(0, rect[0] - by), max(0, rect[1] - by), min(size[0], rect[2] + by), min(size[1], rect[3] + by)


def _draw_frame(picture: Image.Image, rect: Rect, line: int, color: Color, opacity: int, fill: int) -> None:
    """A rounded frame of ``line`` pixels just inside ``rect``, its inside covered with opacity ``fill``."""
    width, height = rect[2] - rect[0], rect[3] - rect[1]
    mask = Image.new("L", (width, height), opacity)
    if width > 2 * line and height > 2 * line:
        mask.paste(fill, (line, line, width - line, height - line))
    radius = min(3 * line, min(width, height) // 2)
    if radius > line:
        corner = _corner(radius, line, opacity, fill)
        for flip, place in (
            (corner, (0, 0)),
            (ImageOps.mirror(corner), (width - radius, 0)),
            (ImageOps.flip(corner), (0, height - radius)),
            (ImageOps.flip(ImageOps.mirror(corner)), (width - radius, height - radius)),
        ):
            mask.paste(flip, place)
    picture.paste(color, rect, mask)


def _corner(radius: int, line: int, opacity: int, fill: int) -> Image.Image:
    """The smooth top left corner of a frame, (radius, radius), from the distance of each pixel to the arc's centre."""
    offset = radius - (np.arange(radius) + 0.5)
    distance = np.hypot(offset[:, None], offset[None, :])
    outer = np.clip(radius - distance + 0.5, 0, 1)
    inner = np.clip(radius - line - distance + 0.5, 0, 1)
    return Image.fromarray(np.rint(opacity * (outer - inner) + fill * inner).astype(np.uint8))


def _draw_dot(picture: Image.Image, center: tuple[float, float], radius: float, color: Color) -> None:
    reach = int(radius) + 2
    left, top = int(center[0]) - reach, int(center[1]) - reach
    x, y = np.arange(2 * reach) + 0.5 + left - center[0], np.arange(2 * reach) + 0.5 + top - center[1]
    cover = np.clip(radius - np.hypot(y[:, None], x[None, :]) + 0.5, 0, 1)
    picture.paste(
        color, (left, top, left + 2 * reach, top + 2 * reach), Image.fromarray(np.rint(255 * cover).astype(np.uint8))
    )


# ---------------------------------------------------------------------------------------------------------------------
# Tags


class _Tags:
    """Writes label tags on one picture and keeps them apart."""

    def __init__(self, picture: Image.Image, style: Style) -> None:
        self.picture, self.style = picture, style
        self.placed: list[Rect] = []
        self.size = _positive(style.font_size, "font_size") or max(12, min(44, round(min(picture.size) / 30)))
        self.fonts: dict[bool, Any] = {}

    def draw(self, item: Any, rect: Rect, color: Color, gap: int) -> None:
        """The tag of ``item`` at ``rect``, ``gap`` pixels away from it or, when negative, over its line."""
        label = "".join(c if c.isprintable() else " " for c in item.label).strip()
        score = f" {item.score:.2f}" if self.style.show_scores else ""
        font = self._font(label)
        pad, room = max(3, round(self.size * 0.38)), self.picture.size
        text = _fitted(label, score, font, room[0] - 2 * pad)
        ascent, descent = font.getmetrics() if hasattr(font, "getmetrics") else (self.size, self.size // 4)
        width, height = round(font.getlength(text)) + 2 * pad, ascent + descent + max(2, pad // 3)
        if not text or width > room[0] or height > room[1]:
            return
        place = self._place(rect, width, height, gap)
        mask = Image.new("L", (width * _SMOOTH, height * _SMOOTH))
        shape = (0, 0, mask.width - 1, mask.height - 1)
        ImageDraw.Draw(mask).rounded_rectangle(shape, radius=round(self.size * 0.28) * _SMOOTH, fill=245)
        self.picture.paste(color, place, mask.resize((width, height), Image.Resampling.BOX))
        at = (place[0] + pad, place[1] + (height - ascent - descent) / 2)
        ImageDraw.Draw(self.picture).text(at, text, fill=_ink(color), font=font)

    def _place(self, rect: Rect, width: int, height: int, gap: int) -> Rect:
        """Above the object if there is room, else where the tag covers the least of the other tags."""
        left, top, right, bottom = rect
        wanted = (
            *((left, top - height - gap), (left, top), (right - width, top - height - gap)),
            *((left, bottom + gap), (right - width, top), (left, bottom - height), (right - width, bottom + gap)),
        )
        best, least = (0, 0, width, height), float("inf")
        for rank, (x, y) in enumerate(wanted):
            inside = max(0, min(x, self.picture.width - width)), max(0, min(y, self.picture.height - height))
            place = (*inside, inside[0] + width, inside[1] + height)
            moved = abs(inside[0] - x) * 0.2 + abs(inside[1] - y)
            cost = rank + moved * height + sum(_overlap(place, other) for other in self.placed)
            if cost < least:
                best, least = place, cost
        self.placed.append(best)
        return best

    def _font(self, label: str) -> Any:
        """Pillow's own font writes ASCII; for anything else a common system font is tried."""
        if self.style.font is not None:
            return _given_font(self.style.font, self.size)
        plain = label.isascii()
        if plain not in self.fonts:
            self.fonts[plain] = ImageFont.load_default(self.size) if plain else _system_font(self.size)
        return self.fonts[plain]


def _given_font(font: Any, size: int) -> Any:
    if not isinstance(font, str | os.PathLike):
        return font
    try:
        return ImageFont.truetype(os.fspath(font), size)
    except OSError as error:
        raise RequestError(f"cannot read the font {os.fspath(font)!r}: {error}") from error


def _system_font(size: int) -> Any:
    for name in ("NotoSansCJK-Regular.ttc", "msyh.ttc", "Arial Unicode.ttf", "DejaVuSans.ttf", "arial.ttf"):
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)


def _fitted(label: str, score: str, font: Any, room: int) -> str:
    """``label`` and ``score``, the label shortened to fit into ``room`` pixels; empty if nothing fits."""
    if font.getlength(label[:500] + score) <= room and len(label) <= 500:
        return label + score
    for length in range(min(len(label), 500) - 1, 0, -1):
        text = label[:length].rstrip() + "..." + score
        if font.getlength(text) <= room:
            return text
    return ""


def _overlap(a: Rect, b: Rect) -> int:
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


def _ink(color: Color) -> Color:
    """White or near-black, whichever has the greater contrast with ``color``."""
    red, green, blue = ((c / 255) ** 2.2 for c in color)
    return (255, 255, 255) if 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.36 else (20, 20, 20)
