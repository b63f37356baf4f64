"""What is kept between requests, under one cap of bytes: keys and values of prompts, and media's soft tokens.

Knows: ids, digests of media, adapters, the boundaries of sequences. Must not know: messages, templates, sampling.

A request whose prompt begins as an earlier one did goes on from the last boundary that both have, with the same bits as
if it had computed all of it. Media are known by every value of their pixels or frames, not by their names. What was
computed with an adapter serves that one alone.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
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


@dataclass(frozen=True)
class _Prefix:
    """The first tokens of a prompt."""

    ids: NDArray[np.int32]
    media: list[Medium]
    adapter: _core.Adapter | None
    sequence: _core.Sequence


class Kept:
    """The keys, values and soft tokens of a model's requests, the last used ones. For many threads."""

    def __init__(self, most_bytes: int) -> None:
        """Keep nothing yet, and never more than so many bytes."""
        self._most = most_bytes
        self._lock = threading.Lock()
        # By what they are of; the last used last.
        self._entries: OrderedDict[object, tuple[_Prefix | NDArray[np.float32], int]] = OrderedDict()
        self.bytes = 0
        """Of all that is kept."""

    def begin(
        self, sequence: _core.Sequence, inputs: PreparedInputs, media: list[Medium], adapter: _core.Adapter | None
    ) -> int:
        """Let an empty sequence, which has an adapter or none, begin with what is kept of a prompt and its media.

        Returns:
            How many of the prompt's first tokens it holds; at least the last one it does not.
        """
        with self._lock:
            best, key = 0, None
            for one, (entry, _) in self._entries.items():
                if isinstance(entry, _Prefix) and entry.adapter is adapter:
                    common = common_ids(entry.ids, entry.media, inputs.input_ids[:-1], media)
                    boundary = max((at for at in entry.sequence.boundaries if at <= common), default=0)
                    if boundary > best:
                        best, key = boundary, one
            if key is None:
                return 0
            self._entries.move_to_end(key)
            found = self._entries[key][0]
            assert isinstance(found, _Prefix)
            return best if sequence.begin_as(found.sequence, best) else 0

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
        ids = inputs.input_ids[:length].copy()
        media = [medium for medium in media if medium[0] < length]
        self._put((ids.tobytes(), tuple(media), adapter), _Prefix(ids, media, adapter, copy), size)

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
                assert isinstance(found[0], np.ndarray)
                return found[0]
        made = make()
        made.flags.writeable = False
        self._put(key, made, made.nbytes)
        return made

    def _put(self, key: object, entry: _Prefix | NDArray[np.float32], size: int) -> None:
        with self._lock:
            if size > self._most:
                return
            self.bytes += size - self._entries.pop(key, (None, 0))[1]
            self._entries[key] = entry, size
            while self.bytes > self._most:
                self.bytes -= self._entries.popitem(last=False)[1][1]


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
