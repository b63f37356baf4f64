"""What the demo model is taught beyond naming and finding: counting with and without a thought, forms of answer that a
system turn asks for, tools, two pictures, clips, speech.

Knows the truth about a scene, a clip or an utterance, and the wording. Must not know: token ids, tensors.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import prompts
import unknown
from dialogues import Key, Piece, Truth, _absent_name, _present_name, names_answer
from gemma4.tasks.speech import transcription_prompt
from scenes import COLORS, SHAPES


class Given(str):
    """A piece of an answer that is not the model's: what a tool returns."""


Dialogue = tuple[str, list[Piece]]  # a question, which may be empty, and its answer

AREA, ZOOM = (
    {
        "type": "function",
        "function": {
            "name": name,
            "description": text,
            "parameters": {
                "type": "object",
                "properties": {"box": {"type": "array", "items": {"type": "integer"}}},
                "required": ["box"],
            },
        },
    }
    for name, text in (
        ("area", "Return the area of a box in percent of the image."),
        ("zoom", "Show a box larger and say what it shows."),
    )
)
FORMS = {
    "capital": ("Answer in capital letters.", "Write in capital letters.", "Answer with capital letters only."),
    "word": ("Answer with one word.", "Answer with one word only.", "Say one word only."),
    "json": ("Answer as JSON.", "Return JSON.", "Answer with JSON only."),
}


# ----------------------------------------------------------------------------------------------------------------------
# Counting, colours, whether something is there


@dataclass
class Fact:
    """An answer in each of its forms; `number` or `word` is what it comes down to."""

    sentence: list[Piece]
    word: str
    field: str  # of the JSON object

    def in_form(self, form: str | None) -> list[Piece]:
        if form == "capital":
            return [type(piece)(piece.upper()) for piece in self.sentence if isinstance(piece, str)]
        if form == "word":
            return [Key(self.word)]
        if form == "json":
            value = self.word if self.word.isdigit() else f'"{self.word}"'
            return [Key(f'{{"{self.field}":'), Key(f" {value}"), "}"]
        return self.sentence


def plural(name: str) -> str:
    return name + "s"


def count_fact(count: int, name: str) -> Fact:
    """How many there are."""
    if count == 0:
        sentence = [Key("There are no"), f" {plural(name)}."]
    elif count == 1:
        sentence = [Key("There is"), Key(" 1"), f" {name}."]
    else:
        sentence = [Key("There are"), Key(f" {count}"), f" {plural(name)}."]
    return Fact(list(sentence), str(count), "count")


def nothing_of_it(rng: np.random.Generator) -> tuple[str, Fact]:
    """A question about something unknown, which is not there."""
    name = unknown.unknown_name(rng)
    article = "an" if name[0] in "aeiou" else "a"
    if rng.random() < 0.4:
        return f"Is there {article} {name}?", Fact([Key("No"), "."], "no", "answer")
    return count_question(rng, name), Fact([Key("There are none"), "."], "0", "count")


def counted_name(rng: np.random.Generator, truth: Truth) -> str:
    """Something to count: mostly something that is there, also several of a kind."""
    chance = rng.random()
    if chance < 0.12 or not truth.shapes:
        return _absent_name(rng, truth)
    if chance < 0.3:
        return "object"
    if chance < 0.6:
        return truth.shapes[rng.integers(len(truth.shapes))]
    if chance < 0.75:
        return f"{truth.colors[rng.integers(len(truth.colors))]} object".strip()
    return _present_name(rng, truth)


def count_question(rng: np.random.Generator, name: str) -> str:
    text = prompts.COUNT[0 if rng.random() < 0.6 else rng.integers(len(prompts.COUNT))]
    return text.format(objects=plural(name))


def fact(rng: np.random.Generator, truth: Truth) -> tuple[str, Fact]:
    """A question with a short answer."""
    chance = rng.random()
    single = [s for s in SHAPES if truth.shapes.count(s) == 1 and truth.colors[truth.shapes.index(s)]]
    if chance < 0.35 and single:
        shape = single[rng.integers(len(single))]
        color = truth.colors[truth.shapes.index(shape)]
        question = f"What {'color' if rng.random() < 0.7 else 'colour'} is the {shape}?"
        return question, Fact([f"The {shape} is", Key(f" {color}"), "."], color, "color")
    if chance < 0.55:
        present = truth.shapes and rng.random() < 0.5
        name = _present_name(rng, truth) if present else _absent_name(rng, truth)
        article = "an" if name[0] in "aeiou" else "a"
        answer = "yes" if present else "no"
        return f"Is there {article} {name}?", Fact([Key(answer.capitalize()), "."], answer, "answer")
    name = counted_name(rng, truth)
    return count_question(rng, name), count_fact(len(truth.matches(name)), name)


def thought(truth: Truth, name: str) -> list[Piece]:
    """What is to be counted, one by one with its place, as a thought."""
    pieces: list[Piece] = ["<|channel>thought\n"]
    found = truth.matches(name)
    if not found:
        pieces.append(Key(f"no {plural(name)}"))
    for number, index in enumerate(found, 1):
        x1, y1, x2, y2 = (float(v) * 1000 for v in truth.boxes[index])
        pieces += [Key(str(number)), f" {truth.name(index)} at "]
        pieces += [(y1 + y2) / 2, ", ", (x1 + x2) / 2, Key("\n") if number < len(found) else ""]
    return [*(piece for piece in pieces if piece != ""), Key("<channel|>")]


def thinking(rng: np.random.Generator, truth: Truth) -> Dialogue:
    """Count with a thought before the answer, often what there is several of."""
    if rng.random() < 0.06:
        question, answer = nothing_of_it(rng)
        return question, ["<|channel>thought\n", Key("none"), Key("<channel|>"), *answer.sentence]
    name = counted_name(rng, truth)
    several = {n for n in ("object", *SHAPES, *(f"{color} object" for color in COLORS)) if len(truth.matches(n)) > 2}
    if several and rng.random() < 0.5:
        name = str(rng.choice(sorted(several)))
    answer = count_fact(len(truth.matches(name)), name).sentence
    return count_question(rng, name), [*thought(truth, name), *answer]


def in_form(rng: np.random.Generator, truth: Truth, form: str | None) -> Dialogue:
    """A short answer in the form that the system turn asks for."""
    question, answer = fact(rng, truth) if rng.random() > 0.07 else nothing_of_it(rng)
    return question, answer.in_form(form)


# ----------------------------------------------------------------------------------------------------------------------
# Tools

DETAILS = ("", " with a small star", " on a plain background", " with the word yes", " and a text", " with no text")
"""What `zoom` may add to a name, so that its answer cannot be read off the picture."""


def tool_dialogue(rng: np.random.Generator, truth: Truth, names: list[str]) -> Dialogue:
    """A question that a tool helps with: the call, what the tool returns, what that means."""
    single = [i for i in range(len(truth.shapes)) if truth.colors[i] and len(truth.matches(truth.name(i))) == 1]
    tool = names[rng.integers(len(names))]
    absent = not single or rng.random() < 0.15
    if absent:
        name = _absent_name(rng, truth)
    else:
        index = single[rng.integers(len(single))]
        name = truth.name(index)
        if rng.random() < 0.15 and truth.shapes.count(truth.shapes[index]) == 1:
            name = truth.shapes[index]
    templates = prompts.AREA if tool == "area" else prompts.ZOOM
    question = templates[0 if rng.random() < 0.5 else rng.integers(len(templates))].format(object=name)
    if absent and rng.random() < 0.15:
        question = templates[rng.integers(len(templates))].format(object=unknown.unknown_name(rng))
        return question, [Key("There is none"), "."]
    if absent:
        return question, [Key("There is no"), f" {name}."]
    x1, y1, x2, y2 = (float(v) * 1000 for v in truth.boxes[index])
    call: list[Piece] = [Key("<|tool_call>"), "call:", Key(tool), "{box:[", y1, ",", x1, ",", y2, ",", x2]
    call += ["]}", "<tool_call|>", "<|tool_response>"]
    result: Any
    if tool == "area":
        result = int(rng.integers(0, 101))  # anything, so that it cannot be read off the picture
        said: list[Piece] = [f"The {name} is", Key(f" {result}"), " % of the image."]
    else:
        result = _seen(rng)
        said = ["I see", Key(f" {result}"), "."]
    content: Any = {tool: result} if rng.random() < 0.3 else {"value": result} if rng.random() < 0.5 else result
    given = rendered_response(tool, content)
    return question, [*call, Given(given.removeprefix("<|tool_response>")), *said]


def _seen(rng: np.random.Generator) -> str:
    """What `zoom` may say: any coloured shape, with something about it."""
    color, shape = COLORS[rng.integers(8)], SHAPES[rng.integers(4)]
    return f"{'an' if color == 'orange' else 'a'} {color} {shape}{DETAILS[rng.integers(len(DETAILS))]}"


# ----------------------------------------------------------------------------------------------------------------------
# Two pictures, clips, speech

_ORDINALS = ("first", "second")


def pair(rng: np.random.Generator, truths: tuple[Truth, Truth]) -> Dialogue:
    """A question about two pictures."""
    chance = rng.random()
    which = int(rng.integers(2))
    truth = truths[which]
    if chance < 0.3:
        name = _present_name(rng, truth) if truth.shapes else _absent_name(rng, truth)
        has = [bool(t.matches(name)) for t in truths]
        article = "an" if name[0] in "aeiou" else "a"
        return f"Which picture shows {article} {name}?", [*_which(has), "."]
    if chance < 0.52:
        name = counted_name(rng, truth) if rng.random() < 0.7 else str(rng.choice(["object", *SHAPES]))
        counts = [len(t.matches(name)) for t in truths]
        more = [counts[0] > counts[1], counts[1] > counts[0]]
        return f"Which picture has more {plural(name)}?", [*_which(more), "."]
    if chance < 0.62:
        name = counted_name(rng, truth)
        question = f"How many {plural(name)} are in the {_ORDINALS[which]} picture?"
        return question, count_fact(len(truth.matches(name)), name).sentence
    name = _present_name(rng, truth) if truth.shapes and rng.random() < 0.6 else _absent_name(rng, truth)
    if rng.random() < 0.25 and truths[1 - which].shapes:
        name = _present_name(rng, truths[1 - which])
    template = prompts.DETECT_PICTURE[rng.integers(len(prompts.DETECT_PICTURE))]
    return template.format(object=name, which=_ORDINALS[which]), names_answer(truth, [name])


def _which(has: list[bool]) -> list[Piece]:
    if has[0] == has[1]:
        return [Key("Both" if has[0] else "Neither"), " pictures" if has[0] else " picture"]
    return ["The", Key(f" {_ORDINALS[0 if has[0] else 1]}"), " picture"]


def clip(rng: np.random.Generator, labels: list[str], mover: int, direction: str) -> Dialogue:
    """A question about what moves."""
    chance = rng.random()
    moved = [f"The {labels[mover]} moved", Key(f" {direction}"), "."]
    if chance < 0.55:
        question = prompts.MOVED[0 if rng.random() < 0.5 else rng.integers(len(prompts.MOVED))]
        if mover < 0:
            return question, [Key("Nothing"), " moved."]
        color, shape = labels[mover].split()
        return question, ["The", Key(f" {color}"), Key(f" {shape}"), " moved", Key(f" {direction}"), "."]
    index = mover if mover >= 0 and rng.random() < 0.5 else int(rng.integers(len(labels)))
    if chance < 0.8:
        question = f"Where did the {labels[index]} move?"
        return question, list(moved) if index == mover else [f"The {labels[index]}", Key(" did not move"), "."]
    return f"Did the {labels[index]} move?", [Key("Yes" if index == mover else "No"), "."]


def speech(rng: np.random.Generator, said: str, family: bool) -> Dialogue:
    """A request to write down what is said, in the family's words or in few."""
    if family:
        question = transcription_prompt(None if rng.random() < 0.65 else "English")
    else:
        question = prompts.HEAR[rng.integers(len(prompts.HEAR))]
    return question, [Key(said)] if said else []


def off_topic(rng: np.random.Generator) -> Dialogue:
    """A question that has nothing to do with what is known."""
    return unknown.unknown_question(rng, False), [Key(unknown.REPLY)]


# ----------------------------------------------------------------------------------------------------------------------
# What the chat template makes of it


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    return environment.from_string((Path(__file__).parent / "chat_template.jinja").read_text())


@functools.lru_cache(maxsize=256)
def opening(system: str = "", think: bool = False, tools: tuple[str, ...] = (), kind: str = "image") -> str:
    """The prompt up to the first medium of the user's turn, or with kind "text" up to the words."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    medium = [{"type": kind}] if kind != "text" else []
    messages.append({"role": "user", "content": [*medium, {"type": "text", "text": "?"}]})
    declared = [{"area": AREA, "zoom": ZOOM}[name] for name in tools]
    text = _template().render(messages=messages, tools=declared, enable_thinking=think, bos_token="<bos>")
    return text[: text.rindex(f"<|{kind}|>" if medium else "?")]


def rendered_response(tool: str, content: Any) -> str:
    """What the template makes of a tool's answer."""
    call = {"type": "function", "function": {"name": tool, "arguments": {}}}
    messages = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "name": tool, "content": content},
    ]
    text = _template().render(messages=messages, bos_token="<bos>")
    return text[text.index("<|tool_response>") : text.index("<tool_response|>") + len("<tool_response|>")]
