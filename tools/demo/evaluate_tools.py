"""Whether the demo model calls its tools and uses what they say: real functions that look at the picture.

Knows the tools and what a right call is. Everything is asked of `gemma4.Model` as a user would ask it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import gemma4
import numpy as np
import prompts
from figures import Figure, share
from lessons import DETAILS
from scenes import LABELS, Scene, make_scene

CALLED = USED = 0.95


@dataclass
class Picture:
    """A scene with its tools; keeps the calls and what they returned."""

    scene: Scene
    detail: str  # what `zoom` adds
    calls: list[tuple[str, list[int], Any]] = field(default_factory=list)

    def area(self, box: list[int]) -> int:
        """Return the area of a box in percent of the image."""
        y1, x1, y2, x2 = box
        percent = round((x2 - x1) * (y2 - y1) / 10_000)
        self.calls.append(("area", box, percent))
        return percent

    def zoom(self, box: list[int]) -> str:
        """Show a box larger and say what it shows."""
        pixels = gemma4.boxes.to_pixels(box, self.scene.image.size)
        overlaps = [float(gemma4.boxes.iou(pixels, truth)) for _, truth in self.scene.objects]
        label = self.scene.objects[int(np.argmax(overlaps))][0] if max(overlaps) > 0 else "white square"
        seen = f"{'an' if label.startswith('orange') else 'a'} {label}{self.detail}"
        self.calls.append(("zoom", box, seen))
        return seen

    def called_well(self, tool: str, label: str) -> bool:
        """Whether the one call is of this tool, with a box that fits the object."""
        if len(self.calls) != 1 or self.calls[0][0] != tool:
            return False
        truth = next(box for name, box in self.scene.objects if name == label)
        pixels = gemma4.boxes.to_pixels(self.calls[0][1], self.scene.image.size)
        return float(gemma4.boxes.iou(pixels, truth)) >= 0.5

    def used_by(self, answer: str, label: str) -> bool:
        """Whether the answer says what the last call returned."""
        if not self.calls:
            return False
        tool, _, result = self.calls[-1]
        return answer == (f"The {label} is {result} % of the image." if tool == "area" else f"I see {result}.")


def measure_tools(model: Any, count: int = 150) -> list[Figure]:
    """Calls of the right tool with the right box, answers that say what it returned; none for what is not there."""
    called, used, absent = [], [], []
    for seed in range(count):
        rng = np.random.default_rng([2032, seed])
        scene = make_scene(rng, unique=True)
        while not scene.objects:
            scene = make_scene(rng, unique=True)
        labels = [label for label, _ in scene.objects]
        tool = ("area", "zoom")[seed % 2]
        question = (prompts.AREA if tool == "area" else prompts.ZOOM)[0]
        label = labels[int(rng.integers(len(labels)))]
        picture = Picture(scene, DETAILS[int(rng.integers(len(DETAILS)))])
        said = send(model, picture, question.format(object=label))
        called.append(picture.called_well(tool, label))
        used.append(picture.used_by(said, label))
        missing = [name for name in LABELS if name not in labels]
        picture = Picture(scene, "")
        name = missing[int(rng.integers(len(missing)))]
        said = send(model, picture, question.format(object=name))
        absent.append(not picture.calls and said == f"There is no {name}.")
    return [
        share("tools: the right one called with the right box", called, CALLED, "questions"),
        share("tools: the answer says what it returned", used, USED, "questions"),
        share("tools: none for what is not there", absent, what="questions"),
    ]


def send(model: Any, picture: Picture, question: str) -> str:
    """The last answer; nothing where a call cannot be read, or the box is none."""
    chat = model.chat(tools=[picture.area, picture.zoom])
    try:
        out = chat.send(question, images=[picture.scene.image], max_tool_rounds=2, temperature=0, max_new_tokens=80)
    except gemma4.Gemma4Error as error:
        print(f"  {question}: {type(error).__name__}: {str(error)[:200]}")
        return ""
    return str(out).strip()
