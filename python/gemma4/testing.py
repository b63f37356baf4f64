"""Assertions for test suites that evaluate detections."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import boxes
from .boxes import Labelled
from .errors import RequestError

__all__ = ["assert_detections"]

_MOST_LINES = 50


def assert_detections(
    found: Any,
    truth: Any,
    iou: float = 0.5,
    min_precision: float | None = None,
    min_recall: float | None = None,
    min_f1: float | None = None,
) -> boxes.Evaluation:
    """Fail unless what was found is true.

    Without a minimum every true object must be found and nothing else; with one or more only these must be reached.
    The message lists what was missed, with the box that came nearest, and what was invented.

    Args:
        found: :class:`~gemma4.Detections` or a list of ``(label, xyxy)`` in pixels, or a list of these, one a picture.
        truth: the same for the true objects.
        iou: the least overlap with a true box of the same label, above 0 and at most 1.
        min_precision: the least share of what was found that must be true, from 0 to 1.
        min_recall: the least share of the truth that must be found, from 0 to 1.
        min_f1: the least harmonic mean of the two, from 0 to 1.

    Returns:
        The figures, as :func:`gemma4.boxes.evaluate` gives them.

    Raises:
        AssertionError: the figures do not suffice.
        RequestError: the arguments are not detections, or a minimum is not from 0 to 1.

    >>> assert_detections([("cat", [0, 0, 9, 10])], [("cat", [0, 0, 10, 10])]).f1
    1.0
    """
    __tracebackhide__ = True
    least = {"precision": min_precision, "recall": min_recall, "f1": min_f1}
    for name, value in least.items():
        if value is not None and not 0 <= value <= 1:
            raise RequestError(f"min_{name} must be from 0 to 1, not {value!r}")
    result = boxes.evaluate(found, truth, iou)
    asked = {name: value for name, value in least.items() if value is not None}
    short = [f"{n} {getattr(result, n):.3f} < {v:g}" for n, v in asked.items() if getattr(result, n) < v]
    if not asked and result.missed:
        short.append(f"{result.missed} of {result.missed + result.true_positives} missed")
    if not asked and result.false_positives:
        short.append(f"{result.false_positives} invented")
    if short:
        raise AssertionError(_message("; ".join(short), boxes.pictures(found, truth), result, iou))
    return result


def _message(summary: str, pictures: list[tuple[Labelled, Labelled]], result: boxes.Evaluation, iou: float) -> str:
    lines: list[str] = []
    for image, (found, truth) in enumerate(pictures):
        matches = [match for match in result.matches if match.image == image]
        place = f"picture {image}: " if len(pictures) > 1 else ""
        hit_truth, hit_found = {match.truth for match in matches}, {match.found for match in matches}
        missed = [one for index, one in enumerate(truth) if index not in hit_truth]
        invented = [one for index, one in enumerate(found) if index not in hit_found]
        lines += [f"  {place}missed   {_named(one)}; {_nearest(one, found, 'found')}" for one in missed]
        lines += [f"  {place}invented {_named(one)}; {_nearest(one, truth, 'true')}" for one in invented]
    if len(lines) > _MOST_LINES:
        lines = [*lines[:_MOST_LINES], f"  ... and {len(lines) - _MOST_LINES} more"]
    return "\n".join([f"{summary} at IoU {iou:g}", *lines, f"  figures  {result}"])


def _named(one: tuple[str, Any]) -> str:
    return f"{one[0]!r} at [{', '.join(f'{number:.1f}' for number in one[1])}]"


def _nearest(one: tuple[str, Any], others: Labelled, kind: str) -> str:
    """Which of ``others`` overlaps ``one`` best, whatever its label."""
    overlaps = boxes.iou(one[1], np.array([box for _, box in others]).reshape(-1, 4))
    if not others or overlaps.max() == 0:
        return f"no {kind} box overlaps it"
    best = int(overlaps.argmax())
    return f"nearest {kind}: {_named(others[best])}, IoU {overlaps[best]:.2f}"
