"""Which tokens an answer may not go on with: suppressed ones, bad words, n-grams that came before, an early end.

Knows: token ids. Must not know: logits, text, grammars. The rules are those of the logits processors that transformers
names so; what is forbidden there has a logit of minus infinity.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ..config import BanOptions
from ..errors import RequestError

__all__ = ["Bans", "bits_of"]


class Bans:
    """Follows one answer id by id."""

    def __init__(
        self, options: BanOptions, least: int, prompt_ids: NDArray[np.int32], vocab_size: int, eos_ids: Iterable[int]
    ) -> None:
        """Begin an answer.

        Args:
            options: what is forbidden.
            least: tokens that the answer must have before it may end.
            prompt_ids: (T,) what it answers to.
            vocab_size: of the logits.
            eos_ids: ids that end an answer.

        Raises:
            RequestError: an id is outside the vocabulary.
        """
        for name, ids in options.named().items():
            if ids and max(ids) >= vocab_size:
                raise RequestError(f"{name}: token id {max(ids)} is outside the vocabulary (0 to {vocab_size - 1})")
        eos = set(eos_ids)
        self._eos, self._least, self._made = eos, least, 0
        self._words = (vocab_size + 31) // 32
        self._all = bits_of(range(vocab_size, 32 * self._words), self._words, inverted=True)
        self._begin = options.begin_suppress_tokens
        self._bad: dict[int, list[tuple[int, ...]]] = {}  # words by the id before the last
        never = set(options.suppress_tokens)
        for word in options.bad_words_ids:
            if len(word) > 1:
                self._bad.setdefault(word[-2], []).append(word)
            elif word[0] not in eos:
                never.add(word[0])
        self._never = bits_of(never, self._words) if never else None
        self._ids: list[int] = prompt_ids.tolist()
        self._n = options.no_repeat_ngram_size
        self._next: dict[tuple[int, ...], set[int]] = {}  # the n-1 ids before -> ids that followed
        if self._n:
            for end in range(self._n, len(self._ids) + 1):
                self._note(end)

    def forbid(self, allowed: NDArray[np.uint32] | None) -> NDArray[np.uint32] | None:
        """(ceil(vocab / 32),) `allowed`, a bit for each id that may come next or None for all, without what is
        forbidden.

        Raises:
            RequestError: nothing is left.
        """
        now = self._now()
        if self._never is None and not now:
            return allowed
        left = self._all if allowed is None else allowed & self._all
        if self._never is not None:
            left = left & ~self._never
        if now:
            left = left & bits_of(now, self._words, inverted=True)
        if not left.any():
            raise RequestError(
                f"after {self._made} tokens of the answer nothing may come next: what a response_format or a budget of "
                "thoughts asks for there is forbidden by suppress_tokens, bad_words_ids, no_repeat_ngram_size or "
                "min_new_tokens"
            )
        return left

    def take(self, index: int) -> None:
        """The id that was chosen."""
        self._ids.append(index)
        self._made += 1
        if self._n and len(self._ids) >= self._n:
            self._note(len(self._ids))

    def _now(self) -> set[int]:
        """Ids that are forbidden at this place only."""
        now = set(self._eos) if self._made < self._least else set()
        if self._made == 0:
            now |= set(self._begin)
        for word in self._bad.get(self._ids[-1], ()) if self._ids else ():
            if tuple(self._ids[-len(word) + 1 :]) == word[:-1]:
                now.add(word[-1])
        if self._n and len(self._ids) >= self._n - 1:
            now |= self._next.get(self._before(len(self._ids)), set())
        return now

    def _before(self, end: int) -> tuple[int, ...]:
        return tuple(self._ids[end - self._n + 1 : end])

    def _note(self, end: int) -> None:
        """The n-gram that ends before `end`."""
        self._next.setdefault(tuple(self._ids[end - self._n : end - 1]), set()).add(self._ids[end - 1])


def bits_of(ids: Iterable[int | None], words: int, inverted: bool = False) -> NDArray[np.uint32]:
    """(words,) with bit `id % 32` of word `id // 32` set for each of `ids` that is not None, or for all others.

    >>> bits_of([0, 33, None], 2).tolist()
    [1, 2]
    """
    bits = np.zeros(words, dtype=np.uint32)
    for index in ids:
        if index is not None:
            bits[index // 32] |= np.uint32(1 << index % 32)
    return ~bits if inverted else bits
