"""What can be wrong with a video file: cut off, damaged, empty, too large, its times out of order."""

from __future__ import annotations

import io
import resource
from fractions import Fraction
from pathlib import Path
from typing import Any

import gemma4.media.video
import gemma4.media.videofiles
import numpy as np
import pytest
from filming import constant, film, flat, second_of
from gemma4 import MediaError, RequestError
from gemma4.media.video import VideoOptions, load_video, open_clip
from gemma4.media.videofiles import VideoFile
from PIL import Image

pytest.importorskip("av")


def noisy(container: str = "mp4", codec: str = "mpeg4", **more: Any) -> bytes:
    """Frames that need many bytes, so that damage hits some."""
    rng = np.random.default_rng(1)
    frames = [rng.integers(0, 256, (64, 64, 3), np.uint8) for _ in range(40)]
    return film(constant(4), container, codec, frames=frames, **more)


def refused(data: bytes, **options: Any) -> str:
    with pytest.raises(MediaError) as caught:
        list(load_video(data, **options))
    text = str(caught.value)
    assert len(text) <= 500 and "0x" not in text and "video (" in text
    return text


TRUNCATED = {
    "mp4": {},
    "mp4 in fragments": {"muxing": {"movflags": "frag_keyframe+empty_moov"}},
    "mkv": {"container": "matroska"},
    "webm": {"container": "webm", "codec": "libvpx-vp9"},
    "avi": {"container": "avi"},
}


@pytest.mark.parametrize("kind", TRUNCATED)
def test_truncated(kind: str) -> None:
    data = noisy(**TRUNCATED[kind])
    assert len(list(load_video(data))) == 4
    for length in (1, 7, 40, len(data) // 10, len(data) // 2, len(data) * 99 // 100, len(data) - 1):
        refused(data[:length])
    assert refused(b"").endswith("empty, 0 bytes")


def test_truncated_where_the_index_comes_first(tmp_path: Path) -> None:
    """All times are known, the data of the last frames are not there."""
    import av

    path = tmp_path / "fast.mp4"
    with av.open(io.BytesIO(noisy())) as source, av.open(str(path), "w", options={"movflags": "faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    data = path.read_bytes()
    assert data.find(b"moov") < data.find(b"mdat")
    for cut in (0.2, 0.5, 0.9):
        assert "truncated" in refused(data[: int(len(data) * cut)])


def test_truncated_transport_stream() -> None:
    """Such a file has no length: what is there is shown, with its times, or the cut frame is told."""
    data = noisy("mpegts", "mpeg2video", base=Fraction(1, 10))
    with open_clip(data[: len(data) // 2 // 188 * 188], VideoOptions()) as clip:
        assert 1.5 < clip.seconds < 2.5


def damaged(data: bytes) -> bytes:
    """4,000 bytes in the middle are something else."""
    middle = len(data) // 2
    noise = np.random.default_rng(2).integers(0, 256, 4_000, np.uint8).tobytes()
    return data[:middle] + noise + data[middle + 4_000 :]


def test_damage_in_the_middle() -> None:
    assert "damaged" in refused(damaged(noisy()), num_frames=40)


def test_damage_is_never_painted_over() -> None:
    """A Matroska file is read on behind the damage: what comes are whole frames with their own times."""
    data = noisy("matroska")
    whole = {frame.seconds: frame.pixels for frame in load_video(data, num_frames=40)}
    for frame in load_video(damaged(data)):
        assert np.array_equal(frame.pixels, whole[frame.seconds])


def test_damaged_everywhere() -> None:
    """Every place once: a typed error or frames, never anything else."""
    data = noisy()[:]
    step = len(data) // 60
    refusals = 0
    for at in range(0, len(data) - 8, step):
        broken = bytearray(data)
        broken[at : at + 8] = b"\xff\x00\xa5\x5a\xff\xff\x00\x80"
        try:
            assert 1 <= len(list(load_video(bytes(broken), num_frames=20))) <= 20
        except (MediaError, RequestError):
            refusals += 1
    assert refusals > 10


def test_damaged_animations() -> None:
    rng = np.random.default_rng(3)
    frames = [Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)) for _ in range(4)]
    for form in ("GIF", "WEBP", "PNG"):
        file = io.BytesIO()
        frames[0].save(file, form, save_all=True, append_images=frames[1:], duration=1000)
        data = file.getvalue()
        for length in (12, 30, len(data) // 10, len(data) // 2, len(data) - 13):
            refused(data[:length])


def test_no_video() -> None:
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, np.zeros(1000), 16_000, format="WAV")
    assert "not a video file" in refused(file.getvalue())
    assert "not a video file" in refused(b"hello " * 1000)
    assert "looks like HTML" in refused(b"<html>" + b"x" * 5000)
    assert "no video in this file" in refused(only_sound())


def only_sound() -> bytes:
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        stream = out.add_stream("aac", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16_000
        out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return file.getvalue()


def test_no_frames() -> None:
    """A video stream without a single packet beside a sound that has some."""
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as out:
        video = out.add_stream("mpeg4", rate=10)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        stream = out.add_stream("pcm_s16le", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.int16), format="s16", layout="mono")
        frame.sample_rate = 16_000
        out.mux(stream.encode(frame))
        out.mux(stream.encode())
    assert "no frames" in refused(file.getvalue())


def test_huge_frames_are_refused_from_the_header() -> None:
    """The header of a small file says 40,000 x 40,000: nothing of that size is made."""
    data = film([0, 1], "matroska", "ffv1", frames=[flat(0, 256, 512), flat(1, 256, 512)])
    huge = data.replace(b"\xb0\x82\x02\x00", b"\xb0\x82\x9c\x40").replace(b"\xba\x82\x01\x00", b"\xba\x82\x9c\x40")
    assert huge != data
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "more than 36000000 pixels" in refused(huge)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8_000


def test_the_limit_of_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    data = film([0], "matroska", "ffv1", frames=[flat(0, 48, 64)])
    monkeypatch.setattr(gemma4.media.videofiles, "MAX_PIXELS", 48 * 64)
    assert len(list(load_video(data))) == 1
    monkeypatch.setattr(gemma4.media.videofiles, "MAX_PIXELS", 48 * 64 - 1)
    refused(data)


def retimed(times: list[int]) -> bytes:
    """A Flash video whose tags have these milliseconds."""
    data = bytearray(film(range(len(times)), "flv", "flv", options={"g": "1"}))
    at, left = 13, list(times)
    while at < len(data):
        if data[at] == 9 and left:
            data[at + 4 : at + 7] = left.pop(0).to_bytes(3, "big")
        at += 15 + int.from_bytes(data[at + 1 : at + 4], "big")
    return bytes(data)


def test_equal_times() -> None:
    """Of frames with the same time one is shown."""
    assert [frame.seconds for frame in load_video(retimed([0, 1000, 1000, 2000, 2900]))] == [0, 1, 2]


def test_falling_times() -> None:
    assert "the times of its frames go back" in refused(retimed([0, 2000, 1000, 3000]), num_frames=4)


def test_no_times_at_all() -> None:
    """The frame rate is taken instead; without one it is an error."""
    file = VideoFile(io.BytesIO(film(constant(4))), "x")
    file._count(40)
    assert [(index, second_of(pixels)) for index, pixels in file.frames([0, 10, 39])] == [(0, 0), (10, 1), (39, 3)]
    file._rate = None
    with pytest.raises(MediaError, match="neither times nor a frame rate"):
        file._count(40)
