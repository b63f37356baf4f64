"""The programs that measure the bundled model and draw what was measured: what they count, not how good it is."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import evaluate_budgets
import evaluate_truth
import numpy as np
import plot_run
import pytest
from dataset import BUDGETS
from dialogues import Truth, caption
from figures import Figure
from PIL import Image
from scenes import LABELS, make_scene


def log(path: Path, *rows: Mapping[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def row(phase: str, step: int, error: float) -> dict[str, Any]:
    return {"phase": phase, "step": step} | {f"box{budget}": error for budget in BUDGETS}


def test_curves_of_runs_that_went_on_from_one_another(tmp_path: Path) -> None:
    first = log(
        tmp_path / "first.jsonl",
        row("heads", 10, 99.0),  # fits what reads, not what is read
        row("encoder", 10, 8.0),
        row("encoder", 20, 7.0),
        row("encoder", 20, 6.0),  # done again from a checkpoint
        {"phase": "decoder", "step": 10},
    )
    second = log(tmp_path / "second.jsonl", row("decoder", 10, 3.0), row("joint", 5, 2.0))
    steps, values, ends = plot_run.curves([first, second], "box")
    assert steps.tolist() == [10, 20, 30, 40, 45]
    assert ends == {20: "encoder", 30: "decoder", 40: "decoder", 45: "joint"}
    assert set(values) == {*BUDGETS}
    assert values[70][:2].tolist() == [8.0, pytest.approx((4 * 8 + 6) / 5)]  # as the first goes on before it
    assert np.isnan(values[70][2])
    assert values[70][3:].tolist() == [(8 + 8 + 6 + 3) / 4, (8 + 6 + 3 + 2) / 4]  # of those that there are


def test_a_measure_of_no_picture_is_left_out(tmp_path: Path) -> None:
    of = log(tmp_path / "log.jsonl", *(row("joint", step, error) for step, error in enumerate((0.0, 4.0, 0.0, 2.0))))
    _, values, _ = plot_run.curves([of], "box")
    assert np.isnan(values[70][0]) and values[70][1:].tolist() == [4.0, 4.0, 3.0]


def drawn(path: Path) -> bool:
    with Image.open(path) as picture:
        return len(picture.convert("RGB").getcolors(1 << 20) or [0] * 99) > 20


def test_a_run_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    of = log(tmp_path / "log.jsonl", *(row("encoder", step, 30 / step) for step in range(1, 20)))
    monkeypatch.setattr("sys.argv", ["plot_run.py", str(of), str(of), str(tmp_path / "run.png")])
    plot_run.main()
    assert drawn(tmp_path / "run.png")


def test_budgets_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    figures = [
        Figure(f"{budget}: {style}: {what}", value)
        for budget in BUDGETS
        for style in evaluate_budgets.STYLES
        for what, value in (("object found", 0.9), ("seconds", budget / 1000))
    ]
    evaluate_budgets.plot(tmp_path / "budgets.png", figures)
    assert drawn(tmp_path / "budgets.png")


@pytest.mark.parametrize("style", evaluate_budgets.STYLES)
def test_boxes_are_where_the_colours_are(style: str) -> None:
    """Of scenes to be found in: what is in a box's middle is gone from just outside of it."""
    if style == "plotted":
        pytest.importorskip("matplotlib")
    for seed in range(6):
        scene = evaluate_budgets.scene_for(style, seed)
        pixels = np.asarray(scene.image, np.float32)
        assert scene.objects
        for label, (x1, y1, x2, y2) in scene.objects:
            assert 0 <= x1 < x2 <= scene.image.width and 0 <= y1 < y2 <= scene.image.height
            assert label in LABELS
            inside = np.median(pixels[int(y1 + 1) : int(y2), int(x1 + 1) : int(x2)].reshape(-1, 3), axis=0)
            if label.endswith(("square", "circle")):  # fill most of their boxes
                left = pixels[int((y1 + y2) / 2), max(0, int(x1 - 4)) : max(1, int(x1 - 2))]
                assert np.abs(left - inside).sum(axis=-1).max(initial=99) > 30, (style, seed, label)


class Answers:
    """A model that finds what it is told to, and says a fixed caption."""

    def __init__(self, found: Sequence[str] = (), caption: str = "") -> None:
        self.found, self.said = found, caption

    def detect(self, *args: Any, **options: Any) -> list[Any]:
        return [SimpleNamespace(label=label) for label in self.found]

    def caption(self, image: Image.Image) -> str:
        return self.said


@pytest.mark.parametrize(("found", "share"), [((), 1.0), (("red circle",), 0.0)])
def test_what_is_found_where_nothing_is(found: Sequence[str], share: float) -> None:
    figures = evaluate_truth.measure_nothing(Answers(found), 4)
    assert [figure.value for figure in figures] == [share] * len(figures)
    assert {"blank", "noisy"} <= {figure.name.split()[3] for figure in figures}


@pytest.mark.parametrize(("found", "share"), [((), 1.0), (("dog",), 0.0)])
def test_what_is_found_that_is_not_known(found: Sequence[str], share: float) -> None:
    unknown, upper, _ = evaluate_truth.measure_unknown(Answers(found), 1)
    assert unknown.value == share
    assert upper.value == 1 - share


def test_a_caption_is_right_in_any_order_and_with_all_of_it() -> None:
    said = evaluate_truth.told("A red circle, two blue stars and a white square on a gray background.")
    assert said == evaluate_truth.told("Two blue stars, a white square and a red circle on a gray background.")
    assert said != evaluate_truth.told("Two blue stars and a red circle on a gray background.")
    assert said != evaluate_truth.told("A red circle, two blue stars and a white square on a noisy background.")
    scene = make_scene(np.random.default_rng([2038, 0]))
    right = "".join(map(str, caption(Truth.from_scene(scene))))
    complete, listed = evaluate_truth.measure_captions(Answers(caption=right), 1)
    assert complete.value == listed.value == 1
    complete, listed = evaluate_truth.measure_captions(Answers(caption=right.partition(" on ")[0]), 1)
    assert (complete.value, listed.value) == (0, 1)
