"""What a step looks at and listens to: pictures, clips and utterances as arrays, with the dense truth about them.

Examples are drawn while the training goes on and used a few times, each time turned, cut or sounding another way.
Knows: scenes, clips, utterances. Must not know: tokens, dialogues.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import clips
import numpy as np
import utterances
import vocabulary
from clips import DIRECTIONS, MOST_FRAMES
from dataset import BUDGETS, Picture, draw_budgets, draw_picture, kept_cells, patch_positions
from dialogues import Truth, answer_order
from scenes import BACKGROUNDS, COLORS, SHAPES
from turning import turned, turned_direction, turned_patches
from utterances import FRAMES, SOFT, text_of

ORDERS = ("object", "shape", "color", "both", "like")  # among which objects a number counts; how many are like it
GROUNDS = ("nothing", *BACKGROUNDS)
STEPS = 1000 / vocabulary.STEP
Drawn = TypeVar("Drawn")


@dataclass
class Soft:
    """Where the soft tokens of a medium are: `place` is theirs among all `total` that it has, as some are left out."""

    first: int
    place: np.ndarray
    total: int

    def __len__(self) -> int:
        return len(self.place)


class Pool(Generic[Drawn]):
    """Examples of a kind; every so often a new one takes the place of an old one."""

    def __init__(self, draw: Callable[[np.random.Generator], Drawn], size: int, uses: float) -> None:
        self._draw, self._size, self._uses = draw, size, uses
        self._kept: list[Drawn] = []

    def take(self, rng: np.random.Generator, shared: np.random.Generator) -> Drawn:
        """An example; `shared` says which, `rng` how a new one looks."""
        if len(self._kept) >= 4 and shared.random() > 1 / self._uses:
            return self._kept[shared.integers(len(self._kept))]
        drawn = self._draw(rng)
        if len(self._kept) < self._size:
            self._kept.append(drawn)
        else:
            self._kept[shared.integers(self._size)] = drawn
        return drawn


class Sources:
    """Examples for the steps of one process: in each so many pictures of up to `most` soft tokens, `few` more of 70 to
    140, and so many crowded ones that nothing is asked about; a share `word` of them has words.

    Processes with an equal `seed` have pictures of the same sizes in a step, each its own: none waits for another.
    """

    def __init__(
        self, pictures: int, few: int, crowds: int, word: float, most: int, seed: int,
        size: int = 100, uses: float = 4.0,
    ) -> None:  # fmt: skip
        self._most, self._budget, self.shared = most, 0, np.random.default_rng(seed)

        def draw(crowd: bool) -> Callable[[np.random.Generator], Picture]:
            return lambda rng: draw_picture(rng, self._budget, word, 1 if rng.random() < 0.5 else 3, crowd)

        self._pictures = [Pool(draw(False), size, uses) for _ in range(pictures)]
        self._few = [Pool(draw(False), size, uses / 2) for _ in range(few)]
        self._crowds = [Pool(draw(True), size, uses) for _ in range(crowds)]
        self._clips = Pool(clips.draw_record, 4 * size, 2 * uses)
        self._utterances = Pool(utterances.draw_record, 20 * size, 2 * uses)

    def _all(self, rng: np.random.Generator, pools: list[Pool[Picture]], most: int) -> list[Picture]:
        """Pictures of all budgets; each pool has those of about one."""
        taken = []
        for budget, pool in zip(draw_budgets(self.shared, len(pools), most), pools, strict=True):
            self._budget = budget
            taken.append(pool.take(rng, self.shared))
        return taken

    def pictures(self, rng: np.random.Generator) -> list[Picture]:
        """The pictures of a step that questions are about."""
        return self._all(rng, self._pictures, self._most) + self._all(rng, self._few, BUDGETS[1])

    def crowds(self, rng: np.random.Generator) -> list[Picture]:
        """The pictures of a step that only the encoder learns from."""
        return self._all(rng, self._crowds, self._most)

    def clip(self, rng: np.random.Generator) -> np.ndarray:
        return self._clips.take(rng, rng)

    def utterance(self, rng: np.random.Generator) -> np.ndarray:
        return self._utterances.take(rng, rng)


def orders_of(picture: Picture) -> np.ndarray:
    """(objects, len(ORDERS)) the number of each object in the order of the answers, from 1: among all, and among those
    of its shape, of its colour, of both; and how many there are of its shape and colour."""
    numbers = np.zeros((max(1, len(picture.shape)), len(ORDERS)), np.int64)
    seen: dict[tuple[str, int, int], int] = {}
    for index in answer_order(picture.box):
        shape, color = int(picture.shape[index]), int(picture.color[index])
        among = (("object", 0, 0), ("shape", shape, 0), ("color", 0, color), ("both", shape, color))
        for column, kind in enumerate(among):
            seen[kind] = numbers[index, column] = seen.get(kind, 0) + 1
    for index in range(len(picture.shape)):
        numbers[index, -1] = seen["both", int(picture.shape[index]), int(picture.color[index])]
    return numbers


class Media:
    """The media of a step; soft tokens are numbered as they come: pictures', then clips', then utterances'."""

    def __init__(self, shared: np.random.Generator) -> None:
        self._shared = shared  # says how much of each picture is looked at
        self._parts: dict[str, list[np.ndarray]] = {}
        self._soft = 0

    def _put(self, **arrays: np.ndarray) -> None:
        for name, values in arrays.items():
            self._parts.setdefault(name, []).append(values)

    def _number(self, place: np.ndarray, total: int) -> Soft:
        soft = Soft(self._soft, place, total)
        self._soft += len(place)
        return soft

    def picture(self, rng: np.random.Generator, picture: Picture) -> tuple[Truth, Soft]:
        """A picture in one of its eight ways, with or without all cells."""
        picture = turned(picture, 0 if picture.word else int(rng.integers(8)))
        kept = kept_cells(rng, picture, self._shared.random(3))
        cell = picture.cell[kept]
        shown, index = cell >= 0, np.maximum(cell, 0)
        objects = max(1, len(picture.shape))
        shape, color, box = (_padded(values) for values in (picture.shape, picture.color, picture.box))
        sizes = np.bincount(cell[shown], minlength=objects)
        positions = patch_positions(*picture.grid).reshape(picture.cells, -1, 2)[kept].reshape(-1, 2)
        patches = picture.patches.reshape(picture.cells, -1, picture.patches.shape[-1])[kept]
        color = np.where(color < 0, -1, color + 1)  # -1: cannot be told
        where = (np.stack([kept // picture.grid[0], kept % picture.grid[0]], axis=1) + 0.5) / picture.grid[::-1]
        self._put(
            pixels=patches.reshape(-1, patches.shape[-1]),
            positions=positions,
            cells=np.array([len(kept)]),
            total=np.array([picture.cells]),
            shape=np.where(shown, shape[index] + 1, 0),
            color=np.where(shown, color[index], 0),
            letter=picture.letter[kept].astype(np.int64) + 1,
            box=(box[index][:, [1, 0, 3, 2]] * STEPS).astype(np.float32),
            order=np.where(shown[:, None], orders_of(picture)[index], 0),
            where=(where * STEPS).astype(np.float32),
            ground=np.full(len(kept), GROUNDS.index(picture.background)),
            share=np.where(shown, 1 / np.maximum(1, sizes[index]), 0).astype(np.float32),
        )
        return Truth.from_picture(picture), self._number(kept, picture.cells)

    def clip(self, rng: np.random.Generator, record: np.ndarray) -> tuple[list[Soft], tuple[list[str], int, str]]:
        """The frames of a clip, turned, forwards or backwards; labels, which one moves and where to."""
        columns, rows = (int(v) for v in record["grid"])
        way, back = int(rng.integers(8)), rng.random() < 0.5
        direction = turned_direction(DIRECTIONS[record["direction"]], way ^ (3 if back else 0))
        mover = int(record["mover"])
        moves = (record["shape"][mover] + 1, record["color"][mover] + 1, DIRECTIONS.index(direction) + 1)
        labels = [f"{COLORS[record['color'][k]]} {SHAPES[record['shape'][k]]}" for k in range(int(record["count"]))]
        frames = []
        for step in range(MOST_FRAMES):
            patches = record["patches"][MOST_FRAMES - 1 - step if back else step]
            moved = np.array([-1, -1, -1] if step == 0 else moves if mover >= 0 else [0, 0, 0], np.int64)
            self._put(
                film=turned_patches(patches, columns, rows, way),
                film_positions=patch_positions(*((rows, columns) if way & 4 else (columns, rows))),
                film_cells=np.array([columns * rows]),
                film_mover=np.repeat(moved[None], columns * rows, axis=0),
            )
            frames.append(self._number(np.arange(columns * rows), columns * rows))
        return frames, (labels, mover, direction)

    def sound(self, rng: np.random.Generator, record: np.ndarray) -> tuple[Soft, str]:
        """An utterance at another level, with other noise: its soft tokens and what is said."""
        length = int(record["length"])
        frames = np.zeros((FRAMES, record["frames"].shape[1]), np.float32)
        frames[:length] = _heard(rng, record["frames"][:length].astype(np.float32))
        names = ("word", "place", "phone")
        self._put(
            sound=frames[None],
            sound_length=np.array([length]),
            **{name: record[name].astype(np.int64)[None] for name in names},
        )
        count = -(-length // 4)
        soft = Soft(self._soft, np.arange(count), count)
        self._soft += SOFT  # utterances are padded
        return soft, text_of([int(word) for word in record["words"] if word >= 0])

    def arrays(self) -> dict[str, np.ndarray]:
        return {name: np.concatenate(parts) for name, parts in self._parts.items()}


def _padded(values: np.ndarray) -> np.ndarray:
    """At least one row, so that background has something to point at."""
    return values if len(values) else np.zeros((1, *values.shape[1:]), values.dtype)


def _heard(rng: np.random.Generator, frames: np.ndarray) -> np.ndarray:
    """Log-mel frames louder or softer, with more noise or without some band."""
    floor = np.float32(1e-3)
    louder = np.float32(math.exp(rng.uniform(-0.8, 0.8)))
    magnitude = np.maximum(np.exp(frames) - floor, 0) * louder
    if rng.random() < 0.5:  # a little more noise, of a random colour
        slope = np.exp(rng.uniform(-2, 2) * np.linspace(-1, 1, magnitude.shape[1], dtype=np.float32))
        hiss = rng.random(magnitude.shape, np.float32) * slope
        magnitude += hiss * np.float32(magnitude.mean() * math.exp(rng.uniform(-6, -2)))
    frames = np.log(magnitude + floor)
    if rng.random() < 0.3:  # a band that the microphone does not hear well
        first, width = int(rng.integers(0, frames.shape[1])), int(rng.integers(2, 18))
        frames[:, first : first + width] -= np.float32(rng.uniform(0.5, 3))
        frames = np.maximum(frames, np.log(floor))
    return frames
