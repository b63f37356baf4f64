"""Scenes drawn ahead of training, stored as the patches the vision encoder reads plus dense truth for every cell.

A cell is the square of pooled patches behind one soft token. Patches are stored cell by cell, so that pooling is a mean
over an axis, and every picture is padded to the budget, so that one array holds all aspects.

    python dataset.py OUT --shards 10 --count 4000
"""

from __future__ import annotations

import functools
import math

import numpy as np
from PIL import Image, ImageDraw
from scenes import BACKGROUNDS, COLORS, LETTERS, SHAPES, Scene, SceneOptions, make_scene, random_size
from shards import shard_arguments, write_shards

PATCH = 16  # pixels
POOL = 2  # patches
BUDGET = 70  # soft tokens
CELL = PATCH * POOL
MAX_OBJECTS = 6

RECORD = np.dtype(
    [
        ("grid", np.uint8, 2),  # columns, rows of cells
        ("count", np.uint8),
        ("shape", np.uint8, MAX_OBJECTS),
        ("color", np.uint8, MAX_OBJECTS),
        ("box", np.float32, (MAX_OBJECTS, 4)),  # x1, y1, x2, y2 in 0..1
        ("cell", np.int8, BUDGET),  # index of the object a cell shows, or -1
        ("letter", np.int8, BUDGET),  # index of the letter whose centre lies in the cell, or -1
        ("background", np.uint8),
        ("word", "U40"),
        ("patches", np.uint8, (BUDGET * POOL * POOL, PATCH * PATCH * 3)),
    ]
)


def grid_of(width: int, height: int, budget: int = BUDGET) -> tuple[int, int]:
    """Columns and rows of cells that a picture is resized to (the reference's rule)."""
    factor = math.sqrt(budget * CELL * CELL / (width * height))
    columns, rows = int(factor * width / CELL), int(factor * height / CELL)
    if rows == 0:
        columns, rows = min(width // height, budget), 1
    elif columns == 0:
        columns, rows = 1, min(height // width, budget)
    return columns, rows


def to_patches(image: Image.Image, columns: int, rows: int) -> np.ndarray:
    """Resize and cut: (columns * rows * POOL * POOL, PATCH * PATCH * 3) uint8, cell by cell."""
    pixels = np.asarray(image.resize((columns * CELL, rows * CELL), Image.Resampling.BICUBIC))
    pixels = pixels.reshape(rows, POOL, PATCH, columns, POOL, PATCH, 3).transpose(0, 3, 1, 4, 2, 5, 6)
    return pixels.reshape(rows * columns * POOL * POOL, PATCH * PATCH * 3)


@functools.cache
def patch_positions(columns: int, rows: int) -> np.ndarray:
    """(patches, 2) x and y of each stored patch."""
    y, x = np.mgrid[0 : rows * POOL, 0 : columns * POOL]
    order = np.stack([x, y], axis=-1).reshape(rows, POOL, columns, POOL, 2).transpose(0, 2, 1, 3, 4)
    return np.ascontiguousarray(order.reshape(-1, 2))


def cells_of(scene: Scene, columns: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """For every cell the object it shows best and the letter centred in it, -1 for none."""
    scale = np.array([columns * CELL / scene.image.width, rows * CELL / scene.image.height])
    seen = Image.new("L", (columns * CELL, rows * CELL), 0)
    draw = ImageDraw.Draw(seen)
    for index in scene.depth:
        draw.polygon([tuple(point) for point in scene.outlines[index] * scale], fill=index + 1)
    blocks = np.asarray(seen).reshape(rows, CELL, columns, CELL).transpose(0, 2, 1, 3).reshape(rows * columns, -1)
    counts = np.stack(
        [(blocks == i + 1).sum(axis=1) for i in range(len(scene.objects))] or [np.zeros(len(blocks))], axis=1
    )
    total = np.maximum(counts.sum(axis=0), 1)
    score = np.where((counts >= 0.06 * CELL * CELL) | (counts >= 0.2 * total), counts / np.sqrt(total), 0)
    cell = np.where(score.max(axis=1) > 0, score.argmax(axis=1), -1).astype(np.int8)
    letter = np.full(rows * columns, -1, np.int8)
    for name, center in scene.letters:
        column, row = (np.array(center) * scale // CELL).astype(int)
        letter[min(rows - 1, max(0, row)) * columns + min(columns - 1, max(0, column))] = LETTERS.index(name)
    return cell, letter


def to_record(scene: Scene) -> np.ndarray:
    """One `RECORD` (0-d array)."""
    record = np.zeros((), RECORD)
    columns, rows = grid_of(*scene.image.size)
    cells = columns * rows
    record["grid"] = columns, rows
    record["count"] = len(scene.objects)
    size = np.array(scene.image.size * 2, np.float32)
    for index, (label, box) in enumerate(scene.objects):
        color, shape = label.split()
        record["color"][index], record["shape"][index] = COLORS.index(color), SHAPES.index(shape)
        record["box"][index] = np.clip(np.array(box, np.float32) / size, 0, 1)
    record["cell"], record["letter"] = -1, -1
    record["cell"][:cells], record["letter"][:cells] = cells_of(scene, columns, rows)
    record["background"] = BACKGROUNDS.index(scene.background)
    record["word"] = scene.word or ""
    record["patches"][: cells * POOL * POOL] = to_patches(scene.image, columns, rows)
    return record


def draw_record(rng: np.random.Generator, word: float = 0.2, words: int = 1) -> np.ndarray:
    """A scene at a size that costs little to draw but, once resized, looks like one of the whole range of sizes."""
    width, height = random_size(rng)
    columns, rows = grid_of(width, height)
    scale = math.sqrt(columns * rows * CELL * CELL / (width * height))
    scale *= math.exp(rng.uniform(math.log(1.1), math.log(2.4)))
    size = (max(96, round(width * scale)), max(96, round(height * scale)))
    return to_record(make_scene(rng, SceneOptions(size=size, word=word, words=(1, words))))


def main() -> None:
    parser = shard_arguments(__doc__.splitlines()[0], "scenes", shards=10, count=4000)
    parser.add_argument("--word", type=float, default=0.2, help="share of scenes with painted words")
    parser.add_argument("--words", type=int, default=1, help="how many words such a scene has at most")
    arguments = parser.parse_args()
    write_shards(arguments, "shard", 7, RECORD, lambda rng: draw_record(rng, arguments.word, arguments.words))


if __name__ == "__main__":
    main()
