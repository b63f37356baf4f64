"""How well the demo model finds objects at every number of soft tokens, and how long that takes.

    python evaluate_budgets.py DIR [--count 300] [--odd] [--plot ../../docs/budgets.png]

Scenes of three styles with ordinary objects (drawn as in training, by other code, by matplotlib), and scenes with small
ones only, of 3 to 6 % of the picture's short side: each is asked for one object in it by name. `--odd` measures numbers
of soft tokens between those that a processor offers, with the model as it is trained.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import gemma4
import numpy as np
import prompts
from backends import gemma4_backend, trained_backend
from dataset import BUDGETS
from evaluate import match, parse, scene_of
from figures import Figure, share
from plotted_scenes import make_plotted_scene
from scenes import Scene, make_scene

FOUND = {70: 0.97, 140: 0.97, 280: 0.95, 560: 0.95, 1120: 0.95}
MEAN_IOU = 0.85
SMALL = (0.03, 0.06)  # of the short side
SMALL_FOUND = 0.60  # with the most soft tokens
ODD = (100, 400, 800)
ORDINARY = ("own", "other", "plotted")
STYLES = (*ORDINARY, "small")


def small_scene(seed: int) -> Scene:
    """A picture of which every object is small."""
    rng = np.random.default_rng([2034, seed])
    while True:
        width, height = (int(v) for v in rng.integers(900, 1600, 2))
        scene = make_scene(rng, size=(width, height), extent=SMALL)
        if scene.objects:
            return scene


def scene_for(style: str, seed: int) -> Scene:
    """One of `STYLES`, with at least one object."""
    if style == "plotted":
        return make_plotted_scene(np.random.default_rng([2040, seed]))
    return small_scene(seed) if style == "small" else scene_of(style, seed)


def measure(directory: Path, budget: int, style: str, count: int, odd: bool = False) -> list[Figure]:
    """Objects found when asked for by name, their mean IoU, and seconds for a picture with its answer."""
    ask = (trained_backend if odd else gemma4_backend)(directory, budget)
    scenes = [scene_for(style, seed) for seed in range(count)]
    names = []
    for seed, scene in enumerate(scenes):
        labels = sorted({label for label, _ in scene.objects})
        names.append(labels[np.random.default_rng([77, seed]).integers(len(labels))])
    questions = [prompts.DETECT_ONE[0].format(object=name) for name in names]
    begin = time.perf_counter()
    answers = ask([(scene.image, question) for scene, question in zip(scenes, questions, strict=True)])
    seconds = (time.perf_counter() - begin) / count
    values: list[float] = []
    for scene, name, answer in zip(scenes, names, answers, strict=True):
        values += match([item for item in scene.objects if item[0] == name], parse(answer, scene.image.size))
    least = (SMALL_FOUND if budget == BUDGETS[-1] else None) if style == "small" else FOUND.get(budget)
    return [
        share(f"{budget}: {style}: object found", [value >= 0.5 for value in values], least),
        Figure(f"{budget}: {style}: mean IoU", float(np.mean(values)), None if style == "small" else MEAN_IOU),
        Figure(f"{budget}: {style}: seconds", seconds),
    ]


def plot(path: Path, figures: list[Figure]) -> None:
    """Share found and seconds against soft tokens; ordinary objects are those of the three styles together."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    value = {figure.name: figure.value for figure in figures}

    def line(styles: tuple[str, ...], what: str) -> list[float]:
        return [float(np.mean([value[f"{budget}: {style}: {what}"] for style in styles])) for budget in BUDGETS]

    picture, (accuracy, cost) = pyplot.subplots(1, 2, figsize=(9, 3.4), dpi=110)
    kinds = {"ordinary objects": ORDINARY, "objects of 3 to 6 %": ("small",)}
    for (name, styles), color in zip(kinds.items(), ("#1e88ff", "#ff7a1e"), strict=True):
        accuracy.plot(BUDGETS, [100 * share for share in line(styles, "object found")], "o-", color=color, label=name)
        cost.plot(BUDGETS, line(styles, "seconds"), "o-", color=color)
    accuracy.set(title="found at IoU 0.5, %", ylim=(-3, 103))
    accuracy.legend(frameon=False, loc="lower right")
    cost.set(title="seconds a picture", ylim=(0, None))
    for axes in (accuracy, cost):
        axes.set_xscale("log", base=2)
        axes.set_xticks(BUDGETS, BUDGETS)
        axes.minorticks_off()
        axes.set_xlabel("max_soft_tokens")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    picture.tight_layout()
    picture.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--style", choices=STYLES, nargs="+", default=list(STYLES))
    parser.add_argument("--budget", type=int, nargs="+", default=list(BUDGETS))
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--odd", action="store_true", help=f"the model as it is trained, with {ODD} soft tokens")
    parser.add_argument("--json", type=Path, help="where to write the figures as well")
    parser.add_argument("--plot", type=Path, help="where to draw them; wants every style and budget")
    arguments = parser.parse_args()
    figures = []
    for budget in ODD if arguments.odd else arguments.budget:
        for style in arguments.style:
            found = measure(arguments.directory, budget, style, arguments.count, arguments.odd)
            print(*found, sep="\n", flush=True)
            figures += found
    if arguments.json:
        values = {figure.name: figure.value for figure in figures}
        arguments.json.write_text(json.dumps({"version": gemma4.__version__, "count": arguments.count} | values))
    if arguments.plot:
        plot(arguments.plot, figures)


if __name__ == "__main__":
    main()
