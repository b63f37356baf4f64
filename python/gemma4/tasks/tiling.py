"""A large picture in overlapping tiles, so that small things are seen larger, and what was found in them as one.

Knows: pixels, boxes. Must not know: models, answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import boxes
from ..detections import Detection
from ..errors import RequestError

__all__ = ["LEAST_TILE", "Tile", "check_tile", "merged", "tiles"]

LEAST_TILE = 32
"""Pixels of a tile's side."""
_MOST_TILES = 1024  # of a picture; each costs what a picture does
_OVERLAP = 0.25  # of a tile's side, with the next one at least: what is smaller is whole in one of them
_EDGE = 0.04  # of a tile's side: what ends so near an edge inside the picture goes on behind it
_SAME = 0.5  # IoU of two boxes of one object
_INSIDE = 0.8  # share of a box that lies in another of the same label: a part of the same object


class Tile(NamedTuple):
    """A part of a picture, in its pixels."""

    left: int
    top: int
    right: int
    bottom: int


def check_tile(value: Any) -> tuple[int, int] | None:
    """`tile=` of `Model.detect` as (width, height). Raises RequestError for anything but one or two sizes."""
    if value is None:
        return None
    sizes = (value, value) if isinstance(value, int | np.integer) and not isinstance(value, bool) else value
    right = isinstance(sizes, tuple | list) and len(sizes) == 2
    if not right or not all(type(one) is int or isinstance(one, np.integer) for one in sizes):
        raise RequestError(f"tile: expected pixels, or (width, height), found {str(value)[:40]!r}")
    if min(sizes) < LEAST_TILE:
        raise RequestError(f"tile: expected at least {LEAST_TILE} pixels, found {min(sizes)}")
    return int(sizes[0]), int(sizes[1])


def tiles(size: tuple[int, int], tile: tuple[int, int]) -> list[Tile]:
    """The tiles of a picture of `size` (width, height), row by row; each at most `tile` large. None where one would be
    the whole picture.

    Raises:
        RequestError: there would be too many.

    >>> tiles((300, 100), (200, 200))
    [Tile(left=0, top=0, right=200, bottom=100), Tile(left=100, top=0, right=300, bottom=100)]
    """
    columns, rows = (_starts(length, side) for length, side in zip(size, tile, strict=True))
    count = len(columns) * len(rows)
    if count > _MOST_TILES:
        raise RequestError(
            f"tile: a picture of {size[0]} x {size[1]} pixels has {count} of them, at most {_MOST_TILES}"
        )
    if len(columns) == len(rows) == 1:
        return []
    width, height = min(size[0], tile[0]), min(size[1], tile[1])
    return [Tile(left, top, left + width, top + height) for top, left in product(rows, columns)]


def _starts(length: int, side: int) -> list[int]:
    """Where tiles begin along a side of the picture: evenly, so that none is smaller."""
    if length <= side:
        return [0]
    count = 1 + -(-(length - side) // max(1, int(side * (1 - _OVERLAP))))
    return [round(start) for start in np.linspace(0, length - side, count)]


def _whole_in(found: Detection, tile: Tile, size: tuple[int, int]) -> bool:
    """Whether a box, in pixels of the picture, does not touch an edge of its tile that is none of the picture's."""
    x1, y1, x2, y2 = found.xyxy
    slack = (_EDGE * (tile.right - tile.left), _EDGE * (tile.bottom - tile.top))
    return not (
        (tile.left > 0 and x1 < tile.left + slack[0])
        or (tile.top > 0 and y1 < tile.top + slack[1])
        or (tile.right < size[0] and x2 > tile.right - slack[0])
        or (tile.bottom < size[1] and y2 > tile.bottom - slack[1])
    )


def merged(
    whole: Sequence[Detection], parts: Sequence[tuple[Tile, Sequence[Detection]]], size: tuple[int, int]
) -> list[Detection]:
    """What was found in the whole picture and in its tiles, each object once: the most certain box of those that are of
    the same label and lie on or in one another.

    Args:
        whole: of the picture.
        parts: of each tile, in pixels of the picture; what is cut off at an inner edge is left to its neighbours.
        size: (width, height) of the picture.
    """
    candidates = [*whole, *(one for tile, found in parts for one in found if _whole_in(one, tile, size))]
    kept: list[Detection] = []
    for one in sorted(candidates, key=lambda found: -found.score):
        others = np.array([other.xyxy for other in kept if other.label == one.label]).reshape(-1, 4)
        if not len(others) or not _same(np.array(one.xyxy), others).any():
            kept.append(one)
    return kept


def _same(box: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(n,) whether a box (4,) is of the same object as each of the others (n, 4)."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    common = np.prod(np.clip(sides, 0, None), axis=1)
    least = np.minimum(np.prod(box[2:] - box[:2]), np.prod(others[:, 2:] - others[:, :2], axis=1))
    return np.asarray((boxes.iou(box, others) >= _SAME) | (common > _INSIDE * np.maximum(least, 1e-9)))
