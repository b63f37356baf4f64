"""Sound as the audio encoder reads it: log-mel frames.

Knows: samples at 16 kHz, the feature extractor's settings. Must not know: files, rates, models.

A frame is 20 ms, frames are 10 ms apart, and the first begins 10 ms before the sound. A frame counts if the sound goes
on for one more sample after it; the reference masks the others, here they are never made.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelFileError, OutOfMemoryError

__all__ = ["SAMPLE_RATE", "FrontEnd", "frame_count", "token_count"]

SAMPLE_RATE = 16_000
_FRAME, _HOP, _FFT = 320, 160, 512  # samples
_LEAD = _FRAME // 2  # zeros before the sound
_BLAS_BYTES = 40 << 20  # 32 MiB, and some

# Settings that change the result and have one value in every published checkpoint.
_FIXED: dict[str, Any] = {
    "sampling_rate": SAMPLE_RATE,
    "frame_length": _FRAME,
    "frame_length_ms": 20.0,
    "hop_length": _HOP,
    "hop_length_ms": 10.0,
    "fft_length": _FFT,
    "fft_overdrive": False,
    "preemphasis": 0.0,
    "dither": 0.0,
    "input_scale_factor": 1.0,
    "per_bin_mean": None,
    "per_bin_stddev": None,
    "padding_side": "right",
    "padding_value": 0.0,
}

Samples = NDArray[np.float32]
Frames = NDArray[np.float32]


def frame_count(samples: int) -> int:
    """Frames of so many samples.

    >>> frame_count(160), frame_count(161), frame_count(480_000)
    (0, 1, 2999)
    """
    return max(0, samples - 1) // _HOP


def token_count(samples: int) -> int:
    """Soft tokens of so many samples: 40 ms each.

    >>> token_count(160), token_count(161), token_count(480_000)
    (0, 1, 750)
    """
    return -(-frame_count(samples) // 4)


@dataclass(frozen=True)
class FrontEnd:
    """Samples to frames.

    >>> FrontEnd().log_mel(np.zeros(16_000, np.float32)).shape
    (99, 128)
    """

    mel_bins: int = 128
    low: float = 0.0
    """Hz where the first filter begins."""
    high: float = 8000.0
    """Hz where the last filter ends."""
    floor: float = 1e-3
    """Added to every filter's output before the logarithm."""

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], where: str, mel_bins: int) -> FrontEnd:
        """The front end that a checkpoint's feature extractor describes; what it leaves out is as published.

        Args:
            settings: `feature_extractor` of processor_config.json, or an empty mapping.
            where: the file and the field, for messages.
            mel_bins: what the encoder takes.

        Raises:
            ModelFileError: a setting that this version does not compute, or that does not fit the encoder.
        """
        for name, expected in {**_FIXED, "feature_size": mel_bins}.items():
            found = settings.get(name, expected)
            if found != expected or isinstance(found, bool) != isinstance(expected, bool):
                raise ModelFileError(f"{where}: {name}: only {expected} is supported, found {str(found)[:40]}")
        low = _real(settings, "min_frequency", cls.low, where, 0.0, SAMPLE_RATE / 2)
        high = _real(settings, "max_frequency", cls.high, where, 0.0, SAMPLE_RATE / 2)
        if high <= low:
            raise ModelFileError(f"{where}: max_frequency: {high} is not above min_frequency, {low}")
        return cls(mel_bins, low, high, _real(settings, "mel_floor", cls.floor, where, 1e-12, 1e6))

    def token_count(self, samples: int) -> int:
        """Soft tokens of so many samples."""
        return token_count(samples)

    def frames(self, samples: Samples) -> Frames:
        """What the encoder reads of (n,) samples."""
        return self.log_mel(samples)

    def log_mel(self, samples: Samples) -> Frames:
        """(n,) samples at 16 kHz -> (frame_count(n), mel_bins) float32."""
        count = frame_count(len(samples))
        if count == 0:
            return np.zeros((0, self.mel_bins), np.float32)
        led = np.concatenate([np.zeros(_LEAD, np.float32), samples])
        frames = np.lib.stride_tricks.sliding_window_view(led, _FRAME)[::_HOP][:count]
        magnitude = np.abs(np.fft.rfft(frames * _window(), n=_FFT))  # (count, _FFT / 2 + 1)
        _require_room()
        mel = np.matmul(magnitude, _filters(self.mel_bins, self.low, self.high))
        return np.asarray(np.log(mel + self.floor), dtype=np.float32)


def _require_room() -> None:
    """NumPy's OpenBLAS ends the process where it cannot map what it multiplies in: so that is asked before."""
    try:
        mmap.mmap(-1, _BLAS_BYTES).close()
    except OSError:
        raise OutOfMemoryError("there is not enough memory to hear a sound") from None


def _real(settings: Mapping[str, Any], name: str, default: float, where: str, low: float, high: float) -> float:
    value = settings.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ModelFileError(f"{where}: {name}: expected {low:g} to {high:g}, found {str(value)[:40]}")
    return float(value)


@lru_cache(maxsize=1)
def _window() -> NDArray[np.float32]:
    """A periodic Hann window: the symmetric one of one sample more, without its last."""
    return np.asarray(np.hanning(_FRAME + 1)[:-1], dtype=np.float32)


@lru_cache(maxsize=8)
def _filters(mel_bins: int, low: float, high: float) -> NDArray[np.float64]:
    """(_FFT / 2 + 1, mel_bins) triangles whose corners are equally far apart on HTK's mel scale."""
    ends = 2595.0 * np.log10(1.0 + np.array([low, high]) / 700.0)
    corners = 700.0 * (10.0 ** (np.linspace(ends[0], ends[1], mel_bins + 2) / 2595.0) - 1.0)  # Hz
    frequency = np.linspace(0, SAMPLE_RATE // 2, _FFT // 2 + 1)[:, None]
    widths = np.diff(corners)
    rising = (frequency - corners[:-2]) / widths[:-1]
    falling = (corners[2:] - frequency) / widths[1:]
    return np.asarray(np.maximum(0.0, np.minimum(rising, falling)))
