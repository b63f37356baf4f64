"""Encoded sound, decoded block by block.

Knows: containers, libsndfile. Must not know: what the sound is for, or how long it may be.
Memory stays at one block whatever a header claims, and a file that ends before its header says so is refused: a decoder
would hand out the part that is there without a word.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..errors import MediaError

__all__ = ["FORMATS", "MAX_CHANNELS", "SoundFile", "check_rate"]

FORMATS = ("WAV", "FLAC", "OGG", "MP3")
MAX_CHANNELS = 64
_MIN_RATE, _MAX_RATE = 1_000, 768_000
_BLOCK_VALUES = 1 << 18
_KNOWN = {"WAV", "WAVEX", "RF64", "W64", "FLAC", "OGG", "MP3"}
_STREAMED = 0x7FFF_0000  # RIFF sizes from here on are what programs write when they cannot seek back

Block = NDArray[np.float32]


class SoundFile:
    """An open sound file.

    >>> import io
    >>> SoundFile(io.BytesIO(b"no sound"), "clip.wav")
    Traceback (most recent call last):
    gemma4.errors.MediaError: clip.wav: not a sound file that can be read (WAV, FLAC, OGG, MP3)
    """

    rate: int
    frames: int | None
    """What the header says, None where it does not say."""

    def __init__(self, file: BinaryIO, where: str) -> None:
        """Read the header.

        Args:
            file: seekable; stays the caller's to close.
            where: its name, for messages.

        Raises:
            MediaError: not a sound file, truncated, or a header out of all bounds.
        """
        import soundfile  # type: ignore[import-untyped]

        self._where = where
        size = file.seek(0, os.SEEK_END)
        if size == 0:
            raise MediaError(f"{where}: empty, 0 bytes")
        file.seek(0)
        head = file.read(64)
        if looks_cut(file, head, size):
            raise MediaError(f"{where}: truncated: the file ends before its sound does")
        file.seek(0)
        try:
            self._file: Any = soundfile.SoundFile(file)
        except Exception:  # libsndfile says more than its users can use, and names the object's address
            what = "looks like HTML, " if head.lstrip()[:1] == b"<" else ""
            raise MediaError(f"{where}: {what}not a sound file that can be read ({', '.join(FORMATS)})") from None
        if self._file.format not in _KNOWN:
            raise MediaError(f"{where}: {self._file.format} files are not read ({', '.join(FORMATS)} are)")
        self.rate = check_rate(self._file.samplerate, where)
        self._channels = int(self._file.channels)
        if not 1 <= self._channels <= MAX_CHANNELS:
            raise MediaError(f"{where}: {self._channels} channels, at most {MAX_CHANNELS} are read")
        exact = self._file.format != "MP3" or _mp3_has_count(file, head)
        self.frames = int(self._file.frames) if exact and 0 <= self._file.frames < 1 << 62 else None

    def blocks(self) -> Iterator[Block]:
        """The sound as (n, channels) float32, n as fits into a megabyte.

        Raises:
            MediaError: the data are damaged, or end before the header says.
        """
        size = max(1, _BLOCK_VALUES // self._channels)
        done = 0
        while True:
            try:
                block = self._file.read(size, dtype="float32", always_2d=True)
            except Exception:
                raise MediaError(f"{self._where}: damaged or truncated after {done / self.rate:.2f} s") from None
            if len(block) == 0:
                break
            done += len(block)
            yield block
        if self.frames is not None and done < self.frames:
            raise MediaError(
                f"{self._where}: truncated: {done / self.rate:.2f} s of the {self.frames / self.rate:.2f} s that its "
                "header says"
            )

    def close(self) -> None:
        self._file.close()


def check_rate(rate: Any, where: str) -> int:
    """A sampling rate in Hz. Raises MediaError outside 1 to 768 kHz."""
    if not _MIN_RATE <= rate <= _MAX_RATE:
        raise MediaError(f"{where}: a sampling rate of {rate} Hz, expected {_MIN_RATE} to {_MAX_RATE}")
    return int(rate)


def looks_cut(file: BinaryIO, head: bytes, size: int) -> bool:
    """Whether a WAV or OGG file lacks its end; of the other formats the decoder itself tells."""
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return _wav_is_cut(file, size)
    return head[:4] == b"OggS" and _ogg_is_cut(file, size)


def _wav_is_cut(file: BinaryIO, size: int) -> bool:
    at = 12
    while at + 8 <= size:
        file.seek(at)
        name, length = struct.unpack("<4sI", file.read(8))
        if name == b"data":
            return bool(length < _STREAMED and at + 8 + length > size)
        at += 8 + length + length % 2
    return False  # no data at all, which the decoder refuses


def _ogg_is_cut(file: BinaryIO, size: int) -> bool:
    """Whether the last page is incomplete. A recording that was never closed ends with a whole page and is read."""
    longest = 27 + 255 + 255 * 255
    start = max(0, size - longest)
    file.seek(start)
    tail = file.read(longest)
    at = tail.rfind(b"OggS")
    if at < 0:
        return True
    page = tail[at:]
    if len(page) < 27 or len(page) < 27 + page[26]:
        return True
    return len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]])


def _mp3_has_count(file: BinaryIO, head: bytes) -> bool:
    """Whether the first frame says how many follow; without that the decoder guesses from the file's size."""
    at = 0
    if head[:3] == b"ID3":
        at = 10 + sum((byte & 127) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
    position = file.tell()
    file.seek(at)
    frame = file.read(256)
    file.seek(position)
    return b"Xing" in frame or b"Info" in frame
