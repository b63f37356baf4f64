"""Keys and values of a conversation, kept from one prompt to the next.

Knows: which token ids and which media a session has computed, and with which adapter. Must not know: messages,
templates, sampling.

What a new prompt has in common with what was computed is not computed again. Where they part, the session is rewound;
where its sliding layers have overwritten what they would need there, a new one begins. Both happen when a template
drops the thoughts of an earlier turn, or when a text is not encoded as the model has written it. What was computed with
one adapter is nothing to another, nor to the model alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..prompt import PreparedInputs
from .kept import Medium, common_ids

__all__ = ["PrefixCache"]

_FIRST_ROOM = 4096  # tokens


class PrefixCache:
    """One session, and what it holds. Not for two threads at once."""

    def __init__(self, new_session: Callable[..., _core.Sequence], context: int, model: Callable[[], str]) -> None:
        """Remember nothing yet.

        Args:
            new_session: `Runtime.sequence`.
            context: tokens of a prompt and its answer at most.
            model: says which model computes, see `Loaded.fingerprint`.
        """
        self._new_session, self._context, self._model = new_session, context, model
        self._forget()

    def _forget(self) -> None:
        self._room = min(self._context, _FIRST_ROOM)
        self._adapter: _core.Adapter | None = None
        self._session = self._new_session(self._room, None)
        self.reused = 0
        """Tokens of the last prompt that were not computed again."""
        self._prompt = PreparedInputs(np.zeros(0, np.int32))
        self._media: list[Medium] = []
        self._answer: Sequence[int] = ()

    def recall(
        self, inputs: PreparedInputs, media: list[Medium], room: int, adapter: _core.Adapter | None = None
    ) -> tuple[_core.Sequence, int]:
        """A session for a prompt.

        Args:
            inputs: the prompt.
            media: its media.
            room: tokens that it and its answer may have.
            adapter: what it is computed with.

        Returns:
            The session, and how many of the prompt's first tokens it has computed already; at least the last one it has
            not.
        """
        other = adapter is not self._adapter
        known = 0 if other else self._common(inputs.input_ids, media)
        if other or room > self._room or not self._session.rewind(known):
            # Twice the room, so that a conversation is computed anew only a few times while it grows.
            self._room = min(self._context, max(room, 2 * self._room if room > self._room else 0, _FIRST_ROOM))
            self._session, self._adapter, known = self._new_session(self._room, adapter), adapter, 0
        self._prompt, self._media, self._answer, self.reused = inputs, media, (), known
        return self._session, known

    def keep(self, answer: Sequence[int]) -> None:
        """The ids of the answer to the last prompt, as many as there are; the session may not have computed all."""
        self._answer = tuple(answer)

    def stored(self) -> tuple[dict[str, Any], dict[str, NDArray[np.uint8]]]:
        """What was computed, as JSON and arrays; nothing of it with an adapter, which may be another one next time."""
        if self._adapter is not None or self._session.position == 0:
            return {}, {}
        session = self._session.compact()
        place = {name: getattr(session, name) for name in ("position", "kept_from", "boundaries", "chunk")}
        media = [[start, count, digest.hex()] for start, count, digest in self._media]
        about = {"model": self._model(), "ids": self._computed().tolist(), "media": media, **place}
        return about, {f"cache.{index}": array for index, array in enumerate(session.memory())}

    def restore(self, about: Mapping[str, Any], arrays: Callable[[str], NDArray[np.uint8]]) -> None:
        """Go on from what was stored. What another model has computed, or in another format, is left out.

        Args:
            about: the JSON.
            arrays: gives an array by its name; raises KeyError.

        Raises:
            KeyError, TypeError, ValueError, RequestError: it cannot be read.
        """
        self._forget()
        if not about or about["model"] != self._model() or not 0 < about["position"] <= self._context:
            return
        ids = np.array(about["ids"], np.int32)
        media = [(int(start), int(count), bytes.fromhex(digest)) for start, count, digest in about["media"]]
        small = self._new_session(about["position"], None, about["chunk"])
        memory = small.memory()
        stored = [arrays(f"cache.{index}") for index in range(len(memory))]
        if ids.shape != (about["position"],) or any(a.shape != b.shape for a, b in zip(memory, stored, strict=True)):
            return  # of another format
        for target, source in zip(memory, stored, strict=True):
            target[:] = source
        small.restore(about["position"], about["kept_from"], about["boundaries"])
        self._room = min(self._context, max(self._room, 2 * small.position))
        session = self._new_session(self._room, None)
        if session.begin_as(small, small.position):
            self._session, self._prompt, self._media = session, PreparedInputs(ids), media

    def _computed(self) -> NDArray[np.int32]:
        """(position,) ids in the session."""
        ids = np.concatenate([self._prompt.input_ids, np.array(self._answer, dtype=np.int32)])
        return ids[: self._session.position]

    def _common(self, ids: NDArray[np.int32], media: list[Medium]) -> int:
        known = common_ids(self._computed(), self._media, ids[:-1], media)
        for start, count, _ in media:
            if start < known < start + count:  # the tokens of a picture are computed together
                known = start
        return known
