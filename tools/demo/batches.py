"""From stored scenes to training batches: turned and mirrored pictures, packed dialogues, dense targets."""

from __future__ import annotations

import functools
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import vocabulary
from dataset import BUDGET, CELL, PATCH, POOL, RECORD, patch_positions
from dialogues import Piece, Truth, ask
from tokenizers import Tokenizer

ROWS, LENGTH = 2, 104  # rows of packed dialogues for each picture, tokens in a row
KINDS = ("one", "absent", "several", "all", "point", "caption", "read")
WEIGHTS = np.array([0.36, 0.22, 0.14, 0.08, 0.06, 0.08, 0.06])
PATCHES = BUDGET * POOL * POOL


class Encoder:
    """Token ids of dialogues, with every distinct string encoded once."""

    def __init__(self, path: Path) -> None:
        self.tokenizer = Tokenizer.from_file(str(path))
        self.number = self.id("0")
        self.end = self.id("<turn|>")
        self.nothing = self.id("[]")
        self.opening = self.text("<bos><|turn>user\n<|image>")
        self.answer_from = self.text("<turn|>\n<|turn>model\n")

    def id(self, token: str) -> int:
        return self.tokenizer.token_to_id(token)

    @functools.lru_cache(maxsize=200_000)  # noqa: B019  (one encoder lives as long as the process)
    def text(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def dialogue(self, question: str, answer: list[Piece]) -> tuple[list[int], list[float], int]:
        """Ids from the end of the picture on, the exact coordinate behind each (or -1), and where the answer begins."""
        ids = [self.id("<image|>"), *self.text(question), *self.answer_from]
        begin = len(ids)
        exact = [-1.0] * begin
        for piece in answer:
            if isinstance(piece, str):
                more = self.text(piece)
                ids += more
                exact += [-1.0] * len(more)
            else:
                place = min(1000.0, max(0.0, piece)) / vocabulary.STEP
                ids.append(self.number + round(place))
                exact.append(place)
        return [*ids, self.end], [*exact, -1.0], begin


@dataclass
class Batch:
    """Tensors of a step; `take` indexes the flattened (pictures * ROWS * LENGTH) positions that are trained."""

    pixels: torch.Tensor  # (batch, PATCHES, 3 * PATCH^2) uint8
    positions: torch.Tensor  # (batch, PATCHES, 2) int64
    cells: torch.Tensor  # (batch,) int64
    ids: torch.Tensor  # (batch, ROWS, LENGTH) int64
    offset: torch.Tensor  # (batch, ROWS, LENGTH) int64
    segment: torch.Tensor  # (batch, ROWS, LENGTH) int64
    take: torch.Tensor  # (taken,) int64
    target: torch.Tensor  # (taken,) int64, -1 is padding
    exact: torch.Tensor  # (taken,) f32, the coordinate in steps, or -1
    shape: torch.Tensor  # (batch, BUDGET) int64, 0 background, -1 padding
    color: torch.Tensor  # (batch, BUDGET) int64
    letter: torch.Tensor  # (batch, BUDGET) int64
    box: torch.Tensor  # (batch, BUDGET, 4) f32, y1 x1 y2 x2 in steps


def turned(record: np.ndarray, way: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, tuple[int, int]]:
    """One of the eight ways to turn and mirror a scene: patches, cells, letters, boxes (x1, y1, x2, y2), grid."""
    columns, rows = (int(v) for v in record["grid"])
    count = columns * rows
    patches = record["patches"][: count * POOL * POOL].reshape(rows, columns, POOL, POOL, PATCH, PATCH, 3)
    cell, letter = (record[name][:count].reshape(rows, columns) for name in ("cell", "letter"))
    box = record["box"].copy()
    if way & 1:
        patches, cell, letter = patches[:, ::-1, :, ::-1, :, ::-1], cell[:, ::-1], letter[:, ::-1]
        box = np.stack([1 - box[:, 2], box[:, 1], 1 - box[:, 0], box[:, 3]], axis=1)
    if way & 2:
        patches, cell, letter = patches[::-1, :, ::-1, :, ::-1], cell[::-1], letter[::-1]
        box = np.stack([box[:, 0], 1 - box[:, 3], box[:, 2], 1 - box[:, 1]], axis=1)
    if way & 4:
        patches, cell, letter = patches.transpose(1, 0, 3, 2, 5, 4, 6), cell.T, letter.T
        box = box[:, [1, 0, 3, 2]]
        columns, rows = rows, columns
    return patches.reshape(count * POOL * POOL, -1), cell.reshape(-1), letter.reshape(-1), box, (columns, rows)


def pack(rng: np.random.Generator, encoder: Encoder, truth: Truth, rows: int, length: int) -> dict[str, np.ndarray]:
    """Questions of all kinds, packed first-fit into `rows` rows of `length` tokens."""
    ids = np.zeros((rows, length), np.int64)
    offset, segment = np.zeros_like(ids), np.full_like(ids, -1)
    target, exact = np.full_like(ids, -1), np.full((rows, length), -1, np.float32)
    used = [0] * rows
    first = {0: "all", 1: "read"}
    misses, number = 0, 0
    while misses < 3:
        kind = KINDS[rng.choice(len(KINDS), p=WEIGHTS)]
        if number in first and rng.random() < (0.4 if number == 0 else 0.8 if truth.word else 0.0):
            kind = first[number]
        question, answer = ask(rng, truth, kind)
        tokens, places, begin = encoder.dialogue(question, answer)
        size = len(tokens) - 1
        row = next((r for r in range(rows) if used[r] + size <= length), None)
        if row is None:
            misses += 1
            continue
        at = slice(used[row], used[row] + size)
        inputs = np.array(tokens[:-1])
        target[row, at] = tokens[1:]
        target[row, at][: begin - 1] = -1
        exact[row, at] = places[1:]
        if rng.random() < 0.3:  # so that one coordinate does not lean too much on the one before
            numbers = np.array(places[:-1]) >= 0
            moved = inputs[numbers] + np.rint(rng.normal(0, 1.2, int(numbers.sum()))).astype(np.int64)
            inputs[numbers] = np.clip(moved, encoder.number, encoder.number + len(vocabulary.NUMBERS) - 1)
        ids[row, at], offset[row, at], segment[row, at] = inputs, np.arange(size), number
        used[row] += size
        number += 1
    return {"ids": ids, "offset": offset, "segment": segment, "target": target, "exact": exact}


def example(rng: np.random.Generator, encoder: Encoder, record: np.ndarray, out: dict[str, np.ndarray], i: int) -> None:
    """Fill row `i` of the arrays of a batch."""
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
    for name, values in pack(rng, encoder, truth, ROWS, LENGTH).items():
        out[name][i] = values


def make_batch(rng: np.random.Generator, encoder: Encoder, records: list[np.ndarray], take: int) -> Batch:
    """A batch of `len(records)` pictures with at most `take` trained positions."""
    size = len(records)
    out = {
        "pixels": np.zeros((size, PATCHES, 3 * PATCH * PATCH), np.uint8),
        "positions": np.zeros((size, PATCHES, 2), np.int64),
        "cells": np.zeros(size, np.int64),
        "box": np.zeros((size, BUDGET, 4), np.float32),
        **{name: np.full((size, BUDGET), -1, np.int64) for name in ("shape", "color", "letter")},
        **{name: np.zeros((size, ROWS, LENGTH), np.int64) for name in ("ids", "offset", "segment", "target")},
        "exact": np.zeros((size, ROWS, LENGTH), np.float32),
    }
    for i, record in enumerate(records):
        example(rng, encoder, record, out, i)
    target, exact = out.pop("target").reshape(-1), out.pop("exact").reshape(-1)
    where = np.flatnonzero(target >= 0)[:take]
    out["take"] = np.zeros(take, np.int64)
    out["take"][: len(where)] = where
    out["target"], out["exact"] = np.full(take, -1, np.int64), np.full(take, -1, np.float32)
    out["target"][: len(where)], out["exact"][: len(where)] = target[where], exact[where]
    return Batch(**{name: torch.from_numpy(values) for name, values in out.items()})


def stream(directory: Path, encoder: Encoder, size: int, take: int, seed: int) -> Iterator[Batch]:
    """Batches for ever, made in a thread beside the training; shards that appear meanwhile are used as well."""
    ready: queue.Queue[Batch] = queue.Queue(maxsize=3)

    def work() -> None:
        rng = np.random.default_rng(seed)
        shards: dict[Path, np.ndarray] = {}
        while True:
            for path in sorted(directory.glob("shard*.npy")):
                if path not in shards:
                    shards[path] = np.load(path, mmap_mode="r")
                    assert shards[path].dtype == RECORD
            names = sorted(shards)
            for _ in range(200):
                chosen = [shards[names[rng.integers(len(names))]] for _ in range(size)]
                ready.put(make_batch(rng, encoder, [shard[rng.integers(len(shard))] for shard in chosen], take))

    threading.Thread(target=work, daemon=True).start()
    while True:
        yield ready.get()


assert CELL == PATCH * POOL
