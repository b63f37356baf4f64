"""Whether an answer goes round in circles.

Knows: token ids. Must not know: text, the sampler.
"""

from __future__ import annotations

import numpy as np

__all__ = ["LEAST_REPEATS", "LEAST_TOKENS", "LONGEST_BLOCK", "RepetitionGuard"]

LONGEST_BLOCK = 512
"""Ids of the longest block whose repetition is seen."""
LEAST_REPEATS = 8
"""How often a block must stand in a row, at least."""
LEAST_TOKENS = 256
"""How many ids the repeated blocks must have together, at least."""


class RepetitionGuard:
    """Sees when the last ids are one block over and over: at least 8 times in a row and at least 256 ids in all.

    A block of 1 id must come 256 times, one of 10 ids 26 times, one of 32 to 512 ids 8 times, with no other id between.
    What only resembles a loop has a changing part in each round (a number, a coordinate, a name) and never counts.
    The cost of an id is a comparison with each of the 512 before it.

    >>> guard = RepetitionGuard()
    >>> [guard.push(7) for _ in range(300)].index(True)
    255
    """

    def __init__(self) -> None:
        self._first: list[int] | None = []  # ids that are too few for a loop yet: not looked at
        self._ids = np.full(8 * LONGEST_BLOCK, -1, dtype=np.int32)
        self._end = LONGEST_BLOCK  # of the ids; what precedes the first ones is no id
        self._runs = np.zeros(LONGEST_BLOCK, dtype=np.int32)  # [b]: ids in a row that equal the one b + 1 before them
        blocks = np.arange(1, LONGEST_BLOCK + 1)
        self._needed = np.maximum(LEAST_TOKENS, LEAST_REPEATS * blocks) - blocks

    def push(self, index: int) -> bool:
        """Take the next id; whether the answer now ends in a loop."""
        if self._first is not None:
            self._first.append(index)
            if len(self._first) < LEAST_TOKENS:
                return False
            first, self._first = self._first, None
            return [self._push(one) for one in first][-1]
        return self._push(index)

    def _push(self, index: int) -> bool:
        if self._end == len(self._ids):
            self._ids[:LONGEST_BLOCK] = self._ids[-LONGEST_BLOCK:]
            self._end = LONGEST_BLOCK
        before = self._ids[self._end - LONGEST_BLOCK : self._end][::-1]
        self._runs += 1
        self._runs *= before == index
        self._ids[self._end] = index
        self._end += 1
        return bool((self._runs >= self._needed).any())
