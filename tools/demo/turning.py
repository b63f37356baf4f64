"""A picture or frame in the eight ways to turn and mirror it.

Knows: patches, cells, boxes. Must not know: dialogues, batches.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from dataset import PATCH, POOL, Picture


def turned_patches(patches: np.ndarray, columns: int, rows: int, way: int) -> np.ndarray:
    """Patches, cell by cell, of a picture turned and mirrored in one of eight ways."""
    cells = patches[: columns * rows * POOL * POOL].reshape(rows, columns, POOL, POOL, PATCH, PATCH, 3)
    if way & 1:
        cells = cells[:, ::-1, :, ::-1, :, ::-1]
    if way & 2:
        cells = cells[::-1, :, ::-1, :, ::-1]
    if way & 4:
        cells = cells.transpose(1, 0, 3, 2, 5, 4, 6)
    return cells.reshape(columns * rows * POOL * POOL, -1)


def turned_direction(direction: str, way: int) -> str:
    """Where something goes in the turned clip that went in `direction`."""
    x, y = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}[direction]
    x, y = (-x if way & 1 else x), (-y if way & 2 else y)
    if way & 4:
        x, y = y, x
    return {(-1, 0): "left", (1, 0): "right", (0, -1): "up", (0, 1): "down"}[x, y]


def turned(picture: Picture, way: int) -> Picture:
    """One of the eight ways to turn and mirror a picture."""
    columns, rows = picture.grid
    patches = turned_patches(picture.patches, columns, rows, way)
    cell, letter = (values.reshape(rows, columns) for values in (picture.cell, picture.letter))
    box = picture.box
    if way & 1:
        cell, letter = cell[:, ::-1], letter[:, ::-1]
        box = np.stack([1 - box[:, 2], box[:, 1], 1 - box[:, 0], box[:, 3]], axis=1)
    if way & 2:
        cell, letter = cell[::-1], letter[::-1]
        box = np.stack([box[:, 0], 1 - box[:, 3], box[:, 2], 1 - box[:, 1]], axis=1)
    if way & 4:
        cell, letter = cell.T, letter.T
        box = box[:, [1, 0, 3, 2]]
        columns, rows = rows, columns
    return replace(
        picture, grid=(columns, rows), patches=patches, cell=cell.reshape(-1), letter=letter.reshape(-1), box=box
    )
