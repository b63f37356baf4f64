"""How well the demo model does what it learnt besides boxes, measured through the package.

    python evaluate_skills.py DIR [--only speech clips …] [--scale 0.1]

Knows the lessons and what a right answer is; everything is asked of `gemma4.Model` as a user would ask it. Utterances,
clips and scenes are made here, from seeds that training does not use, half of the utterances by speakers that it never
heard. Every function returns figures, so that tests can use a few examples and other bounds.
"""

from __future__ import annotations

import argparse
import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gemma4
import lessons
import numpy as np
import prompts
from clips import make_clip
from dialogues import Truth, _absent_name, _present_name
from evaluate import match, parse
from evaluate_tools import measure_tools
from evaluate_truth import measure_captions, measure_nothing, measure_replies, measure_unknown
from figures import Figure, share
from scenes import COLORS, LABELS, SHAPES, Scene, make_scene, random_size

WORD_ERROR = 0.05
MOVEMENT, COUNTING, COUNTING_MANY = 0.90, 0.93, 0.80
VALID = 1.0
NUMBER = re.compile(r"\d+")


# ----------------------------------------------------------------------------------------------------------------------
# Speech


def distance(said: list[str], written: list[str]) -> int:
    """Words to change, leave out or add.

    >>> distance("go 3 red star".split(), "go red blue".split())
    2
    """
    row = list(range(len(written) + 1))
    for i, a in enumerate(said, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(written, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


def wrong_words(model: Any, samples: Any, text: str) -> tuple[int, int]:
    """Wrong words of `transcribe`, and words said; `samples` are anything that it takes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # an answer that was cut is wrong enough
        written = str(model.transcribe(samples, max_new_tokens=40))
    return distance(text.split(), written.split()), len(text.split())


def word_error(name: str, counts: list[tuple[int, int]]) -> Figure:
    """Wrong words as a share of those said, of what `wrong_words` gave for each utterance."""
    wrong, words = (sum(values) for values in zip(*counts, strict=True))
    return Figure(name, wrong / words, WORD_ERROR, True, f"{wrong} of {words} words in {len(counts)} utterances")


def measure_speech(model: Any, count: int = 200) -> list[Figure]:
    """Word error, for speakers that training knows and for others; needs espeak-ng."""
    from utterances import HELD_OUT, SPEAKERS, make_utterance, text_of

    figures: list[Figure] = []
    everything: list[tuple[int, int]] = []
    for seed, (name, speakers) in enumerate((("known", SPEAKERS), ("unknown", HELD_OUT))):
        made = [make_utterance(np.random.default_rng([2026, seed, i]), speakers) for i in range(count // 2)]
        counts = [wrong_words(model, utterance.samples, text_of(utterance.words)) for utterance in made]
        figures.append(word_error(f"word error, {name} speakers", counts))
        everything += counts
    return [*figures, word_error("word error", everything)]


# ----------------------------------------------------------------------------------------------------------------------
# Clips


def measure_clips(model: Any, count: int = 150) -> list[Figure]:
    """What moved and where to; in one clip of ten nothing does, which `Which shape moved?` must say too."""
    which, where, still = [], [], []
    for seed in range(count):
        rng = np.random.default_rng([2027, seed])
        width, height = random_size(rng)
        clip = make_clip(rng, (width // 2, height // 2))
        seconds = float(rng.uniform(0.2, 3))
        times = [seconds * step for step in range(len(clip.frames))]

        def answer(question: str, frames: Any = (clip.frames, times)) -> str:
            return str(model.generate(question, video=frames, temperature=0, max_new_tokens=40)).strip()

        mover = clip.labels[clip.mover] if clip.mover >= 0 else None
        moved = f"The {mover} moved {clip.direction}." if mover else "Nothing moved."
        which.append(answer(prompts.MOVED[0]) == moved)
        if mover:
            where.append(answer(f"Where did the {mover} move?") == moved)
        for label in [label for label in clip.labels if label != mover][:1]:
            still.append(answer(f"Where did the {label} move?") == f"The {label} did not move.")
    return [
        share("clips: which shape moved, and where", which, MOVEMENT, "clips"),
        share("clips: where did it move", where, MOVEMENT, "clips"),
        share("clips: what did not move", still),
    ]


# ----------------------------------------------------------------------------------------------------------------------
# Counting


def number_in(answer: str) -> int | None:
    """What a sentence says how many there are.

    >>> number_in("There are 3 stars."), number_in("There are no stars."), number_in("A star.")
    (3, 0, None)
    """
    found = NUMBER.findall(answer)
    if found:
        return int(found[0])
    return 0 if " no " in answer else None


def measure_counting(model: Any, count: int = 200) -> list[Figure]:
    """The exact number of something, with a thought before the answer and without."""
    thought, plain, many = [], [], []
    for seed in range(count):
        rng = np.random.default_rng([2028, seed])
        scene = make_scene(rng)
        truth = Truth.from_scene(scene)
        name = lessons.counted_name(rng, truth)
        question = prompts.COUNT[0].format(objects=lessons.plural(name))
        wanted = len(truth.matches(name))
        options: dict[str, Any] = {"images": [scene.image], "temperature": 0, "max_new_tokens": 160}
        out = model.generate(question, thinking=True, **options)
        thought.append(bool(out.thinking) and number_in(out.text) == wanted)
        plain.append(number_in(model.generate(question, **options).text) == wanted)
        if wanted >= 3:
            many.append(thought[-1])
    return [
        share("counting with a thought", thought, COUNTING, "scenes"),
        share("counting with a thought, three or more", many, COUNTING_MANY),
        share("counting without a thought", plain, what="scenes"),
    ]


# ----------------------------------------------------------------------------------------------------------------------
# Two pictures


def measure_pairs(model: Any, count: int = 150) -> list[Figure]:
    """Which of two pictures shows something, which has more of it, and boxes in the one that is asked for."""
    shows, more, boxes, empty = [], [], [], []
    for seed in range(count):
        rng = np.random.default_rng([2029, seed])
        scenes = [make_scene(rng) for _ in range(2)]
        truths = [Truth.from_scene(scene) for scene in scenes]
        which = int(rng.integers(2))

        def answer(question: str, scenes: list[Scene] = scenes) -> str:
            images = [scene.image for scene in scenes]
            return str(model.generate(question, images=images, temperature=0, max_new_tokens=140)).strip()

        name = _present_name(rng, truths[which]) if truths[which].shapes else _absent_name(rng, truths[which])
        article = "an" if name[0] in "aeiou" else "a"
        has = [bool(truth.matches(name)) for truth in truths]
        shows.append(answer(f"Which picture shows {article} {name}?") == picture_of(has))
        name = lessons.counted_name(rng, truths[which])
        counts = [len(truth.matches(name)) for truth in truths]
        verdict = picture_of([counts[0] > counts[1], counts[1] > counts[0]])
        more.append(answer(f"Which picture has more {lessons.plural(name)}?") == verdict)
        template = prompts.DETECT_PICTURE[0]
        for number in range(2):  # something in the first picture, often not in the second, asked for in both
            label = scenes[0].objects[0][0] if scenes[0].objects else LABELS[0]
            objects = [item for item in scenes[number].objects if item[0] == label]
            said = answer(template.format(object=label, which=("first", "second")[number]))
            if objects:
                boxes += [v >= 0.5 for v in match(objects, parse(said, scenes[number].image.size))]
            else:
                empty.append(said == "[]")
    return [
        share("two pictures: which one shows it", shows, what="pairs"),
        share("two pictures: which one has more", more, what="pairs"),
        share("two pictures: object found in the one asked for", boxes),
        share("two pictures: it is only in the other one", empty),
    ]


def picture_of(has: list[bool]) -> str:
    """The answer for a quality that the pictures have or lack."""
    if has[0] == has[1]:
        return "Both pictures." if has[0] else "Neither picture."
    return f"The {'first' if has[0] else 'second'} picture."


# ----------------------------------------------------------------------------------------------------------------------
# Forms of the answer


def measure_forms(model: Any, count: int = 150) -> list[Figure]:
    """Whether an answer has the form that the system turn asks for, and is right."""
    followed: dict[str, list[bool]] = {form: [] for form in lessons.FORMS}
    right: list[bool] = []
    for seed in range(count):
        rng = np.random.default_rng([2030, seed])
        form = list(lessons.FORMS)[seed % len(lessons.FORMS)]
        scene = make_scene(rng)
        question, fact = lessons.fact(rng, Truth.from_scene(scene))
        chat = model.chat(system=lessons.FORMS[form][0])
        said = str(chat.send(question, images=[scene.image], temperature=0, max_new_tokens=60)).strip()
        followed[form].append(has_form(said, form))
        right.append(said == "".join(str(piece) for piece in fact.in_form(form)))
    names = {"capital": "in capital letters", "word": "in one word", "json": "as JSON"}
    shares = [share(f"system turn: answers {names[form]}", values) for form, values in followed.items()]
    return [*shares, share("system turn: form and content right", right)]


def has_form(said: str, form: str) -> bool:
    """Whether an answer looks as asked, right or wrong."""
    if form == "capital":
        return said == said.upper() and said != said.lower()
    if form == "word":
        return bool(re.fullmatch(r"\w+", said))
    try:
        return isinstance(json.loads(said), dict)
    except ValueError:
        return False


# ----------------------------------------------------------------------------------------------------------------------
# Schemas


def _object(**properties: Any) -> dict[str, Any]:
    """A schema of an object that has exactly these fields."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


_LABELLED = _object(
    box_2d={"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 1000}, "minItems": 4, "maxItems": 4},
    label={"enum": list(LABELS)},
)
_SHAPE = _object(color={"enum": list(COLORS)}, shape={"enum": list(SHAPES)})
SCHEMAS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("How many circles are there?", _object(count={"type": "integer", "minimum": 0, "maximum": 6})),
    ("Detect all objects in the image.", {"type": "array", "items": _LABELLED, "maxItems": 6}),
    ("Describe the image.", _object(caption={"type": "string", "minLength": 3, "maxLength": 60})),
    ("Describe the image.", _object(objects={"type": "array", "items": _SHAPE, "minItems": 1, "maxItems": 3})),
    ("Is there a red star?", _object(answer={"enum": ["yes", "no"]}, sure={"type": "boolean"})),
    ("What color is the square?", {"anyOf": [_object(color={"enum": list(COLORS)}), {"type": "null"}]}),
    ("How large is the circle?", _object(share={"type": "number", "minimum": 0, "maximum": 1}, unit={"const": "%"})),
    ("Read the text in the image.", _object(text={"type": "string", "pattern": "^[A-Z]{1,8}$"})),
)


def measure_schemas(model: Any, count: int = 120) -> list[Figure]:
    """Answers that are valid for a JSON schema: every one, with a thought before it or without."""
    import jsonschema  # type: ignore[import-untyped]

    valid: list[bool] = []
    for seed in range(count):
        scene = make_scene(np.random.default_rng([2031, seed]), word=0.3)
        question, schema = SCHEMAS[seed % len(SCHEMAS)]
        out = model.generate(
            question,
            images=[scene.image],
            response_format=schema,
            thinking=40 if seed // len(SCHEMAS) % 2 else False,  # a budget, so that the answer always has its turn
            temperature=0,
            max_new_tokens=400,
        )
        try:
            jsonschema.validate(json.loads(out.text), schema)
            valid.append(True)
        except (ValueError, jsonschema.ValidationError) as error:
            print(f"  {out.text!r} does not fit {schema}: {str(error)[:200]}")
            valid.append(False)
    return [share("answers valid for their JSON schema", valid, VALID, f"by {len(SCHEMAS)} schemas")]


# ----------------------------------------------------------------------------------------------------------------------

MEASURES: dict[str, tuple[Callable[[Any, int], list[Figure]], int]] = {
    "speech": (measure_speech, 200),
    "clips": (measure_clips, 150),
    "counting": (measure_counting, 200),
    "tools": (measure_tools, 150),
    "pairs": (measure_pairs, 150),
    "forms": (measure_forms, 150),
    "schemas": (measure_schemas, 120),
    "captions": (measure_captions, 150),
    "unknown": (measure_unknown, 20),
    "nothing": (measure_nothing, 40),
    "replies": (measure_replies, 60),
}
"""What can be measured, and on how many examples."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--only", choices=list(MEASURES), nargs="+", default=list(MEASURES))
    parser.add_argument("--scale", type=float, default=1.0, help="share of the examples to use")
    arguments = parser.parse_args()
    model = gemma4.Model.from_pretrained(arguments.directory)
    for name in arguments.only:
        measure, count = MEASURES[name]
        print(*measure(model, max(2, round(count * arguments.scale))), sep="\n", flush=True)


if __name__ == "__main__":
    main()
