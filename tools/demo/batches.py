"""From stored scenes, clips and utterances to a step's tensors: media, and rows of packed dialogues about them."""

from __future__ import annotations

import functools
import math
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import lessons
import numpy as np
import torch
import vocabulary
from clips import DIRECTIONS, MOST_FRAMES
from dataset import BUDGET, CELL, PATCH, POOL, patch_positions
from dialogues import Piece, Truth, answer_order, ask
from lessons import Dialogue, Given, Key, opening
from scenes import COLORS, SHAPES
from tokenizers import Tokenizer
from turning import turned, turned_direction, turned_patches
from utterances import FRAMES, SOFT, text_of

LENGTH, TAKE = 384, 176  # tokens of a row, those of them whose next one is trained
KINDS = ("one", "absent", "several", "all", "point", "caption", "read", "fact")
WEIGHTS = np.array([0.32, 0.19, 0.12, 0.08, 0.06, 0.08, 0.05, 0.10])
GROUPS = ("picture", "mode", "tool", "pair", "clip", "speech")  # what a row is about
DECIDES = 4.0  # weight of a token that decides whether an answer is right
PATCHES = BUDGET * POOL * POOL
ORDERS = ("object", "shape", "color", "both")  # among which objects a number counts


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
        spoken.weight.append(1.0)
        return spoken


@dataclass
class Spoken:
    """Tokens of a dialogue, for each the exact coordinate behind it (or -1) and how much it is trained."""

    ids: list[int]
    exact: list[float]
    weight: list[float]


@dataclass
class Batch:
    """Tensors of a step on one process. Soft tokens are numbered: pictures', then clips', then utterances'."""

    pixels: torch.Tensor  # (pictures, PATCHES, 3 * PATCH^2) uint8
    positions: torch.Tensor  # (pictures, PATCHES, 2) int64
    cells: torch.Tensor  # (pictures,) int64
    shape: torch.Tensor  # (pictures, BUDGET) int64, 0 background, -1 padding
    color: torch.Tensor  # (pictures, BUDGET) int64
    letter: torch.Tensor  # (pictures, BUDGET) int64
    box: torch.Tensor  # (pictures, BUDGET, 4) f32, y1 x1 y2 x2 in steps
    order: torch.Tensor  # (pictures, BUDGET, len(ORDERS)) int64, see `orders_of`, 0 background, -1 padding
    film: torch.Tensor  # (frames, PATCHES, 3 * PATCH^2) uint8
    film_positions: torch.Tensor  # (frames, PATCHES, 2) int64
    film_cells: torch.Tensor  # (frames,) int64
    film_mover: torch.Tensor  # (frames, 3) int64, 1 + shape, 1 + colour and 1 + direction of what moves, or 0; -1 first
    sound: torch.Tensor  # (utterances, FRAMES, bins) f32 log-mel
    sound_length: torch.Tensor  # (utterances,) int64
    word: torch.Tensor  # (utterances, SOFT) int64, -1 padding
    place: torch.Tensor  # (utterances, SOFT) int64
    phone: torch.Tensor  # (utterances, SOFT) int64
    ids: torch.Tensor  # (rows, LENGTH) int64, see `modeling.Rows`
    source: torch.Tensor  # (rows, LENGTH) int64
    position: torch.Tensor  # (rows, LENGTH) int64
    tree: torch.Tensor  # (rows, LENGTH) int64
    branch: torch.Tensor  # (rows, LENGTH) int64
    part: (
        torch.Tensor
    )  # (rows, LENGTH) int64, from 0: which of its tree's pictures a soft token is of; -1: of the only one
    take: torch.Tensor  # (rows, TAKE) int64
    target: torch.Tensor  # (rows, TAKE) int64, -1 is padding
    exact: torch.Tensor  # (rows, TAKE) f32, the coordinate in steps, or -1
    weight: torch.Tensor  # (rows, TAKE) f32
    group: torch.Tensor  # (rows,) int64, index into GROUPS


@dataclass
class Counts:
    """What a step holds on one process."""

    pictures: int = 6  # each has a row of its own
    modes: int = 2  # rows
    tools: int = 2  # rows
    pairs: int = 1  # rows
    clips: int = 2  # each has a row of its own
    utterances: int = 10
    speech: int = 3  # rows

    @property
    def rows(self) -> int:
        return self.pictures + self.modes + self.tools + self.pairs + self.clips + self.speech


class Row:
    """A row being filled with trees."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.used = 0
        self.trees = self.branches = self.begin = 0
        self.ids = np.full(LENGTH, encoder.pad, np.int64)
        self.source, self.tree, self.target, self.part = (np.full(LENGTH, -1, np.int64) for _ in range(4))
        self.position, self.branch = (np.zeros(LENGTH, np.int64) for _ in range(2))
        self.exact, self.weight = np.full(LENGTH, -1, np.float32), np.zeros(LENGTH, np.float32)

    @property
    def room(self) -> int:
        return LENGTH - self.used

    def start(self, parts: list[str | range]) -> None:
        """A tree's prefix: text and ranges of soft tokens."""
        ids: list[int] = []
        source: list[int] = []
        media = [part for part in parts if isinstance(part, range)]
        for part in parts:
            more = list(self.encoder.text(part)) if isinstance(part, str) else [self.encoder.pad] * len(part)
            ids += more
            source += list(part) if isinstance(part, range) else [-1] * len(more)
        at = slice(self.used, self.used + len(ids))
        self.ids[at], self.source[at], self.tree[at] = ids, source, self.trees
        self.position[at] = np.arange(len(ids))
        if len(media) > 1:
            number = np.repeat(np.arange(len(media)), [len(soft) for soft in media])
            self.part[at][self.source[at] >= 0] = number
        self.begin, self.branches = len(ids), 0
        self.used += len(ids)
        self.trees += 1

    def add(self, rng: np.random.Generator, dialogue: Dialogue) -> bool:
        """A dialogue of the last tree; False if it does not fit."""
        spoken = self.encoder.dialogue(*dialogue)
        size = len(spoken.ids) - 1
        if size > self.room:
            return False
        at = slice(self.used, self.used + size)
        inputs, exact, weight = np.array(spoken.ids[:-1]), np.array(spoken.exact), np.array(spoken.weight)
        self.target[at] = np.where(weight[1:] > 0, spoken.ids[1:], -1)
        self.exact[at], self.weight[at] = exact[1:], weight[1:]
        if rng.random() < 0.3:  # so that one coordinate does not lean too much on the one before
            numbers = exact[:-1] >= 0
            moved = inputs[numbers] + np.rint(rng.normal(0, 1.2, int(numbers.sum()))).astype(np.int64)
            inputs[numbers] = np.clip(moved, self.encoder.number, self.encoder.number + len(vocabulary.NUMBERS) - 1)
        self.branches += 1
        self.ids[at], self.tree[at], self.branch[at] = inputs, self.trees - 1, self.branches
        self.position[at] = self.begin + np.arange(size)
        self.used += size
        return True


# ----------------------------------------------------------------------------------------------------------------------
# Media


def put_picture(rng: np.random.Generator, record: np.ndarray, out: dict[str, np.ndarray], i: int) -> Truth:
    """Fill picture `i` of a batch."""
    way = 0 if record["word"] else int(rng.integers(8))
    patches, cell, letter, box, (columns, rows) = turned(record, way)
    count = columns * rows
    out["pixels"][i, : len(patches)] = patches
    out["positions"][i, : len(patches)] = patch_positions(columns, rows)
    out["cells"][i] = count
    shown = cell >= 0
    out["shape"][i, :count] = np.where(shown, record["shape"][cell] + 1, 0)
    out["color"][i, :count] = np.where(shown, record["color"][cell] + 1, 0)
    out["letter"][i, :count] = letter + 1
    out["box"][i, :count] = box[cell][:, [1, 0, 3, 2]] * (1000 / vocabulary.STEP)
    changed = {"count": record["count"], "box": box, "shape": record["shape"], "color": record["color"]}
    changed |= {"background": record["background"], "word": record["word"]}
    truth = Truth.from_record(changed)  # type: ignore[arg-type]
    out["order"][i, :count] = np.where(shown[:, None], orders_of(changed)[cell], 0)
    return truth


def orders_of(scene: dict[str, np.ndarray]) -> np.ndarray:
    """(objects, len(ORDERS)) the number of each object in the order of the answers, from 1: among all, and among those
    of its shape, of its colour, of both."""
    count = int(scene["count"])
    numbers = np.zeros((max(1, count), len(ORDERS)), np.int64)
    seen: dict[tuple[str, int, int], int] = {}
    for index in answer_order(scene["box"][:count]):
        shape, color = int(scene["shape"][index]), int(scene["color"][index])
        among = (("object", 0, 0), ("shape", shape, 0), ("color", 0, color), ("both", shape, color))
        for column, kind in enumerate(among):
            seen[kind] = numbers[index, column] = seen.get(kind, 0) + 1
    return numbers


def put_clip(
    rng: np.random.Generator, record: np.ndarray, out: dict[str, np.ndarray], i: int
) -> tuple[int, list[str], int, str]:
    """Fill the frames of clip `i` of a batch: cells of a frame, labels, which one moves and where to."""
    columns, rows = (int(v) for v in record["grid"])
    way, back = int(rng.integers(8)), rng.random() < 0.5
    direction = turned_direction(DIRECTIONS[record["direction"]], way ^ (3 if back else 0))
    mover = int(record["mover"])
    moves = (record["shape"][mover] + 1, record["color"][mover] + 1, DIRECTIONS.index(direction) + 1)
    labels = [f"{COLORS[record['color'][k]]} {SHAPES[record['shape'][k]]}" for k in range(int(record["count"]))]
    for step in range(MOST_FRAMES):
        patches = record["patches"][MOST_FRAMES - 1 - step if back else step]
        patches = turned_patches(patches, columns, rows, way)
        at = i * MOST_FRAMES + step
        out["film"][at, : len(patches)] = patches
        grid = (rows, columns) if way & 4 else (columns, rows)
        out["film_positions"][at, : len(patches)] = patch_positions(*grid)
        out["film_cells"][at] = columns * rows
        out["film_mover"][at] = -1 if step == 0 else moves if mover >= 0 else 0
    return columns * rows, labels, mover, direction


def put_sound(rng: np.random.Generator, record: np.ndarray, out: dict[str, np.ndarray], i: int) -> tuple[int, str]:
    """Fill utterance `i` of a batch, at another level: its soft tokens and what is said."""
    length = int(record["length"])
    magnitude = np.exp(record["frames"][:length].astype(np.float32))
    floor = np.float32(1e-3)
    louder = np.float32(math.exp(rng.uniform(-0.8, 0.8)))
    magnitude = np.maximum(magnitude - floor, 0) * louder
    if rng.random() < 0.5:  # a little more noise, of a random colour
        slope = np.exp(rng.uniform(-2, 2) * np.linspace(-1, 1, magnitude.shape[1], dtype=np.float32))
        hiss = rng.random(magnitude.shape, np.float32) * slope
        magnitude += hiss * np.float32(magnitude.mean() * math.exp(rng.uniform(-6, -2)))
    frames = np.log(magnitude + floor)
    if rng.random() < 0.3:  # a band that the microphone does not hear well
        first, width = int(rng.integers(0, frames.shape[1])), int(rng.integers(2, 18))
        frames[:, first : first + width] -= np.float32(rng.uniform(0.5, 3))
        frames = np.maximum(frames, np.log(floor))
    out["sound"][i, :length] = frames
    out["sound_length"][i] = length
    for name in ("word", "place", "phone"):
        out[name][i] = record[name]
    return -(-length // 4), text_of([int(word) for word in record["words"] if word >= 0])


# ----------------------------------------------------------------------------------------------------------------------
# Rows


def media_range(kind_start: int, size: int, index: int, count: int) -> range:
    """Soft tokens of medium `index` of a kind that begins at `kind_start` and has `size` of them for each."""
    return range(kind_start + index * size, kind_start + index * size + count)


def fill(rng: np.random.Generator, row: Row, make: Callable[[], Dialogue], most: int = 99) -> None:
    """Different dialogues until the row is full."""
    misses, asked = 0, set[str]()
    while misses < 3 and len(asked) < most:
        dialogue = make()
        if dialogue[0] not in asked and row.add(rng, dialogue):
            asked.add(dialogue[0])
        else:
            misses += 1


def picture_row(rng: np.random.Generator, encoder: Encoder, truth: Truth, soft: range) -> Row:
    """Everything that can be asked without a system turn."""
    row = Row(encoder)
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


def mode_row(rng: np.random.Generator, encoder: Encoder, truth: Truth, soft: range) -> Row:
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


def tool_row(rng: np.random.Generator, encoder: Encoder, truth: Truth, soft: range) -> Row:
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


def pair_row(rng: np.random.Generator, encoder: Encoder, truths: list[Truth], soft: list[range]) -> Row:
    """Two pictures out of those of the batch, twice."""
    row = Row(encoder)
    for left in (1, 0):
        a, b = (int(v) for v in rng.choice(len(truths), 2, replace=False))
        prefix = [opening() + "<|image>", soft[a], "<image|><|image>", soft[b], "<image|>"]
        if row.room < len(soft[a]) + len(soft[b]) + 40:
            break
        row.start(prefix)
        fill(rng, row, lambda a=a, b=b: lessons.pair(rng, (truths[a], truths[b])), 3 if left else 99)
    return row


def clip_row(rng: np.random.Generator, encoder: Encoder, truth: tuple[list[str], int, str], soft: list[range]) -> Row:
    """Three or four frames with their times."""
    row = Row(encoder)
    chosen = [0, 1, 2, 3] if rng.random() < 0.7 else [0, int(rng.integers(1, 3)), 3]
    seconds = rng.uniform(0.2, 3.0)
    parts: list[str | range] = []
    for step, index in enumerate(chosen):
        time = int(step * seconds)
        parts += [f"{'<image|> ' if step else opening(kind='video')}00:{time:02d} <|image>", soft[index]]
    row.start([*parts, "<image|>"])
    fill(rng, row, lambda: lessons.clip(rng, *truth))
    return row


def speech_row(rng: np.random.Generator, encoder: Encoder, said: list[tuple[range, str]]) -> Row:
    """Utterances until the row is full, taken from the end of `said`."""
    row = Row(encoder)
    while said and row.room > len(said[-1][0]) + 110:
        soft, text = said.pop()
        row.start([opening(kind="audio") + "<|audio>", soft, "<audio|>"])
        row.add(rng, lessons.speech(rng, text, True))
        row.add(rng, lessons.speech(rng, text, False))
    while said and row.room > len(said[-1][0]) + 30:
        soft, text = said.pop()
        row.start([opening(kind="audio") + "<|audio>", soft, "<audio|>"])
        row.add(rng, lessons.speech(rng, text, False))
    return row


def make_batch(rng: np.random.Generator, encoder: Encoder, sources: Sources, counts: Counts) -> Batch:
    """A step's media and rows."""
    frames = counts.clips * MOST_FRAMES
    out = {
        "pixels": np.zeros((counts.pictures, PATCHES, 3 * PATCH * PATCH), np.uint8),
        "positions": np.zeros((counts.pictures, PATCHES, 2), np.int64),
        "cells": np.zeros(counts.pictures, np.int64),
        "box": np.zeros((counts.pictures, BUDGET, 4), np.float32),
        **{name: np.full((counts.pictures, BUDGET), -1, np.int64) for name in ("shape", "color", "letter")},
        "order": np.full((counts.pictures, BUDGET, len(ORDERS)), -1, np.int64),
        "film": np.zeros((frames, PATCHES, 3 * PATCH * PATCH), np.uint8),
        "film_positions": np.zeros((frames, PATCHES, 2), np.int64),
        "film_cells": np.zeros(frames, np.int64),
        "film_mover": np.zeros((frames, 3), np.int64),
        "sound": np.zeros((counts.utterances, FRAMES, 128), np.float32),
        "sound_length": np.zeros(counts.utterances, np.int64),
        **{name: np.full((counts.utterances, SOFT), -1, np.int64) for name in ("word", "place", "phone")},
    }
    truths = [put_picture(rng, sources.scene(rng), out, i) for i in range(counts.pictures)]
    soft = [media_range(0, BUDGET, i, int(count)) for i, count in enumerate(out["cells"])]
    rows = [("picture", picture_row(rng, encoder, truth, place)) for truth, place in zip(truths, soft, strict=True)]
    for name, make, count in (("mode", mode_row, counts.modes), ("tool", tool_row, counts.tools)):
        for i in (int(v) for v in rng.choice(counts.pictures, count, replace=count > counts.pictures)):
            rows.append((name, make(rng, encoder, truths[i], soft[i])))
    rows += [("pair", pair_row(rng, encoder, truths, soft)) for _ in range(counts.pairs)]
    start = counts.pictures * BUDGET
    for i in range(counts.clips):
        cells, *truth = put_clip(rng, sources.clip(rng), out, i)
        places = [media_range(start, BUDGET, i * MOST_FRAMES + step, cells) for step in range(MOST_FRAMES)]
        rows.append(("clip", clip_row(rng, encoder, tuple(truth), places)))
    start += frames * BUDGET
    said = []
    for i in range(counts.utterances):
        length, text = put_sound(rng, sources.utterance(rng), out, i)
        said.append((media_range(start, SOFT, i, length), text))
    rows += [("speech", speech_row(rng, encoder, said)) for _ in range(counts.speech)]
    out |= collect([row for _, row in rows])
    out["group"] = np.array([GROUPS.index(name) for name, _ in rows])
    return Batch(**{name: torch.from_numpy(values) for name, values in out.items()})


def collect(rows: list[Row]) -> dict[str, np.ndarray]:
    """Arrays of the rows, with at most TAKE trained places of each."""
    out = {
        name: np.stack([getattr(row, name) for row in rows]) for name in ("ids", "source", "position", "tree", "part")
    }
    out["branch"] = np.stack([row.branch for row in rows])
    size = (len(rows), TAKE)
    out["take"], out["target"] = np.zeros(size, np.int64), np.full(size, -1, np.int64)
    out["exact"], out["weight"] = np.full(size, -1, np.float32), np.zeros(size, np.float32)
    for i, row in enumerate(rows):
        where = np.flatnonzero(row.target >= 0)[:TAKE]
        out["take"][i, : len(where)] = where
        for name in ("target", "exact", "weight"):
            out[name][i, : len(where)] = getattr(row, name)[where]
    return out


class Sources:
    """Stored scenes, clips and utterances in some directories; files that appear meanwhile are used as well."""

    def __init__(self, directories: list[Path]) -> None:
        self._directories = directories
        self._known: dict[str, list[np.ndarray]] = {"shard": [], "clips": [], "speech": []}
        self._paths: set[Path] = set()
        self.refresh()

    def refresh(self) -> None:
        for name, known in self._known.items():
            for path in sorted(path for directory in self._directories for path in directory.glob(f"{name}*.npy")):
                if path not in self._paths:
                    self._paths.add(path)
                    known.append(np.load(path, mmap_mode="r"))

    def _draw(self, rng: np.random.Generator, name: str) -> np.ndarray:
        shards = self._known[name]
        shard = shards[rng.integers(len(shards))]
        return shard[rng.integers(len(shard))]

    def scene(self, rng: np.random.Generator) -> np.ndarray:
        return self._draw(rng, "shard")

    def clip(self, rng: np.random.Generator) -> np.ndarray:
        return self._draw(rng, "clips")

    def utterance(self, rng: np.random.Generator) -> np.ndarray:
        return self._draw(rng, "speech")


def stream(sources: Sources, encoder: Encoder, counts: Counts, seed: int) -> Iterator[Batch]:
    """Batches for ever, made in a thread beside the training."""
    ready: queue.Queue[Batch] = queue.Queue(maxsize=3)

    def work() -> None:
        rng = np.random.default_rng(seed)
        while True:
            for _ in range(200):
                ready.put(make_batch(rng, encoder, sources, counts))
            sources.refresh()

    threading.Thread(target=work, daemon=True).start()
    while True:
        yield ready.get()


assert CELL == PATCH * POOL
