"""Answers on their way: one, or many together.

Knows: the order of an answer's steps, sequences, decoders, the clock. Must not know: messages, how logits are computed,
how ids are chosen.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..answer import Chunk, Decoder, GenerationResult, Timings
from ..prompt import PreparedInputs
from .drafter import Drafter
from .kept import Medium, media_of
from .prefix_cache import PrefixCache
from .scheduler import MOST_GUESSES, Scheduler, Stop, check_wanted

__all__ = ["Answer", "Computing", "Questions", "answer_all"]

T = TypeVar("T")


class Computing(Protocol):
    """Who computes answers; :class:`gemma4.runtime.Runtime` does."""

    @property
    def scheduler(self) -> Scheduler: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def drafter(self) -> Drafter | None: ...
    def check_unchanged(self) -> None: ...
    def begin(
        self, inputs: PreparedInputs, media: list[Medium], room: int, adapter: _core.Adapter | None
    ) -> tuple[_core.Sequence, int]: ...
    def soft_tokens(
        self, inputs: PreparedInputs, media: list[Medium], known: int, adapter: _core.Adapter | None
    ) -> list[_core.SoftTokens]: ...
    def keep(
        self, sequence: _core.Sequence, inputs: PreparedInputs, media: list[Medium], known: int,
        adapter: _core.Adapter | None,
    ) -> None: ...  # fmt: skip


@dataclass
class Answer:
    """One answer: who computes (a sequence, through the scheduler), who chooses (a decoder), who remembers (a prefix
    cache), and the clock. Nothing is computed before it begins."""

    runtime: Computing
    inputs: PreparedInputs
    decoder: Decoder
    cache: PrefixCache | None = None
    """Of a conversation."""
    adapter: _core.Adapter | None = None
    timings: Timings = field(default_factory=Timings)
    stop: Stop | None = None
    """Whether nobody waits for it any more, so that the work ends."""

    def chunks(self) -> Generator[Chunk, None, None]:
        """The answer piece by piece. Closing the generator ends the work. It takes no turn: whoever reads it may rest
        between two pieces for as long as it likes."""
        try:
            waiting: _core.Input | None = self.begin()
            while waiting is not None:
                self.runtime.scheduler.compute([waiting], self.stop)
                waiting = self.take(waiting)
                chunk = self.decoder.chunk(last=waiting is None)
                if chunk is not None:
                    yield chunk
        finally:
            self.end()

    def whole(self) -> GenerationResult:
        """All of it, when its turn has come."""
        scheduler = self.runtime.scheduler
        scheduler.enter(self.stop)
        try:
            for _ in self.chunks():
                pass
        finally:
            scheduler.leave()
        return self.result()

    def result(self) -> GenerationResult:
        """The whole, once all chunks have been generated."""
        return self.decoder.result(self.timings)

    def begin(self) -> _core.Input:
        """Encode the media; the prompt, to be computed."""
        check_wanted(self.stop)
        started, inputs = time.perf_counter(), self.inputs
        self.runtime.check_unchanged()
        room = len(inputs) + self.decoder.prompt.limit
        media = self._media = media_of(inputs)
        if self.cache is None:
            self._sequence, known = self.runtime.begin(inputs, media, room, self.adapter)
        else:
            self._sequence, known = self.cache.recall(inputs, media, room, self.adapter)
        self.timings.reused = known
        soft = self.runtime.soft_tokens(inputs, media, known, self.adapter)
        # Of fresh memory nothing is taken before it is written.
        self._room = np.empty((1 + MOST_GUESSES, self.runtime.vocab_size), np.float32)
        self._logits = self._room[:1]
        self._since = time.perf_counter()
        self.timings.encode = self._since - started
        states = self.runtime.drafter is not None
        return _core.Input(self._sequence, inputs.input_ids[known:], soft, "last", out=self._logits, states=states)

    def take(self, done: _core.Input) -> _core.Input | None:
        """Choose the next token now that what waited is done; what is to be computed next, or None at the end."""
        now = time.perf_counter()
        if self.timings.prefill == 0.0:
            self.timings.prefill, self._since = now - self._since, now
            if self.cache is None:
                self.runtime.keep(self._sequence, self.inputs, self._media, self.timings.reused, self.adapter)
        guesses, begun = self._guesses, self._sequence.position - len(self._guesses)
        scheduler = self.runtime.scheduler
        if self._step > 0.0:
            scheduler.note(1 + len(guesses), now - self._step)
        index, kept = self.decoder.take_all(self._logits, guesses)
        if kept < len(guesses):
            self._sequence.rewind(begun + kept)  # it holds so few more than a chunk that it always can
        guesses = [] if index is None else self._guess(index, done, kept)
        guesses = self._guesses = guesses[: scheduler.worth(len(guesses))]
        self._step = time.perf_counter()
        self.timings.decode = self._step - self._since
        if index is None:
            return None
        self._logits = self._room[: 1 + len(guesses)]
        ids, states = np.array([index, *guesses], np.int32), self.runtime.drafter is not None
        return _core.Input(self._sequence, ids, (), "all", True, self._logits, states)

    def _guess(self, index: int, done: _core.Input, row: int) -> list[int]:
        """What may follow the id that was chosen from a row of logits."""
        drafter, sequence = self.runtime.drafter, self._sequence
        draft = None if drafter is None else partial(drafter.guess, sequence, index, done.states[row])
        scheduler = self.runtime.scheduler
        return self.decoder.guess(scheduler.worth(scheduler.spare()), draft)

    def end(self) -> None:
        """Remember, and let go of the sequence."""
        if self.cache is not None:
            self.cache.keep(self.decoder.ids)
        self.__dict__.pop("_sequence", None)

    _media: list[Medium] = field(init=False, repr=False)
    _sequence: _core.Sequence = field(init=False, repr=False)
    _guesses: list[int] = field(init=False, repr=False, default_factory=list)
    """Ids that were computed behind the last one that was chosen."""
    _room: NDArray[np.float32] = field(init=False, repr=False)
    _logits: NDArray[np.float32] = field(init=False, repr=False)
    """(1 + guesses, vocab) of the last step, in `_room`."""
    _step: float = field(init=False, repr=False, default=0.0)
    """When the present step of tokens began; 0 in a prompt's."""
    _since: float = field(init=False, repr=False, default=0.0)


@dataclass(frozen=True)
class Questions(Generic[T]):
    """What an item of a list is asked, and what is made of the answers."""

    answers: Iterable[Answer]
    """Looked at one by one, when there is room."""
    read: Callable[[list[GenerationResult]], T]


def answer_all(
    runtime: Computing, items: Iterable[Callable[[], Questions[T]]], failed: Callable[[Exception], T]
) -> Iterator[T]:
    """What is made of the answers to many questions, in their order; as many as fit are computed at once, and no item
    is looked at before there is room for it.

    Args:
        runtime: computes.
        items: each gives an item's questions.
        failed: gives what stands for an item that raised; or raises itself.
    """
    work = _Together(runtime, items, failed)
    try:
        yield from work.run()
    finally:
        work.end()


@dataclass
class _Item(Generic[T]):
    """An item on its way."""

    read: Callable[[list[GenerationResult]], T]
    results: list[Any] = field(default_factory=list)
    """Of its answers so far, None for those on their way."""
    missing: int = 1
    """Answers on their way, and one more while there may be others."""


class _Together(Generic[T]):
    """The loop of :func:`answer_all`."""

    def __init__(
        self, runtime: Computing, items: Iterable[Callable[[], Questions[T]]], failed: Callable[[Exception], T]
    ) -> None:
        self._runtime, self._failed = runtime, failed
        self._answers = self._flow(items)
        self._active: dict[_core.Input, tuple[int, int, Answer]] = {}  # item, which of its answers, the answer
        self._next: tuple[int, int, Answer] | None = None  # to be begun
        self._on_the_way: dict[int, _Item[T]] = {}
        self._done: dict[int, T] = {}

    def run(self) -> Iterator[T]:
        """The loop."""
        position = 0  # of the item that is handed out next
        while True:
            more = self._admit()
            while position in self._done:
                yield self._done.pop(position)
                position += 1
            if self._active:
                self._runtime.scheduler.compute(list(self._active))
                for waiting in [one for one in self._active if one.done]:
                    self._advance(waiting)
            elif not more:
                return

    def end(self) -> None:
        """Give back what is held."""
        for *_, answer in self._active.values():
            self._leave(answer)
        self._active.clear()

    def _flow(self, items: Iterable[Callable[[], Questions[T]]]) -> Iterator[tuple[int, int, Answer]]:
        """Every answer of every item, made when it is asked for."""
        for index, item in enumerate(items):
            try:
                questions = item()
                on_the_way = self._on_the_way[index] = _Item(questions.read)
                for answer in questions.answers:
                    on_the_way.results.append(None)
                    on_the_way.missing += 1
                    yield index, len(on_the_way.results) - 1, answer
                    if index not in self._on_the_way:  # it failed meanwhile
                        break
            except Exception as error:
                self._fail(index, error)
            self._finish(index)

    def _admit(self) -> bool:
        """Begin answers while there is room, at least one; False if there are no more. No turn is held for an answer
        that is still to be made: whoever makes the items may ask the same model."""
        scheduler = self._runtime.scheduler
        while True:
            if self._next is None:
                if self._active and not scheduler.has_room():
                    return True
                self._next = next(self._answers, None)
                if self._next is None:
                    return False
            if not self._active:
                scheduler.enter()
            elif not scheduler.try_enter():
                return True
            self._begin()

    def _begin(self) -> None:
        """Begin the next answer, whose turn has come."""
        assert self._next is not None
        begun, self._next = self._next, None
        item, _, answer = begun
        waiting = None
        try:
            if item in self._on_the_way:  # it has not failed meanwhile
                waiting = answer.begin()
                self._active[waiting] = begun
        except Exception as error:
            self._fail(item, error)
        finally:
            if waiting is None:
                self._runtime.scheduler.leave()

    def _advance(self, waiting: _core.Input) -> None:
        item, part, answer = self._active.pop(waiting)
        after = None
        try:
            after = answer.take(waiting)
            if after is None:
                self._on_the_way[item].results[part] = answer.result()
        except Exception as error:
            self._fail(item, error)
        finally:
            if after is None:
                self._leave(answer)
        if after is None:
            self._finish(item)
        else:
            self._active[after] = (item, part, answer)

    def _leave(self, answer: Answer) -> None:
        answer.end()
        self._runtime.scheduler.leave()

    def _finish(self, index: int) -> None:
        """One thing less to wait for; an item's answers are read once all are there."""
        item = self._on_the_way.get(index)
        if item is None:  # it failed
            return
        item.missing -= 1
        if item.missing:
            return
        try:
            self._done[index] = item.read(item.results)
            del self._on_the_way[index]
        except Exception as error:
            self._fail(index, error)

    def _fail(self, index: int, error: Exception) -> None:
        """An item raised: what else was asked about it is dropped."""
        self._on_the_way.pop(index, None)
        for waiting in [one for one, (item, *_) in self._active.items() if item == index]:
            self._leave(self._active.pop(waiting)[2])
        self._done[index] = self._failed(error)
