"""What became of each object of a picture: right, wrong, missed or invented.

Knows: labels and boxes of one picture. Must not know: figures over many, models, files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .. import boxes

__all__ = ["Kind", "Outcome", "PictureOutcome", "judge"]

Kind = Literal["right", "wrong", "missed", "invented"]
Box = tuple[float, float, float, float]
Found = tuple[str, Box, float]
"""Label, pixels, score."""


@dataclass(frozen=True)
class Outcome:
    """A true object, a found one, or both where they belong together.

    `"right"`: label and place. `"wrong"`: something is there, but with another label; to the figures it is one missed
    and one invented. `"missed"`: nothing was found there. `"invented"`: nothing is there.
    """

    kind: Kind
    label: str | None
    """Of the true object; None where there is none."""
    box: Box | None
    """Of the true object, `x1, y1, x2, y2` in pixels."""
    found_label: str | None = None
    found_box: Box | None = None
    score: float | None = None
    iou: float = 0.0
    """With its partner; of one missed or invented, the best with any box of the other side."""
    near: str | None = None
    """The label of that box."""


@dataclass(frozen=True)
class PictureOutcome:
    """All of one picture."""

    picture: str
    size: tuple[int, int]
    """(width, height) in pixels."""
    outcomes: tuple[Outcome, ...]
    seconds: float
    """That the answer took when it was computed."""
    cached: bool
    error: str | None = None
    """Why the answer could not be read, in which case nothing counts as found."""

    def count(self, kind: Kind) -> int:
        """How many there are of a kind."""
        return sum(one.kind == kind for one in self.outcomes)

    @property
    def faults(self) -> int:
        """Objects that are not right, the unreadable answer as one more."""
        return sum(one.kind != "right" for one in self.outcomes) + (self.error is not None)


def judge(
    found: Sequence[Found], truth: Sequence[tuple[str, Box]], crowds: Sequence[tuple[str, Box]], iou: float
) -> tuple[Outcome, ...]:
    """Pairs of equal labels first, as :func:`gemma4.boxes.evaluate` matches them; then places of unequal ones.

    What was found within a crowd of its label, and has no partner, is left out: it may be one of them.

    >>> box = (0.0, 0.0, 10.0, 10.0)
    >>> [one.kind for one in judge([("cat", box, 0.9)], [("dog", box)], [], 0.5)]
    ['wrong']
    """
    matched = boxes.evaluate([(label, box) for label, box, _ in found], list(truth), iou).matches
    free_found = set(range(len(found))) - {match.found for match in matched}
    free_truth = set(range(len(truth))) - {match.truth for match in matched}
    free_found -= {index for index in free_found if _in_a_crowd(found[index], crowds, iou)}
    outcomes = [_pair("right", found[m.found], truth[m.truth], m.iou) for m in matched]
    table = _table([box for _, box, _ in found], [box for _, box in truth])
    pairs = [(float(table[f, t]), f, t) for f in free_found for t in free_truth if table[f, t] >= iou]
    for overlap, f, t in sorted(pairs, key=lambda pair: (-pair[0], pair[1], pair[2])):
        if f in free_found and t in free_truth:
            free_found.remove(f)
            free_truth.remove(t)
            outcomes.append(_pair("wrong", found[f], truth[t], overlap))
    for t in sorted(free_truth):
        best = int(table[:, t].argmax()) if len(found) else 0
        overlap = float(table[best, t]) if len(found) else 0.0
        label, box = truth[t]
        outcomes.append(Outcome("missed", label, box, iou=overlap, near=found[best][0] if overlap else None))
    for f in sorted(free_found):
        best = int(table[f].argmax()) if len(truth) else 0
        overlap = float(table[f, best]) if len(truth) else 0.0
        label, box, score = found[f]
        near = truth[best][0] if overlap else None
        outcomes.append(
            Outcome("invented", None, None, found_label=label, found_box=box, score=score, iou=overlap, near=near)
        )
    return tuple(outcomes)


def _pair(kind: Kind, found: Found, truth: tuple[str, Box], overlap: float) -> Outcome:
    return Outcome(kind, truth[0], truth[1], found[0], found[1], found[2], float(overlap))


def _table(ours: list[Box], theirs: list[Box]) -> NDArray[np.float64]:
    """(found, truth) IoU."""
    return np.asarray(boxes.iou(np.array(ours).reshape(-1, 4), np.array(theirs).reshape(-1, 4)))


def _in_a_crowd(found: Found, crowds: Sequence[tuple[str, Box]], least: float) -> bool:
    """Whether so much of a found box lies in a crowd of its label."""
    label, (x1, y1, x2, y2), _ = found
    area = (x2 - x1) * (y2 - y1)
    for crowd, (left, top, right, bottom) in crowds:
        inside = max(0.0, min(x2, right) - max(x1, left)) * max(0.0, min(y2, bottom) - max(y1, top))
        if crowd == label and area > 0 and inside / area >= least:
            return True
    return False
