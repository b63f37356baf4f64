"""How right boxes are.

Knows labels and pixels; anything with ``.label`` and ``.xyxy`` will do. Must not know: models, pictures, answers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import RequestError
from .grid import checked_boxes, pairwise_iou, shown

__all__ = ["Evaluation", "Labelled", "Match", "evaluate", "pictures"]


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
        box = checked_boxes(pair[1], where)
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
        table = pairwise_iou(np.stack([found[i][1] for i in ours]), np.stack([truth[i][1] for i in true]))
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
