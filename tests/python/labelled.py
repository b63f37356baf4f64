"""Pictures for tests, of shapes that the demo model knows, and a detector that says what it is told."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gemma4.detections import Detections
from PIL import Image, ImageDraw

LABELS = ("red circle", "blue square", "green triangle")
Objects = list[tuple[str, tuple[float, float, float, float]]]


def paint(picture: Image.Image, label: str, box: tuple[float, float, float, float]) -> None:
    """A shape on a picture, such as "red circle", within `(x1, y1, x2, y2)` in pixels."""
    color, shape = label.split()
    pen, (left, top, right, bottom) = ImageDraw.Draw(picture), box
    if shape == "circle":
        pen.ellipse(box, fill=color)
    elif shape == "square":
        pen.rectangle(box, fill=color)
    else:
        pen.polygon([((left + right) / 2, top), (left, bottom), (right, bottom)], fill=color)


def scene(seed: int, count: int = 2) -> tuple[Image.Image, Objects]:
    """A picture with so many shapes, apart from each other, and what is on it."""
    draw_from = random.Random(seed)
    width, height = draw_from.choice([(320, 240), (241, 321), (300, 300)])
    picture = Image.new("RGB", (width, height), "white")
    objects = []
    for place, label in enumerate(draw_from.sample(LABELS, count)):
        side = draw_from.randint(70, 100)
        left = draw_from.randint(5, width - side - 5)
        top = 5 + place * (height // 2) + draw_from.randint(0, height // 2 - side - 10)
        box = (left, top, left + side, top + side)
        paint(picture, label, box)
        objects.append((label, tuple(float(edge) for edge in box)))
    return picture, objects  # type: ignore[return-value]


def draw(seed: int) -> Image.Image:
    """Each seed another picture, small enough to be searched quickly, with up to four shapes."""
    chance = random.Random(seed)
    picture = Image.new("RGB", (chance.randint(200, 400), chance.randint(200, 400)), "white")
    for _ in range(chance.randint(0, 4)):
        x, y, side = chance.randint(0, 120), chance.randint(0, 120), chance.randint(40, 80)
        paint(picture, chance.choice(LABELS[:2]), (x, y, x + side, y + side))
    return picture


def draw_all(folder: Path, count: int, first: int = 0) -> list[Path]:
    """Pictures in a folder, which is made, called by their numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:04d}.png" for number in range(first, first + count)]
    for number, path in enumerate(paths, start=first):
        draw(number).save(path)
    return paths


class Told:
    """A detector that answers what a function of (number of the picture, arguments) gives it; it counts."""

    def __init__(self, answer: Callable[[int, dict[str, Any]], Any]) -> None:
        self._answer, self.asked = answer, 0

    def detect(self, pictures: Sequence[Any], on_error: str, **arguments: Any) -> list[Any]:
        assert on_error == "return"
        found = []
        for pixels in pictures:
            answer = self._answer(self.asked, arguments)
            self.asked += 1
            if not isinstance(answer, Exception):
                answer = Detections.from_xyxy(answer, (pixels.shape[1], pixels.shape[0]))
            found.append(answer)
        return found
