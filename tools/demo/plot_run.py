"""Draws what a training run has learnt.

    python plot_run.py RUN/log.jsonl ../../docs/training.png

The mean error of coordinates in steps of 5 units, for pictures of about each number of soft tokens: as the helper heads
read it from the encoder, and as the decoder writes it once it is taught.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from dataset import BUDGETS
from numpy.typing import NDArray

SMOOTH = 5  # lines of the log that a point is the mean of
PHASES = ("encoder", "decoder", "joint")


def curves(path: Path, name: str) -> tuple[NDArray[np.int64], dict[int, NDArray[np.float64]], list[int]]:
    """Steps of all phases together, the measure `name` of each budget (NaN where it was not taken), ends of phases.

    A step that was done twice, because a run went on from its last checkpoint, counts as it was done last.
    """
    rows: dict[tuple[int, int], dict[str, float]] = {}
    for line in path.read_text().splitlines():
        row = json.loads(line)
        if row["phase"] in PHASES:
            rows[PHASES.index(row["phase"]), row["step"]] = row
    keys = sorted(rows)
    lasts = [max(step for phase, step in keys if phase == number) for number in sorted({phase for phase, _ in keys})]
    ends = [int(end) for end in np.cumsum(lasts)]
    before = [0, *ends]
    steps = np.array([before[phase] + step for phase, step in keys])
    values = {}
    for budget in BUDGETS:
        exact = np.array([rows[key].get(f"{name}{budget}", np.nan) for key in keys], np.float64)
        padded = np.pad(exact, (SMOOTH - 1, 0), mode="edge")
        values[budget] = np.lib.stride_tricks.sliding_window_view(padded, SMOOTH).mean(axis=1)
    return steps, values, ends


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("log", type=Path)
    parser.add_argument("picture", type=Path)
    arguments = parser.parse_args()
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 3.6), dpi=110, sharex=True, sharey=True)
    titles = {"box": "read from the encoder", "off": "written by the decoder"}
    for panel, (name, title) in zip(axes, titles.items(), strict=True):
        steps, values, ends = curves(arguments.log, name)
        for number, (budget, value) in enumerate(values.items()):
            color = pyplot.colormaps["viridis"](0.9 - 0.8 * number / len(values))
            panel.plot(steps, value, color=color, linewidth=1.4, label=f"{budget} soft tokens")
        for end, phase, begin in zip(ends, PHASES, [0, *ends], strict=False):
            panel.axvline(end, color="0.85", linewidth=1)
            panel.annotate(phase, ((begin + end) / 2, 34), ha="center", fontsize=8, color="0.4")
        panel.set(title=f"error of a coordinate, {title}", xlabel="step", ylim=(0.8, 40), yscale="log")
        panel.set_yticks([1, 2, 5, 10, 20], ["1", "2", "5", "10", "20"])
        panel.grid(alpha=0.2)
        panel.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("steps of 5 units")
    axes[1].legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(0.02, 0.9))
    figure.tight_layout()
    figure.savefig(arguments.picture)


if __name__ == "__main__":
    main()
