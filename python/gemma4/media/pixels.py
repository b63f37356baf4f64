"""Pixels: their type, how many a picture may have, and values that are no bytes yet.

Knows: arrays. Must not know: where a picture comes from, what it is for.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import MediaError

__all__ = ["MAX_PIXELS", "Pixels", "float_pixels", "reason"]

MAX_PIXELS = 89_478_485  # a quarter of a gigabyte as RGB; Pillow warns from here on

Pixels = NDArray[np.uint8]
"""(height, width, 3) RGB."""


def float_pixels(array: NDArray[Any], where: str) -> Pixels:
    """0 to 1 as 0 to 255, rounded. Raises MediaError for anything else, naming `where`."""
    values = array.astype(np.float32)
    if not np.isfinite(values).all():
        raise MediaError(f"{where}: not all values are finite")
    low, high = float(values.min()), float(values.max())
    if low < -1e-3 or high > 1 + 1e-3:  # resampling overshoots a little
        raise MediaError(f"{where}: float values from {low:g} to {high:g}, expected 0 to 1 (or give uint8)")
    return np.asarray(np.rint(np.clip(values, 0, 1) * 255), dtype=np.uint8)


def reason(error: Exception) -> str:
    """What a library's error says, for a message."""
    text = str(error).replace("\n", " ")
    # Pillow quotes objects with their address, which is nobody's business.
    return type(error).__name__ if " at 0x" in text or not text else text[:200]
