"""Encoded video, decoded frame by frame.

Knows: containers, PyAV. Must not know: what the frames are for, which are wanted, or how long a clip may be.
A first pass reads the times of all packets and decodes nothing; later passes decode what leads to the frames that are
asked for. Memory stays at a few frames whatever the length, and the demuxers that open other files are shut out.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import MediaError, RequestError
from .picturefiles import to_rgb
from .pixels import Pixels
from .soundfiles import MAX_CHANNELS, Block, check_rate

__all__ = ["FORMATS", "MAX_FRAMES", "MAX_PIXELS", "VideoFile"]

FORMATS = ("MP4", "MOV", "MKV", "WebM", "AVI", "MPEG", "FLV", "WMV")
MAX_FRAMES = 1_000_000
MAX_PIXELS = 36_000_000  # of one frame; 8K has 33 million, and a decoder may keep a dozen
_DEMUXERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf"
_SKIPPABLE = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")  # whose key frames can be trusted to be ones
_MAX_TICKS = 1 << 61

Ticks = NDArray[np.int64]


class VideoFile:
    """An open video file.

    >>> import io
    >>> VideoFile(io.BytesIO(b"no video"), "clip.mp4")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    gemma4.errors.MediaError: clip.mp4: not a video file that can be read (MP4, MOV, ...)
    """

    tick: Fraction
    """Seconds."""
    ticks: Ticks
    """(frames,) increasing, when each is shown, from 0 for the first one."""
    end: int
    """When the last frame ends, in ticks."""

    def __init__(self, file: BinaryIO, where: str) -> None:
        """Read the times of all frames.

        Args:
            file: seekable; stays the caller's to close.
            where: its name, for messages.

        Raises:
            MediaError: not a video, truncated, without frames, or with frames that are too large.
            RequestError: PyAV is not installed.
        """
        self._file, self._where = file, where
        size = file.seek(0, os.SEEK_END)
        if size == 0:
            raise MediaError(f"{where}: empty, 0 bytes")
        if looks_cut(file, size):
            raise MediaError(f"{where}: truncated: the file ends before its video does")
        with self._stream("video") as (container, stream):
            self._demuxer = container.format.name
            self._check_size(stream.codec_context.width, stream.codec_context.height)
            sound = container.streams.audio
            self.has_sound = len(sound) > 0
            self.tick = Fraction(stream.time_base or 0)
            self._rate = stream.guessed_rate or stream.average_rate
            self._scan(container, stream)

    # -- times ---------------------------------------------------------------------------------------------------------

    def _scan(self, container: Any, stream: Any) -> None:
        """Times and key frames of all packets, in the order of the file."""
        times, keys, ends = array("q"), bytearray(), 0
        timed = self.tick > 0
        with self._damage("after %d frames", times):
            for packet in container.demux(stream):
                if packet.size == 0 or packet.is_discard:
                    continue
                at = packet.pts if packet.pts is not None else packet.dts
                timed = timed and at is not None and abs(at) < _MAX_TICKS
                times.append(at if timed else 0)
                keys.append(packet.is_keyframe)
                ends = max(ends, times[-1] + min(max(packet.duration or 0, 0), _MAX_TICKS))
                if len(times) > MAX_FRAMES:
                    raise MediaError(f"{self._where}: more than {MAX_FRAMES} frames")
        if not times:
            raise MediaError(f"{self._where}: no frames in its video")
        if not timed:
            self._count(len(times))
            return
        self._pts: Ticks = np.frombuffer(times, np.int64)
        shown = np.unique(self._pts)
        self._first = int(shown[0])
        self.ticks = shown - self._first
        last = int(self.ticks[-1])
        step = last - int(self.ticks[-2]) if len(shown) > 1 else 0
        self.end = max(ends - self._first, last + 1) if ends > shown[-1] else last + step
        self._keys = np.flatnonzero(np.frombuffer(bytes(keys), np.uint8))
        # An AVI file has the times in the order of decoding: the frames take them in the order of showing.
        self._in_order = self._demuxer == "avi"

    def _count(self, frames: int) -> None:
        """Times from the frame rate, where the file has none."""
        if not self._rate:
            raise MediaError(f"{self._where}: its frames have neither times nor a frame rate")
        self.tick, self.ticks, self.end = 1 / Fraction(self._rate), np.arange(frames, dtype=np.int64), frames
        self._pts, self._first, self._in_order = self.ticks, 0, True

    def _check_size(self, width: int, height: int) -> None:
        if width < 1 or height < 1:  # what FFmpeg says of sizes that are out of all bounds too
            raise MediaError(f"{self._where}: frames without pixels, or of more than {MAX_PIXELS} pixels")
        if width * height > MAX_PIXELS:
            raise MediaError(f"{self._where}: frames of {width} x {height}, more than {MAX_PIXELS} pixels")

    # -- frames --------------------------------------------------------------------------------------------------------

    def frames(self, chosen: Sequence[int]) -> Iterator[tuple[int, Pixels]]:
        """Some frames, each with its place in `ticks`, decoded as they are asked for.

        Args:
            chosen: increasing places in `ticks`. In the stead of one that the decoder does not show comes the frame
                shown at that time.

        Yields:
            the place, and (height, width, 3) uint8 RGB, upright, transparency laid on white.

        Raises:
            MediaError: the data are damaged.
        """
        wanted = [int(self.ticks[index]) for index in chosen][::-1]
        before: tuple[int, Any] | None = None
        done = -1
        with self._stream("video") as (container, stream):
            for at, frame in self._decoded(container, stream, wanted):
                while wanted and at >= wanted[-1]:
                    late = at > wanted.pop()
                    tick, shown = before if late and before is not None else (at, frame)
                    if tick > done:
                        done = tick
                        yield int(np.searchsorted(self.ticks, tick, "right")) - 1, self._pixels(shown)
                before = at, frame
                if not wanted:
                    return
            if before is None:
                raise MediaError(f"{self._where}: none of its frames can be decoded")
            if before[0] > done:
                yield int(np.searchsorted(self.ticks, before[0], "right")) - 1, self._pixels(before[1])

    def _decoded(self, container: Any, stream: Any, wanted: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """Frames with their ticks in the order they are shown, at least those that `wanted` needs."""
        count, last = 0, -1
        for frame in self._needed(container, stream, wanted):
            if self._in_order:
                at = int(self.ticks[min(count, len(self.ticks) - 1)])
            elif frame.pts is None:
                raise MediaError(f"{self._where}: damaged: frame {count} has no time")
            else:
                at = frame.pts - self._first
            if at < last:
                raise MediaError(f"{self._where}: damaged: the times of its frames go back to {self._seconds(at)}")
            count, last = count + 1, at
            yield at, frame

    def _needed(self, container: Any, stream: Any, wanted: Sequence[int]) -> Iterator[Any]:
        """What the decoder makes of the packets that lead to the wanted frames."""
        needed = self._packets(wanted)
        decoder = stream.codec_context
        index, skipped, at = -1, False, [0.0]
        with self._damage("at %.2f s", at):
            for packet in container.demux(stream):
                if packet.size == 0:
                    continue
                index += not packet.is_discard
                if index >= len(needed):
                    break
                if not packet.is_discard and not needed[index]:
                    skipped = True
                    continue
                if skipped and index > 0:  # what is still inside comes out, then the decoder starts anew
                    yield from decoder.decode(None)
                    decoder.flush_buffers()
                skipped = False
                at[0] = float((int(self._pts[max(index, 0)]) - self._first) * self.tick)
                yield from decoder.decode(packet)
            yield from decoder.decode(None)

    def _packets(self, wanted: Sequence[int]) -> NDArray[np.bool_]:
        """Which packets to decode: from the key frame before every wanted one to itself."""
        if self._in_order or self._demuxer not in _SKIPPABLE or len(self._keys) == 0:
            return np.ones(len(self._pts), bool)
        needed = np.zeros(len(self._pts), bool)
        order = np.argsort(self._pts, kind="stable")
        keys = self._keys[np.argsort(self._pts[self._keys], kind="stable")]
        newest = np.maximum.accumulate(keys)  # the last key frame of the file among those shown so far
        times = np.asarray(wanted, np.int64) + self._first
        places = np.searchsorted(self._pts[keys], times, "right") - 1
        starts = np.where(places >= 0, newest[places], 0)
        ends = order[np.searchsorted(self._pts[order], times, "right") - 1]
        for start, end in zip(starts, ends, strict=True):
            if not needed[start : end + 1].all():
                fresh = start == 0 or not needed[start - 1]
                needed[start : end + 1] = True
                if fresh:  # frames shown before the key frame need what came before it
                    needed[start : end + 1] &= self._pts[start : end + 1] >= self._pts[start]
        return needed

    def _pixels(self, frame: Any) -> Pixels:
        if frame.is_corrupt:
            raise MediaError(f"{self._where}: damaged: a frame that was asked for is incomplete")
        self._check_size(frame.width, frame.height)
        try:
            alpha = any(component.is_alpha for component in frame.format.components) or frame.format.name == "pal8"
            pixels = frame.to_ndarray(format="rgba" if alpha else "rgb24")
            if alpha:
                pixels = np.asarray(to_rgb(Image.fromarray(pixels), self._where))
            return np.ascontiguousarray(_upright(pixels, _display_matrix(frame)))
        except MemoryError:
            raise
        except Exception as error:
            raise MediaError(f"{self._where}: {frame.format.name} frames cannot be read: {_reason(error)}") from None

    # -- sound ---------------------------------------------------------------------------------------------------------

    def sound_rate(self) -> int:
        """In Hz. Raises MediaError for a clip without a sound track."""
        with self._stream("audio") as (_, stream):
            channels = stream.codec_context.channels
            if not 1 <= channels <= MAX_CHANNELS:
                raise MediaError(
                    f"{self._where}: a sound track of {channels} channels, at most {MAX_CHANNELS} are read"
                )
            return check_rate(stream.codec_context.sample_rate, f"{self._where} (its sound)")

    def sound(self) -> Iterator[Block]:
        """The sound track as (n, channels) float32, block by block. Raises MediaError where it is damaged."""
        import av

        with self._stream("audio") as (container, stream):
            plain = av.AudioResampler(format="fltp")
            heard = [0.0]
            with self._damage("in its sound at %.2f s", heard):
                for frame in container.decode(stream):
                    heard[0] = frame.time or heard[0]
                    for block in plain.resample(frame):
                        yield np.ascontiguousarray(block.to_ndarray().T)

    # -- PyAV ----------------------------------------------------------------------------------------------------------

    @contextmanager
    def _stream(self, kind: str) -> Iterator[tuple[Any, Any]]:
        """The container, opened at its beginning, and its first stream of a kind."""
        av = _import()
        # Nothing but this file: a playlist or a reference in it could name any other file or address.
        options = {"format_whitelist": _DEMUXERS, "protocol_whitelist": "none", "max_pixels": str(MAX_PIXELS)}
        self._file.seek(0)
        try:
            container = av.open(self._file, mode="r", options=options, metadata_errors="ignore")
        except MemoryError:
            raise
        except Exception:  # FFmpeg says little that its users can use
            raise MediaError(f"{self._where}: {self._looks()}") from None
        with container:
            streams = [s for s in getattr(container.streams, kind) if not s.disposition & 0x400]  # a cover picture
            if not streams:
                what = "video" if kind == "video" else "sound track"
                raise MediaError(f"{self._where}: no {what} in this file")
            stream = streams[0]
            if stream.codec_context is None or stream.codec_context.codec is None:
                raise MediaError(f"{self._where}: its {kind} has a format that cannot be decoded")
            if kind == "video":  # without this, damaged frames are made up from their neighbours in silence
                stream.codec_context.options = {"err_detect": "explode", "max_pixels": str(MAX_PIXELS)}
            yield container, stream

    @contextmanager
    def _damage(self, place: str, at: Sequence[Any]) -> Iterator[None]:
        """Turns what PyAV raises into MediaError; `place` is filled from `at`, or from its length."""
        try:
            yield
        except (MediaError, MemoryError):
            raise
        except Exception as error:
            filled = place % (len(at) if "%d" in place else at[0])
            raise MediaError(f"{self._where}: damaged or truncated {filled}: {_reason(error)}") from None

    def _looks(self) -> str:
        self._file.seek(0)
        html = "looks like HTML, " if self._file.read(64).lstrip()[:1] == b"<" else ""
        return f"{html}not a video file that can be read ({', '.join(FORMATS)})"

    def _seconds(self, ticks: int) -> str:
        return f"{float(ticks * self.tick):.2f} s"


def _import() -> Any:
    try:
        import av
    except ImportError:
        raise RequestError("video files need PyAV: pip install gemma4[video]") from None
    return av


def _reason(error: Exception) -> str:
    """FFmpeg's words without the function they come from."""
    text = str(getattr(error, "strerror", None) or error).split("; ")[0]
    return type(error).__name__ if " at 0x" in text or not text else text[:120]


# ----------------------------------------------------------------------------------------------------------------------
# Which side is up


def _display_matrix(frame: Any) -> tuple[int, int, int, int]:
    """(a, b, c, d) of the matrix that takes x, y to a x + c y, b x + d y; the identity where there is none."""
    from av.sidedata.sidedata import Type

    data = frame.side_data.get(Type.DISPLAYMATRIX)
    if data is None:
        return 1, 0, 0, 1
    a, b, _, c, d = np.frombuffer(data, np.int32)[:5].tolist()
    return a, b, c, d


def _upright(pixels: Pixels, matrix: tuple[int, int, int, int]) -> Pixels:
    """Turned and mirrored by the nearest quarter turn."""
    a, b, c, d = matrix
    across, down = a < 0, d < 0
    if abs(b) + abs(c) > abs(a) + abs(d):
        pixels, across, down = pixels.transpose(1, 0, 2), c < 0, b < 0
    return pixels[:: -1 if down else 1, :: -1 if across else 1]


# ----------------------------------------------------------------------------------------------------------------------
# Truncated files


def looks_cut(file: BinaryIO, size: int) -> bool:
    """Whether the outermost boxes of an MP4, Matroska or AVI file reach beyond its end."""
    file.seek(0)
    head = file.read(64)
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return _mp4_is_cut(file, size)
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return 8 + int.from_bytes(head[4:8], "little") > size
    return head[:4] == b"\x1a\x45\xdf\xa3" and _matroska_is_cut(file, head, size)


def _mp4_is_cut(file: BinaryIO, size: int) -> bool:
    at = 0
    while at + 8 <= size:
        file.seek(at)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        if length == 0:  # to the end of the file
            return False
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        if length < 8:
            return True
        at += length
    return at > size


def _matroska_is_cut(file: BinaryIO, head: bytes, size: int) -> bool:
    length, used = _ebml_size(head[4:])
    at = 4 + used + length
    file.seek(min(at, size))
    segment = file.read(12)
    if segment[:4] != b"\x18\x53\x80\x67":
        return at > size
    length, used = _ebml_size(segment[4:])
    unknown = length == (1 << 7 * used) - 1  # written where nothing can be sought back to
    return not unknown and at + 4 + used + length > size


def _ebml_size(data: bytes) -> tuple[int, int]:
    """A number of Matroska, and how many bytes it takes."""
    used = 9 - data[0].bit_length() if data and data[0] else 1
    return int.from_bytes(data[:used], "big") & ((1 << 7 * used) - 1), used
