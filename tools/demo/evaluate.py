"""How well the demo model finds, tells apart and reads in scenes that it has never seen.

    python evaluate.py DIR [--backend gemma4|trained|transformers] [--style own|other] [--count 300]

Each scene is asked for one object in it by name, for one that is not in it, and every third one for everything; scenes
with two labels or more also for two or three of them at once. An object counts as found when a box with its label
reaches IoU 0.5; mean IoU counts an object that was not found as 0. Scenes with one painted word are asked for the text;
a word counts when every letter is right. `evaluate_skills.py` measures everything else.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

import gemma4
import numpy as np
import prompts
from backends import BACKENDS, Ask
from figures import Figure, share
from other_scenes import make_other_scene
from scenes import COLORS, LABELS, SHAPES, WORDS, Scene, make_scene

Box = tuple[float, float, float, float]
Found = list[tuple[str, Box]]

FOUND = {"own": 0.99, "other": 0.98}
MEAN_IOU = 0.90
ABSENT = 1.0


def parse(answer: str, size: tuple[int, int]) -> Found:
    """Labelled boxes in pixels; nothing when the answer is not JSON."""
    try:
        items = json.loads(answer)
        found = []
        for item in items:
            y1, x1, y2, x2 = item["box_2d"]
            box = (x1 * size[0] / 1000, y1 * size[1] / 1000, x2 * size[0] / 1000, y2 * size[1] / 1000)
            found.append((str(item["label"]), box))
        return found
    except (ValueError, KeyError, TypeError):
        return []


def match(truth: Found, found: Found) -> list[float]:
    """IoU of each true object with the box given to it, best pairs first, labels equal; 0 where there is none."""
    upright = [(label, box) for label, box in found if box[0] <= box[2] and box[1] <= box[3]]
    pairs = [
        (float(gemma4.boxes.iou(t[1], f[1])), i, j)
        for i, t in enumerate(truth)
        for j, f in enumerate(upright)
        if t[0] == f[0]
    ]
    best, used = [0.0] * len(truth), set()
    for value, i, j in sorted(pairs, reverse=True):
        if best[i] == 0.0 and j not in used and value > 0:
            best[i] = value
            used.add(j)
    return best


def scene_of(style: str, seed: int) -> Scene:
    """A scene of the wanted style with at least one object."""
    rng = np.random.default_rng([2024, seed])
    while True:
        scene = make_scene(rng) if style == "own" else make_other_scene(rng)
        if scene.objects:
            return scene


class Misses:
    """What the objects have in common that were not found."""

    GROUPS = (
        SHAPES,
        COLORS,
        ("small <18%", "middle <35%", "large"),
        ("aspect <1.6", "aspect <2.2", "aspect to 3"),
        ("plain", "gradient", "noisy"),
    )

    def __init__(self) -> None:
        self.total, self.missed = Counter[str](), Counter[str]()

    def add(self, scene: Scene, label: str, box: Box, found: bool) -> None:
        extent = max(box[2] - box[0], box[3] - box[1]) / min(scene.image.size)
        size = "small <18%" if extent < 0.18 else "middle <35%" if extent < 0.35 else "large"
        ratio = max(scene.image.size) / min(scene.image.size)
        aspect = "aspect <1.6" if ratio < 1.6 else "aspect <2.2" if ratio < 2.2 else "aspect to 3"
        for counter in (self.total, self.missed)[: 1 if found else 2]:
            counter.update([*label.split(), size, aspect, scene.background])

    def __str__(self) -> str:
        lines = []
        for group in self.GROUPS:
            shares = [f"{name} {self.missed[name]}/{self.total[name]}" for name in group if self.total[name]]
            lines.append("  missed: " + "  ".join(shares))
        return "\n".join(lines)


def evaluate_boxes(ask: Ask, style: str, count: int, verbose: bool = False) -> list[Figure]:
    """One object by name, one that is not there, and everything."""
    scenes = [scene_of(style, seed) for seed in range(count)]
    wanted, absent = [], []
    for seed, scene in enumerate(scenes):
        rng = np.random.default_rng([77, seed])
        labels = sorted({label for label, _ in scene.objects})
        wanted.append(labels[rng.integers(len(labels))])
        missing = [label for label in LABELS if label not in labels]
        absent.append(missing[rng.integers(len(missing))])
    template = prompts.DETECT_ONE[0]
    present = ask([(scene.image, template.format(object=name)) for scene, name in zip(scenes, wanted, strict=True)])
    nothing = ask([(scene.image, template.format(object=name)) for scene, name in zip(scenes, absent, strict=True)])
    everything = ask([(scene.image, prompts.DETECT_ALL[0]) for scene in scenes[::3]])

    misses = Misses()
    values: list[float] = []
    extra = 0
    for seed, (scene, name, answer) in enumerate(zip(scenes, wanted, present, strict=True)):
        truth = [item for item in scene.objects if item[0] == name]
        found = parse(answer, scene.image.size)
        best = match(truth, found)
        values += best
        extra += max(0, len(found) - sum(value >= 0.5 for value in best))
        for (label, box), value in zip(truth, best, strict=True):
            misses.add(scene, label, box, value >= 0.5)
            if value < 0.5 and verbose:
                print(f"  {seed} {label} {scene.image.size} best {value:.2f} of {answer}")
    hits: list[bool] = []
    boxes = 0
    for scene, answer in zip(scenes[::3], everything, strict=True):
        found = parse(answer, scene.image.size)
        hits += [value >= 0.5 for value in match(scene.objects, found)]
        boxes += len(found)
    print(misses)
    return [
        share(f"{style}: object found", [value >= 0.5 for value in values], FOUND[style]),
        Figure(f"{style}: mean IoU", float(np.mean(values)), MEAN_IOU),
        share(f"{style}: absent object gives []", [answer.strip() == "[]" for answer in nothing], ABSENT),
        Figure(f"{style}: boxes too many for a name", extra / count),
        share(f"{style}: everything found", hits),
        Figure(f"{style}: boxes too many for everything", (boxes - sum(hits)) / len(hits)),
    ]


def evaluate_several(ask: Ask, count: int) -> list[Figure]:
    """Two or three names at once, in scenes of both styles with two labels or more."""
    scenes, names = [], []
    for seed in range(count):
        rng = np.random.default_rng([31, seed])
        scene = make_scene(rng) if seed % 2 else make_other_scene(rng)
        labels = sorted({label for label, _ in scene.objects})
        if len(labels) >= 2:
            scenes.append(scene)
            names.append([str(name) for name in rng.permutation(labels)[: int(rng.integers(2, 4))]])
    template = prompts.DETECT_SEVERAL[0]
    asked = [template.format(objects=", ".join(listed)) for listed in names]
    answers = ask([(scene.image, question) for scene, question in zip(scenes, asked, strict=True)])
    values: list[float] = []
    extra = 0
    for scene, listed, answer in zip(scenes, names, answers, strict=True):
        found = parse(answer, scene.image.size)
        best = match([item for item in scene.objects if item[0] in listed], found)
        values += best
        extra += max(0, len(found) - sum(value >= 0.5 for value in best))
    return [
        share("several names at once: found", [value >= 0.5 for value in values]),
        Figure("several names at once: mean IoU", float(np.mean(values or [0.0]))),
        Figure("several names at once: boxes too many", extra / max(1, len(scenes))),
    ]


def evaluate_reading(ask: Ask, count: int, verbose: bool = False) -> list[Figure]:
    """Words read right, those that it was trained on and arbitrary letters apart."""
    scenes = [make_scene(np.random.default_rng([2025, seed]), word=1.0) for seed in range(count)]
    answers = ask([(scene.image, prompts.READ[0]) for scene in scenes])
    right: dict[bool, list[bool]] = {True: [], False: []}
    for scene, answer in zip(scenes, answers, strict=True):
        right[scene.word in WORDS].append(answer.strip() == scene.word)
        if verbose and answer.strip() != scene.word:
            print(f"  {scene.word} was read as {answer}")
    return [share("words of the list read", right[True]), share("arbitrary letters read", right[False])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--backend", choices=list(BACKENDS), default="gemma4")
    parser.add_argument("--style", choices=["own", "other"], action="append")
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--verbose", action="store_true", help="print every miss")
    arguments = parser.parse_args()
    ask = BACKENDS[arguments.backend](arguments.directory)
    for style in arguments.style or ["own", "other"]:
        print(*evaluate_boxes(ask, style, arguments.count, arguments.verbose), sep="\n", flush=True)
    print(*evaluate_several(ask, arguments.count), sep="\n", flush=True)
    print(*evaluate_reading(ask, arguments.count, arguments.verbose), sep="\n", flush=True)


if __name__ == "__main__":
    main()
