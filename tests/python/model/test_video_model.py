"""Video in prompts: places for every frame, options of a part, the command line's way, and models that cannot see."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import gemma4
import numpy as np
import pytest
from filming import PALETTE, constant, film, flat, second_of
from gemma4 import ContextLengthError, MediaError, ModelFileError, RequestError
from gemma4.prompt.messages import normalize
from hearing import tone, write_deaf_model, write_hearing_model
from other_demos import demo_with

pytest.importorskip("av")

GREEDY = {"temperature": 0, "max_new_tokens": 4, "ignore_eos": True}
FRAMES = np.stack([flat(at, 60, 90) for at in range(3)])
PICTURE = np.full((40, 60, 3), 90, np.uint8)
GIVEN = {"type": "video", "video": (FRAMES, [0, 1, 2])}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return gemma4.Model.from_pretrained(write_hearing_model(tmp_path_factory.mktemp("hearing")), num_threads=2)


@pytest.fixture(scope="module")
def data() -> bytes:
    """Three seconds with sound."""
    return film(constant(3), "matroska", sound=(tone(32_000), 16_000))


def changed(directory: Path, **fields: Any) -> Any:
    """The demo model with other fields in its config."""
    return gemma4.Model.from_pretrained(demo_with(directory, fields))


def turn(*parts: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [p if isinstance(p, dict) else {"type": "text", "text": p} for p in parts]}]


def check_places(model: Any, inputs: Any) -> None:
    """Every frame stands between the tokens of a picture, and every placeholder belongs to one."""
    config, ids = model.config, np.asarray(inputs.input_ids)
    frames = [frame for video in inputs.video for frame in video.frames]
    covered = [place for frame in frames for place in range(frame.start, frame.start + frame.count)]
    assert covered == np.flatnonzero(ids == config["video_token_id"]).tolist()
    for frame in frames:
        assert ids[frame.start - 1] == config["boi_token_id"]
        assert ids[frame.start + frame.count] == config["eoi_token_id"]
        assert len(model.encode_image(frame.pixels, max_soft_tokens=70)) == frame.count


def test_modalities(model: Any, tmp_path: Path) -> None:
    assert model.modalities == {"text", "image", "audio", "video"}
    assert "video" not in changed(tmp_path / "blind", video_token_id=None).modalities


def test_places_and_times(model: Any) -> None:
    inputs = model.prepare(turn("a", GIVEN, "b"))
    check_places(model, inputs)
    (video,) = inputs.video
    assert video.times == (0.0, 1.0, 2.0) and video.seconds == 3.0 and video.sound is None
    assert [frame.size for frame in video.frames] == [(90, 60)] * 3
    text = model.tokenizer.decode(inputs.input_ids, skip_special=False).replace("<|video|>", "")
    assert "a00:00 <|image><image|> 00:01 <|image><image|> 00:02 <|image><image|>b" in text
    assert np.isfinite(model.forward(inputs, last_only=True)).all()
    assert "1 videos" in repr(inputs)
    for begin, frame in zip((0, 1, 2), video.frames, strict=True):
        assert second_of(frame.pixels) == begin


def test_order_of_frames_matters(model: Any) -> None:
    logits = model.forward(model.prepare(turn(GIVEN, "hi")), last_only=True)
    backwards = {"type": "video", "video": (FRAMES[::-1], [0, 1, 2])}
    assert not np.array_equal(model.forward(model.prepare(turn(backwards, "hi")), last_only=True), logits)


def test_forms_of_a_part_agree(model: Any, data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    path.write_bytes(data)
    text = base64.b64encode(data).decode()
    parts: list[dict[str, Any]] = [
        {"type": "video", "video": data},
        {"type": "video", "path": str(path)},
        {"type": "video", "url": f"data:video/x-matroska;base64,{text}"},
        {"type": "video", "base64": text},
        {"type": "video", "video": {"video": path, "fps": 1}},
        {"type": "video", "video": data, "num_frames": 3},
        {"type": "video", "video": data, "fps": 1.0, "sound": False, "max_soft_tokens": 70},
        {"type": "video_url", "video_url": {"url": f"data:video/x-matroska;base64,{text}"}},
        {"type": "video_url", "video_url": f"data:video/x-matroska;base64,{text}", "fps": 1},
    ]
    whole = [model.prepare(turn(part, "hi")) for part in parts]
    whole += [model.prepare("hi", video=given) for given in (path, data, [path], {"video": data, "fps": 1})]
    whole += [model.prepare(turn({"type": "video", "fps": 1}, "hi"), video=data)]
    for inputs in whole:
        assert np.array_equal(inputs.input_ids, whole[0].input_ids)
        assert inputs.video[0].times == (0.0, 1.0, 2.0)
        for ours, theirs in zip(inputs.video[0].frames, whole[0].video[0].frames, strict=True):
            assert np.array_equal(ours.pixels, theirs.pixels)


def test_options(model: Any, data: bytes) -> None:
    inputs = model.prepare("hi", video={"video": data, "fps": 2, "sound": True, "max_soft_tokens": 140})
    check_counts = [frame.count for frame in inputs.video[0].frames]
    assert inputs.video[0].times == (0.0, 0.5, 1.0, 1.5, 2.0, 2.5)
    assert all(70 < count <= 140 for count in check_counts)
    assert inputs.video[0].sound is inputs.audio[0] and inputs.audio[0].seconds == 2.0
    last = inputs.video[0].frames[-1]
    assert inputs.audio[0].start == last.start + last.count + 2  # <image|>, <|audio>
    pictures = model.prepare("hi", images=PICTURE, video=(FRAMES, [0, 1, 2]), max_soft_tokens=280)
    assert pictures.images[0].count > 140 and all(frame.count <= 70 for frame in pictures.video[0].frames)


def test_budget_of_the_checkpoint(tmp_path: Path) -> None:
    def loaded(**fields: int) -> Any:
        name = "_".join(f"{key}_{value}" for key, value in fields.items())
        return gemma4.Model.from_pretrained(demo_with(tmp_path / name, processor={"video_processor": fields}))

    for budget, low in ((140, 70), (70, 0)):
        inputs = loaded(max_soft_tokens=budget).prepare("hi", video=(FRAMES, [0, 1, 2]))
        assert low < inputs.video[0].frames[0].count <= budget
    with pytest.raises(ModelFileError, match="patch_size"):
        loaded(patch_size=5)


def test_keyword_order(model: Any, data: bytes) -> None:
    """Pictures, videos with their sound, sounds, text."""
    messages = normalize("hi", [PICTURE], [tone(2_000)], [{"video": data, "sound": True}, (FRAMES, [0, 1, 2])])
    kinds = [part["type"] for part in messages.messages[0]["content"]]
    assert kinds == ["image", "video", "audio", "video", "audio", "text"]
    inputs = model.prepare(
        "hi", images=PICTURE, audio=tone(2_000), video=[{"video": data, "sound": True}, (FRAMES, [0, 1, 2])]
    )
    check_places(model, inputs)
    assert [one.seconds for one in inputs.audio] == [2.0, 0.125]
    first, second = inputs.video
    assert inputs.images[0].start < first.frames[0].start < inputs.audio[0].start < second.frames[0].start
    assert second.frames[-1].start < inputs.audio[1].start


def test_sound_goes_into_its_own_place(model: Any, data: bytes) -> None:
    """An empty audio part stays a place for `audio=`; earlier turns keep theirs."""
    messages = [
        *turn({"type": "audio", "audio": tone(1_000)}, {"type": "video", "video": data, "sound": True}),
        {"role": "assistant", "content": "yes"},
        *turn({"type": "audio"}, {"type": "video", "sound": True}, "and"),
    ]
    inputs = model.prepare(messages, audio=tone(3_000), video=data)
    assert [round(one.seconds * 16_000) for one in inputs.audio] == [1_000, 32_000, 3_000, 32_000]
    assert [video.sound for video in inputs.video] == [inputs.audio[1], inputs.audio[3]]


def test_generate_and_stream_agree(model: Any, data: bytes) -> None:
    whole = model.generate("What happens?", video=data, **GREEDY)
    assert "".join(chunk.text for chunk in model.stream("What happens?", video=data, **GREEDY)) == whole.text
    prepared = model.prepare("What happens?", video=data)
    again = model.generate(prepared, **GREEDY)
    assert np.array_equal(again.token_ids, whole.token_ids)
    assert again.usage == whole.usage
    with pytest.raises(RequestError, match="video: the prompt is prepared already"):
        model.generate(prepared, video=data)


def test_typed_placeholders_are_text(model: Any) -> None:
    inputs = model.prepare(turn("<|video|> 00:07 <|image>", GIVEN, "<|video|>"))
    check_places(model, inputs)
    assert len(inputs.video[0].frames) == 3
    with pytest.raises(RequestError, match="video placeholders"):
        model.forward([2, model.config["video_token_id"]])


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_models_that_cannot(tmp_path: Path, data: bytes) -> None:
    deaf = gemma4.Model.from_pretrained(write_deaf_model(tmp_path / "deaf"))
    assert len(deaf.prepare("hi", video=data).video[0].frames) == 3
    with pytest.raises(MediaError, match="no audio"):
        deaf.prepare("hi", video={"video": data, "sound": True})
    silent = changed(tmp_path / "no token", video_token_id=None)
    with pytest.raises(ModelFileError, match="video_token_id: missing"):
        silent.generate("hi", video=data)


def test_a_model_without_eyes(model: Any, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    blind = SimpleNamespace(grid=None, image=None, audio=None, video=None)
    monkeypatch.setattr(model._runtime.loaded.processor, "_config", blind)
    with pytest.raises(RequestError, match="no vision: it cannot take videos"):
        model.prepare("hi", video=data)


BAD_PARTS: dict[str, tuple[dict[str, Any], str]] = {
    "two sources": ({"type": "video", "video": b"x", "path": "y"}, "both given"),
    "unknown field": ({"type": "video", "video": b"x", "detail": "low"}, "detail"),
    "unknown field inside": ({"type": "video", "video": {"video": b"x", "start": 3}}, "start"),
    "nothing inside": ({"type": "video", "video": {"fps": 3}}, "expected one of"),
    "no url": ({"type": "video_url"}, "video_url"),
    "unknown inner field": ({"type": "video_url", "video_url": {"url": "x", "detail": "low"}}, "detail"),
    "an address": ({"type": "video_url", "video_url": "https://a.b/c.mp4"}, "URLs are not fetched"),
    "no video for it": ({"type": "video"}, "1 video parts carry no video, 0 were given"),
    "fps": ({"type": "video", "video": b"x", "fps": -1}, "fps"),
    "sound": ({"type": "video", "video": b"x", "sound": "yes"}, "sound"),
    "sound of frames": ({**GIVEN, "sound": True}, "sound: frames carry none"),
    "budget": ({"type": "video", "video": b"x", "max_soft_tokens": 100}, "max_soft_tokens"),
    "both": ({"type": "video", "video": b"x", "fps": 1, "num_frames": 3}, "both given"),
}


@pytest.mark.parametrize("name", BAD_PARTS)
def test_bad_parts(name: str, model: Any) -> None:
    part, expected = BAD_PARTS[name]
    with pytest.raises(RequestError, match=expected):
        model.prepare(turn(part, "hi"))


def test_more_videos_than_places(model: Any, data: bytes) -> None:
    with pytest.raises(RequestError, match="video: 1 video parts carry no video, 2 were given"):
        model.prepare(turn({"type": "video"}, "hi"), video=[data, data])
    with pytest.raises(RequestError, match=r"video\[1\]: expected a video, found None"):
        model.prepare("hi", video=[data, None])


def test_no_sound_track(model: Any) -> None:
    with pytest.raises(MediaError, match="sound was asked for, but it has no sound track"):
        model.prepare("hi", video={"video": film(constant(1)), "sound": True})


def test_too_many_frames_are_refused_after_the_first(model: Any) -> None:
    made = []

    def frames() -> Any:
        for _ in range(5_000):
            made.append(1)
            yield PICTURE

    with pytest.raises(ContextLengthError, match=r"5000 frames of \d+ soft tokens do not fit"):
        model.prepare("hi", video=(frames(), range(5_000)))
    assert len(made) == 1


def test_bad_clips_name_the_file(model: Any, data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "cut.mkv"
    path.write_bytes(data[: len(data) // 2])
    control = model.generate("hi", **GREEDY).token_ids
    for call in (model.prepare, model.generate):
        with pytest.raises(MediaError, match=r"cut\.mkv.*truncated"):
            call("hi", video=path)
    assert np.array_equal(model.generate("hi", **GREEDY).token_ids, control)


def test_palette() -> None:
    """The tests tell seconds apart by colours; these are far from each other."""
    distances = np.abs(PALETTE[:, None].astype(int) - PALETTE[None]).max(-1)
    assert distances[~np.eye(len(PALETTE), dtype=bool)].min() > 100
