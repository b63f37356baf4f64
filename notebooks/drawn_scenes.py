"""Pictures for the notebooks, with the truth about them: circles, squares, triangles and stars, as the bundled model
knows them. Knows: Pillow, chance. Must not know: models.

>>> picture, objects = scene(seed=1, count=3)
>>> picture.size, len(objects)
((640, 480), 3)
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from PIL import Image, ImageDraw

__all__ = ["COLOURS", "SHAPES", "Objects", "scene"]

COLOURS = {
    "red": (214, 39, 40), "green": (44, 160, 44), "blue": (40, 80, 220), "yellow": (250, 210, 20),
    "purple": (128, 0, 160), "orange": (255, 127, 14),
}  # fmt: skip
SHAPES = ("circle", "square", "triangle", "star")
GROUNDS = ("white", "beige", "lightgray", "#222831", "lightblue")
Objects = list[tuple[str, tuple[float, float, float, float]]]


def scene(
    seed: int,
    count: int = 4,
    sides: tuple[float, float] = (0.15, 0.35),
    size: tuple[int, int] = (640, 480),
    labels: Sequence[str] | None = None,
) -> tuple[Image.Image, Objects]:
    """A picture and what is on it, as `(label, (x1, y1, x2, y2))` in pixels; the same for the same arguments.

    Args:
        seed: of chance.
        count: objects at most; one that finds no free place is left out.
        sides: least and most side of an object, as shares of the shorter side of the picture.
        size: (width, height) in pixels.
        labels: what may be on it, such as `"red circle"`; None for every colour and shape.
    """
    known = list(labels) if labels is not None else [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
    chance = random.Random(seed)
    picture = Image.new("RGB", size, chance.choice(GROUNDS))
    pen = ImageDraw.Draw(picture)
    objects: Objects = []
    for _ in range(20 * count):
        if len(objects) == count:
            break
        side = chance.uniform(*sides) * min(size)
        left, top = chance.uniform(0, size[0] - side), chance.uniform(0, size[1] - side)
        box = (round(left), round(top), round(left + side), round(top + side))
        label = chance.choice(known)
        if all(_apart(box, other) for _, other in objects):
            colour, shape = label.split()
            objects.append((label, _paint(pen, shape, box, COLOURS[colour])))
    return picture, objects


def _apart(box: tuple[int, ...], other: tuple[float, ...], gap: int = 4) -> bool:
    return box[2] + gap < other[0] or other[2] + gap < box[0] or box[3] + gap < other[1] or other[3] + gap < box[1]


def _paint(
    pen: ImageDraw.ImageDraw, shape: str, box: tuple[int, int, int, int], fill: tuple[int, int, int]
) -> tuple[float, float, float, float]:
    """The box of what was painted."""
    x1, y1, x2, y2 = box
    if shape == "circle":
        pen.ellipse(box, fill)
    elif shape == "square":
        pen.rectangle(box, fill)
    elif shape == "triangle":
        pen.polygon([((x1 + x2) / 2, y1), (x2, y2), (x1, y2)], fill)
    else:
        middle, radius = ((x1 + x2) / 2, (y1 + y2) / 2), (x2 - x1) / 2
        turns = [(radius if i % 2 == 0 else 0.4 * radius, (i / 5 - 0.5) * math.pi) for i in range(10)]
        points = [(middle[0] + far * math.cos(turn), middle[1] + far * math.sin(turn)) for far, turn in turns]
        pen.polygon(points, fill)
        across, down = zip(*points, strict=True)
        return min(across), min(down), max(across), max(down)
    return float(x1), float(y1), float(x2), float(y2)
