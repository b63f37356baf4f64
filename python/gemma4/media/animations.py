"""Animated GIF, WebP and PNG pictures, frame by frame.

Knows: Pillow. Must not know: which frames are wanted, or how long a clip may be.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import MediaError
from .picturefiles import from_pillow, open_picture
from .pixels import MAX_PIXELS, Pixels, reason

__all__ = ["Animation", "is_animation"]

MAX_FRAMES = 20_000
_FORMATS = ("GIF", "WEBP", "PNG")
_SHORTEST, _USUAL = 11, 100  # milliseconds; browsers show frames of 10 ms and less for a tenth of a second


def is_animation(head: bytes) -> bool:
    """Whether a file that begins so may be an animated picture."""
    return head[:3] == b"GIF" or head[:8] == b"\x89PNG\r\n\x1a\n" or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


class Animation:
    """An animated picture; its fields are those of :class:`gemma4.media.VideoFile`."""

    has_sound = False
    tick = Fraction(1, 1000)

    def __init__(self, data: bytes, where: str) -> None:
        """Read the times of all frames.

        Raises:
            MediaError: not a picture, truncated, too large, or more than 20,000 frames.
        """
        self._where = where
        if _is_cut(data):
            raise MediaError(f"{where}: truncated: the file ends before its last frame does")
        self._data = data
        starts = [0]
        for _, duration in self._play(load=data[:4] == b"RIFF"):
            starts.append(starts[-1] + duration)
            if len(starts) > MAX_FRAMES + 1:
                raise MediaError(f"{where}: more than {MAX_FRAMES} frames")
        self.ticks: NDArray[np.int64] = np.array(starts[:-1], np.int64)
        self.end = starts[-1]

    def frames(self, chosen: Sequence[int]) -> Iterator[tuple[int, Pixels]]:
        """The frames at increasing places in `ticks`: the place, and (height, width, 3) uint8 RGB."""
        wanted = list(chosen)[::-1]
        for index, (picture, _) in enumerate(self._play(load=True)):
            if index == wanted[-1]:
                yield wanted.pop(), from_pillow(picture, self._where)
            if not wanted:
                return

    def _play(self, load: bool) -> Iterator[tuple[Image.Image, int]]:
        """The picture at every frame, and how many milliseconds that is shown."""
        picture = open_picture(self._data, self._where, _FORMATS)
        if picture.width * picture.height > MAX_PIXELS:  # known from the header, before anything is decoded
            raise MediaError(f"{self._where}: {picture.width} x {picture.height} is more than {MAX_PIXELS} pixels")
        with picture:
            index = 0
            while True:
                try:
                    picture.seek(index)
                    if load:  # of WebP only this tells the duration
                        picture.load()
                    duration = round(float(picture.info.get("duration") or 0))
                except EOFError:
                    return
                except MemoryError:
                    raise
                except Exception as error:
                    raise MediaError(f"{self._where}: damaged at frame {index}: {reason(error)}") from None
                yield picture, duration if duration >= _SHORTEST else _USUAL
                index += 1


def _is_cut(data: bytes) -> bool:
    if data[:4] == b"RIFF":
        return 8 + int.from_bytes(data[4:8], "little") > len(data)
    if data[:3] == b"GIF":
        return data.rstrip(b"\0")[-1:] != b";"
    return b"IEND" not in data[-64:]
