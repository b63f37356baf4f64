"""Pictures as the vision encoder reads them, for any number of soft tokens, with the truth for every cell.

A cell is the square of pooled patches behind one soft token. Patches are held cell by cell, so that pooling is a mean
over an axis.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw
from scenes import COLORS, LABELS, LETTERS, SHAPES, Scene, SceneOptions, make_scene, random_size
from textures import make_nothing

PATCH = 16  # pixels
POOL = 2  # patches
CELL = PATCH * POOL
BUDGETS = (70, 140, 280, 560, 1120)  # soft tokens that a processor offers
SMALLEST = 28.0  # pixels of the resized picture that an object needs


@dataclass
class Picture:
    """A picture that was resized and cut, and what is in it; objects have no order yet."""

    grid: tuple[int, int]  # columns, rows of cells
    shape: np.ndarray  # (objects,) index into SHAPES
    color: np.ndarray  # (objects,) index into COLORS, -1 where the picture does not tell
    box: np.ndarray  # (objects, 4) x1, y1, x2, y2 in 0..1
    cell: np.ndarray  # (cells,) index of the object a cell shows, or -1
    letter: np.ndarray  # (cells,) index of the letter whose centre lies in the cell, or -1
    background: str
    word: str
    patches: np.ndarray  # (cells * POOL^2, 3 * PATCH^2) uint8

    @property
    def cells(self) -> int:
        return self.grid[0] * self.grid[1]


def grid_of(width: int, height: int, budget: int = BUDGETS[0]) -> tuple[int, int]:
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


@functools.lru_cache(maxsize=256)
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
    counts = np.zeros((len(blocks), max(1, len(scene.objects))), np.int64)
    shown = np.flatnonzero(blocks.any(axis=1))  # few of a large grid
    for i in range(len(scene.objects)):
        counts[shown, i] = (blocks[shown] == i + 1).sum(axis=1)
    total = np.maximum(counts.sum(axis=0), 1)
    score = np.where((counts >= 0.06 * CELL * CELL) | (counts >= 0.2 * total), counts / np.sqrt(total), 0)
    cell = np.where(score.max(axis=1) > 0, score.argmax(axis=1), -1).astype(np.int8)
    letter = np.full(rows * columns, -1, np.int8)
    for name, center in scene.letters:
        column, row = (np.array(center) * scale // CELL).astype(int)
        letter[min(rows - 1, max(0, row)) * columns + min(columns - 1, max(0, column))] = LETTERS.index(name)
    return cell, letter


def to_picture(scene: Scene, budget: int = BUDGETS[0]) -> Picture:
    """A scene as it is seen with this many soft tokens."""
    columns, rows = grid_of(*scene.image.size, budget)
    cell, letter = cells_of(scene, columns, rows)
    size = np.array(scene.image.size * 2, np.float32)
    boxes = np.array([box for _, box in scene.objects], np.float32).reshape(-1, 4)
    names = [label.split() for label, _ in scene.objects]
    return Picture(
        grid=(columns, rows),
        shape=np.array([SHAPES.index(shape) for _, shape in names], np.int64),
        color=np.array([COLORS.index(color) for color, _ in names], np.int64),
        box=np.clip(boxes / size, 0, 1),
        cell=cell,
        letter=letter,
        background=scene.background,
        word=scene.word or "",
        patches=to_patches(scene.image, columns, rows),
    )


# ----------------------------------------------------------------------------------------------------------------------
# What is drawn for training


def draw_budgets(rng: np.random.Generator, count: int, most: int = BUDGETS[-1]) -> list[int]:
    """Soft tokens for the pictures of a step: a quarter from 70 to 140, one of the most, the others evenly in the
    logarithm between, so that every step costs about the same."""
    if most <= BUDGETS[1] or count == 0:
        return [round(BUDGETS[0] * (most / BUDGETS[0]) ** rng.random()) for _ in range(count)]
    few = -(-count // 4)
    budgets = [BUDGETS[0] if rng.random() < 0.4 else round(BUDGETS[0] * 2 ** rng.random()) for _ in range(few)]
    between = max(0, count - few - 1)
    budgets += [round(BUDGETS[1] * (most / BUDGETS[1]) ** ((i + rng.random()) / between)) for i in range(between)]
    return [*budgets, most][-count:]


def draw_picture(
    rng: np.random.Generator, budget: int, word: float = 0.2, words: int = 1, crowd: bool = False
) -> Picture:
    """A picture for training: mostly a scene at a size that costs little to draw, now and then nothing that is known.

    Objects are at least SMALLEST pixels of what is seen; half of the large pictures have small ones only. `crowd`: more
    of them than anyone would count, to learn more from each picture.
    """
    width, height = random_size(rng)
    if rng.random() < 0.09:
        stretch = math.exp(rng.uniform(0, math.log(2.2)))
        width, height = (round(width * stretch), height) if width > height else (width, round(height * stretch))
    columns, rows = grid_of(width, height, budget)
    scale = math.sqrt(columns * rows * CELL * CELL / (width * height))
    few = min(1.0, max(0.0, math.log(budget / 70) / math.log(8)))  # from 0 at 70 to 1 at 560
    most = 2.4 - 1.1 * few + (2.6 * (1 - few) if rng.random() < 0.3 else 0)  # now and then as large as a photograph
    scale *= math.exp(rng.uniform(math.log(1.1 - 0.7 * few), math.log(most)))
    size = (max(96, round(width * scale)), max(96, round(height * scale)))
    if rng.random() < 0.09:
        return to_picture(Scene(make_nothing(rng, *size), [], "nothing"), budget)
    low = max(0.03, SMALLEST / (min(columns, rows) * CELL))
    options = SceneOptions(size=size, word=word, words=(1, words), objects=(3, 8) if crowd else (1, 6))
    if low < 0.12:
        extent = (low, 2.2 * low) if rng.random() < 0.5 else (max(low, 0.12 if rng.random() < 0.5 else 0.06), 0.6)
        options = replace(options, extent=extent)
        if crowd and extent[1] < 0.2:
            options = replace(options, objects=(6, 24))
    options = replace(options, clutter=0.06, labels=_alike(rng) if rng.random() < 0.3 else LABELS)
    picture = to_picture(make_scene(rng, options), budget)
    return without_color(picture) if rng.random() < 0.03 else picture


def _alike(rng: np.random.Generator) -> tuple[str, ...]:
    """Few labels, so that there are several of a kind to be counted."""
    chance, word = rng.random(), str(rng.choice([*SHAPES, *COLORS]))
    if chance < 0.5:
        return tuple(label for label in LABELS if word in label.split())
    return tuple(LABELS[i] for i in rng.choice(len(LABELS), int(rng.integers(2, 4)), replace=False))


def without_color(picture: Picture) -> Picture:
    """The same in shades of gray: only black and white can still be told."""
    pixels = picture.patches.reshape(len(picture.patches), -1, 3)
    gray = (pixels @ np.array([0.299, 0.587, 0.114], np.float32)).astype(np.uint8)
    known = np.array([COLORS.index("black"), COLORS.index("white")])
    return replace(
        picture,
        patches=np.repeat(gray[..., None], 3, axis=-1).reshape(picture.patches.shape),
        color=np.where(np.isin(picture.color, known), picture.color, -1),
    )


def kept_cells(rng: np.random.Generator, picture: Picture, chances: np.ndarray) -> np.ndarray:
    """Indices, ascending, of the cells of a large grid that a step looks at: a third or so costs a fifth, and the
    larger a grid the seldomer it is looked at as a whole.

    One of every four or nine neighbours stays, so that what is spread over the picture stays so; all of small objects;
    the border more often than not, because it says how large the picture is. `chances`, three below 1, decide what
    costs most.
    """
    columns, rows = picture.grid
    everything = np.arange(picture.cells)
    whole, wide, border = chances
    if picture.cells < 240 or whole < 0.2 * (300 / picture.cells) ** 0.7:
        return everything
    apart = 3 if picture.cells > 350 and wide < 0.6 else 2
    keep = np.zeros((rows, columns), bool)
    y, x = np.mgrid[0:rows:apart, 0:columns:apart]
    y, x = y + rng.integers(0, apart, y.shape), x + rng.integers(0, apart, x.shape)
    inside = (y < rows) & (x < columns)
    keep[y[inside], x[inside]] = True
    if border < 0.6:
        keep[[0, -1]] = keep[:, [0, -1]] = True
    sizes = np.bincount(picture.cell[picture.cell >= 0], minlength=1)
    small = (picture.cell >= 0) & (sizes[np.maximum(picture.cell, 0)] <= 12)
    extra = rng.random(picture.cells) < rng.uniform(0, 0.12)
    return everything[keep.reshape(-1) | small | (picture.letter >= 0) | extra]
