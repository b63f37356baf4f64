"""Keys and values of a conversation, kept from one prompt to the next.

Knows: which token ids and which media a session has computed, and with which adapter. Must not know: messages,
templates, sampling.

What a new prompt has in common with what was computed is not computed again. Where they part, the session is rewound;
where its sliding layers have overwritten what they would need there, a new one begins. Both happen when a template
drops the thoughts of an earlier turn, or when a text is not encoded as the model has written it. What was computed with
one adapter is nothing to another, nor to the model alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..prompt import PreparedInputs
from .kept import Medium, common_ids, media_of

__all__ = ["PrefixCache"]

_FIRST_ROOM = 4096  # tokens


class PrefixCache:
    """One session, and what it holds. Not for two threads at once."""

    def __init__(self, new_session: Callable[[int, _core.Adapter | None], _core.Sequence], context: int) -> None:
        """Remember nothing yet.

        Args:
            new_session: gives an empty session with room for a number of tokens, for an adapter.
            context: tokens of a prompt and its answer at most.
        """
        self._new_session = new_session
        self._context = context
        self._room = min(context, _FIRST_ROOM)
        self._adapter: _core.Adapter | None = None
        self._session = new_session(self._room, None)
        self.reused = 0
        """Tokens of the last prompt that were not computed again."""
        self._prompt = PreparedInputs(np.zeros(0, np.int32))
        self._media: list[Medium] = []
        self._answer: Sequence[int] = ()

    def recall(
        self, inputs: PreparedInputs, room: int, adapter: _core.Adapter | None = None
    ) -> tuple[_core.Sequence, int]:
        """A session for a prompt.

        Args:
            inputs: the prompt.
            room: tokens that it and its answer may have.
            adapter: what it is computed with.

        Returns:
            The session, and how many of the prompt's first tokens it has computed already; at least the last one it has
            not.
        """
        media = media_of(inputs)
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
