"""Scenes of the same domain as matplotlib draws them: a program that none of ours has a line in common with.

For measuring only. Colours by the names that plots use, patches with and without edges, markers as scatter plots have
them, on white, gray, dark, shaded and speckled grounds, between 400 and 1,500 pixels wide.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from PIL import Image
from scenes import Scene

NAMES = {
    "red": ["red", "tab:red", "r", "firebrick", "crimson"],
    "green": ["green", "tab:green", "g", "limegreen", "forestgreen"],
    "blue": ["blue", "tab:blue", "b", "royalblue", "mediumblue"],
    "yellow": ["yellow", "gold"],
    "purple": ["purple", "tab:purple", "darkviolet"],
    "orange": ["orange", "tab:orange", "darkorange"],
    "black": ["black", "k"],
    "white": ["white", "w"],
}
GROUNDS = ["white", "white", "whitesmoke", "lightgray", "#333333", "black", "ivory", "lightsteelblue"]
MARKERS = {"circle": "o", "square": "s", "triangle": "^", "star": "*"}
DPI = 100


def make_plotted_scene(rng: np.random.Generator) -> Scene:
    """One picture with 1 to 5 objects. Boxes are those of the outlines that matplotlib fills."""
    from matplotlib import colors
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width = int(rng.integers(400, 1500))
    height = int(width * rng.choice([0.5, 0.625, 0.75, 1.0, 1.33]))
    figure = Figure((width / DPI, height / DPI), dpi=DPI)
    canvas = FigureCanvasAgg(figure)
    axes: Any = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    ground = np.array(colors.to_rgb(GROUNDS[rng.integers(len(GROUNDS))]))
    figure.set_facecolor(tuple(ground))
    kind = ("plain", "plain", "gradient", "noisy")[rng.integers(4)]
    tones = [ground]
    if kind == "gradient":
        tones.append(np.clip(ground + rng.uniform(-0.25, 0.25, 3), 0, 1))
        ramp = np.linspace(0, 1, 64)[:, None, None] if rng.random() < 0.5 else np.linspace(0, 1, 64)[None, :, None]
        pixels = (tones[0] * (1 - ramp) + tones[1] * ramp) * np.ones((64, 64, 1))
    else:
        pixels = ground + rng.normal(0, rng.uniform(0.04, 0.1), (height, width, 3)) * (kind == "noisy")
    if kind != "plain":
        axes.imshow(
            np.clip(pixels, 0, 1), extent=(0, width, height, 0), aspect="auto",
            interpolation="bilinear" if kind == "gradient" else "nearest",
        )  # fmt: skip
    objects: list[tuple[str, tuple[float, float, float, float]]] = []
    with_edge, as_markers = rng.random() < 0.25, rng.random() < 0.3
    for _ in range(int(rng.integers(1, 6))):
        for _ in range(50):
            name, shape = list(NAMES)[rng.integers(len(NAMES))], list(MARKERS)[rng.integers(len(MARKERS))]
            fill = NAMES[name][rng.integers(len(NAMES[name]))]
            side = rng.uniform(0.12, 0.45) * min(width, height)
            x, y = rng.uniform(side / 2 + 2, width - side / 2 - 2), rng.uniform(side / 2 + 2, height - side / 2 - 2)
            apart = all(
                abs(x - (x1 + x2) / 2) > (side + x2 - x1) / 2 + 3 or abs(y - (y1 + y2) / 2) > (side + y2 - y1) / 2 + 3
                for _, (x1, y1, x2, y2) in objects
            )
            if apart and min(math.dist(colors.to_rgb(fill), tone) for tone in tones) > 0.5:
                draw = _marker if as_markers else _patch
                objects.append((f"{name} {shape}", draw(axes, shape, x, y, side, fill, with_edge and name != "black")))
                break
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
    objects.sort(key=lambda item: (item[1][1], item[1][0]))
    return Scene(image=image, objects=objects, background=kind)


def _patch(
    axes: Any, shape: str, x: float, y: float, side: float, fill: str, edge: bool
) -> tuple[float, float, float, float]:
    """A shape of `side` around (x, y), as it is drawn in a diagram, and its box."""
    from matplotlib import patches, path

    style = {"facecolor": fill, "edgecolor": "black" if edge else "none", "linewidth": 1.5}
    half = side / 2
    if shape == "circle":
        made: Any = patches.Circle((x, y), half, **style)
    elif shape == "square":
        made = patches.Rectangle((x - half, y - half), side, side, **style)
    else:  # in pixels y points down, and so does what matplotlib draws upright
        unit = path.Path.unit_regular_polygon(3) if shape == "triangle" else path.Path.unit_regular_star(5, 0.4)
        corners = unit.vertices[:-1] * (1, -1)
        low, high = corners.min(axis=0), corners.max(axis=0)
        made = patches.Polygon((corners - (low + high) / 2) * side / (high - low).max() + (x, y), **style)
    axes.add_patch(made)
    (x1, y1), (x2, y2) = made.get_extents().get_points()  # in pixels of the canvas, whose y points up
    height = axes.figure.bbox.height
    return float(x1), float(height - y2), float(x2), float(height - y1)


def _marker(
    axes: Any, shape: str, x: float, y: float, side: float, fill: str, edge: bool
) -> tuple[float, float, float, float]:
    """A marker as in a scatter plot: its size is given in points."""
    from matplotlib.markers import MarkerStyle

    axes.plot(
        [x], [y], MARKERS[shape], markersize=side * 72 / DPI, markerfacecolor=fill,
        markeredgecolor="black" if edge else fill, markeredgewidth=1.0,
    )  # fmt: skip
    marker = MarkerStyle(MARKERS[shape])
    outline = marker.get_path().transformed(marker.get_transform()).get_extents()
    (x1, y1), (x2, y2) = outline.get_points() * side * (1, -1) + (x, y)
    return float(x1), float(y2), float(x2), float(y1)
