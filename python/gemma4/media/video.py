"""Video from wherever it is to a few upright frames, each with its time.

Knows: sources, which frames to take, how long a clip may be. Must not know: containers (`videofiles`, `animations`),
tokens, prompts. Every clip passes through `open_clip` and comes frame by frame, so the limits hold on every way in.

>>> clip = (np.zeros((4, 48, 64, 3), np.uint8), [0.0, 0.5, 1.0, 1.5])  # frames and their seconds
>>> [(frame.label, frame.pixels.shape) for frame in load_video(clip, num_frames=2)]
[('00:00', (48, 64, 3)), ('00:01', (48, 64, 3))]
"""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import MediaError, RequestError
from .audio import Samples, load_track
from .opening import decode_base64, open_source, read_stream, to_array
from .pictures import check_budget, load_image
from .pixels import Pixels

__all__ = ["FRAME_BUDGET", "MAX_SECONDS", "Clip", "Frame", "VideoOptions", "load_video", "open_clip", "read_request"]

FRAME_BUDGET = 70
"""Soft tokens of a frame."""
DEFAULT_FPS = 1
MAX_SECONDS = 60
"""Of a clip from which frames are taken at a rate; what the family was trained on."""
_GRACE = Fraction(1, 2)  # a clip of 60 s is often a few frames longer
_MAX_FPS, _MAX_TAKEN = 240, 100_000
_SOURCE_KEYS = ("video", "frames", "url", "path", "bytes", "base64")


@dataclass(frozen=True)
class VideoOptions:
    """What a caller asks of a clip."""

    fps: float | None = None
    """Frames per second to take; None for 1, and for all of those that are given as pictures. Of those that are given
    without times, how many a second they are; all are taken."""
    num_frames: int | None = None
    """Frames to take, evenly spread over the whole clip however long it is."""
    sound: bool = False
    """Whether the sound track is heard too."""
    max_soft_tokens: int | None = None
    """Budget of a frame; None for the checkpoint's."""
    times: Any = None
    """Seconds of frames that are given as pictures."""


FIELDS = tuple(VideoOptions.__dataclass_fields__)


@dataclass(frozen=True)
class Frame:
    """A picture of a clip."""

    seconds: float
    """When it is shown, from the first frame on; of frames given with their times, those."""
    pixels: Pixels
    """(height, width, 3) RGB, upright."""

    @property
    def label(self) -> str:
        """The time as it is written before the frame, `mm:ss`."""
        whole = math.floor(self.seconds)
        return f"{whole // 60:02d}:{whole % 60:02d}"


class _Source(Protocol):
    """What `VideoFile`, `Animation` and `_Given` have in common."""

    ticks: NDArray[np.int64]
    """(frames,) increasing."""
    end: int
    tick: Fraction
    has_sound: bool

    def frames(self, chosen: Sequence[int]) -> Iterator[tuple[int, Pixels]]: ...


@dataclass
class Clip:
    """An open video of which some frames are chosen."""

    where: str
    seconds: float
    """Length."""
    chosen: Sequence[int]
    """Places of the frames to take among all."""
    _source: Any = field(repr=False)

    def frames(self) -> Iterator[Frame]:
        """The chosen frames, decoded one at a time. Raises MediaError where the data are damaged."""
        for index, pixels in self._source.frames(self.chosen):
            yield Frame(self._seconds(index), pixels)

    def _seconds(self, index: int) -> float:
        if isinstance(self._source, _Given):
            return self._source.times[index]
        return float(int(self._source.ticks[index]) * self._source.tick)

    def sound(self) -> Samples:
        """(n,) float32 at 16 kHz. Raises MediaError for a clip without sound, or with more than 30 s of it."""
        if not self._source.has_sound:
            raise MediaError(f"{self.where}: sound was asked for, but it has no sound track")
        return load_track(self._source.sound(), f"{self.where} (its sound)", self._source.sound_rate())


def load_video(
    source: Any,
    name: str = "video",
    *,
    fps: float | None = None,
    num_frames: int | None = None,
    times: Any = None,
) -> Iterator[Frame]:
    """Frames of a clip as a model sees them, before they are resized; decoded as they are asked for.

    Args:
        source: a path, a `data:` URL, bytes or an open binary file with MP4, MOV, MKV, WebM, AVI, MPEG, FLV or WMV in
            it (these need `pip install gemma4[video]`), or an animated GIF, WebP or PNG; or frames with `times` or
            `fps`: an array (n, H, W, 3), a list, or an iterator (which needs times), each frame anything that is taken
            as a picture; or `(frames, times)`, or a dict with these fields.
        name: what to call it in messages.
        fps: frames per second to take. By default 1 of a file, and all where frames are given. A clip whose frames are
            taken by a rate may last 60 s. Of frames that are given without times it is the rate at which they follow
            each other, and all are taken, or `num_frames`.
        num_frames: take so many instead, evenly spread over the whole clip however long it is.
        times: seconds of the frames given, increasing.

    Yields:
        frames with the times that the file has for them, counted from its first frame. As in the reference, n frames
        are taken at the beginnings of n equal parts of the clip; a frame that is shown through several is taken once.

    Raises:
        MediaError: it cannot be read, is damaged, has no frames, or is longer than 60 s.
        RequestError: a URL, a wrong option, or times that do not fit the frames.
    """
    options = VideoOptions(fps=fps, num_frames=num_frames, times=times)
    with open_clip(*read_request(source, options, name), name) as clip:
        yield from clip.frames()


def read_request(source: Any, options: VideoOptions, name: str) -> tuple[Any, VideoOptions]:
    """A source without its options, and all options, checked; those in a dict go before those beside it.

    Raises:
        RequestError: an unknown field, or one of the wrong type or range.
    """
    if isinstance(source, Mapping):
        unknown = [key for key, value in source.items() if key not in (*_SOURCE_KEYS, *FIELDS) and value is not None]
        if unknown:
            raise RequestError(f"{name}: {str(unknown[0])[:40]}: unknown field (known: {', '.join(FIELDS)})")
        given = [key for key in _SOURCE_KEYS if source.get(key) is not None]
        if given == ["path", "bytes"]:  # as Hugging Face's datasets give it
            given = ["bytes"]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise RequestError(f"{name}: expected one of {', '.join(_SOURCE_KEYS)}, found {found}")
        options = replace(options, **{key: source[key] for key in FIELDS if source.get(key) is not None})
        value = source[given[0]]
        source = decode_base64(value, f"{name}: base64") if given == ["base64"] and isinstance(value, str) else value
    if is_pair(source):
        if options.times is not None:
            raise RequestError(f"{name}: times are given twice")
        source, options = source[0], replace(options, times=source[1])
    options = _timed(source, options, name)
    _check(options, name)
    return source, options


def _timed(source: Any, options: VideoOptions, name: str) -> VideoOptions:
    """Frames that are given with a rate alone get their times."""
    fps = options.fps
    if fps is None or options.times is not None or not _are_frames(source):
        return options
    _check(replace(options, num_frames=None), name)
    if not hasattr(source, "__len__"):
        raise RequestError(f"{name}: fps: how many frames an iterator has is not known; give their times, or a list")
    if not 1 <= len(source) <= _MAX_TAKEN:
        raise RequestError(f"{name}: expected 1 to {_MAX_TAKEN} frames, found {len(source)}")
    return replace(options, fps=None, times=[index / fps for index in range(len(source))])


def _are_frames(source: Any) -> bool:
    """Whether it is given as pictures rather than as a file."""
    encoded = isinstance(source, str | os.PathLike | bytes | bytearray | memoryview | Mapping) or hasattr(
        source, "read"
    )
    return not encoded and (isinstance(source, Iterable) or hasattr(source, "__dlpack__"))


def is_pair(source: Any) -> bool:
    """Whether it is `(frames, times)`."""
    if not isinstance(source, tuple) or len(source) != 2 or isinstance(source[1], str | bytes | Mapping):
        return False
    shape = getattr(source[1], "shape", None)
    if shape is not None:
        return len(shape) == 1
    return isinstance(source[1], Sequence) and all(isinstance(item, numbers.Real) for item in source[1])


def _check(options: VideoOptions, name: str) -> None:
    fps, count = options.fps, options.num_frames
    if fps is not None and count is not None:
        raise RequestError(f"{name}: fps and num_frames are both given, one is expected")
    if fps is not None and (isinstance(fps, bool) or not isinstance(fps, numbers.Real) or not 0 < fps <= _MAX_FPS):
        raise RequestError(f"{name}: fps: expected more than 0 and at most {_MAX_FPS}, found {str(fps)[:40]}")
    whole = isinstance(count, int | np.integer) and not isinstance(count, bool)
    if count is not None and not (whole and 1 <= count <= _MAX_TAKEN):
        raise RequestError(f"{name}: num_frames: expected 1 to {_MAX_TAKEN}, found {str(count)[:40]}")
    if not isinstance(options.sound, bool):
        raise RequestError(f"{name}: sound: expected True or False, found {str(options.sound)[:40]}")
    if options.max_soft_tokens is not None:
        check_budget(options.max_soft_tokens, f"{name}: max_soft_tokens")


@contextmanager
def open_clip(
    source: Any, options: VideoOptions, name: str = "video", *, most_seconds: float = MAX_SECONDS
) -> Iterator[Clip]:
    """A video whose times are read and whose frames are chosen; closed at the end of the block.

    Args:
        source: as in :func:`load_video`, without options.
        options: from :func:`read_request`.
        name: what to call it in messages.
        most_seconds: that a clip may last whose frames are taken by a rate; more than a model sees at once is for
            whoever looks at frames one by one.

    Raises:
        MediaError, RequestError: as :func:`load_video`.
    """
    with ExitStack() as stack:
        opened, where = _open(source, options, name, stack)
        length = int(opened.end - opened.ticks[0]) * opened.tick
        given = isinstance(opened, _Given)
        fps = options.fps if given or options.num_frames is not None or options.fps is not None else DEFAULT_FPS
        if fps is not None and length > most_seconds + _GRACE:
            raise MediaError(
                f"{where}: lasts {float(length):.1f} s, longer than {most_seconds:g} s; cut it, or give num_frames= to "
                "spread that many frames over all of it"
            )
        total = len(opened.ticks)
        if options.num_frames is not None and options.num_frames > total:
            raise RequestError(f"{name}: num_frames: {options.num_frames} frames asked for, {where} has {total}")
        yield Clip(where, float(length), choose(opened, fps, options.num_frames), opened)


def choose(source: _Source, fps: float | None, num_frames: int | None) -> list[int]:
    """Places of the frames to take: those shown at the beginnings of n equal parts, as in the reference.

    With `num_frames` the parts have equally many frames; with `fps` they are equally long, n being the length times
    the rate, rounded down but at least 1. At a constant frame rate both are the same.
    """
    ticks, total = source.ticks, len(source.ticks)
    if num_frames is not None:
        return [k * total // int(num_frames) for k in range(int(num_frames))]
    if fps is None:
        return list(range(total))
    length = int(source.end - ticks[0]) * source.tick
    # Containers that count milliseconds round every time: one of these may be missing to the full second.
    slack = source.tick if 8 * total * source.tick <= length else Fraction(0)
    rate = Fraction(float(fps))
    count = max(1, math.floor((length + slack) * rate))
    if abs(count / rate - length) <= slack:
        length = count / rate
    at = [math.floor((k * length / count + slack) / source.tick) for k in range(count)]
    places = np.searchsorted(ticks - ticks[0], np.array(at, np.int64), "right") - 1
    return [int(place) for place in np.unique(places)]


# ----------------------------------------------------------------------------------------------------------------------
# Sources


def _open(source: Any, options: VideoOptions, name: str, stack: ExitStack) -> tuple[Any, str]:
    opened = open_source(source, name, "video/mp4", stack)
    if opened is None:
        if options.sound:
            raise RequestError(f"{name}: sound: frames carry none; give the sound as audio")
        return _Given(source, options.times, name), name
    if options.times is not None:
        raise RequestError(f"{name}: times: a file has its own; they are for frames")
    from . import animations  # here, because only a file needs Pillow
    from .videofiles import VideoFile

    file, where = opened
    file.seek(0)
    if animations.is_animation(file.read(16)):
        file.seek(0)
        return animations.Animation(read_stream(file, where), where), where
    return VideoFile(file, where), where


class _Given:
    """Frames as pictures, with their times; its fields are those of a video file."""

    has_sound = False
    tick = Fraction(1, 1_000_000)

    def __init__(self, frames: Any, times: Any, name: str) -> None:
        if hasattr(frames, "__array__") or hasattr(frames, "__dlpack__"):
            frames = _as_array(frames, name)
        elif isinstance(frames, str | Mapping) or not isinstance(frames, Iterable):
            raise RequestError(f"{name}: expected a path, bytes, or frames with times, found {type(frames).__name__}")
        if times is None:
            raise RequestError(f"{name}: frames need times=, the seconds at which they are shown, or fps=")
        self._frames, self._name = frames, name
        self.times = _check_times(times, name)
        if hasattr(frames, "__len__") and len(frames) != len(self.times):
            raise RequestError(f"{name}: times: {len(self.times)} times for {len(frames)} frames")
        self.ticks = np.array([round(at / self.tick) for at in map(Fraction, self.times)], np.int64)
        step = int(self.ticks[-1] - self.ticks[-2]) if len(self.ticks) > 1 else 0
        self.end = int(self.ticks[-1]) + step

    def frames(self, chosen: Sequence[int]) -> Iterator[tuple[int, Pixels]]:
        wanted, count = set(chosen), 0
        for index, frame in enumerate(self._frames):
            count = index + 1
            if count > len(self.times):
                raise RequestError(f"{self._name}: times: {len(self.times)} times, and more frames")
            if index in wanted:
                yield index, load_image(frame, f"{self._name}[{index}]")
        if count < len(self.times):
            raise RequestError(f"{self._name}: times: {len(self.times)} times for {count} frames")


def _as_array(frames: Any, name: str) -> NDArray[Any]:
    try:
        array = to_array(frames)
    except Exception as error:
        raise MediaError(
            f"{name}: {type(frames).__name__} cannot be read as an array: {type(error).__name__}"
        ) from None
    if array.ndim != 4:
        raise MediaError(f"{name} (array of {array.dtype}, shape {array.shape}): expected (n, H, W, 3)")
    if len(array) == 0:
        raise MediaError(f"{name} (array of {array.dtype}, shape {array.shape}): no frames")
    return array


def _check_times(times: Any, name: str) -> list[float]:
    try:
        array = np.asarray(times, dtype=np.float64)
    except (TypeError, ValueError):
        raise RequestError(f"{name}: times: expected numbers of seconds, found {str(times)[:40]}") from None
    if array.ndim != 1 or not 1 <= len(array) <= _MAX_TAKEN:
        raise RequestError(f"{name}: times: expected 1 to {_MAX_TAKEN} numbers, found an array of shape {array.shape}")
    if not np.isfinite(array).all() or array[0] < 0 or array[-1] > 1e6:
        raise RequestError(f"{name}: times: expected seconds from 0 to a million, found {array[0]:g} to {array[-1]:g}")
    steps = np.flatnonzero(np.diff(array) < 1e-6)
    if len(steps):
        at = int(steps[0])
        raise RequestError(f"{name}: times: {array[at + 1]:g} s does not come after {array[at]:g} s")
    return [float(at) for at in array]
