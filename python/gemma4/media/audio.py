"""Sound from wherever it is to mono samples at 16 kHz, the rate that the audio encoder hears.

Knows: sources, arrays, rates, how long a clip may be. Must not know: containers (`soundfiles`), frames, prompts.
Every sound passes through `_open` and is read block by block, so the limits hold on every way in. As in the reference,
channels are averaged first, then soxr resamples.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import MediaError, RequestError
from .mel import SAMPLE_RATE
from .opening import open_source, to_array
from .soundfiles import MAX_CHANNELS, Block, SoundFile, check_rate

__all__ = ["MAX_SECONDS", "Piece", "check_chunk_seconds", "load_audio", "load_pieces", "load_track"]

MAX_SECONDS = 30
"""Of one clip; what the family was trained on."""
_MAX_LEVEL = 100.0  # floats should stay within 1; a file of integers as floats goes far beyond
_ARRAY_BLOCK = 1 << 16

Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Piece:
    """A part of a longer sound."""

    start: float
    """Seconds from the beginning."""
    end: float
    samples: Samples
    """(n,) at 16 kHz."""


@dataclass(frozen=True)
class _Sound:
    """A source opened: what it is called, its rate, and its samples as they come."""

    where: str
    rate: int
    frames: int | None
    blocks: Iterator[Block]
    """(n, channels) each."""
    hint: str = "cut it, or give chunk_seconds= to transcribe() or translate()"
    """What to do about one that is too long."""


def load_audio(source: Any, name: str = "audio", sampling_rate: Any = SAMPLE_RATE) -> Samples:
    """A clip of at most 30 s.

    Args:
        source: a path, a `data:` URL, bytes or an open binary file with WAV, FLAC, OGG or MP3 in it; or samples: an
            array, a list of numbers, `(array, rate)`, or `{"array": …, "sampling_rate": …}` as in Hugging Face's
            datasets. An array is (n,), (n, channels), or (channels, n) where it has fewer rows than columns: NumPy or
            anything with `__array__` or DLPack.
            Floats are from -1 to 1. Integers have the full scale of their type (uint8 around 128), but an int32 array
            whose values all fit into 24 bits and use the lowest byte is 24-bit sound.
        name: what to call it in messages.
        sampling_rate: of an array that comes without one, in Hz. A file knows its own.

    Returns:
        (n,) float32, mono, at 16 kHz.

    Raises:
        MediaError: it cannot be read as sound, is truncated, has no samples, NaN in it, or is longer than 30 s.
        RequestError: a URL, or a type that is none of the above.

    >>> load_audio(np.zeros((44_100, 2), np.int16), sampling_rate=44_100).shape
    (16000,)
    """
    with ExitStack() as stack:
        return _clip(_open(source, name, sampling_rate, stack))


def load_track(blocks: Iterator[Block], where: str, rate: int) -> Samples:
    """The sound track of a video, at most 30 s of it.

    Args:
        blocks: (n, channels) each, float from -1 to 1.
        where: its name, for messages.
        rate: in Hz.

    Returns, raises: as :func:`load_audio`.
    """
    return _clip(_Sound(where, rate, None, blocks, "cut the video, or leave its sound out"))


def load_pieces(
    source: Any, chunk_seconds: float, name: str = "audio", sampling_rate: Any = SAMPLE_RATE
) -> Iterator[Piece]:
    """A sound of any length in pieces of `chunk_seconds`, the last one shorter; decoded as they are asked for.

    Nothing is left out and nothing is heard twice: every piece begins where the one before it ended. A last piece
    too short to be heard (10 ms) is filled up with silence.

    Raises:
        MediaError, RequestError: as :func:`load_audio`; `chunk_seconds` is not from 1 to 30.

    >>> [(piece.start, piece.end) for piece in load_pieces(np.zeros(40_000, np.float32), 1)]
    [(0.0, 1.0), (1.0, 2.0), (2.0, 2.5)]
    """
    size = round(check_chunk_seconds(chunk_seconds) * SAMPLE_RATE)
    with ExitStack() as stack:
        sound = _open(source, name, sampling_rate, stack)
        start = 0
        for samples in _cut(_resampled(sound, sound.blocks), size):
            end = start + len(samples)
            shortest = SAMPLE_RATE // 100 + 1  # of a frame, see `mel`
            padded = np.pad(samples, (0, max(0, shortest - len(samples))))
            yield Piece(start / SAMPLE_RATE, end / SAMPLE_RATE, padded)
            start = end
    if start == 0:
        raise MediaError(f"{sound.where}: empty, no samples")


def check_chunk_seconds(value: Any) -> float:
    """Raises RequestError for anything but a number from 1 to 30."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 1 <= float(value) <= MAX_SECONDS:
        raise RequestError(f"chunk_seconds: expected 1 to {MAX_SECONDS}, found {str(value)[:40]}")
    return float(value)


# ----------------------------------------------------------------------------------------------------------------------
# Sources


def _open(source: Any, name: str, sampling_rate: Any, stack: ExitStack) -> _Sound:
    """What `stack` has to close is pushed onto it."""
    if isinstance(source, Mapping):
        return _open_mapping(source, name, sampling_rate, stack)
    if isinstance(source, tuple) and len(source) == 2 and not isinstance(source[0], numbers.Number):
        return _from_array(source[0], name, source[1])
    opened = open_source(source, name, "audio/wav", stack)
    if opened is not None:
        return _from_file(*opened, stack)
    return _from_array(source, name, sampling_rate)


def _open_mapping(source: Mapping[str, Any], name: str, sampling_rate: Any, stack: ExitStack) -> _Sound:
    """Hugging Face's form: `{"array", "sampling_rate"}`, or `{"bytes"}` or `{"path"}` where it is not decoded yet."""
    if source.get("array") is not None:
        return _from_array(source["array"], name, source.get("sampling_rate", sampling_rate))
    for key in ("bytes", "path"):
        value = source.get(key)
        if value is not None and not isinstance(value, Mapping):
            return _open(value, name, sampling_rate, stack)
    raise RequestError(f"{name}: expected array and sampling_rate, bytes or path, found {str(sorted(source))[:80]}")


def _from_file(file: Any, where: str, stack: ExitStack) -> _Sound:
    opened = SoundFile(file, where)
    stack.callback(opened.close)
    return _Sound(where, opened.rate, opened.frames, opened.blocks())


# ----------------------------------------------------------------------------------------------------------------------
# Arrays


def _from_array(source: Any, name: str, sampling_rate: Any) -> _Sound:
    if isinstance(sampling_rate, bool) or not isinstance(sampling_rate, numbers.Real) or sampling_rate % 1 != 0:
        raise RequestError(f"{name}: sampling_rate: expected a whole number of Hz, found {str(sampling_rate)[:40]}")
    if source is None or isinstance(source, numbers.Number) or callable(source):
        raise RequestError(f"{name}: expected a path, bytes or samples, found {type(source).__name__}")
    try:
        array = to_array(source)
    except Exception as error:
        raise MediaError(f"{name}: {type(source).__name__} cannot be read as samples: {type(error).__name__}") from None
    if isinstance(source, list | tuple) and array.dtype.kind in "iub":
        array = array.astype(np.float64)  # numbers without a type: whole ones are still from -1 to 1
    where = f"{name} (array of {array.dtype}, shape {array.shape})"
    if array.ndim == 1:
        array = array[:, None]
    elif array.ndim == 2 and array.shape[0] < array.shape[1]:
        array = array.T
    if array.ndim != 2:
        raise MediaError(f"{where}: expected (n,), (n, channels) or (channels, n)")
    if array.size == 0:
        raise MediaError(f"{where}: empty, no samples")
    if array.shape[1] > MAX_CHANNELS:
        raise MediaError(f"{where}: {array.shape[1]} channels, at most {MAX_CHANNELS} are read")
    offset, scale = _scale(array, where)
    return _Sound(where, check_rate(sampling_rate, where), len(array), _array_blocks(array, offset, scale))


def _scale(array: NDArray[Any], where: str) -> tuple[float, float]:
    """What to subtract from the values, and to divide them by, to have them from -1 to 1."""
    dtype = array.dtype
    if dtype.kind == "f" or dtype.name == "bfloat16":
        return 0.0, 1.0
    if dtype.kind == "i" and dtype.itemsize <= 2:
        return 0.0, float(2 ** (8 * dtype.itemsize - 1))
    if dtype == np.uint8:
        return 128.0, 128.0
    if dtype.kind == "i" and dtype.itemsize == 4:
        wide = any(int(block.max()) >= 2**23 or int(block.min()) < -(2**23) for block in _slices(array))
        low_byte = not wide and any(bool((block & 255).any()) for block in _slices(array))
        return 0.0, float(2**23 if low_byte else 2**31)
    raise MediaError(f"{where}: expected float from -1 to 1, int16, int32, int8 or uint8")


def _slices(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    return (array[at : at + _ARRAY_BLOCK] for at in range(0, len(array), _ARRAY_BLOCK))


def _array_blocks(array: NDArray[Any], offset: float, scale: float) -> Iterator[Block]:
    for block in _slices(array):
        values = block.astype(np.float32) if scale == 1 else (block.astype(np.float64) - offset) / scale
        yield values.astype(np.float32, copy=False)


# ----------------------------------------------------------------------------------------------------------------------
# Samples


def _clip(sound: _Sound) -> Samples:
    blocks = list(_resampled(sound, _limited(sound)))
    samples = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    if len(samples) == 0:
        raise MediaError(f"{sound.where}: empty, no samples")
    return samples


def _limited(sound: _Sound) -> Iterator[Block]:
    """The blocks of a clip; stops as soon as it is known to be longer than 30 s."""
    most = MAX_SECONDS * sound.rate
    if sound.frames is not None and sound.frames > most:
        raise MediaError(
            f"{sound.where}: {sound.frames} samples at {sound.rate} Hz are longer than {MAX_SECONDS} s; {sound.hint}"
        )
    count = 0
    for block in sound.blocks:
        count += len(block)
        if count > most:
            raise MediaError(f"{sound.where}: longer than {MAX_SECONDS} s; {sound.hint}")
        yield block


def _mono(block: Block, where: str) -> Samples:
    mono = block[:, 0] if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float32)
    # A NaN or an infinity makes the sum of squares one too.
    if not math.isfinite(float(np.vdot(mono, mono))) and not np.isfinite(mono).all():
        raise MediaError(f"{where}: not all samples are finite")
    level = float(np.abs(mono).max(initial=0.0))
    if level > _MAX_LEVEL:
        raise MediaError(f"{where}: samples up to {level:g}, expected -1 to 1; give integers as an integer type")
    return np.asarray(mono, dtype=np.float32)


def _resampled(sound: _Sound, blocks: Iterable[Block]) -> Iterator[Samples]:
    """Mono at 16 kHz: ceil(n * 16000 / rate) samples of n."""
    if sound.rate == SAMPLE_RATE:
        yield from (_mono(block, sound.where) for block in blocks)
        return
    import soxr  # type: ignore[import-untyped]

    stream = soxr.ResampleStream(sound.rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
    read = written = 0
    for block in blocks:
        read += len(block)
        piece = stream.resample_chunk(np.ascontiguousarray(_mono(block, sound.where)))
        written += len(piece)
        yield piece
    piece = stream.resample_chunk(np.zeros(0, np.float32), last=True)
    # The resampler rounds the length either way; the reference fills up with zeros, or cuts, to have it rounded up.
    missing = -(-read * SAMPLE_RATE // sound.rate) - written
    yield np.pad(piece, (0, max(0, missing - len(piece))))[:missing]


def _cut(blocks: Iterable[Samples], size: int) -> Iterator[Samples]:
    """The same samples in pieces of `size`, the last one shorter."""
    kept: list[Samples] = []
    count = 0
    for block in blocks:
        kept.append(block)
        count += len(block)
        if count < size:
            continue
        whole = np.concatenate(kept)
        for at in range(0, count - count % size, size):
            yield whole[at : at + size]
        count %= size
        kept = [whole[len(whole) - count :]]
    if count > 0:
        yield np.concatenate(kept)
