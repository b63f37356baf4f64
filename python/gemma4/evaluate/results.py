"""What a comparison found: figures, by variant, label and picture, and whether they suffice.

Knows: plain data, nothing that could not be written to JSON; text tables. Must not know: models, drawing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from ..arguments import number
from ..boxes import shown
from ..errors import RequestError
from .outcomes import Outcome, PictureOutcome
from .overlays import overlay
from .page import figures_table
from .reports import check_path, entry_of, write_report
from .tables import FIGURES, aligned, written

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Comparison", "LabelFigures", "Limits", "VariantResult"]

_MOST_LINES = 30  # of what went wrong, in a message
_OF_A_LABEL = {"map": "ap", "map50": "ap50", "precision": "precision", "recall": "recall", "f1": "f1"}


@dataclass(frozen=True)
class Counts:
    """Objects, and the ratios that follow. A ratio of nothing is None: there was nothing to be right or wrong about."""

    truth: int
    found: int
    right: int

    @property
    def precision(self) -> float | None:
        """The share of what was found that is right."""
        return self.right / self.found if self.found else None

    @property
    def recall(self) -> float | None:
        """The share of the truth that was found."""
        return self.right / self.truth if self.truth else None

    @property
    def f1(self) -> float | None:
        """The harmonic mean of precision and recall."""
        return 2 * self.right / (self.truth + self.found) if self.truth + self.found else None


@dataclass(frozen=True)
class LabelFigures(Counts):
    """Of one label."""

    ap: float | None
    """Average precision over IoU 0.50 to 0.95."""
    ap50: float | None
    curve: tuple[float, ...] | None = field(repr=False)
    """Precision at 101 recalls from 0 to 1, at the comparison's IoU; None without truth."""


@dataclass(frozen=True)
class VariantResult(Counts):
    """Of one way to ask: a row of the table."""

    name: str
    settings: Mapping[str, Any]
    """`model`, `prompt` and so on, as text or numbers."""
    map: float | None
    """Mean average precision, COCO's, over IoU 0.50 to 0.95 and the labels; None where there is no truth."""
    map50: float | None
    map75: float | None
    mean_iou: float
    """Of those that are right."""
    labels: Mapping[str, LabelFigures] = field(repr=False)
    pictures: tuple[PictureOutcome, ...] = field(repr=False)
    reliability: tuple[tuple[int, int, float], ...] = field(repr=False)
    """Of each tenth of the scores: found, right, mean score."""
    confusion_labels: tuple[str, ...] = field(repr=False)
    confusion: tuple[tuple[int, ...], ...] = field(repr=False)
    """True labels down, found ones across; last what was invented and what was missed."""
    notes: tuple[str, ...] = ()
    """Warnings that came with the answers."""

    @property
    def seconds(self) -> float:
        """That all answers took when they were computed, whether now or earlier."""
        return sum(picture.seconds for picture in self.pictures)

    @property
    def cached(self) -> int:
        """Answers that were not computed now."""
        return sum(picture.cached for picture in self.pictures)

    @property
    def errors(self) -> int:
        """Answers that could not be read."""
        return sum(picture.error is not None for picture in self.pictures)

    def worst(self) -> list[PictureOutcome]:
        """Pictures, the one with most faults first."""
        return sorted(self.pictures, key=lambda picture: -picture.faults)


@dataclass(frozen=True)
class Limits:
    """The least figures that suffice; a mapping has one for each label."""

    map: float | Mapping[str, float] | None = None
    map50: float | Mapping[str, float] | None = None
    precision: float | Mapping[str, float] | None = None
    recall: float | Mapping[str, float] | None = None
    f1: float | Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        for name, limit in asdict(self).items():
            for value in limit.values() if isinstance(limit, Mapping) else [] if limit is None else [limit]:
                number(f"min_{name}", value, 0, 1)

    def short(self, row: VariantResult) -> list[str]:
        """What does not suffice, each as `recall of 'cat' 0.30 < 0.9`. Raises RequestError for a label that is not
        there."""
        found = []
        for name in FIGURES:
            limit = getattr(self, name)
            if isinstance(limit, Mapping):
                for label, least in limit.items():
                    if label not in row.labels:
                        raise RequestError(
                            f"min_{name}: {shown(label)} is not among the labels {', '.join(row.labels)}"
                        )
                    value = getattr(row.labels[label], _OF_A_LABEL[name])
                    found += _short(f"{FIGURES[name]} of {label!r}", value, least)
            elif limit is not None:
                found += _short(FIGURES[name], getattr(row, name), limit)
        return found


def _short(what: str, value: float | None, least: float) -> list[str]:
    if value is None:
        return [f"{what} is not known, since there is nothing to count"]
    return [f"{what} {value:.3f} < {least:g}"] if value < least else []


@dataclass(frozen=True, repr=False)
class Comparison:
    """Rows of one table: the same pictures, asked about in several ways.

    `result["name"]` is a row, `result.best` the one with the highest mAP; figures of the comparison itself, such as
    `result.map50`, are those that every row reaches: the lowest.
    """

    dataset: str
    iou: float
    """From which on a place is right."""
    labels: tuple[str, ...]
    rows: tuple[VariantResult, ...]

    def with_samples(self, samples: Sequence[Any]) -> Comparison:
        """The same, which can draw its pictures now."""
        object.__setattr__(self, "_samples", tuple(samples))
        return self

    def __getstate__(self) -> dict[str, Any]:  # pictures do not travel
        return {name: value for name, value in self.__dict__.items() if name != "_samples"}

    def pixels(self, index: int) -> Any:
        """(height, width, 3) uint8 of a picture; None where this came from another process."""
        samples = self.__dict__.get("_samples")
        return None if samples is None else samples[index].pixels()

    def draw(self, row: str, index: int) -> Image:
        """A picture with what became of its objects in a row: right, missed, invented, or wrong in the label.

        Args:
            row: its name.
            index: of the picture, as in the row's `pictures`.

        Raises:
            KeyError: there is no such row.
            RequestError: there are no pictures, since this came from another process.
        """
        pixels, outcomes = self.pixels(index), self[row].pictures[index]
        if pixels is None:
            raise RequestError("pictures do not travel to another process; draw where they were compared")
        return overlay(pixels, outcomes, None)

    def save(self, *paths: str | os.PathLike[str]) -> None:
        """Write a report: `.html` for people, `.json`, or `.parquet` with a row for each object.

        Raises:
            RequestError: a name with another ending.
        """
        named = [check_path(path) for path in paths]
        entry = entry_of(self, overlays=any(path.suffix == ".html" for path in named))
        for path in named:
            write_report(path, [entry])

    def __getitem__(self, name: str) -> VariantResult:
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"{name!r} is not among {', '.join(repr(row.name) for row in self.rows)}")

    def __iter__(self) -> Iterator[VariantResult]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def best(self) -> VariantResult:
        """The row with the highest mAP, and of equals the highest F1."""
        return max(self.rows, key=lambda row: (row.map or 0.0, row.f1 or 0.0))

    def _lowest(self, name: str) -> float | None:
        values = [getattr(row, name) for row in self.rows]
        return None if None in values else min(values)

    @property
    def map(self) -> float | None:
        """The lowest mAP of any row, as are the next four; None where one is not known."""
        return self._lowest("map")

    @property
    def map50(self) -> float | None:
        return self._lowest("map50")

    @property
    def precision(self) -> float | None:
        return self._lowest("precision")

    @property
    def recall(self) -> float | None:
        return self._lowest("recall")

    @property
    def f1(self) -> float | None:
        return self._lowest("f1")

    def table(self, limits: Limits | None = None) -> str:
        """A row for each variant; one that falls short of the limits is marked."""
        heads = ["", "", "mAP", "mAP50", "precision", "recall", "F1", "missed", "invented", "s/picture"]
        lines = [heads]
        for row in self.rows:
            mark = "x" if limits is not None and limits.short(row) else ""
            figures = [written(getattr(row, name)) for name in FIGURES]
            faults = [str(row.truth - row.right), str(row.found - row.right)]
            each = f"{row.seconds / max(1, len(row.pictures)):.3f}" + ("*" if row.cached else "")
            lines.append([mark, row.name, *figures, *faults, each])
        text = aligned(lines)
        cached = sum(row.cached for row in self.rows)
        total = sum(len(row.pictures) for row in self.rows)
        pictures = len(self.rows[0].pictures)
        head = (
            f"{self.dataset}: {pictures} picture{'s' * (pictures != 1)}, {self.rows[0].truth} objects, IoU {self.iou:g}"
        )
        return head + "\n" + text + (f"\n* {cached} of {total} answers from the cache" if cached else "")

    __str__ = table

    def __repr__(self) -> str:
        rows = ", ".join(f"{row.name!r}: mAP {written(row.map)}" for row in self.rows)
        return f"<Comparison over {self.dataset}, {len(self.rows[0].pictures)} pictures, {rows}>"

    def _repr_html_(self) -> str:  # in notebooks
        return figures_table(entry_of(self)["rows"])

    def check(self, limits: Limits) -> str | None:
        """None if every row suffices; otherwise what falls short, and where."""
        short = {row.name: limits.short(row) for row in self.rows}
        failing = [row for row in self.rows if short[row.name]]
        if not failing:
            return None
        whole = len(self.rows) > 1
        summary = "; ".join(f"{row.name}: " * whole + ", ".join(short[row.name]) for row in failing)
        parts = [summary, "", self.table(limits)]
        for row in failing:
            parts += ["", f"{row.name}:" if whole else "by label:", _by_label(row), *_where(row)]
            parts += [f"  note: {note}" for note in row.notes]
        return "\n".join(parts)


def _by_label(row: VariantResult) -> str:
    lines = [["", "label", "true", "found", "right", "precision", "recall", "AP"]]
    for name, one in row.labels.items():
        counts = [str(one.truth), str(one.found), str(one.right)]
        lines.append(["", name, *counts, written(one.precision), written(one.recall), written(one.ap)])
    return aligned(lines)


def _where(row: VariantResult) -> list[str]:
    lines = []
    for picture in row.worst():
        if picture.error is not None:
            lines.append(f"  {picture.picture}: the answer cannot be read: {picture.error[:200]}")
        lines += [f"  {picture.picture}: {described(one)}" for one in picture.outcomes if one.kind != "right"]
    more = len(lines) - _MOST_LINES
    return [*lines[:_MOST_LINES], f"  ... and {more} more"] if more > 0 else lines


def described(one: Outcome) -> str:
    """What became of an object, in words."""
    near = f"; nearest {one.near!r}, IoU {one.iou:.2f}" if one.near else "; nothing overlaps it"
    if one.kind == "missed":
        return f"missed   {one.label!r} at {_box(one.box)}{near}"
    score = f"score {one.score:.2f}" if one.score is not None else ""
    if one.kind == "invented":
        return f"invented {one.found_label!r} at {_box(one.found_box)}, {score}{near}"
    if one.kind == "wrong":
        return f"wrong    {one.found_label!r} for {one.label!r} at {_box(one.box)}, {score}, IoU {one.iou:.2f}"
    return f"right    {one.label!r} at {_box(one.box)}, {score}, IoU {one.iou:.2f}"


def _box(box: tuple[float, ...] | None) -> str:
    return "[" + ", ".join(f"{edge:.0f}" for edge in box or ()) + "]"
