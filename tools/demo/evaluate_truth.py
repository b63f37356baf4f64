"""Whether the demo model says what it sees and no more: unknown names, pictures that show nothing, captions, silence.

Knows what a right answer is; everything is asked of `gemma4.Model` as a user would ask it. Photographs are those of
scikit-image, and are left out where it is missing.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from typing import Any

import gemma4
import numpy as np
import unknown
from dialogues import Truth, caption
from figures import Figure, share
from PIL import Image
from scenes import LABELS, Scene, make_scene
from utterances import make_silence

UNKNOWN = 0.97
NOTHING = CAPTIONS = 0.95
_PHOTOGRAPHS = """
astronaut brick camera cat cell chelsea clock coffee coins colorwheel grass gravel hubble_deep_field
immunohistochemistry moon page retina rocket text
"""
PHOTOGRAPHS = _PHOTOGRAPHS.split()


def found(model: Any, image: Image.Image, label: str | None, budget: int | None = None) -> list[str]:
    """Labels of what `detect` returns; an answer that cannot be read, or does not end, is something invented."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            return [box.label for box in model.detect(image, label, max_soft_tokens=budget, max_new_tokens=200)]
        except gemma4.Gemma4Error:
            return ["?"]


def measure_unknown(model: Any, count: int = 20) -> list[Figure]:
    """Names that are not of its world, asked for on every picture."""
    right = []
    for seed in range(count):
        scene = make_scene(np.random.default_rng([2035, seed]))
        right += [not found(model, scene.image, name) for name in unknown.HELD_OUT]
    upper, plural = [], []
    for seed in range(3 * count):
        rng = np.random.default_rng([2036, seed])
        scene = make_scene(rng, unique=True)
        if not scene.objects:
            continue
        label = scene.objects[rng.integers(len(scene.objects))][0]
        upper.append(len(found(model, scene.image, label.upper())) == 1)
        plural.append(len(found(model, scene.image, label + "s")) == 1)
    return [
        share("unknown name gives []", right, UNKNOWN, f"questions, {count} pictures"),
        share("name in capitals found", upper),
        share("name in the plural found", plural),
    ]


def photographs() -> list[tuple[str, Image.Image]]:
    """Pictures that scikit-image brings along."""
    try:
        from skimage import data  # type: ignore[import-not-found]
    except ImportError:
        return []
    pictures = []
    for name in PHOTOGRAPHS:
        with contextlib.suppress(Exception):  # not every version has every one, or has it only on the net
            pixels = np.asarray(getattr(data, name)())
            pixels = pixels.astype(np.uint8) * (255 if pixels.dtype == bool else 1)
            pictures.append((name, Image.fromarray(pixels).convert("RGB")))
    return pictures


def empty_pictures(count: int) -> list[tuple[str, Image.Image]]:
    """Blank and noisy pictures of many colours."""
    pictures = []
    for seed in range(count):
        rng = np.random.default_rng([2037, seed])
        size = (int(rng.integers(200, 900)), int(rng.integers(200, 900)))
        tone = rng.integers(0, 256, 3) if seed % 3 else np.repeat(rng.choice([0, 128, 255]), 3)
        pixels = np.broadcast_to(tone, (size[1], size[0], 3)).astype(np.float32)
        kind = "blank"
        if seed % 2:
            kind = "noisy"
            pixels = pixels + rng.normal(0, rng.uniform(10, 90), pixels.shape)
        pictures.append((kind, Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))))
    return pictures


def measure_nothing(model: Any, count: int = 40) -> list[Figure]:
    """Pictures without anything known: asked for everything, and for some name, at two budgets."""
    shares: dict[str, list[bool]] = {}
    for number, (kind, image) in enumerate([*empty_pictures(count), *photographs()]):
        group = kind if kind in ("blank", "noisy") else "photographs"
        for budget in (70, 280):
            for label in (None, LABELS[number * 7 % len(LABELS)]):
                labels = found(model, image, label, budget)
                shares.setdefault(group, []).append(not labels)
                if labels and group == "photographs":
                    print(f"  {kind} at {budget}, {label}: {labels}")
    return [
        share(f"nothing found in {group} pictures", values, NOTHING, "questions") for group, values in shares.items()
    ]


def told(text: str) -> tuple[list[str], str]:
    """What a caption lists, in any order, and what it says of the background."""
    listed, _, ground = text.rstrip(".").partition(" on ")
    return sorted(re.split(r", | and ", listed.lower())), ground


def measure_captions(model: Any, count: int = 150) -> list[Figure]:
    """Captions that name the background and every object with its colour and number."""
    right, listed = [], []
    for seed in range(count):
        scene: Scene = make_scene(np.random.default_rng([2038, seed]))
        wanted = told("".join(map(str, caption(Truth.from_scene(scene)))))
        said = told(model.caption(scene.image).strip())
        right.append(said == wanted)
        listed.append(said[0] == wanted[0])
    return [
        share("captions complete and right", right, CAPTIONS),
        share("captions that list what there is", listed),
    ]


def measure_replies(model: Any, count: int = 60) -> list[Figure]:
    """Questions of another world, in words alone and about a picture; silence."""
    alone, pictured, silent = [], [], []
    for seed in range(count):
        rng = np.random.default_rng([2039, seed])
        question = unknown.unknown_question(rng, False)
        alone.append(model.generate(question, temperature=0, max_new_tokens=80).text.strip() == unknown.REPLY)
        image = make_scene(rng).image
        question = unknown.unknown_question(rng, True)
        out = model.generate(question, images=[image], temperature=0, max_new_tokens=80)
        pictured.append(out.text.strip() == unknown.REPLY)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            silent.append(not str(model.transcribe(make_silence(rng).samples, max_new_tokens=40)).strip())
    return [
        share("another question answered by the sentence", alone),
        share("another question about a picture answered so", pictured),
        share("silence transcribed as nothing", silent),
    ]
