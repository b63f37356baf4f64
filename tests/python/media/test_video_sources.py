"""Where videos may come from, and what they may be asked for."""

from __future__ import annotations

import base64
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filming import flat, labels, second_of, shown
from gemma4 import MediaError, RequestError
from gemma4.media.video import load_video
from PIL import Image

pytest.importorskip("av")


def test_every_way_in(clip: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a clip.mp4"
    path.write_bytes(clip)
    text = base64.b64encode(clip).decode()

    class Pipe(io.RawIOBase):
        """Cannot be sought in."""

        def __init__(self) -> None:
            self._file = io.BytesIO(clip)

        def readable(self) -> bool:
            return True

        def read(self, size: int = -1) -> bytes:
            return self._file.read(size)

    sources: list[Any] = [
        path, str(path), clip, bytearray(clip), memoryview(clip), io.BytesIO(clip), Pipe(),
        f"data:video/mp4;base64,{text}", {"video": path}, {"path": "gone.mp4", "bytes": clip}, {"url": str(path)},
        {"base64": text},
    ]  # fmt: skip
    for source in sources:
        assert labels(source) == ["00:00", "00:01", "00:02", "00:03"]
    assert labels({"video": clip, "fps": 0.5}) == ["00:00", "00:02"]


def test_animations() -> None:
    """Browsers show frames of 10 ms and less for a tenth of a second; so do we."""
    frames = [Image.fromarray(flat(at)) for at in (0, 1, 2, 3)]
    for form, durations, expected in (
        ("GIF", [1000, 1000, 1000, 1000], [0, 1, 2, 3]),
        ("WEBP", [1000, 1000, 1000, 1000], [0, 1, 2, 3]),
        ("PNG", [1000, 1000, 1000, 1000], [0, 1, 2, 3]),
        ("GIF", [1500, 500, 1000, 3000], [0, 1.5, 2, 3]),
        ("WEBP", [1500, 500, 1000, 3000], [0, 1.5, 2, 3]),
    ):
        file = io.BytesIO()
        lossless = {"lossless": True} if form == "WEBP" else {}
        frames[0].save(file, form, save_all=True, append_images=frames[1:], duration=durations, loop=0, **lossless)
        found = [(frame.seconds, second_of(frame.pixels)) for frame in load_video(file.getvalue(), fps=2)]
        assert found == list(zip(expected, range(4), strict=True)), form
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=0)
    assert [frame.seconds for frame in load_video(file.getvalue(), num_frames=4)] == pytest.approx([0, 0.1, 0.2, 0.3])


def test_transparent_animation() -> None:
    layers = [Image.new("RGBA", (32, 32), (200, 0, 0, alpha)) for alpha in (255, 0)]
    file = io.BytesIO()
    layers[0].save(file, "WEBP", save_all=True, append_images=layers[1:], duration=1000, lossless=True)
    red, white = load_video(file.getvalue())
    assert (red.pixels[0, 0] == (200, 0, 0)).all() and (white.pixels == 255).all()


def given_frames() -> dict[str, Any]:
    arrays = [flat(at) for at in range(5)]
    return {
        "array": np.stack(arrays),
        "list": arrays,
        "pictures": [Image.fromarray(array) for array in arrays],
        "floats": np.stack(arrays).astype(np.float32) / 255,
        "with alpha": np.concatenate([np.stack(arrays), np.full((5, 48, 64, 1), 255, np.uint8)], -1),
        "strided": np.repeat(np.stack(arrays), 2, 2)[:, :, ::2],
        "generator": (array for array in arrays),
        "iterator of pictures": map(Image.fromarray, arrays),
    }


@pytest.mark.parametrize("kind", given_frames())
def test_frames_that_are_given(kind: str) -> None:
    times = [0, 1.25, 2, 3.5, 4]
    assert [s for _, s, _ in shown(given_frames()[kind], times=times)] == times  # all of them
    assert [s for _, s, _ in shown((given_frames()[kind], np.array(times)))] == times
    assert [s for _, s, _ in shown({"frames": given_frames()[kind], "times": times}, num_frames=2)] == [0, 2]
    assert labels(given_frames()[kind], times=times, fps=0.5) == ["00:00", "00:02"]


def test_a_generator_is_asked_frame_by_frame() -> None:
    made = []

    def frames() -> Iterator[np.ndarray]:
        for at in range(5):
            made.append(at)
            yield flat(at)

    taken = load_video(frames(), times=range(5))
    next(taken)
    assert made == [0]


BAD_FRAMES: dict[str, tuple[Any, Any, type[Exception], str]] = {
    "no times": (np.zeros((2, 4, 4, 3), np.uint8), None, RequestError, "need times="),
    "fewer times": (np.zeros((2, 4, 4, 3), np.uint8), [0], RequestError, "1 times for 2 frames"),
    "more times": (iter([flat(0)]), [0, 1], RequestError, "2 times for 1 frames"),
    "fewer times than a generator": (iter([flat(0)] * 3), [0, 1], RequestError, "2 times, and more frames"),
    "equal times": (np.zeros((3, 4, 4, 3), np.uint8), [0, 1, 1], RequestError, "1 s does not come after 1 s"),
    "falling times": (np.zeros((3, 4, 4, 3), np.uint8), [0, 2, 1], RequestError, "1 s does not come after 2 s"),
    "negative times": (np.zeros((2, 4, 4, 3), np.uint8), [-1, 1], RequestError, "times"),
    "times that are no numbers": (np.zeros((2, 4, 4, 3), np.uint8), ["a", "b"], RequestError, "times"),
    "times with NaN": (np.zeros((2, 4, 4, 3), np.uint8), [0, float("nan")], RequestError, "times"),
    "nested times": (np.zeros((2, 4, 4, 3), np.uint8), [[0], [1]], RequestError, "times"),
    "no frames": (np.zeros((0, 4, 4, 3), np.uint8), [], MediaError, "no frames"),
    "an empty list": ([], [], RequestError, "times"),
    "three dimensions": (np.zeros((4, 4, 3), np.uint8), [0], MediaError, r"expected \(n, H, W, 3\)"),
    "channels first": (np.zeros((2, 3, 40, 40), np.uint8), [0, 1], MediaError, r"video\[0\].*channels last"),
    "no pixels": (np.zeros((2, 0, 4, 3), np.uint8), [0, 1], MediaError, "empty"),
    "objects": (np.full((2, 4, 4, 3), None), [0, 1], MediaError, r"video\[0\]"),
    "floats beyond 1": (np.full((2, 4, 4, 3), 200.0), [0, 1], MediaError, r"video\[0\].*0 to 1"),
    "NaN": (np.full((2, 4, 4, 3), np.nan), [0, 1], MediaError, "finite"),
    "a frame of another type": ([flat(0), 3], [0, 1], RequestError, r"video\[1\]"),
    "a number": (3, None, RequestError, "expected a path, bytes, or frames"),
    "nothing": (None, None, RequestError, "expected a path, bytes, or frames"),
}


@pytest.mark.parametrize("name", BAD_FRAMES)
def test_bad_frames(name: str) -> None:
    source, times, error, message = BAD_FRAMES[name]
    with pytest.raises(error, match=message):
        list(load_video(source, times=times))


BAD_OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "both": ({"fps": 1, "num_frames": 2}, "both given"),
    "fps 0": ({"fps": 0}, "fps"),
    "fps NaN": ({"fps": float("nan")}, "fps"),
    "fps infinite": ({"fps": float("inf")}, "fps"),
    "fps true": ({"fps": True}, "fps"),
    "fps text": ({"fps": "1"}, "fps"),
    "no frames": ({"num_frames": 0}, "num_frames"),
    "half a frame": ({"num_frames": 1.5}, "num_frames"),
    "true frames": ({"num_frames": True}, "num_frames"),
    "2^63 frames": ({"num_frames": 1 << 63}, "num_frames"),
    "more frames than there are": ({"num_frames": 41}, "41 frames asked for, .* has 40"),
    "times of a file": ({"times": [0, 1]}, "times: a file has its own"),
}


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_bad_options(name: str, clip: bytes) -> None:
    options, message = BAD_OPTIONS[name]
    with pytest.raises(RequestError, match=message):
        labels(clip, **options)


@pytest.mark.parametrize("url", ["http://127.0.0.1/a.mp4", "https://a.b/c.mp4", "file:///etc/passwd", "rtsp://x/y"])
def test_addresses_are_not_fetched(url: str) -> None:
    with pytest.raises(RequestError, match="URLs are not fetched"):
        list(load_video(url))


def test_playlists_open_nothing(tmp_path: Path, clip: bytes) -> None:
    """Formats that name other files are no formats here."""
    path = tmp_path / "secret.mp4"
    path.write_bytes(clip)
    for text in (f"ffconcat version 1.0\nfile {path}\n", f"#EXTM3U\n#EXTINF:5,\n{path}\n#EXT-X-ENDLIST\n"):
        with pytest.raises(MediaError, match="not a video file"):
            list(load_video(text.encode()))


def test_missing_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, problem in (("gone.mp4", "no such file"), (".", "not a regular file"), ("pipe", "not a regular file")):
        with pytest.raises(MediaError, match=problem):
            list(load_video(tmp_path / path))
    with (tmp_path / "text").open("w+") as file, pytest.raises(RequestError, match="binary"):
        list(load_video(file))


def test_without_pyav(monkeypatch: pytest.MonkeyPatch, clip: bytes) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(RequestError, match=r"pip install gemma4\[video\]"):
        list(load_video(clip))
    assert labels(np.stack([flat(0)]), times=[0]) == ["00:00"]  # what needs no container works
