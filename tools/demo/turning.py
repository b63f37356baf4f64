"""A stored scene or frame in the eight ways to turn and mirror it.

Knows: patches, cells, boxes. Must not know: dialogues, batches.
"""

from __future__ import annotations

import numpy as np
from dataset import PATCH, POOL


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


def turned(record: np.ndarray, way: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, tuple[int, int]]:
    """One of the eight ways to turn and mirror a scene: patches, cells, letters, boxes (x1, y1, x2, y2), grid."""
    columns, rows = (int(v) for v in record["grid"])
    patches = turned_patches(record["patches"], columns, rows, way)
    cell, letter = (record[name][: columns * rows].reshape(rows, columns) for name in ("cell", "letter"))
    box = record["box"].copy()
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
    return patches, cell.reshape(-1), letter.reshape(-1), box, (columns, rows)
