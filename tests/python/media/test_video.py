"""Video from every kind of source: the frames taken, their times, their sound, and wrong requests."""

from __future__ import annotations

import doctest
import gc
import io
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import gemma4.media.video
import gemma4.media.videofiles
import numpy as np
import pytest
from filming import PALETTE, constant, film, flat, labels, shown
from gemma4 import MediaError, RequestError
from gemma4.media.video import Frame, VideoOptions, load_video, open_clip
from gemma4.media.videofiles import VideoFile
from PIL import Image

pytest.importorskip("av")

IDENTITY, LAST = 65_536, 1 << 30


# -- which frames ------------------------------------------------------------------------------------------------------

KINDS: dict[str, dict[str, Any]] = {
    "mp4": {},
    "mp4 of frames that refer to later ones": {"codec": "libx264", "options": {"bf": "3"}},
    "mp4 in fragments": {"codec": "libx264", "muxing": {"movflags": "frag_keyframe+empty_moov"}},
    "mkv": {"container": "matroska", "codec": "libx264"},
    "webm": {"container": "webm", "codec": "libvpx-vp9"},
    "avi": {"container": "avi"},
    "avi without times of showing": {"container": "avi", "codec": "libx264", "options": {"bf": "3"}},
    "transport stream": {"container": "mpegts", "codec": "mpeg2video"},
    "flv": {"container": "flv", "codec": "flv"},
    "wmv": {"container": "asf", "codec": "wmv2"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_of_every_second(kind: str) -> None:
    base = Fraction(1, 10) if KINDS[kind].get("container") in ("avi", "mpegts") else Fraction(1, 1000)
    data = film(constant(4), base=base, **KINDS[kind])
    assert shown(data) == [("00:00", 0, 0), ("00:01", 1, 1), ("00:02", 2, 2), ("00:03", 3, 3)]
    assert [seconds for _, seconds, _ in shown(data, fps=2)] == [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5]
    assert [seconds for _, seconds, _ in shown(data, num_frames=3)] == [0, 1.3, 2.6]
    assert len(shown(data, num_frames=40)) == 40


@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_variable_frame_rate(container: str) -> None:
    """The times are the file's: nothing is computed from an average rate."""
    times = [0, 0.04, 0.08, 0.5, 2.0, 2.1, 3.7, 6.0, 6.5, 7.0]
    data = film(times, container, "libx264")
    seconds = [at for _, at, _ in shown(data)]
    assert seconds[:6] == pytest.approx([0, 0.5, 2.0, 2.1, 3.7, 6.0])  # how long the last one lasts is the writer's
    assert labels(data, fps=0.5)[:3] == ["00:00", "00:02", "00:03"]
    every = shown(data, num_frames=len(times))
    assert [seconds for _, seconds, _ in every] == pytest.approx(times)


def test_a_frame_shown_for_long_is_taken_once() -> None:
    assert [seconds for _, seconds, _ in shown(film([0, 5, 7, 7.9]), fps=3)] == [0, 5, 7]


def test_clips_shorter_than_a_second_have_one_frame() -> None:
    assert labels(film([0])) == labels(film(constant(0.9))) == ["00:00"]


def test_full_seconds_survive_milliseconds() -> None:
    """At 24 and 29.97 frames a second a Matroska file has rounded times; none of the seconds is lost."""
    for rate in (24, Fraction(30_000, 1001), 30):
        times = [float(k / Fraction(rate)) for k in range(round(3 * rate) + 1)]
        data = film(times, "matroska", "libx264")
        assert labels(data) == ["00:00", "00:01", "00:02"]


@pytest.mark.parametrize("shift", [-3, 5, 100_000])
def test_time_begins_at_the_first_frame(shift: int) -> None:
    data = film([at + shift for at in constant(2)], frames=[flat(at) for at in constant(2)], container="matroska",
                muxing={"avoid_negative_ts": "disabled"} if shift > 0 else {})  # fmt: skip
    assert shown(data) == [("00:00", 0, 0), ("00:01", 1, 1)]


def test_skipping_groups_of_frames_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packets that lead to no wanted frame are not decoded; open groups refer across their key frame."""
    rng = np.random.default_rng(0)
    frames = [np.kron(rng.integers(0, 256, (6, 8, 3), np.uint8), np.ones((8, 8, 1), np.uint8)) for _ in range(90)]
    for options in ({"bf": "3", "open-gop": "1", "g": "7"}, {"bf": "2", "g": "12"}, {"bf": "0", "g": "1"}):
        x264 = {"g": options["g"], "x264-params": f"open-gop={options.get('open-gop', 0)}:bframes={options['bf']}"}
        data = film(constant(9), codec="libx264", frames=frames, options=x264)
        skipped = [frame.pixels for frame in load_video(data, num_frames=7)]
        with monkeypatch.context() as patch:
            patch.setattr(gemma4.media.videofiles, "_SKIPPABLE", ())
            whole = [frame.pixels for frame in load_video(data, num_frames=7)]
        assert all(np.array_equal(a, b) for a, b in zip(skipped, whole, strict=True))
    file = VideoFile(io.BytesIO(data), "x")
    assert file._packets([0]).sum() == 1


def test_labels_are_minutes_and_seconds() -> None:
    pixels = np.zeros((1, 1, 3), np.uint8)
    written = [Frame(seconds, pixels).label for seconds in (0, 0.999, 59.99, 60, 61.5, 3_599, 6_000)]
    assert written == ["00:00", "00:00", "00:59", "01:00", "01:01", "59:59", "100:00"]


# -- long clips --------------------------------------------------------------------------------------------------------


def test_up_to_a_minute() -> None:
    assert len(labels(film(range(60), rate=1))) == 60


def test_longer_than_a_minute_is_never_cut() -> None:
    data = film(range(75), rate=1)
    for options in ({}, {"fps": 0.1}):
        with pytest.raises(MediaError, match=r"lasts 75\.0 s, longer than 60 s; cut it, or give num_frames="):
            labels(data, **options)
    assert [seconds for _, seconds, _ in shown(data, num_frames=5)] == [0, 15, 30, 45, 60]
    assert labels(data, num_frames=5)[-1] == "01:00"


def test_too_many_frames(monkeypatch: pytest.MonkeyPatch, clip: bytes) -> None:
    monkeypatch.setattr(gemma4.media.videofiles, "MAX_FRAMES", 39)
    with pytest.raises(MediaError, match="more than 39 frames"):
        labels(clip)


def test_only_wanted_frames_are_converted(clip: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    converted = []
    whole = VideoFile._pixels
    monkeypatch.setattr(VideoFile, "_pixels", lambda self, frame: converted.append(1) or whole(self, frame))
    frames = load_video(clip)
    next(frames)
    assert len(converted) == 1  # one at a time
    assert len([*frames]) + 1 == len(converted) == 4


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_memory_does_not_grow_with_the_clip(tmp_path: Path) -> None:
    """60 frames of 1.2 MB each would be 73 MB."""
    path = tmp_path / "long.mp4"
    path.write_bytes(film(constant(6), frames=[flat(0, 480, 848)] * 60))
    program = (
        "import resource, sys; from gemma4.media.video import load_video; import av\n"
        "next(load_video(sys.argv[1], num_frames=1)); before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "assert sum(1 for _ in load_video(sys.argv[1], num_frames=60)) == 60\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 20_000  # kB


# -- which side is up --------------------------------------------------------------------------------------------------

# The matrix of a track header, row by row: x' = a x + c y, y' = b x + d y.
TURNS: dict[str, tuple[list[int], Any]] = {
    "as it is": ([1, 0, 0, 1], lambda p: p),
    "a quarter clockwise": ([0, 1, -1, 0], lambda p: np.rot90(p, -1)),
    "half": ([-1, 0, 0, -1], lambda p: np.rot90(p, 2)),
    "a quarter the other way": ([0, -1, 1, 0], lambda p: np.rot90(p, 1)),
    "mirrored": ([-1, 0, 0, 1], lambda p: p[:, ::-1]),
    "upside down": ([1, 0, 0, -1], lambda p: p[::-1]),
    "transposed": ([0, 1, 1, 0], lambda p: p.transpose(1, 0, 2)),
    "transposed the other way": ([0, -1, -1, 0], lambda p: np.rot90(p, 2).transpose(1, 0, 2)),
}


@pytest.mark.parametrize("turn", TURNS)
def test_rotation(turn: str) -> None:
    (a, b, c, d), expected = TURNS[turn]
    picture = np.concatenate([np.concatenate([flat(0), flat(1)], 1), np.concatenate([flat(2), flat(3)], 1)])
    matrix = [a * IDENTITY, b * IDENTITY, 0, c * IDENTITY, d * IDENTITY, 0, 0, 0, LAST]
    (plain,) = load_video(film([0], frames=[picture]))
    (turned,) = load_video(film([0], frames=[picture], matrix=matrix))
    assert np.array_equal(turned.pixels, expected(plain.pixels))
    assert np.abs(plain.pixels.astype(int) - picture).mean() < 10


# -- pixels ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pix_fmt", ["yuv420p10le", "yuv444p", "yuv422p12le", "gray", "bgr0"])
def test_pixel_formats(pix_fmt: str) -> None:
    pixels = np.kron(PALETTE[:6].reshape(2, 3, 3), np.ones((16, 16, 1), np.uint8))
    (frame,) = load_video(film([0], "matroska", "ffv1", frames=[pixels], pix_fmt=pix_fmt))
    expected = pixels if pix_fmt != "gray" else np.asarray(Image.fromarray(pixels).convert("L").convert("RGB"))
    assert frame.pixels.shape == (32, 48, 3) and frame.pixels.dtype == np.uint8
    assert np.abs(frame.pixels[4:12, 4:12].astype(int) - expected[4:12, 4:12]).max() <= 6


def test_colours_follow_the_matrix_of_the_file() -> None:
    """BT.709 and BT.601 write the same red differently."""
    for space in (1, 5):
        (frame,) = load_video(film([0], codec="libx264", frames=[flat(0)], tags={"colorspace": space}))
        assert np.abs(frame.pixels[24, 32].astype(int) - PALETTE[0]).max() <= 6, space


@pytest.mark.parametrize("pix_fmt", ["argb", "rgba"])
def test_transparency_is_laid_on_white(pix_fmt: str) -> None:
    pixels = np.full((32, 32, 4), (200, 40, 80, 255), np.uint8)
    pixels[:, 16:, 3] = 0
    codec = "qtrle" if pix_fmt == "argb" else "png"
    (frame,) = load_video(film([0], "mov", codec, frames=[pixels], pix_fmt=pix_fmt))
    assert (frame.pixels[:, :16] == (200, 40, 80)).all() and (frame.pixels[:, 16:] == 255).all()


def test_odd_sides() -> None:
    for height, width in ((33, 17), (1, 1), (2, 199)):
        (frame,) = load_video(film([0], "matroska", "ffv1", frames=[flat(0, height, width)], pix_fmt="yuv444p"))
        assert frame.pixels.shape == (height, width, 3)


def test_a_size_that_changes_within_the_clip() -> None:
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as out:
        stream = out.add_stream("mjpeg", rate=1)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuvj420p"
        for at, (height, width) in enumerate([(48, 64), (48, 64), (96, 80)]):
            encoder: Any = av.CodecContext.create("mjpeg", "w")
            encoder.height, encoder.width, encoder.pix_fmt = height, width, "yuvj420p"
            encoder.time_base = Fraction(1, 1)
            frame = av.VideoFrame.from_ndarray(flat(at, height, width), format="rgb24").reformat(format="yuvj420p")
            frame.pts, frame.time_base = at, Fraction(1, 1)
            for packet in [*encoder.encode(frame), *encoder.encode()]:
                packet.stream = stream
                out.mux(packet)
    sizes = [frame.pixels.shape[:2] for frame in load_video(file.getvalue(), num_frames=3)]
    assert sizes == [(48, 64), (48, 64), (96, 80)]


# -- sound -------------------------------------------------------------------------------------------------------------


def tone(seconds: float, rate: int = 16_000) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def heard(data: Any) -> np.ndarray:
    with open_clip(data, VideoOptions()) as clip:
        return clip.sound()


def test_sound() -> None:
    exact = heard(film(constant(2), "matroska", sound=(tone(2), 16_000)))
    assert exact.dtype == np.float32 and np.abs(exact - tone(2)).max() < 1e-4
    resampled = heard(film(constant(2), "matroska", sound=(tone(2, 8_000), 8_000)))
    assert len(resampled) == 32_000 and np.abs(resampled - tone(2))[200:-200].max() < 5e-3
    packed = heard(film(constant(2), sound=(tone(2, 48_000), 48_000)))  # AAC, whose blocks are of 1024 samples
    assert 32_000 <= len(packed) < 32_000 + 700


def test_no_sound_where_it_was_asked_for(clip: bytes) -> None:
    with pytest.raises(MediaError, match="sound was asked for, but it has no sound track"):
        heard(clip)
    gif = io.BytesIO()
    Image.new("RGB", (8, 8)).save(gif, "GIF")
    with pytest.raises(MediaError, match="no sound track"):
        heard(gif.getvalue())
    with (
        pytest.raises(RequestError, match="frames carry none"),
        open_clip(np.zeros((1, 4, 4, 3), np.uint8), VideoOptions(times=[0], sound=True)),
    ):
        pass


def test_too_much_sound() -> None:
    with pytest.raises(MediaError, match=r"its sound\): longer than 30 s; cut the video, or leave its sound out"):
        heard(film([0, 1], "matroska", sound=(np.zeros(8_000 * 30 + 1, np.float32), 8_000)))
    assert len(heard(film([0, 1], "matroska", sound=(np.zeros(8_000 * 30, np.float32), 8_000)))) == 480_000


# -- leaks -------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads /proc")
def test_files_are_closed(tmp_path: Path, clip: bytes) -> None:
    good, bad = tmp_path / "good.mp4", tmp_path / "bad.mp4"
    good.write_bytes(clip)
    bad.write_bytes(clip[: len(clip) // 2])
    gc.disable()  # nothing may depend on the collector
    try:
        before = sorted(os.listdir("/proc/self/fd"))
        for _ in range(5):
            assert len(list(load_video(good))) == 4
            with pytest.raises(MediaError):
                list(load_video(bad))
            half = load_video(good)
            next(half)
            half.close()
            with pytest.raises(RequestError):
                list(load_video(good, num_frames=999))
            with pytest.raises(MediaError), open_clip(good, VideoOptions()) as opened:
                opened.sound()
        assert sorted(os.listdir("/proc/self/fd")) == before
    finally:
        gc.enable()


def test_a_file_of_the_caller_s_stays_open(clip: bytes) -> None:
    file = io.BytesIO(clip)
    assert len(list(load_video(file))) == 4
    assert not file.closed and len(list(load_video(file))) == 4  # and can be given again


def test_examples() -> None:
    import gemma4.media.animations

    for module in (gemma4.media.video, gemma4.media.videofiles, gemma4.media.animations):
        assert doctest.testmod(module).failed == 0
    assert doctest.testmod(gemma4.media.video).attempted > 0
