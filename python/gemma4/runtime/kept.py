"""What is kept between requests, under one cap of bytes: keys and values of prompts, and media's soft tokens.

Knows: ids, digests of media, adapters, the boundaries of sequences. Must not know: messages, templates, sampling.

A request whose prompt begins as an earlier one did goes on from the last boundary that both have, with the same bits as
if it had computed all of it. Media are known by every value of their pixels or frames, not by their names. What was
computed with an adapter serves that one alone.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..prompt import PreparedAudio, PreparedImage, PreparedInputs

__all__ = ["DEFAULT_BYTES", "Kept", "Medium", "common_ids", "media_of"]

Medium = tuple[int, int, bytes]
"""First position, soft tokens, digest of what is seen or heard there."""

DEFAULT_BYTES = 256 << 20
_LEAST_KEPT = 32  # tokens of a prompt that are worth a copy


_Beginning = tuple[_core.Adapter | None, bytes, tuple[Medium, ...]]
"""The first tokens of a prompt: with which adapter, the ids' bytes, the media."""


def _beginning(
    ids: NDArray[np.int32], media: Sequence[Medium], length: int, adapter: _core.Adapter | None
) -> _Beginning:
    return adapter, ids[:length].tobytes(), tuple(medium for medium in media if medium[0] < length)


@dataclass(frozen=True)
class _Entry:
    """Soft tokens, or the sequence of a prompt's first tokens."""

    holds: NDArray[np.float32] | _core.Sequence
    bytes: int
    beginnings: dict[_Beginning, int]
    """What a sequence can be begun from, and how many tokens that is."""


class Kept:
    """The keys, values and soft tokens of a model's requests, the last used ones. For many threads."""

    def __init__(self, most_bytes: int) -> None:
        """Keep nothing yet, and never more than so many bytes."""
        self._most = most_bytes
        self._begin()
        _ALL.add(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()  # by what they are of; the last used last
        self._begun: dict[_Beginning, dict[Hashable, None]] = {}  # keys of the entries that can be begun from there
        self._lengths: Counter[int] = Counter()  # of these beginnings
        self.bytes = 0
        """Of all that is kept."""

    def _after_fork(self) -> None:
        """In a child nobody has what a thread of the parent was about to change."""
        if self._lock.locked():
            self._begin()

    def begin(
        self, sequence: _core.Sequence, inputs: PreparedInputs, media: list[Medium], adapter: _core.Adapter | None
    ) -> int:
        """Let an empty sequence, which has an adapter or none, begin with what is kept of a prompt and its media.

        Returns:
            How many of the prompt's first tokens it holds; at least the last one it does not.
        """
        with self._lock:
            for length in sorted(self._lengths, reverse=True):
                if length >= len(inputs):
                    continue
                for key in reversed(self._begun.get(_beginning(inputs.input_ids, media, length, adapter), {})):
                    kept = self._entries[key].holds
                    assert isinstance(kept, _core.Sequence)
                    if sequence.begin_as(kept, length):
                        self._entries.move_to_end(key)
                        return length
            return 0

    def keep_prompt(
        self, sequence: _core.Sequence, inputs: PreparedInputs, media: list[Medium], known: int,
        new: Callable[[int], _core.Sequence], adapter: _core.Adapter | None,
    ) -> None:  # fmt: skip
        """Keep a prompt up to its last boundary, now that a sequence has computed it.

        Args:
            sequence: computed it.
            inputs: the prompt.
            media: its media.
            known: how much of it was kept already.
            new: gives an empty sequence for so many tokens.
            adapter: what it was computed with.
        """
        length = max((at for at in sequence.boundaries if at < len(inputs)), default=0)
        if length < _LEAST_KEPT or length <= known or self._most == 0:
            return
        copy = new(length)
        size = copy.kv_bytes()
        if size > self._most or not copy.begin_as(sequence, length):
            return
        ends = (at for at in copy.boundaries if at <= length)
        beginnings = {_beginning(inputs.input_ids, media, at, adapter): at for at in ends}
        size += sum(len(ids) for _, ids, _ in beginnings)
        self._put(_beginning(inputs.input_ids, media, length, adapter), _Entry(copy, size, beginnings))

    def soft_tokens(
        self, medium: Medium, make: Callable[[], NDArray[np.float32]], adapter: _core.Adapter | None
    ) -> NDArray[np.float32]:
        """(n, hidden) soft tokens of a medium, by an adapter or none, made where they are not kept."""
        if self._most == 0:
            return make()
        key = medium[2], adapter
        with self._lock:
            found = self._entries.get(key)
            if found is not None:
                self._entries.move_to_end(key)
                assert isinstance(found.holds, np.ndarray)
                return found.holds
        made = make()
        made.flags.writeable = False
        self._put(key, _Entry(made, made.nbytes, {}))
        return made

    def _put(self, key: Hashable, entry: _Entry) -> None:
        with self._lock:
            if entry.bytes > self._most:
                return
            if key in self._entries:
                self._drop(key)
            self._entries[key] = entry
            self.bytes += entry.bytes
            for beginning, length in entry.beginnings.items():
                keys = self._begun.setdefault(beginning, {})
                self._lengths[length] += not keys
                keys[key] = None
            while self.bytes > self._most:
                self._drop(next(iter(self._entries)))

    def _drop(self, key: Hashable) -> None:
        entry = self._entries.pop(key)
        self.bytes -= entry.bytes
        for beginning, length in entry.beginnings.items():
            del self._begun[beginning][key]
            if not self._begun[beginning]:
                del self._begun[beginning]
                self._lengths[length] -= 1
        self._lengths = +self._lengths  # without those that are gone


def _after_fork() -> None:
    for kept in _ALL:
        kept._after_fork()


_ALL: weakref.WeakSet[Kept] = weakref.WeakSet()
os.register_at_fork(after_in_child=_after_fork)


def media_of(inputs: PreparedInputs) -> list[Medium]:
    """Where a prompt's media are, and what they are. All of their values are read for it: once for an answer."""
    return [(medium.start, medium.count, _digest(medium)) for medium in inputs.media]


def _digest(medium: PreparedImage | PreparedAudio) -> bytes:
    """What stands for a medium: two that differ in any value, or in their shape, have different ones."""
    import hashlib  # here, because it loads OpenSSL, which only media need

    array = medium.pixels if isinstance(medium, PreparedImage) else medium.frames
    found = hashlib.blake2b(np.ascontiguousarray(array).data, digest_size=32)
    found.update(f"{array.dtype} {array.shape}".encode())
    return found.digest()


def common_ids(ids: NDArray[np.int32], media: list[Medium], other: NDArray[np.int32], other_media: list[Medium]) -> int:
    """How many of the first tokens of two prompts are the same, with all that is seen and heard there."""
    length = min(len(ids), len(other))
    differing = np.flatnonzero(ids[:length] != other[:length])
    common = int(differing[0]) if len(differing) else length
    for start, *_ in {*media} ^ {*other_media}:  # in one of the two only
        common = min(common, start)
    return common
