"""Charts as SVG text, without a library and without a script.

Knows: numbers, text. Must not know: where they come from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

__all__ = ["bars", "curves", "reliability_diagram"]

PALETTE = ("#1b6ef3", "#e4572e", "#12945a", "#8a3ffc", "#c98a00", "#0094a8", "#d6409f", "#5b6270")
_DASHES = ("", "6 3", "2 3")
_SIZE, _LEFT, _TOP, _RIGHT, _BOTTOM = 300, 44, 12, 12, 40  # the square of a chart, and room for its axes


def _frame(across: str, up: str, inside: str, more: int = 0) -> str:
    width, height = _LEFT + _SIZE + _RIGHT, _TOP + _SIZE + _BOTTOM + more
    lines = []
    for step in range(6):
        value, at = step / 5, step / 5 * _SIZE
        x, y = _LEFT + at, _TOP + _SIZE - at
        lines.append(f'<path class="grid" d="M{_LEFT} {y:.1f}h{_SIZE}M{x:.1f} {_TOP}v{_SIZE}"/>')
        lines.append(f'<text class="tick" x="{_LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{value:.1f}</text>')
        lines.append(f'<text class="tick" x="{x:.1f}" y="{_TOP + _SIZE + 16}" text-anchor="middle">{value:.1f}</text>')
    lines.append(f'<path class="axis" d="M{_LEFT} {_TOP}v{_SIZE}h{_SIZE}"/>')
    middle = _TOP + _SIZE / 2
    lines.append(
        f'<text class="name" x="{_LEFT + _SIZE / 2}" y="{_TOP + _SIZE + 34}" text-anchor="middle">{across}</text>'
    )
    lines.append(f'<text class="name" transform="translate(12 {middle}) rotate(-90)" text-anchor="middle">{up}</text>')
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{up} against {across}">{"".join(lines)}{inside}</svg>'
    )


def _point(x: float, y: float) -> str:
    return f"{_LEFT + x * _SIZE:.1f} {_TOP + (1 - y) * _SIZE:.1f}"


def curves(named: Mapping[str, Sequence[float] | None]) -> str:
    """Precision against recall: for each name the precision at evenly spaced recalls from 0 to 1; it ends where the
    precision becomes 0."""
    paths = []
    for index, (name, values) in enumerate(named.items()):
        if values is None:
            continue
        reached = [(i / (len(values) - 1), value) for i, value in enumerate(values) if value > 0]
        if not reached:
            continue
        points = [*reached, (reached[-1][0], 0.0)]
        path = "L".join(_point(x, y) for x, y in points)
        paths.append(
            f'<path class="curve" d="M{path}" stroke="{color(index)}" stroke-dasharray="{dash(index)}">'
            f"<title>{escape(name)}</title></path>"
        )
    return _frame("recall", "precision", "".join(paths))


def color(index: int) -> str:
    return PALETTE[index % len(PALETTE)]


def dash(index: int) -> str:
    return _DASHES[index // len(PALETTE) % len(_DASHES)]


def reliability_diagram(bins: Sequence[tuple[int, int, float]]) -> str:
    """The share that is right against the score; `bins` are (found, right, mean score). How many there are is written
    below each bar."""
    shapes = [f'<path class="diagonal" d="M{_point(0, 0)}L{_point(1, 1)}"/>']
    width = _SIZE / len(bins)
    below = _TOP + _SIZE + 54
    for index, (found, right, mean) in enumerate(bins):
        x = _LEFT + index * width
        shapes.append(
            f'<text class="tick" x="{x + width / 2:.1f}" y="{below}" text-anchor="middle">{found or "·"}</text>'
        )
        if found:
            share = right / found
            height = share * _SIZE
            faint = "" if found >= 10 else " few"
            shapes.append(
                f'<rect class="bar{faint}" x="{x + 2:.1f}" y="{_TOP + _SIZE - height:.1f}" width="{width - 4:.1f}" '
                f'height="{height:.1f}"><title>{right} of {found} right, mean score {mean:.2f}</title></rect>'
            )
            at = _point(mean, share).split()
            shapes.append(f'<circle class="dot" cx="{at[0]}" cy="{at[1]}" r="4"/>')
    shapes.append(f'<text class="tick" x="{_LEFT - 7}" y="{below}" text-anchor="end">count</text>')
    return _frame("score", "share that is right", "".join(shapes), more=26)


def bars(named: Sequence[tuple[str, float, str]], unit: str) -> str:
    """Horizontal bars of (name, value, remark)."""
    most = max((value for _, value, _ in named), default=0) or 1
    step, left, room = 28, 200, 320
    rows = []
    for index, (name, value, remark) in enumerate(named):
        y = index * step
        length = max(1.0, value / most * room)
        shown = name if len(name) <= 28 else name[:27] + "…"
        rows.append(
            f'<text class="label" x="{left - 10}" y="{y + 18}" text-anchor="end">{escape(shown)}'
            f"<title>{escape(name)}</title></text>"
            f'<rect class="bar" x="{left}" y="{y + 5}" width="{length:.1f}" height="18" rx="2"/>'
            f'<text class="label" x="{left + length + 8:.1f}" y="{y + 18}">{value:.3f} {escape(unit)} '
            f'<tspan class="faint">{escape(remark)}</tspan></text>'
        )
    height = step * len(named) + 4
    width = left + room + 260
    return f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">{"".join(rows)}</svg>'
