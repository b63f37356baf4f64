"""Generated conversations with tools, and generated answers, each from a seed."""

import json
import random
from typing import Any

import numpy as np

PICTURE = np.zeros((40, 60, 3), np.uint8)
SOUND = np.zeros(4000, np.float32)
QUOTE = '<|"|>'
WORDS = [
    "red",
    "a circle",
    "naïve 東京",
    "x{y}",
    "[1, 2]",
    '"quoted"',
    "it's",
    "a\nb",
    " spaced ",
    "<b>",
    "k:v",
    "",
    "7",
    "true",
]
KEYS = [
    "a",
    "b",
    "image",
    "images",
    "Image",
    "city",
    "type",
    "tool",
    "turn",
    "name",
    "x_1",
    "response",
    "Zeta",
    "items",
]
TYPES = ["string", "number", "integer", "boolean", "array", "object"]


def word(rng: random.Random) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 4)))


def value(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.randrange(8 if depth < 3 else 6)
    if kind == 6:
        return [value(rng, depth + 1) for _ in range(rng.randint(0, 3))]
    if kind == 7:
        return arguments(rng, depth + 1)
    return [word(rng), rng.randint(-1000, 1000), round(rng.uniform(-9, 9), 3), True, False, None][kind]


def arguments(rng: random.Random, depth: int = 0) -> dict[str, Any]:
    return {key: value(rng, depth) for key in rng.sample(KEYS, rng.randint(0, 4))}


def schema(rng: random.Random, depth: int = 0) -> dict[str, Any]:
    kind = rng.choice(TYPES if depth < 2 else TYPES[:4])
    made: dict[str, Any] = {"type": kind}
    if rng.random() < 0.7:
        made["description"] = word(rng)
    if rng.random() < 0.2:
        made["nullable"] = True
    if kind == "string" and rng.random() < 0.4:
        made["enum"] = rng.sample(WORDS, 3)
    if kind == "array" and rng.random() < 0.8:
        made["items"] = schema(rng, depth + 1)
    if kind == "object":
        names = rng.sample(KEYS, rng.randint(0, 3))
        made["properties"] = {name: schema(rng, depth + 1) for name in names}
        if names:
            made["required"] = names[:1]
    return made


def tool(rng: random.Random, name: str) -> dict[str, Any]:
    function: dict[str, Any] = {"name": name, "description": word(rng)}
    if rng.random() < 0.9:
        names = rng.sample(KEYS, rng.randint(0, 4))
        properties = {key: schema(rng) for key in names}
        function["parameters"] = {"type": "object", "properties": properties, "required": names[:2]}
    return {"type": "function", "function": function} if rng.random() < 0.7 else function


def content(rng: random.Random) -> Any:
    if rng.random() < 0.5:
        return word(rng)
    kinds = [
        {"type": "text", "text": word(rng)},
        {"type": "image", "image": PICTURE},
        {"type": "audio", "audio": SOUND},
    ]
    return [rng.choice(kinds) for _ in range(rng.randint(1, 4))]


def called(rng: random.Random, names: list[str]) -> list[dict[str, Any]]:
    """A model's turn with calls, and what the tools say, in one of the forms in use."""
    functions = [{"name": rng.choice(names), "arguments": arguments(rng)} for _ in range(rng.randint(1, 3))]
    turn: dict[str, Any] = {"role": "assistant", "content": rng.choice(["", None, word(rng)])}
    if rng.random() < 0.5:
        turn["reasoning_content"] = word(rng)
    if rng.random() < 0.15:
        answers = [{"name": call["name"], "response": value(rng)} for call in functions]
        calls = [{"function": call} for call in functions]
        return [{**turn, "tool_calls": calls, "tool_responses": answers}]
    ids = [f"call_{rng.randrange(10**6)}_{index}" for index in range(len(functions))]
    by_id = rng.random() < 0.6
    turn["tool_calls"] = [
        {"type": "function", "function": call, **({"id": index} if by_id else {})}
        for call, index in zip(functions, ids, strict=True)
    ]
    said = []
    for call, index in zip(functions, ids, strict=True):
        text: Any = rng.choice([word(rng), json.dumps(value(rng)), arguments(rng), content(rng)])
        said.append({"role": "tool", "content": text, **({"tool_call_id": index} if by_id else {"name": call["name"]})})
    if by_id:
        rng.shuffle(said)
    return [turn, *said[: rng.choice([len(said), len(said), 1])]]


def conversation(seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]] | None, bool]:
    """Messages, tools, and whether the model is to think."""
    rng = random.Random(seed)
    names = ["weather", "get_time", "find-it", "a.b"][: rng.randint(1, 4)]
    tools = [tool(rng, name) for name in names] if rng.random() < 0.8 else None
    messages = [{"role": rng.choice(["system", "developer"]), "content": word(rng)}] if rng.random() < 0.5 else []
    for _ in range(rng.randint(1, 4)):
        messages.append({"role": "user", "content": content(rng)})
        for _ in range(rng.choice([0, 0, 1, 1, 2]) if tools else 0):
            messages += called(rng, names)
        if rng.random() < 0.8:
            said = rng.choice([word(rng), f"<|channel>thought\n{word(rng)}<channel|>{word(rng)}"])
            turn = {"role": rng.choice(["assistant", "model"]), "content": said}
            messages.append({**turn, "reasoning_content": word(rng)} if rng.random() < 0.3 else turn)
    return messages, tools, rng.random() < 0.5


def written(data: Any) -> str:
    """A value in the model's dialect."""
    if isinstance(data, str):
        return f"{QUOTE}{data}{QUOTE}"
    if isinstance(data, dict):
        return "{" + ",".join(f"{key}:{written(item)}" for key, item in data.items()) + "}"
    if isinstance(data, list):
        return "[" + ",".join(map(written, data)) + "]"
    return json.dumps(data)


def answer(seed: int) -> str:
    """What a model writes: perhaps a thought, perhaps a text, perhaps calls, perhaps an end."""
    rng = random.Random(seed)
    text = ""
    if rng.random() < 0.5:
        text += f"<|channel>thought\n{rng.choice(['', word(rng), word(rng) + chr(10) + word(rng)])}"
        if rng.random() < 0.1:
            return text  # cut while it thinks
        text += "<channel|>"
    if rng.random() < 0.7:
        text += rng.choice(["", "\n", " "]) + word(rng)
    calls = rng.choice([0, 0, 1, 1, 2, 3])
    for _ in range(calls):
        text += f"<|tool_call>call:{rng.choice(['weather', 'get_time', 'f1'])}{written(arguments(rng))}<tool_call|>"
    return text + rng.choice(["", "<|tool_response>" if calls else "<turn|>", "<eos>"])
