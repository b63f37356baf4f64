"""Questions about a scene and their answers.

An answer is a list of pieces: text, or a coordinate (a float on the 0..1000 grid) that becomes one number token. The
label of a found object is the name that was asked for, in the singular; its own name where only a colour or everything
was asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import prompts
import unknown
import vocabulary
from dataset import Picture
from scenes import BACKGROUNDS, COLORS, SHAPES, Scene


class Key(str):
    """A piece of an answer that decides whether it is right."""


Piece = str | float
COUNTS = ("no", "a", "two", "three", "four", "five", "six")


@dataclass
class Truth:
    """What the questions need to know of a scene; boxes are (n, 4) x1, y1, x2, y2 in 0..1, sorted by y1 then x1."""

    shapes: list[str]
    colors: list[str]  # "" where a picture without colours does not tell
    boxes: np.ndarray
    background: str
    word: str

    @classmethod
    def from_picture(cls, picture: Picture) -> Truth:
        """What a picture shows, in the order of the answers."""
        order = answer_order(picture.box)
        return cls(
            shapes=[SHAPES[picture.shape[i]] for i in order],
            colors=[COLORS[picture.color[i]] if picture.color[i] >= 0 else "" for i in order],
            boxes=picture.box[order],
            background=picture.background,
            word=picture.word,
        )

    @classmethod
    def from_scene(cls, scene: Scene) -> Truth:
        """What a scene shows; not where."""
        names = [label.split() for label, _ in scene.objects]
        colors, shapes = [color for color, _ in names], [shape for _, shape in names]
        return cls(shapes, colors, np.zeros((len(names), 4)), scene.background, scene.word or "")

    def name(self, index: int) -> str:
        """An object's own name."""
        return f"{self.colors[index]} {self.shapes[index]}".strip()

    def matches(self, name: str) -> list[int]:
        """Objects that a name in the singular stands for: "red circle", "circle" or "red object"."""
        words = name.split()
        return [
            i
            for i, (shape, color) in enumerate(zip(self.shapes, self.colors, strict=True))
            if all(word in (shape, color, "object") for word in words)
        ]


def answer_order(boxes: np.ndarray) -> np.ndarray:
    """Indices of boxes, (n, 4) x1, y1, x2, y2 in 0..1, top to bottom as an answer writes them."""
    rounded = np.round(boxes * 1000 / vocabulary.STEP)
    return np.lexsort((rounded[:, 0], rounded[:, 1]))


def boxes_answer(truth: Truth, found: list[tuple[int, str]], point: bool = False) -> list[Piece]:
    """JSON of (object, label) pairs, as boxes or as points."""
    if not found:
        return [vocabulary.NOTHING]
    opening, following = (
        (vocabulary.POINT_OPEN, vocabulary.POINT_NEXT) if point else (vocabulary.BOX_OPEN, vocabulary.BOX_NEXT)
    )
    pieces: list[Piece] = []
    for position, (index, label) in enumerate(found):
        x1, y1, x2, y2 = (float(v) * 1000 for v in truth.boxes[index])
        values = [(y1 + y2) / 2, (x1 + x2) / 2] if point else [y1, x1, y2, x2]
        pieces.append(following if position else opening)
        for i, value in enumerate(values):
            pieces += [vocabulary.SEPARATOR, value] if i else [value]
        pieces += [vocabulary.LABEL, label]
    return [*pieces, vocabulary.CLOSE]


def names_answer(truth: Truth, names: list[str], point: bool = False) -> list[Piece]:
    """Everything that one of the names stands for, in the order of the scene."""
    found: dict[int, str] = {}
    for name in names:
        for index in truth.matches(name):
            found.setdefault(index, truth.name(index) if name.endswith("object") else name)
    return boxes_answer(truth, sorted(found.items()), point)


def caption(truth: Truth) -> list[Piece]:
    """One sentence: what there is, in the order of the scene, and on what background. How many there are of each, and
    whether the list goes on, decides.
    """
    if truth.background not in BACKGROUNDS:
        return [Key(unknown.NOTHING_KNOWN)]
    counts: dict[str, int] = {}
    for index in range(len(truth.shapes)):
        counts[truth.name(index)] = counts.get(truth.name(index), 0) + 1
    parts = [(COUNTS[n] if n > 1 else _article(name), f"{name}{'s' if n > 1 else ''}") for name, n in counts.items()]
    if truth.word:
        parts.append(("the", f'word{"s" if " " in truth.word else ""} "{truth.word}"'))
    pieces: list[Piece] = [] if parts else [Key("Nothing")]
    for number, (amount, name) in enumerate(parts):
        if number:
            pieces.append(Key("," if number < len(parts) - 1 else " and"))
        pieces += [Key(f" {amount}" if number else amount.capitalize()), f" {name}"]
    return [*pieces, Key(" on"), " a", Key(f" {truth.background}"), " background."]


def _article(name: str) -> str:
    return "an" if name.startswith("orange") else "a"


def _spoken(rng: np.random.Generator, name: str) -> str:
    """How a user may write the name: as it is, in the plural, in capitals, with another word for "object"."""
    if name.endswith("object"):
        name = name.removesuffix("object") + str(rng.choice(["object", "thing", "one", "shape"]))
    name = name + "s" if rng.random() < 0.2 and not name.endswith("s") else name
    chance = rng.random()
    return name.upper() if chance < 0.05 else name.title() if chance < 0.08 else name


def _fill(rng: np.random.Generator, templates: tuple[str, ...], **names: str) -> str:
    text = templates[0] if rng.random() < 0.35 else templates[rng.integers(len(templates))]
    chance = rng.random()
    if chance < 0.06:
        text = text.replace("the {", "a {")
    elif chance < 0.1:
        text = text.replace("the {", "{")
    text = text.format(**names)
    if rng.random() < 0.05:
        text = text.rstrip(".?")
    return text[0].lower() + text[1:] if rng.random() < 0.05 else text


def _absent_name(rng: np.random.Generator, truth: Truth) -> str:
    """A name that fits nothing in the scene, mostly one that shares a colour or a shape with something there."""
    while True:
        shape, color = SHAPES[rng.integers(4)], COLORS[rng.integers(8)]
        chance = rng.random()
        if truth.shapes and chance < 0.35:
            shape = truth.shapes[rng.integers(len(truth.shapes))]
        elif truth.shapes and chance < 0.7:
            color = truth.colors[rng.integers(len(truth.colors))] or color
        elif chance < 0.8 and shape not in truth.shapes:
            return shape
        elif chance < 0.85 and color not in truth.colors:
            return f"{color} object"
        if not truth.matches(f"{color} {shape}"):
            return f"{color} {shape}"


def _present_name(rng: np.random.Generator, truth: Truth) -> str:
    index = rng.integers(len(truth.shapes))
    color, shape = truth.colors[index], truth.shapes[index]
    chance = rng.random()
    if not color:
        return shape
    return f"{color} {shape}" if chance < 0.8 else shape if chance < 0.92 else f"{color} object"


def ask(rng: np.random.Generator, truth: Truth, kind: str) -> tuple[str, list[Piece]]:
    """A question of a kind (one, absent, unknown, several, all, point, caption, read, other) and its answer."""
    if kind == "all":
        own = [(i, truth.name(i)) for i in range(len(truth.shapes))]
        return _fill(rng, prompts.DETECT_ALL), boxes_answer(truth, own)
    if kind == "caption":
        return _fill(rng, prompts.CAPTION), caption(truth)
    if kind == "read":
        return _fill(rng, prompts.READ), [Key(truth.word) if truth.word else prompts.NO_TEXT]
    if kind == "several":
        return _several(rng, truth)
    if kind == "other":
        return unknown.unknown_question(rng, True), [unknown.REPLY]
    absent = kind in ("absent", "unknown") or not truth.shapes
    if kind == "unknown":
        name = unknown.unknown_name(rng)
    else:
        name = _absent_name(rng, truth) if absent else _present_name(rng, truth)
    point = kind == "point" or (absent and rng.random() < 0.1)
    template = prompts.POINT if point else prompts.DETECT_ONE
    return _fill(rng, template, object=_spoken(rng, name)), names_answer(truth, [name], point)


def _several(rng: np.random.Generator, truth: Truth) -> tuple[str, list[Piece]]:
    """A question for two to four names, most of them of something that is there."""
    names: list[str] = []
    for _ in range(int(rng.integers(2, 5))):
        chance = rng.random()
        present = truth.shapes and chance < 0.75
        name = _present_name(rng, truth) if present else _absent_name(rng, truth)
        if chance > 0.92:
            name = unknown.unknown_name(rng)
        if name not in names:
            names.append(name)
    spoken = [_spoken(rng, name) for name in names]
    listed = ", ".join(spoken) if rng.random() < 0.7 else ", ".join(spoken[:-1]) + " and " + spoken[-1]
    template = prompts.DETECT_SEVERAL if len(names) > 1 else prompts.DETECT_ONE
    listed = listed.removeprefix(" and ")
    return _fill(rng, template, objects=listed, object=listed), names_answer(truth, names)
