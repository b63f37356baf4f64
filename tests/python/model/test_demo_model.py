"""The bundled model can do what it was taught, in scenes, clips and sounds that it never met.

The bounds on boxes are those that the package promises. Each other skill has a few examples, and bounds below its
target by what chance may do to so few; `tools/demo/evaluate.py` and `evaluate_skills.py` measure all of it in detail.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import evaluate_skills
import evaluate_truth
import gemma4
import numpy as np
import pytest
from evaluate_tools import measure_tools
from figures import Figure
from other_scenes import make_other_scene
from plotted_scenes import make_plotted_scene
from scenes import LABELS, WORDS, Scene, make_scene

SCENES = 150
SPEECH = Path(__file__).parents[1] / "data" / "speech"


@dataclass(frozen=True)
class Figures:
    found: float
    """Share of the asked objects with a box of the right label at IoU 0.5 or more."""
    mean_iou: float
    """Over the asked objects; 0 where there is no such box."""
    empty: float
    """Share of the pictures without the asked object in which nothing was found."""


def measure(
    model: Any, draw: Callable[[np.random.Generator], Scene], seed: int, scenes: int = SCENES, **options: Any
) -> Figures:
    found, wanted, overlap, empty, pictures = 0, 0, 0.0, 0, 0
    for number in range(scenes):
        rng = np.random.default_rng([seed, number])
        scene = draw(rng)
        present = sorted({label for label, _ in scene.objects})
        absent = [label for label in LABELS if label not in present]
        empty += len(model.detect(scene.image, str(rng.choice(absent)), **options)) == 0
        pictures += 1
        if not present:
            continue
        name = str(rng.choice(present))
        truth = [(label, box) for label, box in scene.objects if label == name]
        result = gemma4.boxes.evaluate(model.detect(scene.image, name, **options), truth, iou=0.5)
        found += result.true_positives
        wanted += len(truth)
        overlap += result.mean_iou * result.true_positives
    return Figures(found / wanted, overlap / wanted, empty / pictures)


@pytest.mark.parametrize("draw", [make_scene, make_other_scene], ids=["own", "other"])
def test_finds_objects_in_unseen_scenes(gemma4_model: Any, draw: Callable[[np.random.Generator], Scene]) -> None:
    figures = measure(gemma4_model, draw, seed=981)
    assert figures.found >= 0.92, figures
    assert figures.mean_iou >= 0.75, figures
    assert figures.empty >= 0.95, figures


@pytest.mark.parametrize("draw", [make_scene, make_other_scene, make_plotted_scene], ids=["own", "other", "plotted"])
@pytest.mark.parametrize("budget", [140, 280, 560, 1120])
def test_finds_objects_at_every_budget(
    gemma4_model: Any, draw: Callable[[np.random.Generator], Scene], budget: int
) -> None:
    figures = measure(gemma4_model, draw, 984, 20, max_soft_tokens=budget)
    assert figures.found >= 0.9, figures
    assert figures.mean_iou >= 0.74, figures  # 0.82 of many, less two standard errors of some 28 objects
    assert figures.empty >= 0.95, figures


def test_more_soft_tokens_find_smaller_objects(gemma4_model: Any) -> None:
    def draw(rng: np.random.Generator) -> Scene:
        return make_scene(rng, size=(1200, 900), extent=(0.03, 0.06))

    few, many = (measure(gemma4_model, draw, 985, 20, max_soft_tokens=budget).found for budget in (70, 1120))
    assert many >= 0.6 and many >= few + 0.3, (few, many)


def test_reads_painted_words(gemma4_model: Any) -> None:
    """Words of its list and arbitrary letters alike; a picture without a word is not read into."""
    right, listed_right, listed, words = 0, 0, 0, 120
    for number in range(words):
        scene = make_scene(np.random.default_rng([982, number]), word=1.0)
        same = gemma4_model.read(scene.image) == scene.word
        right += same
        listed += scene.word in WORDS
        listed_right += same and scene.word in WORDS
    assert listed_right / listed >= 0.7, f"{listed_right} of {listed} listed words"
    assert right / words >= 0.55, f"{right} of {words} words"
    blank = [gemma4_model.read(make_scene(np.random.default_rng([983, number])).image) for number in range(30)]
    assert blank.count("There is no text.") >= 29, blank


def test_the_picture_of_the_readme(gemma4_model: Any) -> None:
    picture = Path(__file__).parents[3] / "examples" / "shapes.png"
    found = gemma4_model.detect(picture, ["blue circle", "blue square"])
    truth = [
        ("blue square", (186, 27, 381, 222)),
        ("blue square", (52, 306, 211, 465)),
        ("blue circle", (533, 301, 745, 512)),
    ]
    gemma4.testing.assert_detections(found, truth, iou=0.5)


# -- skills ------------------------------------------------------------------------------------------------------------


def check(figures: list[Figure], *least: float) -> None:
    """Each of the first figures reaches its bound."""
    assert all(figure.value >= bound for figure, bound in zip(figures, least, strict=False)), "\n".join(
        map(str, figures)
    )


def test_writes_down_speakers_it_never_heard(gemma4_model: Any) -> None:
    """Errors come together: an utterance is right or mostly wrong. One in twelve is wrong; a quarter hardly ever."""
    texts = json.loads((SPEECH / "texts.json").read_text(encoding="utf-8"))
    wrong = {name: evaluate_skills.wrong_words(gemma4_model, SPEECH / name, text)[0] for name, text in texts.items()}
    assert len(texts) == 12 and sum(map(bool, wrong.values())) <= 3, wrong


def test_says_what_moved_where(gemma4_model: Any) -> None:
    check(evaluate_skills.measure_clips(gemma4_model, 24), 0.75, 0.75, 0.75)


def test_counts_with_a_thought(gemma4_model: Any) -> None:
    check(evaluate_skills.measure_counting(gemma4_model, 30), 0.75)


def test_calls_its_tools_and_uses_what_they_say(gemma4_model: Any) -> None:
    check(measure_tools(gemma4_model, 24), 0.8, 0.8, 0.8)


def test_tells_two_pictures_apart(gemma4_model: Any) -> None:
    check(evaluate_skills.measure_pairs(gemma4_model, 16), 0.6, 0.5, 0.75, 0.75)


def test_answers_in_the_form_that_the_system_asks_for(gemma4_model: Any) -> None:
    check(evaluate_skills.measure_forms(gemma4_model, 24), 0.85, 0.85, 0.85, 0.6)


def test_says_what_there_is_and_no_more(gemma4_model: Any) -> None:
    check(evaluate_truth.measure_captions(gemma4_model, 30), 0.15, 0.3)
    check(evaluate_truth.measure_unknown(gemma4_model, 2), 0.97, 0.75, 0.75)
    check(evaluate_truth.measure_nothing(gemma4_model, 12), 0.95, 0.95)
    check(evaluate_truth.measure_replies(gemma4_model, 16), 0.9, 0.9, 0.9)


def test_answers_fit_their_schema(gemma4_model: Any) -> None:
    check(evaluate_skills.measure_schemas(gemma4_model, 2 * len(evaluate_skills.SCHEMAS)), 1.0)
