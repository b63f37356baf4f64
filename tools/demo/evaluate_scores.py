"""Whether the scores of `Model.detect` tell right objects from wrong ones, and what `refine` and `tile` gain.

    python evaluate_scores.py [--model demo] [--count 100] [--budgets 70 …] [--plot ../../docs/reliability.png]

Scenes that no training has seen, of two drawing programs. Each is asked for everything, for one object that is there,
for one that is not, and for one of forty names that the model does not know. An object is right if it has the label of
one that is there, and an IoU of 0.5 with it.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

import gemma4
import numpy as np
from dataset import BUDGETS
from evaluate import scene_of
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scenes import COLORS, LABELS, SHAPES

SEED = 500_000  # far from those of training and of the other evaluations
_NAMES = """
dog cat person car tree house bird horse chair table bottle phone book flower cloud banana apple face hand window door
shoe hat clock boat train rectangle hexagon pentagon cross heart arrow line oval crescent diamond
cyan_square pink_circle brown_star gray_triangle
"""
UNKNOWN = [name.replace("_", " ") for name in _NAMES.split()]
BIN, LEAST = 0.1, 30  # width of a bin of the reliability curve, and objects that it must have to say something
AUROC, GAP, SMALL_FOUND = 0.95, 0.1, 0.7

Truth = list[tuple[str, tuple[float, float, float, float]]]


def best(found: Any, truth: Truth) -> NDArray[np.float64]:
    """(n,) IoU of each found object with the nearest true one of its label, each true one once, best score first."""
    free, values = list(truth), np.zeros(len(found))
    for index in np.argsort([-one.score for one in found], kind="stable"):
        overlaps = [
            gemma4.boxes.iou(found[index].xyxy, box) if name == found[index].label else 0.0 for name, box in free
        ]
        if overlaps and max(overlaps) >= 0.5:
            values[index] = max(overlaps)
            free.pop(int(np.argmax(overlaps)))
    return values


def ask(model: Any, count: int, budgets: list[int]) -> tuple[NDArray[np.float64], NDArray[np.float64], list[bool]]:
    """(n,) scores, (n,) IoUs of everything found, 0 for what is wrong; and of each unknown name whether nothing was."""
    scores: list[float] = []
    overlaps: list[float] = []
    nothing: list[bool] = []
    for style in ("own", "other"):
        for number in range(count):
            scene, rng = scene_of(style, SEED + number), np.random.default_rng([SEED, number])
            there = sorted({label for label, _ in scene.objects})
            absent = [name for name in LABELS if name not in there]
            unknown = UNKNOWN[(number + 20 * (style == "own")) % len(UNKNOWN)]
            budget = budgets[number % len(budgets)]
            for name in (None, there[rng.integers(len(there))], absent[rng.integers(len(absent))], unknown):
                # All of it, so that what would be left out is judged, too.
                found = model.detect(scene.image, name, threshold=0, max_soft_tokens=budget)
                truth = [item for item in scene.objects if name in (None, item[0])]
                scores += found.scores.tolist()
                overlaps += best(found, truth).tolist()
            nothing.append(not model.detect(scene.image, unknown, max_soft_tokens=budget))
    return np.array(scores), np.array(overlaps), nothing


def auroc(scores: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Probability that a right object has a higher score than a wrong one; a tie is half."""
    good, bad = scores[right], scores[~right]
    return float(((good[:, None] > bad).mean() + (good[:, None] >= bad).mean()) / 2)


def reliability(scores: NDArray[np.float64], right: NDArray[np.bool_]) -> list[tuple[float, float, int]]:
    """(mean score, share that is right, objects) of each bin of scores."""
    bins = np.minimum((scores / BIN).astype(int), round(1 / BIN) - 1)
    return [
        (float(scores[bins == b].mean()), float(right[bins == b].mean()), int((bins == b).sum()))
        for b in range(round(1 / BIN))
        if (bins == b).any()
    ]


def refined(model: Any, count: int, budgets: list[int]) -> tuple[float, float]:
    """Mean IoU of the objects that are found, as the grid has them and refined."""
    means = []
    for refine in (False, True):
        overlaps: list[float] = []
        for style in ("own", "other"):
            for number in range(count):
                scene, budget = scene_of(style, SEED + number), budgets[number % len(budgets)]
                found = model.detect(scene.image, refine=refine, max_soft_tokens=budget)
                overlaps += [value for value in best(found, scene.objects) if value >= 0.5]
        means.append(float(np.mean(overlaps)))
    return means[0], means[1]


def small_scene(number: int) -> tuple[Image.Image, Truth]:
    """A large picture with four objects of 3 to 6 % of its short side, as plain Pillow calls draw them."""
    rng = np.random.default_rng([SEED, 1, number])
    width, height = int(rng.integers(900, 1600)), int(rng.integers(900, 1600))
    picture, truth = Image.new("RGB", (width, height), (225, 225, 220)), []
    brush = ImageDraw.Draw(picture)
    for place in range(4):
        side = int(rng.uniform(0.03, 0.06) * min(width, height))
        x = int(rng.integers(0, width // 2 - side)) + (place % 2) * (width // 2)
        y = int(rng.integers(0, height // 2 - side)) + (place // 2) * (height // 2)
        color, shape = COLORS[rng.integers(7)], SHAPES[rng.integers(3)]
        if shape == "triangle":
            brush.polygon([(x, y + side), (x + side / 2, y), (x + side, y + side)], fill=color)
        else:
            (brush.ellipse if shape == "circle" else brush.rectangle)((x, y, x + side, y + side), fill=color)
        truth.append((f"{color} {shape}", (float(x), float(y), float(x + side), float(y + side))))
    return picture, truth


def small(model: Any, count: int, budget: int, tile: int | None) -> tuple[float, float]:
    """Share of the small objects that are found, and of what is found that is right."""
    hits = found_in_all = there = 0
    for number in range(count):
        picture, truth = small_scene(number)
        found = model.detect(picture, tile=tile, max_soft_tokens=budget, threshold=0.3)
        hits += int((best(found, truth) > 0).sum())
        found_in_all, there = found_in_all + len(found), there + len(truth)
    return hits / there, hits / max(1, found_in_all)


def plot(path: Path, bins: list[tuple[float, float, int]], area: float) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 4.5), dpi=110)
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1, label="as it should be")
    mean, right, count = (list(column) for column in zip(*bins, strict=True))
    axes.plot(mean, right, color="#1e88ff", linewidth=1.5)
    axes.scatter(mean, right, s=[6 + 60 * (n / max(count)) ** 0.5 for n in count], color="#1e88ff", zorder=3)
    for x, y, n in bins:
        axes.annotate(str(n), (x, y), textcoords="offset points", xytext=(7, -11), fontsize=8, color="0.35")
    axes.set(xlabel="score", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1), title=f"AUROC {area:.3f}")
    axes.legend(frameon=False, loc="upper left")
    axes.set_aspect("equal")
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--budgets", type=int, nargs="+", default=list(BUDGETS))
    parser.add_argument("--tile", type=int, default=320)
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    warnings.simplefilter("ignore", RuntimeWarning)
    model = gemma4.Model.from_pretrained(given.model)
    scores, overlaps, nothing = ask(model, given.count, given.budgets)
    right = overlaps >= 0.5
    area, bins = auroc(scores, right), reliability(scores, right)
    print(f"{len(scores)} objects, {right.mean():.3f} right; AUROC {area:.4f} (wanted {AUROC})")
    print(f"unknown names: nothing found in {np.mean(nothing):.3f} of {len(nothing)} questions")
    for mean, share, number in bins:
        gap = abs(mean - share)
        print(
            f"  score {mean:.2f}: {share:.2f} right, {number} objects"
            + ("  <- off" if number >= LEAST and gap > GAP else "")
        )
    before, after = refined(model, given.count, given.budgets)
    print(f"mean IoU of what is found: {before:.4f}, refined {after:.4f}")
    count = max(5, given.count // 5)
    for tile in (None, given.tile):
        share, precision = small(model, count, given.budgets[0], tile)
        print(f"objects of 3 to 6 %, tile {tile}: {share:.3f} found (wanted {SMALL_FOUND}), {precision:.3f} right")
    if given.plot:
        plot(given.plot, bins, area)


if __name__ == "__main__":
    main()
