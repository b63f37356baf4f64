"""Figures as text. Knows: numbers, columns. Must not know: what they are figures of."""

from __future__ import annotations

__all__ = ["FIGURES", "aligned", "written"]

FIGURES = {"map": "mAP", "map50": "mAP50", "precision": "precision", "recall": "recall", "f1": "F1"}
"""What can be asked for, and its heading."""


def written(value: float | None) -> str:
    """A figure; a dash where there is none."""
    return "-" if value is None else f"{value:.3f}"


def aligned(lines: list[list[str]]) -> str:
    """Columns: the first two to the left, numbers to the right."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    rows = []
    for line in lines:
        cells = [c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))]
        rows.append("  ".join(cells).rstrip())
    return "\n".join(rows)
