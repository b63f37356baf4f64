"""Who computes when: answers that wait for logits at the same time get them from the same steps.

Knows: inputs of sequences, which threads wait for them. Must not know: prompts, sampling, text.

There is no thread of its own: of those that wait, one computes the step for all of them. So a single caller pays
nothing for company that it does not have, Ctrl-C ends its own work alone, and nothing is lost in a fork.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

from .. import _core
from ..errors import Cancelled, RequestError

__all__ = ["MOST_GUESSES", "MOST_RUNNING", "Scheduler", "Stop", "check_wanted"]

Stop: TypeAlias = "Callable[[], bool]"
"""Whether nobody waits any more."""

MOST_RUNNING = 16
"""Answers that are computed at once; more would wait longer for each step than they gain."""
MOST_GUESSES = 7
"""Ids that one answer may have checked in a step, beside the one that it has chosen."""
_MOST_WAITING = 4096  # for their turn
_RIGHT = 0.9  # guesses that are
_NEW = 0.2  # weight of a new measurement
_LEAST_PATIENCE = 0.001  # seconds
_PATIENCE = 0.25  # of the last step's time


def _unwanted(stop: Stop | None) -> bool:
    return stop is not None and stop()


def check_wanted(stop: Stop | None) -> None:
    """Raises Cancelled where nobody waits any more."""
    if _unwanted(stop):
        raise Cancelled("nobody waits for the answer any more")


class Scheduler:
    """The steps of one model. For many threads."""

    def __init__(self) -> None:
        """Nobody waits."""
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._changed = threading.Condition()
        self._waiting: list[_core.Input] = []
        self._stepping = False
        self._company = 0  # inputs of the last step
        self._seconds = 0.0  # that it took
        self._costs: dict[int, float] = {}  # seconds of a step of so many tokens of one sequence
        self._running = 0
        self._queue: list[object] = []  # of those that wait for their turn, first come first

    def _after_fork(self) -> None:
        """In a child the threads of the parent are gone, whatever they held."""
        if self._process != os.getpid():
            self._begin()

    def enter(self, stop: Stop | None = None) -> None:
        """Wait for a turn among the answers that are computed at once; :meth:`leave` gives it back.

        Raises:
            Cancelled: `stop` says so.
            RequestError: too many wait already.
        """
        self._after_fork()
        turn = object()
        with self._changed:
            if len(self._queue) >= _MOST_WAITING:
                raise RequestError(f"{_MOST_WAITING} requests wait already: send them again later, or as one list")
            self._queue.append(turn)
            try:
                self._changed.wait_for(
                    lambda: (self._queue[0] is turn and self._running < MOST_RUNNING) or _unwanted(stop)
                )
                check_wanted(stop)
                self._running += 1
            finally:
                self._queue.remove(turn)
                self._changed.notify_all()

    def has_room(self) -> bool:
        """Whether there is a turn that nobody waits for."""
        return not self._queue and self._running < MOST_RUNNING

    def try_enter(self) -> bool:
        """Take a turn if there is one and nobody waits for it."""
        self._after_fork()
        with self._changed:
            room = self.has_room()
            self._running += room
            return room

    def leave(self) -> None:
        """Give a turn back."""
        with self._changed:
            self._running = max(0, self._running - 1)
            self._changed.notify_all()

    def spare(self) -> int:
        """How many guesses an answer may have checked in the next step: fewer in company, which fills a step anyhow."""
        return min(MOST_GUESSES, MOST_RUNNING // max(1, self._company) - 1)

    def worth(self, guesses: int) -> int:
        """How many of so many guesses to check, if nearly all are right: what gives most tokens for its time here. What
        was never tried is."""
        costs = self._costs
        if self._company > 1 or 1 not in costs or 1 + guesses not in costs:
            return guesses
        tried = (count for count in range(guesses + 1) if 1 + count in costs)
        return max(tried, key=lambda count: (1 + _RIGHT * count) / costs[1 + count])

    def note(self, tokens: int, seconds: float) -> None:
        """What a step of so many tokens of one sequence took."""
        if self._company == 1:
            known = self._costs.get(tokens, seconds)
            self._costs[tokens] = known + _NEW * (min(seconds, 2 * known) - known)

    def compute(self, inputs: Sequence[_core.Input], stop: Stop | None = None) -> None:
        """Compute, alone or with others, until one of the inputs is done. If it raises, none of them is computed any
        further.

        Raises:
            Cancelled: `stop` says so.
            KeyboardInterrupt: of a signal, in the main thread; others go on.
        """
        self._after_fork()
        with self._changed:
            self._waiting += inputs
            self._changed.notify_all()
        try:
            while not self._done_or_led(inputs, stop):
                pass
        finally:
            with self._changed:
                own = set(inputs)
                self._waiting = [one for one in self._waiting if one not in own]
                # What is being computed may not be touched before it is.
                self._changed.wait_for(lambda: not self._stepping)

    def _done_or_led(self, inputs: Sequence[_core.Input], stop: Stop | None) -> bool:
        """Whether one of the inputs is done; if none is, a step for all that wait, or somebody else's."""
        with self._changed:
            # An input is done when its step has ended, not earlier: another thread may still be writing to it.
            self._changed.wait_for(lambda: not self._stepping)
            if any(one.done for one in inputs):
                return True
            check_wanted(stop)
            # Those that took part in the last step will soon be here again; a stream that nobody reads will not.
            if len(self._waiting) < self._company:
                patience = max(_LEAST_PATIENCE, _PATIENCE * self._seconds)
                self._changed.wait_for(lambda: self._stepping or len(self._waiting) >= self._company, patience)
                if self._stepping:
                    return False
            self._stepping = True
            step = list(self._waiting)
        started = time.perf_counter()
        try:
            _core.step(step)
        finally:
            with self._changed:
                self._seconds = time.perf_counter() - started
                self._company = len(step)
                self._waiting = [one for one in self._waiting if not one.done]
                self._stepping = False
                self._changed.notify_all()
        return False
