"""Frames that are given with how many they are a second, in place of their times."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gemma4.errors import RequestError
from gemma4.media import VideoOptions, load_video, read_request
from PIL import Image

FRAMES = np.arange(6, dtype=np.uint8)[:, None, None, None].repeat(8, 1).repeat(9, 2).repeat(3, 3)


def seen(source: Any, **options: Any) -> list[tuple[float, int]]:
    """The seconds of each frame that is taken, and which it is."""
    return [(round(frame.seconds, 6), int(frame.pixels[0, 0, 0])) for frame in load_video(source, **options)]


@pytest.mark.parametrize(
    "frames",
    [FRAMES, list(FRAMES), tuple(FRAMES), [Image.fromarray(frame) for frame in FRAMES]],
    ids=["array", "list", "tuple", "pictures"],
)
@pytest.mark.parametrize("fps", [2, 0.5, 29.97, np.float32(4)])
def test_a_rate_is_as_good_as_times(frames: Any, fps: float) -> None:
    times = [index / fps for index in range(6)]
    expected = [(round(float(at), 6), index) for index, at in enumerate(times)]
    assert seen({"frames": frames, "fps": fps}) == seen(frames, fps=fps) == seen((frames, times)) == expected


def test_some_of_them() -> None:
    assert seen({"frames": FRAMES, "fps": 2, "num_frames": 3}) == [(0, 0), (1, 2), (2, 4)]
    assert seen({"frames": FRAMES, "times": [0, 0.5, 1, 1.5, 2, 2.5], "fps": 1}) == [
        (0, 0),
        (1, 2),
        (2, 4),
    ]  # as before
    assert seen({"frames": FRAMES[:1], "fps": 30}) == [(0, 0)]


def test_torch_frames() -> None:
    torch = pytest.importorskip("torch")
    assert seen({"frames": torch.from_numpy(FRAMES.copy()), "fps": 2}) == seen({"frames": FRAMES, "fps": 2})


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ({"frames": iter(FRAMES), "fps": 2}, "an iterator has is not known; give their times, or a list"),
        ({"frames": [], "fps": 2}, "expected 1 to 100000 frames, found 0"),
        ({"frames": FRAMES, "fps": 0}, "fps: expected more than 0"),
        ({"frames": FRAMES, "fps": True}, "fps: expected more than 0"),
        ({"frames": FRAMES, "fps": "2"}, "fps: expected more than 0"),
        ({"frames": FRAMES, "fps": 2, "num_frames": 7}, "7 frames asked for"),
        ({"frames": FRAMES}, "frames need times=.*or fps="),
        ({"video": "a.mp4", "fps": 2, "num_frames": 2}, "fps and num_frames are both given"),
    ],
)
def test_refused(source: Any, named: str) -> None:
    with pytest.raises(RequestError, match=named):
        seen(source)


def test_a_files_rate_is_still_how_many_are_taken() -> None:
    assert read_request("a.mp4", VideoOptions(fps=2), "video")[1] == VideoOptions(fps=2)


def test_a_model_sees_them(gemma4_model: Any) -> None:
    """Whichever way the times come, the prompt is the same; and an answer is given."""
    frames = [np.full((60, 80, 3), value, np.uint8) for value in (0, 120, 250)]
    times = (frames, [0, 0.5, 1])
    asked, with_times = (gemma4_model.prepare("What?", video=[v]) for v in ({"frames": frames, "fps": 2}, times))
    assert np.array_equal(asked.input_ids, with_times.input_ids)
    part = {"type": "video", "video": frames, "fps": 2}
    message = [{"role": "user", "content": [part, {"type": "text", "text": "What?"}]}]
    assert np.array_equal(gemma4_model.prepare(message).input_ids, asked.input_ids)
    out = gemma4_model.generate("What?", video={"frames": np.stack(frames), "fps": 2}, max_new_tokens=4)
    assert out.usage["image_tokens"] > 0
