"""Scenes of the same domain drawn another way, to see whether the demo model learnt shapes or one program's habits.

Plain Pillow calls as somebody in a hurry would write them: named colours, no smoothing, circles by `ellipse`, squares
by `rectangle`, upright triangles, five-pointed stars whose box is that of their tips.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageColor, ImageDraw
from scenes import Scene

SHADES = {
    "red": ["red", "crimson", "firebrick", "#d62728", (220, 40, 40)],
    "green": ["green", "limegreen", "forestgreen", "#2ca02c", (0, 170, 60)],
    "blue": ["blue", "royalblue", "mediumblue", "#1f77b4", (40, 80, 220)],
    "yellow": ["yellow", "gold", (240, 220, 30), (255, 230, 0)],
    "purple": ["purple", "darkviolet", "darkorchid", "#9467bd", (128, 0, 160)],
    "orange": ["orange", "darkorange", "#ff7f0e", (255, 140, 0)],
    "black": ["black", (15, 15, 15), (5, 5, 10)],
    "white": ["white", "snow", (250, 250, 250)],
}
GROUNDS = [
    "white",
    "lightgray",
    "gray",
    "black",
    "#222831",
    "beige",
    "lightblue",
    "#e8f5e9",
    "navy",
    "darkgreen",
    "pink",
]


def make_other_scene(rng: np.random.Generator, size: tuple[int, int] | None = None) -> Scene:
    """One picture with 1 to 6 objects."""
    if size is None:
        choices = [(320, 240), (640, 480), (800, 600), (1024, 768), (1600, 1200), (480, 640), (600, 600), (1280, 720)]
        choices += [(900, 300), (300, 900), (1200, 500), (500, 800)]
        size = choices[rng.integers(len(choices))]
    width, height = size
    short = min(size)
    ground = _rgb(GROUNDS[rng.integers(len(GROUNDS))])
    kind = ("plain", "gradient", "noisy")[rng.integers(3)]
    canvas = np.full((height, width, 3), ground, np.float64)
    end = ground
    if kind == "gradient":
        end = tuple(int(np.clip(v + rng.integers(-60, 61), 0, 255)) for v in ground)
        ramp = (
            np.linspace(0, 1, height)[:, None, None] if rng.random() < 0.5 else np.linspace(0, 1, width)[None, :, None]
        )
        canvas = np.array(ground) * (1 - ramp) + np.array(end) * ramp + 0 * canvas
    elif kind == "noisy":
        canvas = canvas + rng.normal(0, rng.uniform(8, 28), canvas.shape)
    image = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    objects: list[tuple[str, tuple[float, float, float, float]]] = []
    for _ in range(int(rng.integers(1, 7))):
        for _ in range(50):
            color, shape = list(SHADES)[rng.integers(8)], ("circle", "square", "triangle", "star")[rng.integers(4)]
            fill = _rgb(SHADES[color][rng.integers(len(SHADES[color]))])
            side = int(rng.uniform(0.12, 0.45 if len(objects) > 1 else 0.6) * short)
            x, y = int(rng.integers(0, width - side)), int(rng.integers(0, height - side))
            apart = all(
                x + side < b[0] + 0.1 * side
                or b[2] < x + 0.1 * side
                or y + side < b[1] + 0.1 * side
                or b[3] < y + 0.1 * side
                for _, b in objects
            )
            if apart and min(math.dist(fill, ground), math.dist(fill, end)) > 110:
                edge = (0, 0, 0) if rng.random() < 0.15 and color != "black" else None
                objects.append((f"{color} {shape}", _paint(draw, shape, x, y, side, fill, edge)))
                break
    objects.sort(key=lambda item: (item[1][1], item[1][0]))
    return Scene(image=image, objects=objects, background=kind)


def _rgb(color: str | tuple[int, int, int]) -> tuple[int, int, int]:
    return ImageColor.getrgb(color)[:3] if isinstance(color, str) else color


def _paint(
    draw: ImageDraw.ImageDraw,
    shape: str,
    x: int,
    y: int,
    side: int,
    fill: tuple[int, int, int],
    edge: tuple[int, int, int] | None,
) -> tuple[float, float, float, float]:
    box = (float(x), float(y), float(x + side), float(y + side))
    if shape == "circle":
        draw.ellipse(box, fill=fill, outline=edge)
    elif shape == "square":
        draw.rectangle(box, fill=fill, outline=edge)
    elif shape == "triangle":
        draw.polygon([(x + side / 2, y), (x + side, y + side), (x, y + side)], fill=fill, outline=edge)
    else:
        center, radius = (x + side / 2, y + side / 2), side / 2
        turns = [-math.pi / 2 + i * math.pi / 5 for i in range(10)]
        radii = [radius if i % 2 == 0 else radius * 0.4 for i in range(10)]
        points = [(center[0] + r * math.cos(t), center[1] + r * math.sin(t)) for r, t in zip(radii, turns, strict=True)]
        draw.polygon(points, fill=fill, outline=edge)
        xs, ys = [p[0] for p in points], [p[1] for p in points]
        box = (min(xs), min(ys), max(xs), max(ys))
    return box
