"""Figures over all pictures of a variant.

Knows: outcomes, faster-coco-eval. Must not know: models, files, how figures are shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..extras import extra
from .dataset import Truth
from .outcomes import Box, Found, PictureOutcome

__all__ = ["BINS", "average_precision", "confusion", "reliability"]

BINS = 10


def average_precision(
    found: Sequence[Sequence[Found]], truth: Sequence[Sequence[tuple[Truth, Box]]], labels: Sequence[str], iou: float
) -> dict[str, Any]:
    """COCO's figures, by faster-coco-eval.

    Args:
        found: of each picture.
        truth: of each picture, crowds included.
        labels: that are averaged over; what was found with another one counts for none of them.
        iou: the overlap of the curves.

    Returns:
        `map` over IoU 0.50 to 0.95, `map50`, `map75`, by label in `labels` and `labels50`; `curves`: by label, the
        precision at 101 recalls from 0 to 1. None where there is no truth.
    """
    package = extra("faster_coco_eval", "eval")
    ids = {label: number for number, label in enumerate(labels, start=1)}
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image, objects in enumerate(truth, start=1):
        for one, box in objects:
            if one.label in ids:
                shape = _shape(image, ids[one.label], box)
                annotations.append({**shape, "id": len(annotations) + 1, "iscrowd": int(one.crowd)})
    for image, ours in enumerate(found, start=1):
        results += [{**_shape(image, ids[label], box), "score": s} for label, box, s in ours if label in ids]
    blank: dict[str, Any] = {label: None for label in labels}
    if not any(one["iscrowd"] == 0 for one in annotations):
        return {"map": None, "map50": None, "map75": None, "labels": blank, "labels50": blank, "curves": blank}
    truth_set = {
        "images": [{"id": image} for image in range(1, len(truth) + 1)],
        "annotations": annotations,
        "categories": [{"id": number, "name": label} for label, number in ids.items()],
    }
    reference = package.COCO(truth_set)
    ours_set = reference.loadRes(results) if results else package.COCO({**truth_set, "annotations": []})
    judge = package.COCOeval_faster(reference, ours_set, "bbox")
    judge.params.iouThrs = np.unique(np.append(judge.params.iouThrs, iou))
    judge.evaluate()
    judge.accumulate()
    precision = np.asarray(judge.eval["precision"])[:, :, :, 0, -1]  # (IoU, recall, label), -1 without truth
    at = np.asarray(judge.params.iouThrs)
    usual = [int(np.abs(at - value).argmin()) for value in np.linspace(0.5, 0.95, 10)]
    curve = precision[int(np.abs(at - iou).argmin())]
    each = range(len(labels))
    return {
        "map": _mean(precision[usual]),
        "map50": _mean(precision[usual[0]]),
        "map75": _mean(precision[usual[5]]),
        "labels": {labels[k]: _mean(precision[usual][:, :, k]) for k in each},
        "labels50": {labels[k]: _mean(precision[usual[0]][:, k]) for k in each},
        "curves": {labels[k]: None if curve[0, k] < 0 else [float(p) for p in curve[:, k]] for k in each},
    }


def _shape(image: int, category: int, box: Box) -> dict[str, Any]:
    x1, y1, x2, y2 = box
    return {
        "image_id": image,
        "category_id": category,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": (x2 - x1) * (y2 - y1),
    }


def _mean(precision: Any) -> float | None:
    known = precision[precision > -1]
    return float(known.mean()) if known.size else None


def reliability(pictures: Sequence[PictureOutcome]) -> tuple[tuple[int, int, float], ...]:
    """Of each tenth of the scores from 0 to 1: how many were found with such a score, how many of them are right, and
    their mean score (0 where there are none)."""
    judged = [(o.score, o.kind == "right") for p in pictures for o in p.outcomes if o.score is not None]
    bins = [min(BINS - 1, int(score * BINS)) for score, _ in judged]
    rows = []
    for number in range(BINS):
        inside = [one for one, where in zip(judged, bins, strict=True) if where == number]
        mean = sum(score for score, _ in inside) / len(inside) if inside else 0.0
        rows.append((len(inside), sum(right for _, right in inside), mean))
    return tuple(rows)


def confusion(
    pictures: Sequence[PictureOutcome], labels: Sequence[str]
) -> tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]:
    """(labels, counts): a row for each true label, a column for each found one; the last row is what was invented, the
    last column what was missed. Labels that nobody asked for come behind those that somebody did."""
    outcomes = [one for picture in pictures for one in picture.outcomes]
    others = {name for one in outcomes for name in (one.label, one.found_label) if name} - set(labels)
    names = (*labels, *sorted(others))
    place = {name: index for index, name in enumerate(names)}
    last = len(names)
    counts = np.zeros((last + 1, last + 1), np.int64)
    for one in outcomes:
        counts[place.get(one.label or "", last), place.get(one.found_label or "", last)] += 1
    return names, tuple(tuple(int(n) for n in row) for row in counts)
