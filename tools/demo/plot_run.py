"""Draws what a training run has learnt.

    python plot_run.py RUN/log.jsonl [NEXT/log.jsonl …] ../../docs/training.png

The mean error of coordinates in steps of 5 units, for pictures of about each number of soft tokens: as the helper heads
read it from the encoder, and as the decoder writes it once it is taught.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from dataset import BUDGETS
from numpy.typing import NDArray

SMOOTH = 5  # lines of the log that a point is the mean of
PHASES = ("encoder", "decoder", "joint")


def curves(logs: Sequence[Path], name: str) -> tuple[NDArray[np.int64], dict[int, NDArray[np.float64]], dict[int, str]]:
    """Steps of all phases of all runs together, the measure `name` of each budget (NaN where it was not taken), and the
    phase that ends at a step.

    A step that was done twice, because a run went on from its last checkpoint, counts as it was done last.
    """
    rows: dict[tuple[int, int, int], dict[str, float]] = {}
    for run, path in enumerate(logs):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            if row["phase"] in PHASES:
                rows[run, PHASES.index(row["phase"]), row["step"]] = row
    keys = sorted(rows)
    ends: dict[int, str] = {}
    steps = np.zeros(len(keys), np.int64)
    for (_, phase), of_phase in itertools.groupby(range(len(keys)), lambda at: keys[at][:2]):
        begin = max(ends, default=0)
        for at in of_phase:
            steps[at] = begin + keys[at][2]
        ends[int(steps[at])] = PHASES[phase]
    values = {}
    for budget in BUDGETS:
        exact = np.array([rows[key].get(f"{name}{budget}", np.nan) for key in keys], np.float64)
        missing = np.isnan(exact)
        exact[exact == 0] = np.nan  # there was no such picture in these steps
        padded = np.pad(exact, (SMOOTH - 1, 0), mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(padded, SMOOTH)
        taken = np.isfinite(windows).sum(axis=1)
        means = np.nansum(windows, axis=1) / np.maximum(taken, 1)
        values[budget] = np.where(missing | (taken == 0), np.nan, means)
    return steps, values, ends


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("log", type=Path, nargs="+", help="of runs that went on from one another")
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
        for (end, phase), begin in zip(ends.items(), [0, *ends], strict=False):
            panel.axvline(end, color="0.85", linewidth=1)
            panel.annotate(phase, ((begin + end) / 2, 34), ha="center", fontsize=8, color="0.4")
        panel.set(title=f"error of a coordinate, {title}", xlabel="step", ylim=(0.8, 40), yscale="log")
        panel.set_yticks([1, 2, 5, 10, 20], ["1", "2", "5", "10", "20"])
        panel.grid(alpha=0.2)
        panel.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("steps of 5 units")
    axes[0].legend(frameon=False, fontsize=8, loc="upper right", bbox_to_anchor=(1, 0.92))
    figure.tight_layout()
    figure.savefig(arguments.picture)


if __name__ == "__main__":
    main()
