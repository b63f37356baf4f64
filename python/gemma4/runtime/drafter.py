"""A drafter beside a loaded checkpoint: a small model that guesses the next ids from what the large one has computed.

Knows: the drafter's files, the engine. Must not know: which guesses are right, when it pays to make some.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..checkpoint import open_drafter
from ..config import parse_drafter
from ..errors import ModelFileError, RequestError

if TYPE_CHECKING:
    from .loaded import Loaded

__all__ = ["Drafter"]

_LEAST_LIKELY = 0.4  # a guess that the drafter itself believes in less is not worth a row of the large model's step


@dataclass(frozen=True)
class Drafter:
    """One that fits its target. Safe to use from many threads."""

    store: _core.TensorStore
    core: _core.Drafter

    @classmethod
    def load(cls, source: Any, target: Loaded) -> Drafter:
        """Load what `drafter=` of :meth:`gemma4.Model.from_pretrained` names.

        Raises:
            ModelFileError: it is missing, malformed, no drafter, or that of another model.
            RequestError: it is no name.
        """
        try:
            files = open_drafter(source)
        except RequestError as error:
            raise RequestError(f"drafter: {error}") from None
        except ModelFileError as error:
            raise ModelFileError(f"drafter: {error}") from None
        config = parse_drafter(*files.config, target.parsed)
        try:
            return cls(files.store, _core.Drafter(target.core, config, files.store))
        except ModelFileError as error:  # of the engine, which knows tensors by name alone
            raise ModelFileError(f"drafter: {files.name}: {error}") from None

    def check_unchanged(self) -> None:
        """Raises ModelFileChanged if its weights changed on disk."""
        self.store.check_unchanged()

    def guess(self, sequence: _core.Sequence, index: int, state: NDArray[np.float32], most: int) -> list[int]:
        """At most so many ids that may follow `index`, which comes next in the sequence; fewer where it is unsure.

        Args:
            sequence: of the target.
            index: the id that was chosen last, not computed yet.
            state: (hidden,) that it was chosen from.
            most: how many.
        """
        return self.core.draft(sequence, index, state, most, _LEAST_LIKELY)
