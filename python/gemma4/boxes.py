"""Boxes on the model's grid and in pixels, the answers that hold them, and how right they are.

Gemma writes a box as ``box_2d = [y1, x1, y2, x2]`` on a grid from 0 to 1000 laid over the whole picture, y first,
whatever the picture's shape. Pixels are ``xyxy = [x1, y1, x2, y2]`` of the original picture, x first.
This module knows NumPy and the errors; it knows nothing of models, pictures or :class:`~gemma4.Detections`
(anything with ``.label`` and ``.xyxy`` will do).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .answers import GRID, parse_spans, shown
from .errors import RequestError

__all__ = ["GRID", "Evaluation", "Match", "evaluate", "from_pixels", "iou", "parse", "parse_points", "to_pixels"]

_SWAP = [1, 0, 3, 2]  # y first to x first, and back

# ---------------------------------------------------------------------------------------------------------------------
# The grid and pixels


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
    boxes = _checked_boxes(box_2d, "box_2d")
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
    pixels = _checked_boxes(xyxy, "xyxy")
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
    first, second = _checked_boxes(a, "a"), _checked_boxes(b, "b")
    table = _pairwise_iou(first.reshape(-1, 4), second.reshape(-1, 4))
    shaped = table.reshape(first.shape[:-1] + second.shape[:-1])
    return shaped if shaped.ndim else float(shaped)


def _pairwise_iou(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
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


def _checked_boxes(value: ArrayLike, name: str) -> NDArray[np.float64]:
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


# ---------------------------------------------------------------------------------------------------------------------
# What the model wrote


def parse(text: str) -> list[dict[str, Any]]:
    """The objects in a model's answer, in the order written.

    Takes bare JSON, a fenced block, JSON inside prose or after a thought, one object instead of a list, a wrapper such
    as ``{"boxes": [...]}``, and an answer cut off by the token limit, of which the complete objects are returned.
    Separate lists are joined, and what a later one repeats exactly is taken once.

    Returns:
        ``[{"label": str, "box_2d": [y1, x1, y2, x2]}]`` with integers from 0 to 1000; ``[]`` when the model says so.

    Raises:
        DetectionParseError: there is no JSON, an object lacks a field, or a box is outside the grid or inverted.
            ``raw_text`` holds the answer.

    >>> parse('Here: ```json\\n[{"box_2d": [10, 20, 30, 40], "label": "cat"}]\\n```')
    [{'label': 'cat', 'box_2d': [10, 20, 30, 40]}]
    """
    return [item for item, _ in parse_spans(text, "box_2d")]


def parse_points(text: str) -> list[dict[str, Any]]:
    """The points in a model's answer; takes and raises what :func:`parse` does.

    Returns:
        ``[{"label": str, "point": [y, x]}]`` with integers from 0 to 1000.

    >>> parse_points('[{"point": [500, 250], "label": "nose"}]')
    [{'label': 'nose', 'point': [500, 250]}]
    """
    return [item for item, _ in parse_spans(text, "point")]


# ---------------------------------------------------------------------------------------------------------------------
# How right boxes are


class Match(NamedTuple):
    """One found object and the true one it was matched with, as indices into their lists."""

    found: int
    truth: int
    iou: float
    image: int = 0


@dataclass(frozen=True)
class Evaluation:
    """How a set of found objects compares with the truth.

    Figures are over all objects of all pictures. With nothing to be wrong about a ratio is 1: nothing found gives a
    precision of 1, no truth a recall of 1. ``mean_iou`` is over the matches, 0 when there are none.
    """

    true_positives: int
    false_positives: int
    missed: int
    mean_iou: float
    matches: tuple[Match, ...] = field(repr=False)

    @property
    def precision(self) -> float:
        """The share of what was found that is true."""
        return _ratio(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float:
        """The share of the truth that was found."""
        return _ratio(self.true_positives, self.true_positives + self.missed)

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall."""
        return _ratio(2 * self.true_positives, 2 * self.true_positives + self.false_positives + self.missed)

    def __str__(self) -> str:
        return (
            f"precision {self.precision:.2f}, recall {self.recall:.2f}, f1 {self.f1:.2f}, mean IoU {self.mean_iou:.2f} "
            f"({self.true_positives} found, {self.missed} missed, {self.false_positives} invented)"
        )


def evaluate(found: Any, truth: Any, iou: float = 0.5) -> Evaluation:
    """Match found objects with true ones and count.

    A match needs equal labels and an IoU of at least ``iou``; pairs are taken best IoU first, each object once.

    Args:
        found: :class:`~gemma4.Detections` or a list of ``(label, xyxy)`` in pixels for one picture, or a list of these,
            one for each picture.
        truth: the same for the true objects.
        iou: the least overlap of a match, above 0 and at most 1.

    Raises:
        RequestError: something other than such lists, bad boxes, or different numbers of pictures.

    >>> result = evaluate([("cat", [0, 0, 9, 10]), ("dog", [0, 0, 5, 5])], [("cat", [0, 0, 10, 10])])
    >>> result.precision, result.recall, result.mean_iou
    (0.5, 1.0, 0.9)
    """
    if isinstance(iou, bool) or not isinstance(iou, int | float | np.floating) or not 0 < iou <= 1:
        raise RequestError(f"iou must be above 0 and at most 1, not {shown(iou)}")
    matches: list[Match] = []
    count_found = count_truth = 0
    for image, (ours, true) in enumerate(pictures(found, truth)):
        matches += [Match(f, t, overlap, image) for f, t, overlap in _match(ours, true, float(iou))]
        count_found, count_truth = count_found + len(ours), count_truth + len(true)
    return Evaluation(
        true_positives=len(matches),
        false_positives=count_found - len(matches),
        missed=count_truth - len(matches),
        mean_iou=sum(match.iou for match in matches) / len(matches) if matches else 0.0,
        matches=tuple(matches),
    )


Labelled = list[tuple[str, NDArray[np.float64]]]
"""The objects of one picture: label and (4,) pixels."""


def pictures(found: Any, truth: Any) -> list[tuple[Labelled, Labelled]]:
    """Both arguments of :func:`evaluate`, checked, as one pair of lists for each picture."""
    many = [_is_many(found), _is_many(truth)]
    if not any(many):
        return [(_labelled(found, "found"), _labelled(truth, "truth"))]
    if not all(many) and len(found) + len(truth) != max(len(found), len(truth)):
        raise RequestError("found and truth must both be for one picture, or both be lists with one entry a picture")
    if len(found) != len(truth):
        raise RequestError(f"found is for {len(found)} pictures, truth for {len(truth)}")
    return [
        (_labelled(f, f"found[{image}]"), _labelled(t, f"truth[{image}]"))
        for image, (f, t) in enumerate(zip(found, truth, strict=True))
    ]


def _is_many(objects: Any) -> bool:
    if not isinstance(objects, Sequence) or isinstance(objects, str):
        raise RequestError(f"expected Detections or a list of (label, xyxy), not {shown(objects)}")
    return any(
        isinstance(entry, Sequence) and not isinstance(entry, str) and not (entry and isinstance(entry[0], str))
        for entry in objects
    )


def _labelled(objects: Iterable[Any], name: str) -> Labelled:
    result: Labelled = []
    for index, entry in enumerate(objects):
        where = f"{name}[{index}]"
        pair = (entry.label, entry.xyxy) if hasattr(entry, "xyxy") and hasattr(entry, "label") else entry
        if not (isinstance(pair, Sequence) and len(pair) == 2 and isinstance(pair[0], str)):
            raise RequestError(f"{where} must be (label, xyxy), not {shown(entry)}")
        box = _checked_boxes(pair[1], where)
        if box.shape != (4,):
            raise RequestError(f"{where} must hold one box of shape (4,), not {shown(pair[1])}")
        result.append((pair[0], box))
    return result


def _match(found: Labelled, truth: Labelled, least: float) -> list[tuple[int, int, float]]:
    """(found, truth, IoU) of each match, in the order of ``found``."""
    by_label: dict[str, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for side, objects in enumerate((found, truth)):
        for index, (label, _) in enumerate(objects):
            by_label[label][side].append(index)
    matches = []
    for ours, true in by_label.values():
        if not ours or not true:
            continue
        table = _pairwise_iou(np.stack([found[i][1] for i in ours]), np.stack([truth[i][1] for i in true]))
        rows, columns = np.nonzero(table >= least)
        free_found, free_truth = set(range(len(ours))), set(range(len(true)))
        for pair in np.argsort(-table[rows, columns], kind="stable"):  # stable: a tie goes to the one listed first
            row, column = int(rows[pair]), int(columns[pair])
            if row in free_found and column in free_truth:
                free_found.remove(row)
                free_truth.remove(column)
                matches.append((ours[row], true[column], float(table[row, column])))
    return sorted(matches)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 1.0
