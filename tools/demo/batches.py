"""From drawn pictures, clips and utterances to a step's tensors: media, and rows of packed dialogues about them."""

from __future__ import annotations

import functools
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import lessons
import numpy as np
import torch
import unknown
import vocabulary
from dialogues import Key, Piece, Truth, ask
from lessons import Dialogue, Given, opening
from losses import DECIDES, GROUPS
from media import Media, Soft, Sources
from tokenizers import Tokenizer

ROOM, TAKE = 314, 176  # tokens of the dialogues of a row, those of them whose next one is trained
KINDS = ("one", "absent", "unknown", "several", "all", "point", "caption", "read", "fact", "other")
WEIGHTS = np.array([0.14, 0.08, 0.06, 0.23, 0.08, 0.04, 0.26, 0.04, 0.05, 0.02])
Batch = dict[str, torch.Tensor]


class Encoder:
    """Token ids of dialogues, with every distinct string encoded once."""

    def __init__(self, path: Path) -> None:
        self.tokenizer = Tokenizer.from_file(str(path))
        self.number = self.id("0")
        self.end = self.id("<turn|>")
        self.nothing = self.id("[]")
        self.pad = self.id("<pad>")
        self.deciding = {self.nothing, self.id('[{"box_2d":▁[')}
        self.answer_from = self.text("<turn|>\n<|turn>model\n")

    def id(self, token: str) -> int:
        return self.tokenizer.token_to_id(token)

    @functools.lru_cache(maxsize=200_000)  # noqa: B019  (one encoder lives as long as the process)
    def text(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def dialogue(self, question: str, answer: list[Piece]) -> Spoken:
        """What follows the media: the question, and the answer with its end."""
        ids = [*self.text(question), *self.answer_from]
        spoken = Spoken(ids, [-1.0] * len(ids), [0.0] * len(ids))
        for piece in answer:
            if isinstance(piece, str):
                more = self.text(piece)
                weight = 0.0 if isinstance(piece, Given) else DECIDES if isinstance(piece, Key) else 1.0
                spoken.ids += more
                spoken.exact += [-1.0] * len(more)
                spoken.weight += [DECIDES if weight and token in self.deciding else weight for token in more]
            else:
                place = min(1000.0, max(0.0, piece)) / vocabulary.STEP
                spoken.ids.append(self.number + round(place))
                spoken.exact.append(place)
                spoken.weight.append(1.0)
        spoken.ids.append(self.end)
        spoken.exact.append(-1.0)
        spoken.weight.append(1.0 if answer else DECIDES)
        return spoken


@dataclass
class Spoken:
    """Tokens of a dialogue, for each the exact coordinate behind it (or -1) and how much it is trained."""

    ids: list[int]
    exact: list[float]
    weight: list[float]


@dataclass
class Counts:
    """What a step holds on one process."""

    pictures: int = 8  # each has a row of its own; without any there are no rows at all
    few: int = 0  # further pictures with rows, of 70 to 140 soft tokens, which cost little
    modes: int = 2  # rows
    tools: int = 2  # rows
    pairs: int = 1  # rows
    clips: int = 1  # each has a row of its own
    utterances: int = 4
    speech: int = 1  # rows
    texts: int = 1  # rows
    crowds: int = 0  # pictures without a row


class Row:
    """A row being filled with trees."""

    def __init__(self, encoder: Encoder, room: int = ROOM) -> None:
        self.encoder = encoder
        self.room = room  # tokens that dialogues may still have
        self.trees = self.branches = self.begin = 0
        self.about = 0  # cells of the picture
        self._parts: dict[str, list[np.ndarray]] = {}

    def _put(self, count: int, **values: object) -> None:
        """`count` tokens; what is not said has its default."""
        default = {"ids": self.encoder.pad, "source": -1, "position": 0, "branch": 0, "part": -1}
        default |= {"tree": self.trees - 1, "target": -1, "exact": -1.0, "weight": 0.0}
        for name, value in (default | values).items():
            kind = np.float32 if name in ("exact", "weight") else np.int64
            self._parts.setdefault(name, []).append(np.broadcast_to(np.asarray(value, kind), (count,)))

    def start(self, parts: list[str | Soft]) -> None:
        """A tree's prefix: text and soft tokens; those that are left out keep their positions."""
        self.trees += 1
        self.begin = self.branches = 0
        media = [part for part in parts if isinstance(part, Soft)]
        for part in parts:
            if isinstance(part, str):
                ids = self.encoder.text(part)
                self._put(len(ids), ids=ids, position=self.begin + np.arange(len(ids)))
                self.begin += len(ids)
                continue
            number = next(i for i, medium in enumerate(media) if medium is part) if len(media) > 1 else -1
            source = part.first + np.arange(len(part))
            self._put(len(part), source=source, position=self.begin + part.place, part=number)
            self.begin += part.total

    def add(self, rng: np.random.Generator, dialogue: Dialogue) -> bool:
        """A dialogue of the last tree; False if it does not fit."""
        spoken = self.encoder.dialogue(*dialogue)
        size = len(spoken.ids) - 1
        if size > self.room:
            return False
        inputs, exact, weight = np.array(spoken.ids[:-1]), np.array(spoken.exact), np.array(spoken.weight)
        target = np.where(weight[1:] > 0, spoken.ids[1:], -1)
        if rng.random() < 0.3:  # so that one coordinate does not lean too much on the one before
            numbers = exact[:-1] >= 0
            moved = inputs[numbers] + np.rint(rng.normal(0, 1.2, int(numbers.sum()))).astype(np.int64)
            inputs[numbers] = np.clip(moved, self.encoder.number, self.encoder.number + len(vocabulary.NUMBERS) - 1)
        self.branches += 1
        position = self.begin + np.arange(size)
        trained = {"target": target, "exact": exact[1:], "weight": weight[1:]}
        self._put(size, ids=inputs, branch=self.branches, position=position, **trained)
        self.room -= size
        return True

    def arrays(self) -> dict[str, np.ndarray]:
        return {name: np.concatenate(parts) for name, parts in self._parts.items()}


# ----------------------------------------------------------------------------------------------------------------------
# Rows


def fill(rng: np.random.Generator, row: Row, make: Callable[[], Dialogue], most: int = 99) -> None:
    """Different dialogues until the row is full."""
    misses, asked = 0, set[str]()
    while misses < 3 and len(asked) < most:
        dialogue = make()
        if dialogue[0] not in asked and row.add(rng, dialogue):
            asked.add(dialogue[0])
        else:
            misses += 1


def picture_row(rng: np.random.Generator, encoder: Encoder, truth: Truth, soft: Soft) -> Row:
    """Everything that can be asked without a system turn."""
    row = Row(encoder)
    row.about = soft.total
    row.start([opening() + "<|image>", soft, "<image|>"])
    first = {0: "all", 1: "read"}

    def make() -> Dialogue:
        kind = KINDS[rng.choice(len(KINDS), p=WEIGHTS)]
        number = row.branches
        if number in first and rng.random() < (0.4 if number == 0 else 0.8 if truth.word else 0.0):
            kind = first[number]
        return lessons.in_form(rng, truth, None) if kind == "fact" else ask(rng, truth, kind)

    fill(rng, row, make)
    return row


def mode_row(rng: np.random.Generator, encoder: Encoder, truth: Truth, soft: Soft) -> Row:
    """Counting with thoughts, or answers in the form that the system turn asks for."""
    row = Row(encoder)
    if rng.random() < 0.55:
        row.start([opening(think=True) + "<|image>", soft, "<image|>"])
        fill(rng, row, lambda: lessons.thinking(rng, truth))
        return row
    form = str(rng.choice(list(lessons.FORMS)))
    system = lessons.FORMS[form][0 if rng.random() < 0.6 else rng.integers(3)]
    row.start([opening(system) + "<|image>", soft, "<image|>"])
    fill(rng, row, lambda: lessons.in_form(rng, truth, form))
    return row


def tool_row(rng: np.random.Generator, encoder: Encoder, truth: Truth, soft: Soft) -> Row:
    """Questions that need a tool, and some that do not although there is one."""
    row = Row(encoder)
    names = (["area", "zoom"], ["area"], ["zoom"], ["zoom", "area"])[rng.integers(4)]
    row.start([opening(tools=tuple(names)) + "<|image>", soft, "<image|>"])

    def make() -> Dialogue:
        if rng.random() < 0.2:
            return ask(rng, truth, "one") if rng.random() < 0.6 else lessons.in_form(rng, truth, None)
        return lessons.tool_dialogue(rng, truth, names)

    fill(rng, row, make)
    return row


def pair_row(rng: np.random.Generator, encoder: Encoder, seen: list[tuple[Truth, Soft]]) -> Row:
    """Two pictures out of those of the batch, twice; not the largest ones."""
    row = Row(encoder, 230)
    some = sorted(seen, key=lambda item: len(item[1]))[: max(2, len(seen) * 2 // 3)]
    for most in (3, 99):
        a, b = (some[int(v)] for v in rng.choice(len(some), 2, replace=False))
        row.start([opening() + "<|image>", a[1], "<image|><|image>", b[1], "<image|>"])
        fill(rng, row, lambda a=a, b=b: lessons.pair(rng, (a[0], b[0])), most)
    return row


def clip_row(rng: np.random.Generator, encoder: Encoder, truth: tuple[list[str], int, str], soft: list[Soft]) -> Row:
    """Three or four frames with their times."""
    row = Row(encoder, 120)
    chosen = [0, 1, 2, 3] if rng.random() < 0.7 else [0, int(rng.integers(1, 3)), 3]
    seconds = rng.uniform(0.2, 3.0)
    parts: list[str | Soft] = []
    for step, index in enumerate(chosen):
        time = int(step * seconds)
        parts += [f"{'<image|> ' if step else opening(kind='video')}00:{time:02d} <|image>", soft[index]]
    row.start([*parts, "<image|>"])
    fill(rng, row, lambda: lessons.clip(rng, *truth))
    return row


def speech_row(rng: np.random.Generator, encoder: Encoder, said: list[tuple[Soft, str]]) -> Row:
    """Utterances, each asked for in few words and every other one in the family's."""
    row = Row(encoder, 999)
    for number, (soft, text) in enumerate(said):
        row.start([opening(kind="audio") + "<|audio>", soft, "<audio|>"])
        row.add(rng, lessons.speech(rng, text, False))
        if number % 2:
            row.add(rng, lessons.speech(rng, text, True))
    return row


def text_row(rng: np.random.Generator, encoder: Encoder) -> Row:
    """Questions without any medium, also under some system turn, with thinking or with tools at hand."""
    row = Row(encoder, 600)
    system = unknown.SYSTEMS[rng.integers(len(unknown.SYSTEMS))]
    for begin in (opening(kind="text"), opening(system, kind="text"), opening(think=True, kind="text")):
        row.start([begin])
        fill(rng, row, lambda: lessons.off_topic(rng), 3)
    return row


def make_batch(rng: np.random.Generator, encoder: Encoder, sources: Sources, counts: Counts) -> Batch:
    """A step's media and rows."""
    media = Media(sources.shared)
    seen = [media.picture(rng, picture) for picture in sources.pictures(rng)]
    for picture in sources.crowds(rng):
        media.picture(rng, picture)
    rows: list[tuple[str, Row]] = []
    if seen:
        rows = [("picture", picture_row(rng, encoder, *one)) for one in seen]
        for name, make, count in (("mode", mode_row, counts.modes), ("tool", tool_row, counts.tools)):
            chosen = rng.choice(len(seen), count, replace=count > len(seen))
            rows += [(name, make(rng, encoder, *seen[int(i)])) for i in chosen]
        rows += [("pair", pair_row(rng, encoder, seen)) for _ in range(counts.pairs)]
        for _ in range(counts.clips):
            soft, truth = media.clip(rng, sources.clip(rng))
            rows.append(("clip", clip_row(rng, encoder, truth, soft)))
        said = [media.sound(rng, sources.utterance(rng)) for _ in range(counts.utterances)]
        rows += [("speech", speech_row(rng, encoder, said[i :: counts.speech])) for i in range(counts.speech)]
        rows += [("text", text_row(rng, encoder)) for _ in range(counts.texts)]
    out = media.arrays() | (collect(rows) if rows else {})
    return {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in out.items()}


def collect(rows: list[tuple[str, Row]]) -> dict[str, np.ndarray]:
    """The rows one after another, with at most TAKE trained places of each."""
    parts: dict[str, list[np.ndarray]] = {}
    first = 0
    for group, row in rows:
        arrays = row.arrays()
        where = np.flatnonzero(arrays["target"] >= 0)[:TAKE]
        for name in ("target", "exact", "weight"):
            arrays[name] = arrays[name][where]
        arrays["take"], arrays["sizes"] = where + first, np.array([len(arrays["ids"])])
        arrays["group"], arrays["about"] = np.full(len(where), GROUPS.index(group)), np.full(len(where), row.about)
        first += len(arrays["ids"])
        for name, values in arrays.items():
            parts.setdefault(name, []).append(values)
    return {name: np.concatenate(values) for name, values in parts.items()}


def stream(sources: Sources, encoder: Encoder, counts: Counts, seed: int) -> Iterator[Batch]:
    """Batches for ever, made in a thread beside the training."""
    ready: queue.Queue[Batch | Exception] = queue.Queue(maxsize=2)

    def work() -> None:
        rng = np.random.default_rng(seed)
        while True:
            try:
                ready.put(make_batch(rng, encoder, sources, counts))
            except Exception as error:
                ready.put(error)
                raise

    threading.Thread(target=work, daemon=True).start()
    while True:
        batch = ready.get()
        if isinstance(batch, Exception):
            raise batch
        yield batch
