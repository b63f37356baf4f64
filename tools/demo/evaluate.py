"""Acceptance figures of the demo model on scenes it has never seen.

    python evaluate.py DIR [--backend batched|transformers|gemma4] [--style own|other] [--count 300]

Each scene is asked for one object in it by name, and for one that is not in it. An object counts as found when a box
with its label reaches IoU 0.5; mean IoU counts an object that was not found as 0. Scenes with one painted word are
asked for the text; a word counts when every letter is right.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import prompts
from other_scenes import make_other_scene
from PIL import Image
from scenes import COLORS, LABELS, SHAPES, WORDS, Scene, make_scene

Box = tuple[float, float, float, float]
Found = list[tuple[str, Box]]
Question = tuple[Image.Image, str]
Ask = Callable[[list[Question]], list[str]]


def transformers_backend(directory: Path) -> Ask:
    """Greedy answers of the reference in f32."""
    import torch
    from transformers import AutoProcessor, Gemma4ForConditionalGeneration

    processor = AutoProcessor.from_pretrained(directory)
    model = Gemma4ForConditionalGeneration.from_pretrained(directory, dtype=torch.float32).eval()

    def one(image: Image.Image, prompt: str) -> str:
        content = [{"type": "image", "image": image}, {"type": "text", "text": prompt}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            add_generation_prompt=True,
        )
        with torch.no_grad():
            out = model.generate(**inputs, max_new_tokens=140, do_sample=False)
        return processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

    return lambda questions: [one(*question) for question in questions]


def gemma4_backend(directory: Path) -> Ask:
    """Greedy answers of the package."""
    import gemma4

    model = gemma4.Model.from_pretrained(str(directory))

    def one(image: Image.Image, prompt: str) -> str:
        return model.generate(prompt, images=[image], temperature=0, max_new_tokens=140).text

    return lambda questions: [one(*question) for question in questions]


def batched_backend(directory: Path, size: int = 50) -> Ask:
    """Greedy answers of the model as it is trained, many at once; `export.py` proves it equal to transformers."""
    import torch
    from batches import PATCHES, Encoder
    from dataset import BUDGET, POOL, grid_of, patch_positions, to_patches
    from export import clip
    from modeling import DemoConfig, DemoModel, Rows
    from safetensors.torch import load_file

    encoder = Encoder(directory / "tokenizer.json")
    tensors = {name: value.float() for name, value in load_file(directory / "model.safetensors").items()}
    bounds = {name: tensors.pop(name) for name in list(tensors) if name.endswith(("_min", "_max"))}
    model = DemoModel(DemoConfig()).eval()
    model.load_state_dict(tensors)
    clip(model, bounds)

    def some(questions: list[Question]) -> list[str]:
        count = len(questions)
        pixels, places = torch.zeros(count, PATCHES, 768), torch.zeros(count, PATCHES, 2, dtype=torch.long)
        cells, said, sources = torch.zeros(count, dtype=torch.long), [], []
        for i, (image, prompt) in enumerate(questions):
            columns, lines = grid_of(*image.size)
            patches = to_patches(image.convert("RGB"), columns, lines)
            pixels[i, : len(patches)] = torch.from_numpy(patches) * (2 / 255) - 1
            places[i, : len(patches)] = torch.from_numpy(patch_positions(columns, lines))
            cells[i] = columns * lines
            before = encoder.text("<bos><|turn>user\n<|image>")
            after = [*encoder.text("<image|>"), *encoder.text(prompt), *encoder.answer_from]
            said.append([*before, *[encoder.pad] * (columns * lines), *after])
            soft_tokens = range(i * BUDGET, i * BUDGET + columns * lines)
            sources.append([*[-1] * len(before), *soft_tokens])
        starts, done = [len(row) for row in said], [False] * count
        soft = model.soft_tokens(pixels, places, torch.arange(PATCHES) < cells[:, None] * POOL * POOL).flatten(0, 1)
        for _ in range(140):
            longest = max(map(len, said))
            ids = torch.tensor([row + [encoder.pad] * (longest - len(row)) for row in said])
            source = torch.tensor([row + [-1] * (longest - len(row)) for row in sources])
            last = torch.tensor([[len(row) - 1] for row in said])
            nothing = torch.zeros_like(ids)
            rows = Rows(ids, source, torch.arange(longest).expand_as(ids), nothing, nothing, last)
            best = model.logits(model.hidden(soft, rows))[:, 0].argmax(-1).tolist()
            for i, token in enumerate(best):
                done[i] = done[i] or token == encoder.end
                if not done[i]:
                    said[i].append(token)
            if all(done):
                break
        return [encoder.tokenizer.decode(row[start:]) for row, start in zip(said, starts, strict=True)]

    def ask(questions: list[Question]) -> list[str]:
        with torch.no_grad():
            return [text for i in range(0, len(questions), size) for text in some(questions[i : i + size])]

    return ask


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


def iou(a: Box, b: Box) -> float:
    """Intersection over union."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(0.0, width) * max(0.0, height)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common
    return common / union if union > 0 else 0.0


def match(truth: Found, found: Found) -> list[float]:
    """IoU of each true object with the box given to it, best pairs first, labels equal; 0 where there is none."""
    pairs = [(iou(t[1], f[1]), i, j) for i, t in enumerate(truth) for j, f in enumerate(found) if t[0] == f[0]]
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


def share_of(scene: Scene, box: Box) -> str:
    """Size class of an object: longer side as a share of the picture's short side."""
    share = max(box[2] - box[0], box[3] - box[1]) / min(scene.image.size)
    return "small <18%" if share < 0.18 else "middle <35%" if share < 0.35 else "large"


def aspect_of(scene: Scene) -> str:
    ratio = max(scene.image.size) / min(scene.image.size)
    return "aspect <1.6" if ratio < 1.6 else "aspect <2.2" if ratio < 2.2 else "aspect to 3"


def evaluate(ask: Ask, style: str, count: int, verbose: bool = False) -> dict[str, float]:
    """Ask, match and print; returns the figures."""
    began = time.time()
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

    total, missed = Counter[str](), Counter[str]()
    values: list[float] = []
    extra = 0
    for seed, (scene, name, answer) in enumerate(zip(scenes, wanted, present, strict=True)):
        truth = [item for item in scene.objects if item[0] == name]
        found = parse(answer, scene.image.size)
        best = match(truth, found)
        values += best
        extra += max(0, len(found) - sum(value >= 0.5 for value in best))
        for (label, box), value in zip(truth, best, strict=True):
            keys = [*label.split(), share_of(scene, box), aspect_of(scene), scene.background]
            total.update(keys)
            if value < 0.5:
                missed.update(keys)
                if verbose:
                    print(f"  {seed} {label} {scene.image.size} best {value:.2f} of {answer}")
    hits = boxes = objects = 0
    for scene, answer in zip(scenes[::3], everything, strict=True):
        found = parse(answer, scene.image.size)
        hits += sum(value >= 0.5 for value in match(scene.objects, found))
        boxes, objects = boxes + len(found), objects + len(scene.objects)
    figures = {
        "found": sum(value >= 0.5 for value in values) / len(values),
        "mean_iou": float(np.mean(values)),
        "mean_iou_of_found": float(np.mean([value for value in values if value >= 0.5] or [0.0])),
        "extra_boxes": extra / count,
        "absent_empty": sum(answer.strip() == "[]" for answer in nothing) / count,
        "all_found": hits / objects,
        "all_extra": (boxes - hits) / objects,
    }
    print(f"{style}: {count} scenes, {len(values)} objects asked for, {time.time() - began:.0f} s")
    print("  " + "  ".join(f"{name} {value:.3f}" for name, value in figures.items()))
    for names in (
        SHAPES,
        COLORS,
        ("small <18%", "middle <35%", "large"),
        ("aspect <1.6", "aspect <2.2", "aspect to 3"),
    ):
        print("  missed: " + "  ".join(f"{name} {missed[name]}/{total[name]}" for name in names if total[name]))
    return figures


def evaluate_reading(ask: Ask, count: int, verbose: bool = False) -> dict[str, float]:
    """Words read right, those that it was trained on and arbitrary letters apart."""
    scenes = [make_scene(np.random.default_rng([2025, seed]), word=1.0) for seed in range(count)]
    answers = ask([(scene.image, prompts.READ[0]) for scene in scenes])
    total, right = Counter[str](), Counter[str]()
    for scene, answer in zip(scenes, answers, strict=True):
        kind = "listed" if scene.word in WORDS else "arbitrary"
        total[kind] += 1
        right[kind] += answer.strip() == scene.word
        if verbose and answer.strip() != scene.word:
            print(f"  {scene.word} was read as {answer}")
    figures = {f"read_{kind}": right[kind] / total[kind] for kind in sorted(total)}
    print(f"reading: {count} words\n  " + "  ".join(f"{name} {value:.3f}" for name, value in figures.items()))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--backend", choices=["batched", "transformers", "gemma4"], default="batched")
    parser.add_argument("--style", choices=["own", "other"], action="append")
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--verbose", action="store_true", help="print every miss")
    arguments = parser.parse_args()
    backends = {"batched": batched_backend, "transformers": transformers_backend, "gemma4": gemma4_backend}
    ask = backends[arguments.backend](arguments.directory)
    for style in arguments.style or ["own", "other"]:
        evaluate(ask, style, arguments.count, arguments.verbose)
    evaluate_reading(ask, arguments.count, arguments.verbose)


if __name__ == "__main__":
    main()
