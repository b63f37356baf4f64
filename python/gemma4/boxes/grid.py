"""Boxes on the model's grid and in pixels.

Knows NumPy and the errors; nothing of models, pictures or answers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import RequestError

__all__ = ["GRID", "checked_boxes", "checked_size", "from_pixels", "iou", "pairwise_iou", "shown", "to_pixels"]

GRID = 1000
"""Cells along each side of the grid that the model writes boxes on."""

_SWAP = [1, 0, 3, 2]  # y first to x first, and back


def to_pixels(box_2d: ArrayLike, size: tuple[float, float]) -> NDArray[np.float64]:
    """Boxes on the grid, ``[y1, x1, y2, x2]``, as pixels ``[x1, y1, x2, y2]`` of a picture.

    Args:
        box_2d: (4,) or (n, 4), integers or floats from 0 to 1000.
        size: (width, height) of the picture in pixels, as ``PIL.Image.size``.

    Returns:
        float64 pixels of the same shape.

    Raises:
        RequestError: a wrong shape, a NaN, a box outside the grid or inverted, a size that is not positive.

    >>> to_pixels([100, 200, 500, 600], size=(2000, 1000)).tolist()
    [400.0, 100.0, 1200.0, 500.0]
    """
    width, height = checked_size(size)
    boxes = checked_boxes(box_2d, "box_2d")
    if boxes.size and (boxes.min() < 0 or boxes.max() > GRID):
        bad = boxes.reshape(-1, 4)[((boxes < 0) | (boxes > GRID)).reshape(-1, 4).any(axis=1)][0]
        raise RequestError(f"box_2d {shown(bad)} lies outside the grid from 0 to {GRID}")
    scale = np.array([width, height, width, height])
    return np.asarray(boxes[..., _SWAP] * scale / GRID)


def from_pixels(xyxy: ArrayLike, size: tuple[float, float]) -> NDArray[np.int64]:
    """Pixels ``[x1, y1, x2, y2]`` as boxes ``[y1, x1, y2, x2]`` on the grid; the inverse of :func:`to_pixels`.

    Args:
        xyxy: (4,) or (n, 4) pixels inside the picture.
        size: (width, height) of the picture in pixels.

    Returns:
        int64 of the same shape, each number rounded to the nearest cell.

    Raises:
        RequestError: a wrong shape, a NaN, a box that leaves the picture by more than half a cell, or is inverted.

    >>> from_pixels([400, 100, 1200, 500], size=(2000, 1000)).tolist()
    [100, 200, 500, 600]
    """
    width, height = checked_size(size)
    pixels = checked_boxes(xyxy, "xyxy")
    grid = np.asarray(np.rint(pixels[..., _SWAP] * GRID / np.array([height, width, height, width])))
    outside = ((grid < 0) | (grid > GRID)).reshape(-1, 4).any(axis=1)
    if outside.any():
        bad = pixels.reshape(-1, 4)[outside][0]
        raise RequestError(f"xyxy {shown(bad)} lies outside the picture of {width:g} x {height:g} pixels")
    return np.asarray(grid, dtype=np.int64)


def iou(a: ArrayLike, b: ArrayLike) -> Any:
    """Intersection over union of every box of ``a`` with every box of ``b``.

    Args:
        a: (4,) or (n, 4) boxes ``[x1, y1, x2, y2]`` in pixels.
        b: (4,) or (m, 4) boxes ``[x1, y1, x2, y2]`` in pixels.

    Returns:
        (n, m) float64 from 0 to 1; a single box loses its axis, so two single boxes give a float. A box without area
        has an IoU of 0 with everything.

    Raises:
        RequestError: a wrong shape, a NaN, or an inverted box.

    >>> iou([0, 0, 10, 10], [5, 0, 15, 10])
    0.3333333333333333
    >>> iou([[0, 0, 10, 10], [5, 0, 15, 10]], [[0, 0, 10, 10]]).shape
    (2, 1)
    """
    first, second = checked_boxes(a, "a"), checked_boxes(b, "b")
    table = pairwise_iou(first.reshape(-1, 4), second.reshape(-1, 4))
    shaped = table.reshape(first.shape[:-1] + second.shape[:-1])
    return shaped if shaped.ndim else float(shaped)


def pairwise_iou(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, 4) and (m, 4) checked boxes to (n, m)."""
    largest = max(np.abs(a).max(initial=0.0), np.abs(b).max(initial=0.0))
    if largest > 1e100:  # an area would overflow; IoU does not depend on the unit
        a, b = a / largest, b / largest
    corner1 = np.maximum(a[:, None, :2], b[None, :, :2])
    corner2 = np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = np.clip(corner2 - corner1, 0, None).prod(axis=2)
    area_a, area_b = (np.prod(box[:, 2:] - box[:, :2], axis=1) for box in (a, b))
    union = area_a[:, None] + area_b[None, :] - common
    return np.asarray(np.divide(common, union, out=np.zeros_like(common), where=union > 0))


def checked_size(size: tuple[float, float]) -> tuple[float, float]:
    try:
        width, height = (float(side) for side in size)
    except (TypeError, ValueError):
        raise RequestError(f"size must be (width, height) in pixels, not {shown(size)}") from None
    if not (0 < width < float("inf") and 0 < height < float("inf")):
        raise RequestError(f"size must be a positive (width, height), not {shown(size)}")
    return width, height


def checked_boxes(value: ArrayLike, name: str) -> NDArray[np.float64]:
    """``value`` as float64 (4,) or (n, 4); an empty list is (0, 4)."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):
        raise RequestError(f"{name} must be numbers of shape (4,) or (n, 4), not {shown(value)}") from None
    if array.shape in {(0,), (0, 4)}:
        return np.zeros((0, 4))
    if array.dtype.kind not in "iuf" or array.ndim not in {1, 2} or array.shape[-1] != 4:
        raise RequestError(f"{name} must be numbers of shape (4,) or (n, 4), not {shown(value)}")
    boxes = array.astype(np.float64)
    rows = boxes.reshape(-1, 4)
    if not np.isfinite(rows).all():
        raise RequestError(f"{name} {shown(rows[~np.isfinite(rows).all(axis=1)][0])} is not finite")
    inverted = (rows[:, 2:] < rows[:, :2]).any(axis=1)
    if inverted.any():
        raise RequestError(f"{name} {shown(rows[inverted][0])} is inverted: its second corner comes before its first")
    return boxes


def shown(value: Any) -> str:
    """``value`` for an error message, at most 80 characters."""
    if isinstance(value, np.ndarray) and value.shape == (4,):
        return "[" + ", ".join(f"{number:g}" for number in value) + "]"
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else text[:77] + "..."
