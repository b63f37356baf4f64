"""What the bundled model is trained on is what the package makes of the same conversation, token by token.

The training programs are the reference here: a prompt that differs in one token is one that the model never saw.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lessons
import numpy as np
import pytest
from batches import Encoder
from clips import make_clip
from dataset import BUDGETS, grid_of, to_picture
from dialogues import Truth, answer_order, ask
from gemma4.media.mel import FrontEnd
from lessons import Given, opening
from media import orders_of
from scenes import Scene, make_scene

SOFT = -1  # in place of a soft token of any kind
SEEDS = range(2)


@pytest.fixture(scope="module")
def encoder(gemma4_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    gemma4_model.tokenizer.backend.save(str(path))
    return Encoder(path)


class Lesson:
    """A scene, what training knows of it, and both ways to a prompt."""

    def __init__(self, model: Any, encoder: Encoder, seed: int) -> None:
        self.rng = np.random.default_rng([41, seed])
        self.model, self.encoder = model, encoder
        self.scene, self.cells, self.truth = self.another()

    def another(self) -> tuple[Scene, int, Truth]:
        scene = make_scene(self.rng, size=(240, 180))
        picture = to_picture(scene, BUDGETS[1])
        return scene, picture.cells, Truth.from_picture(picture)

    def trained(self, parts: list[str | int], question: str, answer: list[Any] | None = None) -> list[int]:
        """Ids of a row's prefix, numbers being counts of soft tokens, of a question and the beginning of its answer."""
        ids: list[int] = []
        for part in parts:
            ids += self.encoder.text(part) if isinstance(part, str) else [SOFT] * part
        return ids + self.encoder.dialogue(question, answer or []).ids[:-1]

    def prepared(self, messages: Any, **options: Any) -> list[int]:
        """Ids that the package makes."""
        inputs = self.model.prepare(messages, **options)
        ids = inputs.input_ids.astype(int)
        for medium in (*inputs.seen, *inputs.audio):
            ids[medium.start : medium.start + medium.count] = SOFT
        return list(ids.tolist())

    def asked(self, question: str, system: str | None = None) -> list[dict[str, Any]]:
        """Messages with the scene's picture."""
        parts = [{"type": "image", "image": self.scene.image}, {"type": "text", "text": question}]
        before = [] if system is None else [{"role": "system", "content": system}]
        return [*before, {"role": "user", "content": parts}]


@pytest.fixture(params=SEEDS)
def lesson(request: pytest.FixtureRequest, gemma4_model: Any, encoder: Encoder) -> Iterator[Lesson]:
    yield Lesson(gemma4_model, encoder, request.param)


def test_a_picture(lesson: Lesson) -> None:
    for kind in ("one", "absent", "unknown", "several", "all", "point", "caption", "read", "other"):
        question, _ = ask(lesson.rng, lesson.truth, kind)
        trained = lesson.trained([opening() + "<|image>", lesson.cells, "<image|>"], question)
        assert lesson.prepared(lesson.asked(question)) == trained


def test_a_thought(lesson: Lesson) -> None:
    question, answer = lessons.thinking(lesson.rng, lesson.truth)
    trained = lesson.trained([opening(think=True) + "<|image>", lesson.cells, "<image|>"], question)
    assert lesson.prepared(lesson.asked(question), thinking=True) == trained
    spoken = lesson.model.parse_response("".join(str(piece) for piece in answer))
    assert spoken["thinking"] and spoken["content"].startswith("There")


@pytest.mark.parametrize("options", [{}, {"thinking": True}])
def test_words_alone(lesson: Lesson, options: dict[str, Any]) -> None:
    question, _ = lessons.off_topic(lesson.rng)
    trained = lesson.trained([opening(think=bool(options), kind="text")], question)
    assert lesson.prepared(question, **options) == trained


@pytest.mark.parametrize("form", list(lessons.FORMS))
def test_a_system_turn(lesson: Lesson, form: str) -> None:
    for system in lessons.FORMS[form]:
        question, _ = lessons.in_form(lesson.rng, lesson.truth, form)
        trained = lesson.trained([opening(system) + "<|image>", lesson.cells, "<image|>"], question)
        assert lesson.prepared(lesson.asked(question, system)) == trained


def area(box: list[int]) -> int:
    """Return the area of a box in percent of the image."""
    return len(box)


def zoom(box: list[int]) -> str:
    """Show a box larger and say what it shows."""
    return str(box)


@pytest.mark.parametrize("names", [["area", "zoom"], ["area"], ["zoom"], ["zoom", "area"]], ids="+".join)
def test_tools(lesson: Lesson, names: list[str]) -> None:
    """Functions and schemas alike; then the call and what the tool returned, up to where the model goes on."""
    tools = [{"area": area, "zoom": zoom}[name] for name in names]
    schemas = [{"area": lessons.AREA, "zoom": lessons.ZOOM}[name] for name in names]
    question, answer = lessons.tool_dialogue(lesson.rng, lesson.truth, names)
    while not any(isinstance(piece, Given) for piece in answer):  # no call: nothing is the only one of its kind
        lesson.scene, lesson.cells, lesson.truth = lesson.another()
        question, answer = lessons.tool_dialogue(lesson.rng, lesson.truth, names)
    prefix: list[str | int] = [opening(tools=tuple(names)) + "<|image>", lesson.cells, "<image|>"]
    trained = lesson.trained(prefix, question)
    assert lesson.prepared(lesson.asked(question), tools=tools) == trained
    assert lesson.prepared(lesson.asked(question), tools=schemas) == trained

    place = next(i for i, piece in enumerate(answer) if isinstance(piece, Given))
    written = "".join(piece if isinstance(piece, str) else str(round(piece / 5) * 5) for piece in answer[:place])
    calls = lesson.model.parse_response(written)["tool_calls"]
    name = calls[0]["function"]["name"]
    key, _, value = str(answer[place]).partition("{")[2].rpartition("}")[0].partition(":")
    result = value.removeprefix('<|"|>').removesuffix('<|"|>') if "<|" in value else int(value)
    said = [{"role": "assistant", "content": "", "tool_calls": calls}]
    said.append({"role": "tool", "name": name, "content": {key: result}})
    trained = lesson.trained(prefix, question, answer[: place + 1])
    assert lesson.prepared([*lesson.asked(question), *said], tools=tools) == trained


def test_two_pictures(lesson: Lesson) -> None:
    other, cells, truth = lesson.another()
    question, _ = lessons.pair(lesson.rng, (lesson.truth, truth))
    trained = lesson.trained(
        [opening() + "<|image>", lesson.cells, "<image|><|image>", cells, "<image|>"],
        question,
    )
    assert lesson.prepared(question, images=[lesson.scene.image, other.image]) == trained


@pytest.mark.parametrize("chosen", [(0, 1, 2, 3), (0, 2, 3)])
def test_a_clip(lesson: Lesson, chosen: tuple[int, ...]) -> None:
    clip = make_clip(lesson.rng, (320, 240))
    question, _ = lessons.clip(lesson.rng, clip.labels, clip.mover, clip.direction)
    seconds = float(lesson.rng.uniform(0.2, 20))
    parts: list[str | int] = []
    for step in range(len(chosen)):
        begin = "<image|> " if step else opening(kind="video")
        at = int(step * seconds)
        parts += [f"{begin}{at // 60:02d}:{at % 60:02d} <|image>", int(np.prod(grid_of(320, 240)))]
    frames = [clip.frames[index] for index in chosen]
    times = [step * seconds for step in range(len(chosen))]
    assert lesson.prepared(question, video=(frames, times)) == lesson.trained([*parts, "<image|>"], question)


@pytest.mark.parametrize("family", [True, False])
def test_speech(lesson: Lesson, family: bool) -> None:
    samples = lesson.rng.normal(0, 0.1, int(lesson.rng.integers(4000, 46_000))).astype(np.float32)
    question, _ = lessons.speech(lesson.rng, "go", family)
    heard = -(-len(FrontEnd().log_mel(samples)) // 4)
    trained = lesson.trained([opening(kind="audio") + "<|audio>", heard, "<audio|>"], question)
    assert lesson.prepared(question, audio=samples) == trained


@pytest.mark.parametrize("seed", range(5))
def test_numbers_of_objects_are_those_of_the_answers(seed: int) -> None:
    picture = to_picture(make_scene(np.random.default_rng([43, seed]), size=(240, 180), objects=(4, 6)), BUDGETS[1])
    truth, numbers = Truth.from_picture(picture), orders_of(picture)
    for place, index in enumerate(answer_order(picture.box)):
        shape, color = truth.shapes[place], truth.colors[place]
        names = ("object", shape, f"{color} object", f"{color} {shape}")
        like = len(truth.matches(names[-1]))
        assert numbers[index].tolist() == [*(truth.matches(name).index(place) + 1 for name in names), like]
