"""Sound as a model without an audio encoder reads it: frames of raw samples.

Knows: samples at 16 kHz, the feature extractor's settings. Must not know: files, rates, models.
A frame is one soft token; the last one is filled up with silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelFileError
from .mel import SAMPLE_RATE

__all__ = ["RawFrames"]


@dataclass(frozen=True)
class RawFrames:
    """Samples to frames.

    >>> RawFrames().frames(np.ones(641, np.float32)).shape
    (2, 640)
    """

    size: int = 640
    """Samples of a frame."""

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], where: str, size: int) -> RawFrames:
        """The frames that a checkpoint's feature extractor makes; what it leaves out is as published.

        Args:
            settings: `feature_extractor` of processor_config.json, or an empty mapping.
            where: the file and the field, for messages.
            size: samples of a frame that the model takes.

        Raises:
            ModelFileError: a setting that this version does not compute, or that does not fit the model.
        """
        for name, default, expected in (
            ("audio_samples_per_token", 640, size),
            ("sampling_rate", SAMPLE_RATE, SAMPLE_RATE),
        ):
            found = settings.get(name, default if settings else expected)
            if isinstance(found, bool) or found != expected:
                raise ModelFileError(f"{where}: {name}: only {expected} is supported, found {str(found)[:40]}")
        return cls(size)

    def token_count(self, samples: int) -> int:
        """Soft tokens of so many samples.

        >>> [RawFrames().token_count(n) for n in (0, 1, 640, 641, 480_000)]
        [0, 1, 1, 2, 750]
        """
        return -(-samples // self.size)

    def frames(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n,) samples at 16 kHz -> (token_count(n), size) float32."""
        count = self.token_count(len(samples))
        filled = np.pad(np.asarray(samples, np.float32), (0, count * self.size - len(samples)))
        return filled.reshape(count, self.size)
