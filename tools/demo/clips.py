"""Short clips in which one shape moves: for training as patches, for measuring as pictures.

A clip is a few frames of one scene. Knows how scenes are drawn; nothing of tokens or models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scenes
from dataset import BUDGETS, CELL, PATCH, POOL, grid_of, to_patches
from PIL import Image
from scenes import COLORS, SHAPES, SceneOptions, random_size

BUDGET = BUDGETS[0]  # soft tokens of a frame
MOST_FRAMES = 4
MOST_OBJECTS = 4
DIRECTIONS = ("left", "right", "up", "down")

RECORD = np.dtype(
    [
        ("grid", np.uint8, 2),  # columns, rows of cells
        ("count", np.uint8),
        ("shape", np.uint8, MOST_OBJECTS),
        ("color", np.uint8, MOST_OBJECTS),
        ("mover", np.int8),  # index of the object that moves, or -1
        ("direction", np.uint8),
        ("patches", np.uint8, (MOST_FRAMES, BUDGET * POOL * POOL, PATCH * PATCH * 3)),
    ]
)


@dataclass(frozen=True)
class Clip:
    """Frames in order, evenly apart, and what happens in them."""

    frames: list[Image.Image]
    labels: list[str]  # what is seen, "red circle"; no two are the same
    mover: int  # index of the one that moves, -1 if nothing does
    direction: str


def make_clip(rng: np.random.Generator, size: tuple[int, int] | None = None, frames: int = MOST_FRAMES) -> Clip:
    """Draw a clip; in one of ten nothing moves."""
    while True:
        clip = _try_clip(rng, size or random_size(rng), frames)
        if clip:
            return clip


def _try_clip(rng: np.random.Generator, size: tuple[int, int], frames: int) -> Clip | None:
    width, height = size
    options = SceneOptions(extent=(0.14, 0.42), unique=True, overlap=0.0)
    canvas, tones = scenes._background(rng, width, height, scenes.BACKGROUNDS[rng.integers(3)])
    places = scenes._place(rng, int(rng.integers(1, MOST_OBJECTS + 1)), width, height, [], options)
    moves = rng.random() < 0.9
    direction = DIRECTIONS[rng.integers(4)]
    index = int(rng.integers(len(places)))
    path = _path(rng, places, index, size, direction) if moves else np.zeros((2,))
    if path is None:
        return None
    aliased, style = rng.random() < 0.35, (rng.random() < options.outline, rng.random() < 0.15)
    used: set[str] = set()
    drawn = []
    for center, extent in places:
        label, rgb = scenes._choose_label(rng, tones, options, used)
        if label is None:
            return None
        used.add(label)
        drawn.append((label, rgb, scenes._polygon(rng, label.split()[1], center, extent, options.rotation)))
    seed, grain = int(rng.integers(1 << 31)), rng.random() < 0.15
    images = []
    for step in range(frames):
        image = Image.fromarray(canvas)
        for number, (_, rgb, polygon) in enumerate(drawn):
            shift = path * (step / max(1, frames - 1)) if number == index else 0.0
            # the same generator for every frame, so that only the place changes
            scenes._draw(np.random.default_rng([seed, number]), image, polygon + shift, rgb, aliased, style)
        images.append(scenes._noise(rng, image, 6) if grain else image)
    return Clip(images, [label for label, _, _ in drawn], index if moves else -1, direction)


def _path(
    rng: np.random.Generator,
    places: list[tuple[tuple[float, float], float]],
    index: int,
    size: tuple[int, int],
    direction: str,
) -> np.ndarray | None:
    """How far (x, y) the object goes without touching another or leaving the picture; None if there is no room."""
    axis, sign = (0, -1) if direction == "left" else (0, 1) if direction == "right" else (1, -1)
    if direction == "down":
        sign = 1
    (x, y), extent = places[index]
    here, half = np.array([x, y]), extent / 2 + 2
    low, high = 0.16 * size[axis], 0.7 * size[axis]
    room = (size[axis] - half - here[axis]) if sign > 0 else here[axis] - half
    for other, (place, reach) in enumerate(places):
        if other == index:
            continue
        ahead = sign * (place[axis] - here[axis])
        if ahead > 0 and abs(place[1 - axis] - here[1 - axis]) < half + reach / 2:
            room = min(room, ahead - half - reach / 2)
    if room < low:
        return None
    path = np.zeros(2)
    path[axis] = sign * rng.uniform(low, min(high, room))
    return path


def to_record(clip: Clip) -> np.ndarray:
    """One `RECORD`."""
    record = np.zeros((), RECORD)
    columns, rows = grid_of(*clip.frames[0].size)
    record["grid"], record["count"] = (columns, rows), len(clip.labels)
    for index, label in enumerate(clip.labels):
        color, shape = label.split()
        record["color"][index], record["shape"][index] = COLORS.index(color), SHAPES.index(shape)
    record["mover"], record["direction"] = clip.mover, DIRECTIONS.index(clip.direction)
    for step, frame in enumerate(clip.frames):
        record["patches"][step, : columns * rows * POOL * POOL] = to_patches(frame, columns, rows)
    return record


def draw_record(rng: np.random.Generator) -> np.ndarray:
    """A clip at a size that costs little to draw."""
    width, height = random_size(rng)
    columns, rows = grid_of(width, height)
    scale = math.sqrt(columns * rows * CELL * CELL / (width * height)) * math.exp(rng.uniform(0.1, 0.6))
    return to_record(make_clip(rng, (max(96, round(width * scale)), max(96, round(height * scale)))))
