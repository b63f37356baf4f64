"""Small videos written with PyAV: every second has a colour of its own, so that a frame tells when it was shown."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from gemma4.media.video import load_video
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

PALETTE = np.array(
    [(230, 30, 30), (30, 200, 40), (40, 60, 230), (230, 220, 40), (210, 40, 210), (40, 210, 210), (240, 240, 240)],
    np.uint8,
)


def colour(seconds: float) -> Pixels:
    """(3,) of the second that a time is in."""
    return PALETTE[int(seconds) % len(PALETTE)]


def flat(seconds: float, height: int = 48, width: int = 64) -> Pixels:
    """(height, width, 3) of one colour."""
    return np.broadcast_to(colour(seconds), (height, width, 3)).copy()


def second_of(pixels: Pixels) -> int:
    """Which colour of the palette a frame has, after checking that it is one of them."""
    mean = pixels.reshape(-1, 3).astype(int)[len(pixels) // 2 :: 97].mean(axis=0)
    distance = np.abs(PALETTE.astype(int) - mean).max(axis=1)
    assert distance.min() < 30, mean
    return int(distance.argmin())


def film(
    times: Iterable[float],
    container: str = "mp4",
    codec: str = "mpeg4",
    *,
    frames: Sequence[Pixels] | None = None,
    pix_fmt: str = "yuv420p",
    base: Fraction = Fraction(1, 1000),
    options: dict[str, str] | None = None,
    muxing: dict[str, str] | None = None,
    matrix: Sequence[int] | None = None,
    sound: tuple[NDArray[np.float32], int] | None = None,
    rate: int = 10,
    tags: dict[str, int] | None = None,
) -> bytes:
    """A video with a frame at each time, in the colour of its second unless `frames` are given."""
    import av

    times = list(times)
    pictures = [flat(at) for at in times] if frames is None else frames
    file = io.BytesIO()
    with av.open(file, "w", format=container, options=muxing or {}) as out:
        stream = out.add_stream(codec, rate=rate)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt, stream.options = pix_fmt, {"g": "10", **(options or {})}
        stream.codec_context.time_base = base
        for name, value in (tags or {}).items():
            setattr(stream.codec_context, name, value)
        if matrix is not None:
            stream.set_display_matrix(list(matrix))
        heard = (
            None
            if sound is None
            else out.add_stream("aac" if container == "mp4" else "pcm_s16le", rate=sound[1], layout="mono")
        )
        for at, pixels in zip(times, pictures, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgba" if pixels.shape[2] == 4 else "rgb24")
            if tags:
                frame = frame.reformat(format=pix_fmt, dst_colorspace=tags.get("colorspace"))
            frame.pts, frame.time_base = round(Fraction(at).limit_denominator(10**6) / base), base
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
        if heard is not None:
            _write_sound(out, heard, *sound)
    return file.getvalue()


def _write_sound(out: Any, stream: Any, samples: NDArray[np.float32], rate: int) -> None:
    import av

    for at in range(0, len(samples), 1024):
        block = samples[None, at : at + 1024]
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = rate, at
        out.mux(stream.encode(frame))
    out.mux(stream.encode())


def constant(seconds: float, fps: int = 10) -> list[float]:
    """Times at a constant frame rate."""
    return [k / fps for k in range(round(seconds * fps))]


def shown(source: Any, **options: Any) -> list[tuple[str, float, int]]:
    """(label, seconds, colour) of every frame, after checking that the colour is that of the second."""
    frames = [(frame.label, frame.seconds, second_of(frame.pixels)) for frame in load_video(source, **options)]
    for label, seconds, number in frames:
        assert (colour(seconds) == PALETTE[number]).all(), (label, seconds, number)
    return frames


def labels(source: Any, **options: Any) -> list[str]:
    """Of every frame, checked as in :func:`shown`."""
    return [label for label, _, _ in shown(source, **options)]
