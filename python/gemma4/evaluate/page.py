"""The HTML report: one file that needs no other.

Knows: entries of `reports`, charts. Must not know: how figures came about, pytest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from importlib import resources
from typing import Any

from .charts import bars, color, curves, dash, reliability_diagram
from .overlays import COLORS
from .tables import FIGURES, written

__all__ = ["figures_table", "page"]

_CURVES = 8  # labels in a chart
_LABELS = 14  # in a confusion matrix


def page(entries: Sequence[Mapping[str, Any]], version: str) -> str:
    """All evaluations of a run."""
    failed = sum(entry["failure"] is not None for entry in entries)
    count = f"{len(entries)} evaluation{'s' * (len(entries) != 1)}"
    state = f"{count}, {failed} failed" if failed else count
    style = resources.files(__package__).joinpath("report.css").read_text(encoding="ascii")
    now = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    body = "".join(_evaluation(entry) for entry in entries) or "<p>No test evaluated anything.</p>"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>Detection evaluation</title>'
        f"<style>{style}</style></head><body><main><h1>Detection evaluation</h1>"
        f'<p class="soft">{state} · {now} · gemma4 {escape(version)}</p>{body}'
        f"<footer>{_EXPLAINED}</footer></main></body></html>\n"
    )


_EXPLAINED = (
    "mAP is COCO's average precision over IoU 0.50 to 0.95 and all labels, by faster-coco-eval. Precision, recall and "
    "F1 match each object once, best overlap first, labels being equal. A wrong label is one missed and one invented "
    "object. A dash stands where there is nothing to count. Seconds are those that answers took when they were "
    "computed, for pictures asked about together their mean."
)


def _evaluation(entry: Mapping[str, Any]) -> str:
    rows = entry["rows"]
    pictures = len(rows[0]["pictures"])
    failure = entry["failure"]
    failed = failure is not None
    badge = '<span class="badge fail">failed</span>' if failed else '<span class="badge pass">passed</span>'
    badge = badge if entry["test"] else ""
    whose = f"{entry['dataset']} · " if entry["test"] else ""
    about = f"{whose}{pictures} picture{'s' * (pictures != 1)} · {rows[0]['truth']} objects"
    message = f"<pre>{escape(failure)}</pre>" if failure else ""
    opened = min(range(len(rows)), key=lambda index: rows[index]["map"] or 0) if failed else _best(rows, "map")
    parts = "".join(_row(row, entry, index == opened) for index, row in enumerate(rows))
    times = [(r["name"], r["seconds"] / max(1, len(r["pictures"])), _cached(r)) for r in rows]
    return (
        f'<section class="evaluation"><header class="top"><h2>{escape(entry["test"] or entry["dataset"])}</h2>{badge}'
        f'</header><p class="soft">{escape(about)} · IoU {entry["iou"]:g}</p>{figures_table(rows)}{message}'
        f'<h3 class="wide">Time for a picture</h3><div class="card">{bars(times, "s")}</div>{parts}</section>'
    )


def _cached(row: Mapping[str, Any]) -> str:
    return f"({row['cached']} of {len(row['pictures'])} from the cache)" if row["cached"] else ""


def _best(rows: Sequence[Mapping[str, Any]], name: str) -> int:
    return max(range(len(rows)), key=lambda index: rows[index][name] or 0)


def figures_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The figures of each row."""
    heads = "".join(f"<th>{escape(head)}</th>" for head in FIGURES.values())
    lines = []
    known = {name: [row[name] for row in rows if row[name] is not None] for name in FIGURES}
    for row in rows:
        cells = []
        for name in FIGURES:
            leads = known[name] and row[name] == max(known[name]) > min(known[name])
            best = ' class="top"' if leads else ""
            meter = f'<span class="meter"><i style="width:{100 * (row[name] or 0):.1f}%"></i></span>'
            cells.append(f"<td{best}>{written(row[name])}{meter}</td>")
        faults = f"<td>{row['truth'] - row['right']}</td><td>{row['found'] - row['right']}</td>"
        lines.append(
            f'<tr><td style="text-align:left">{escape(row["name"])}<br/>'
            f'<span class="asked">{escape(_asked(row))}</span></td>'
            f"{''.join(cells)}{faults}<td>{row['seconds']:.1f}</td></tr>"
        )
    return (
        f'<table class="figures"><thead><tr><th></th>{heads}'
        "<th>missed</th><th>invented</th><th>seconds</th></tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table>"
    )


def _asked(row: Mapping[str, Any]) -> str:
    settings = row["settings"]
    prompt = "the default question" if settings["prompt"] is None else f"“{settings['prompt']}”"
    words = {label: word for label, word in settings["labels"].items() if label != word}
    parts = [settings["model"], prompt]
    parts += [f"{settings['max_soft_tokens']} soft tokens"] * (settings["max_soft_tokens"] is not None)
    parts += [", ".join(f"{label} as “{word}”" for label, word in words.items())] * bool(words)
    parts += [f"{k}={v}" for k, v in settings.items() if k not in ("model", "prompt", "labels", "max_soft_tokens")]
    return " · ".join(parts)


def _row(row: Mapping[str, Any], entry: Mapping[str, Any], opened: bool) -> str:
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in row["notes"])
    errors = f'<p class="note">{row["errors"]} answers could not be read.</p>' if row["errors"] else ""
    return (
        f"<details{' open' if opened else ''}><summary>{escape(row['name'])}</summary>{notes}{errors}"
        f'<div class="cards"><div class="card"><h3>Precision and recall at IoU {entry["iou"]:g}</h3>'
        f"{_curves(row)}</div>"
        f'<div class="card"><h3>Reliability of the score</h3>{reliability_diagram(row["reliability"])}'
        f'<p class="soft" style="font-size:13px">{_trust(row["reliability"])}</p></div>'
        f'<div class="card"><h3>Confusion: true down, found across</h3>{_confusion(row["confusion"])}</div></div>'
        f'<h3 class="wide">By label</h3>{_labels(row)}{_pictures(row)}</details>'
    )


def _curves(row: Mapping[str, Any]) -> str:
    known = {name: one for name, one in row["labels"].items() if one["curve"] is not None}
    order = sorted(known, key=lambda name: known[name]["ap"] or 0)[:_CURVES]
    shown = {name: known[name]["curve"] for name in known if name in order}
    items = "".join(
        f'<li><svg width="26" height="8"><path class="curve" d="M1 4H25" stroke="{color(index)}" '
        f'stroke-dasharray="{dash(index)}"/></svg><span>{escape(name)}</span>'
        f"<span>AP {written(known[name]['ap'])}</span></li>"
        for index, name in enumerate(shown)
    )
    more = f'<li class="soft">the {len(shown)} lowest of {len(known)} labels</li>' if len(known) > len(shown) else ""
    return curves(shown) + f'<ul class="legend">{items}{more}</ul>'


def _trust(bins: Sequence[Sequence[float]]) -> str:
    found = sum(count for count, _, _ in bins)
    if not found:
        return "Nothing was found."
    gap = sum(abs(right - count * mean) for count, right, mean in bins) / found
    return (
        f"Bars: share of the {found:g} found objects that is right; dots: at their mean score. On the diagonal a score "
        f"is a probability. Expected calibration error {gap:.3f}; pale bars hold fewer than 10 objects."
    )


def _confusion(data: Mapping[str, Any]) -> str:
    names, counts = data["labels"], data["counts"]
    last = len(names)
    keep = list(range(last))
    if last > _LABELS:
        weight = [sum(counts[i]) + sum(row[i] for row in counts) - 2 * counts[i][i] for i in range(last)]
        keep = sorted(sorted(keep, key=lambda index: -weight[index])[:_LABELS])
    most = max((max(row) for row in counts), default=0) or 1

    def cell(row: int, column: int) -> str:
        count = counts[row][column]
        if row == last and column == last:
            return "<td></td>"
        good = row == column
        shade = f"rgba({'18,148,90' if good else '217,43,58'},{0.12 + 0.7 * count / most:.2f})" if count else "#f5f7f9"
        ink = "#fff" if count / most > 0.6 else "inherit"
        return f'<td style="background:{shade};color:{ink}">{count or "·"}</td>'

    head = "".join(f'<th class="column"><span>{escape(n)}</span></th>' for n in [*(names[i] for i in keep), "missed"])
    lines = []
    for row in [*keep, last]:
        name = names[row] if row < last else "invented"
        cells = "".join(cell(row, column) for column in [*keep, last])
        lines.append(f'<tr><th class="row" title="{escape(name)}">{escape(name)}</th>{cells}</tr>')
    more = f'<p class="soft">the {len(keep)} of {last} labels with most faults</p>' if len(keep) < last else ""
    return f'<table class="confusion"><tr><th></th>{head}</tr>{"".join(lines)}</table>{more}'


def _labels(row: Mapping[str, Any]) -> str:
    lines = "".join(
        f"<tr><td>{escape(name)}</td>"
        + "".join(f"<td>{one[key]}</td>" for key in ("truth", "found", "right"))
        + "".join(f"<td>{written(one[key])}</td>" for key in ("precision", "recall", "f1", "ap", "ap50"))
        + "</tr>"
        for name, one in row["labels"].items()
    )
    heads = ("", "true", "found", "right", "precision", "recall", "F1", "AP", "AP50")
    head = "".join(f"<th>{name}</th>" for name in heads)
    return f'<table class="figures"><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>'


def _pictures(row: Mapping[str, Any]) -> str:
    shown = sorted((one for one in row["pictures"] if "jpeg" in one), key=lambda one: one["rank"])
    if not shown:
        return ""
    keys = "".join(
        f'<span class="key"><i style="background:{shade}"></i>{kind}</span>' for kind, shade in COLORS.items()
    )
    figures = "".join(
        f'<figure><img alt="{escape(one["picture"])}" src="data:image/jpeg;base64,{one["jpeg"]}">'
        f'<figcaption>{escape(one["picture"])}<br><span class="soft">{escape(_counted(one))}</span></figcaption>'
        "</figure>"
        for one in shown
    )
    count = len(row["pictures"])
    which = f"{len(shown)} of {count}, the worst first" if len(shown) < count else "worst first"
    return (
        f'<h3 class="wide">Pictures <span class="soft">({which})</span></h3>{keys}<div class="pictures">{figures}</div>'
    )


def _counted(picture: Mapping[str, Any]) -> str:
    counts = {kind: sum(one["kind"] == kind for one in picture["outcomes"]) for kind in COLORS}
    words = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count) or "nothing there, nothing found"
    return words + ("; the answer cannot be read" if picture["error"] is not None else "")
