"""Labelled pictures for tests: shapes that the demo model knows, and a detector that says what it is told."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from gemma4.detections import Detections
from PIL import Image, ImageDraw

LABELS = ("red circle", "blue square", "green triangle")
COLORS = {"red": (220, 40, 40), "blue": (40, 80, 220), "green": (40, 160, 70)}
Objects = list[tuple[str, tuple[float, float, float, float]]]


def scene(seed: int, count: int = 2) -> tuple[Image.Image, Objects]:
    """A picture with so many shapes, apart from each other, and what is on it."""
    draw_from = random.Random(seed)
    width, height = draw_from.choice([(320, 240), (241, 321), (300, 300)])
    picture = Image.new("RGB", (width, height), "white")
    pen, objects = ImageDraw.Draw(picture), []
    for place, label in enumerate(draw_from.sample(LABELS, count)):
        side = draw_from.randint(70, 100)
        left = draw_from.randint(5, width - side - 5)
        top = 5 + place * (height // 2) + draw_from.randint(0, height // 2 - side - 10)
        box = (left, top, left + side, top + side)
        color, shape = label.split()
        if shape == "circle":
            pen.ellipse(box, fill=COLORS[color])
        elif shape == "square":
            pen.rectangle(box, fill=COLORS[color])
        else:
            pen.polygon([((box[0] + box[2]) / 2, box[1]), (box[0], box[3]), (box[2], box[3])], fill=COLORS[color])
        objects.append((label, tuple(float(edge) for edge in box)))
    return picture, objects  # type: ignore[return-value]


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
