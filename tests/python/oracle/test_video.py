"""Video against the reference: its prompt, soft tokens and logits, alone and beside other media.

The frames of the reference go through its image processor as pictures do, for its video processor needs torchvision
(`test_resizing.py` compares with what that gives).
"""

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gemma4
import numpy as np
import pytest
import torch
from gemma4.media.mel import token_count
from gemma4.media.video import choose
from numpy.typing import NDArray
from PIL import Image
from transformers import AutoTokenizer
from transformers.models.gemma4.processing_gemma4 import Gemma4Processor
from transformers.video_utils import VideoMetadata, default_sample_indices_fn

from .audio_variants import AUDIO_VARIANTS
from .checkpoints import write_checkpoint
from .engine import Floats
from .prompts import picture
from .reference import Ids
from .test_audio import AudioReference, sound
from .tiny_tokenizer import IDS
from .tolerance import PROMISED, VISION_ROUNDING, assert_close, relative_error
from .variants import VARIANTS, Variant

# An E2B with ears, and a shape whose frames see each other both ways.
SHAPES: dict[str, Variant] = {"audio-small": AUDIO_VARIANTS["audio-small"], "31b": VARIANTS["31b"]}
TIMES = (0.0, 1.5, 61.0)


def frames(seed: int, count: int = 3, height: int = 44, width: int = 62) -> list[Image.Image]:
    return [picture(height, width, seed=10 * seed + k) for k in range(count)]


class VideoReference(AudioReference):
    """The reference with videos in its prompts."""

    def __init__(self, directory: Path) -> None:
        if "audio" in directory.name:
            super().__init__(directory)
        else:
            super(AudioReference, self).__init__(directory)
        self.tokenizer = AutoTokenizer.from_pretrained(directory)

    def expanded(self, rendered: str, videos: Sequence[Any], counts: Sequence[int], others: dict[str, Any]) -> Ids:
        """Ids of a rendered template as the reference's processor expands it."""
        processor = object.__new__(Gemma4Processor)
        names = {"boi_token": "<|image>", "image_token": "<|image|>", "eoi_token": "<image|>", "boa_token": "<|audio>",
                 "audio_token": "<|audio|>", "eoa_token": "<audio|>", "video_token": "<|video|>"}  # fmt: skip
        vars(processor).update(names)
        metadata = [  # whole places at a rate of ten: the reference writes a time as place / rate
            VideoMetadata(total_num_frames=1000, fps=10, frames_indices=[round(10 * at) for at in times])
            for _, times in videos
        ]
        inputs = {"num_soft_tokens_per_video": counts, "video_metadata": metadata}
        written = [processor.replace_video_token(inputs, index) for index in range(len(videos))]
        images = [
            processor.replace_image_token({"num_soft_tokens_per_image": others["images"]}, index)
            for index in range(len(others.get("images", ())))
        ]
        masks = [self.features([samples])["input_features_mask"][0] for samples in others.get("sounds", ())]
        sounds = [processor.replace_audio_token({"input_features_mask": [mask]}, 0) for mask in masks]
        (text,), _ = processor.get_text_with_replacements([rendered], images, written, sounds)
        return np.array(self.tokenizer(text, add_special_tokens=False)["input_ids"], np.int32)

    @torch.no_grad()
    def watched_logits(
        self, ids: Ids, videos: Sequence[Any], sounds: Sequence[Floats] = (), images: Sequence[Any] = ()
    ) -> Floats:
        """(T, vocab) of a prompt whose placeholders are in place."""
        inputs = self.inputs(ids, images, 70)
        kinds = (inputs["input_ids"] == IDS["<|image|>"]).long() + 2 * (inputs["input_ids"] == IDS["<|video|>"]).long()
        inputs["mm_token_type_ids"] = kinds + 3 * (inputs["input_ids"] == IDS["<|audio|>"]).long()
        if videos:
            pixels = self.pixels([frame for taken, _ in videos for frame in taken], 70)
            inputs["pixel_values_videos"] = pixels["pixel_values"]
            inputs["video_position_ids"] = pixels["image_position_ids"]
            inputs["num_frames_per_video"] = torch.tensor([len(taken) for taken, _ in videos])
        return self.model(**inputs, **(self.features(sounds) if sounds else {})).logits[0].numpy()


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], tuple[gemma4.Model, VideoReference]]]:
    """name -> the engine with an exact cache, and the reference."""

    @cache
    def make(name: str) -> tuple[gemma4.Model, VideoReference]:
        directory = write_checkpoint(tmp_path_factory.mktemp(name), SHAPES[name])
        return gemma4.Model.from_pretrained(directory, kv_cache="f32", num_threads=2), VideoReference(directory)

    yield make
    make.cache_clear()


def user(*parts: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "text", "text": p} if isinstance(p, str) else p for p in parts]}]


def clip(seed: int, times: Sequence[float] = TIMES, **options: Any) -> dict[str, Any]:
    return {"type": "video", "video": (frames(seed, len(times)), list(times)), **options}


def rendered(reference: VideoReference, messages: list[dict[str, Any]]) -> str:
    plain = [{"role": "user", "content": [{k: v for k, v in p.items() if k in ("type", "text")} for p in m["content"]]}
             for m in messages]  # fmt: skip
    return reference.tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=True)


def check_counts(model: gemma4.Model, inputs: Any) -> None:
    """Every placeholder is covered by one soft token, and none by two."""
    ids = np.asarray(inputs.input_ids)
    clips = [frame for video in inputs.video for frame in video.frames]
    for token, media in (("<|image|>", inputs.images), ("<|video|>", clips), ("<|audio|>", inputs.audio)):
        covered = sorted(place for one in media for place in range(one.start, one.start + one.count))
        assert covered == np.flatnonzero(ids == IDS[token]).tolist()
    for picture_ in (*inputs.images, *clips):
        end = picture_.start + picture_.count
        assert (ids[picture_.start - 1], ids[end]) == (IDS["<|image>"], IDS["<image|>"])


@pytest.mark.parametrize("name", SHAPES)
def test_three_frames(load: Callable[[str], tuple[gemma4.Model, VideoReference]], name: str) -> None:
    """Words right before the first time and behind the last frame: the times are tokenized with them."""
    model, reference = load(name)
    messages = user("look at 1", clip(1), "7 what is it")
    inputs = model.prepare(messages)
    check_counts(model, inputs)
    (video,) = inputs.video
    assert video.times == TIMES
    count = reference.soft_token_count(frames(1)[0], 70)
    videos = [(frames(1), TIMES)]
    expected = reference.expanded(rendered(reference, messages), videos, [count], {})
    assert inputs.input_ids.tolist() == expected.tolist()
    text = model.tokenizer.decode(inputs.input_ids, skip_special=False)
    assert "look at 100:00 <|image>" in text and " 00:01 <|image>" in text and " 01:01 <|image>" in text
    logits = reference.watched_logits(expected, videos)
    assert_close(model.forward(inputs), logits)
    swapped = reference.watched_logits(expected, [(frames(1)[::-1], TIMES)])
    assert relative_error(swapped[-1:], logits[-1:]) > 20 * PROMISED


def test_soft_tokens_are_those_of_pictures(load: Callable[[str], tuple[gemma4.Model, VideoReference]]) -> None:
    model, reference = load("31b")
    for height, width in ((44, 62), (7, 200), (90, 30)):
        (frame,) = frames(3, 1, height, width)
        inputs = model.prepare("hi", video=([frame], [0]))
        pixels = reference.pixels([frame], 70)
        with torch.no_grad():
            theirs = reference.model.model.get_video_features(
                pixels["pixel_values"], pixels["image_position_ids"], num_frames_per_video=torch.tensor([1])
            ).pooler_output[0].numpy()  # fmt: skip
        assert inputs.video[0].frames[0].count == len(theirs)
        assert_close(model.encode_image(frame, max_soft_tokens=70), theirs, VISION_ROUNDING)


def test_two_videos(load: Callable[[str], tuple[gemma4.Model, VideoReference]]) -> None:
    for name in SHAPES:
        model, reference = load(name)
        messages = user(clip(1, (0, 1, 2)), "and", clip(2, (0, 30)), "differ how")
        videos = [(frames(1), (0, 1, 2)), (frames(2, 2), (0, 30))]
        inputs = model.prepare(messages)
        check_counts(model, inputs)
        count = reference.soft_token_count(frames(1)[0], 70)
        expected = reference.expanded(rendered(reference, messages), videos, [count, count], {})
        assert inputs.input_ids.tolist() == expected.tolist()
        assert_close(model.forward(inputs), reference.watched_logits(expected, videos))


def test_video_beside_a_picture_and_a_sound(load: Callable[[str], tuple[gemma4.Model, VideoReference]]) -> None:
    model, reference = load("audio-small")
    image, heard = picture(62, 85, seed=4), sound(3_000)
    messages = user(
        "a", {"type": "audio", "audio": heard}, clip(5), {"type": "image", "image": image}, "b"
    )  # fmt: skip
    inputs = model.prepare(messages, max_soft_tokens=70)
    check_counts(model, inputs)
    videos = [(frames(5), TIMES)]
    counts = [reference.soft_token_count(frames(5)[0], 70)]
    others = {"images": [reference.soft_token_count(image, 70)], "sounds": [heard]}
    expected = reference.expanded(rendered(reference, messages), videos, counts, others)
    assert inputs.input_ids.tolist() == expected.tolist()
    assert_close(model.forward(inputs), reference.watched_logits(expected, videos, [heard], [image]))


def film_with_sound(samples: NDArray[np.float32], seconds: int = 3) -> bytes:
    from filming import film

    pictures = [np.asarray(frame) for frame in frames(6, seconds)]
    return film(range(seconds), "matroska", "ffv1", frames=pictures, pix_fmt="bgr0", rate=1, sound=(samples, 16_000))


def test_three_frames_and_their_sound(load: Callable[[str], tuple[gemma4.Model, VideoReference]]) -> None:
    """The sound stands right behind the frames, as where the reference loads it from the video."""
    model, reference = load("audio-small")
    samples = sound(21_111)
    messages = user(
        "a", {"type": "video", "video": film_with_sound(samples), "sound": True}, "b", {"type": "audio"}, "c"
    )  # fmt: skip
    inputs = model.prepare(messages, audio=sound(3_000))
    check_counts(model, inputs)
    assert [one.count for one in inputs.audio] == [token_count(21_111), token_count(3_000)]
    assert inputs.video[0].sound is inputs.audio[0]
    decoded = np.round(samples * 32_768).clip(-32_768, 32_767).astype(np.float32) / 32_768
    videos, sounds = [(frames(6), (0, 1, 2))], [decoded, sound(3_000)]
    template = rendered(reference, messages).replace("<|video|>", "<|video|><|audio|>")
    counts = [reference.soft_token_count(frames(6)[0], 70)]
    expected = reference.expanded(template, videos, counts, {"sounds": sounds})
    assert inputs.input_ids.tolist() == expected.tolist()
    # How a writer rounds to 16 bits is its own affair.
    assert_close(model.forward(inputs), reference.watched_logits(expected, videos, sounds), PROMISED)
    silent = model.prepare(user("a", {"type": "video", "video": film_with_sound(samples)}, "c"))
    assert silent.audio == () and (np.asarray(silent.input_ids) == IDS["<|audio|>"]).sum() == 0


def test_two_sounds_a_picture_and_a_video_with_sound(
    load: Callable[[str], tuple[gemma4.Model, VideoReference]],
) -> None:
    """Every order of the parts: the places belong to their media."""
    model, _ = load("audio-small")
    parts = {
        "image": {"type": "image", "image": picture(62, 85, seed=8)},
        "first": {"type": "audio", "audio": sound(2_000)},
        "second": {"type": "audio", "audio": sound(5_000)},
        "video": {"type": "video", "video": film_with_sound(sound(9_000)), "sound": True},
    }
    lengths = {"first": token_count(2_000), "second": token_count(5_000), "video": token_count(9_000)}
    for order in (("first", "video", "image", "second"), ("video", "second", "first", "image"),
                  ("image", "second", "first", "video")):  # fmt: skip
        inputs = model.prepare(user(*(parts[name] for name in order), "what"), max_soft_tokens=70)
        check_counts(model, inputs)
        assert [one.count for one in inputs.audio] == [lengths[name] for name in order if name in lengths]


def test_frames_are_those_of_the_reference() -> None:
    """At a constant rate: the reference's places for every length, rate and number."""
    for total in (1, 2, 7, 24, 30, 31, 59, 299, 300, 301):
        for rate in (5, 24, 25, 30, Fraction(30_000, 1001), 60):
            ticks = np.arange(total, dtype=np.int64)
            source: Any = SimpleNamespace(ticks=ticks, end=total, tick=1 / Fraction(rate))
            info = SimpleNamespace(total_num_frames=total, fps=Fraction(rate))
            for fps in (1, 2, Fraction(1, 2)):
                expected = default_sample_indices_fn(info, fps=fps)
                assert choose(source, fps, None) == expected.tolist(), (total, rate, fps)
            for count in (1, 3, 32):
                if count <= total:
                    expected = default_sample_indices_fn(info, num_frames=count)
                    assert choose(source, None, count) == expected.tolist()


def test_metadata_is_what_it_seems() -> None:
    """The comparison above depends on it: times are places over the rate."""
    metadata = VideoMetadata(total_num_frames=10, fps=10, frames_indices=[0, 15])
    assert metadata.timestamps == [0.0, 1.5]
    assert SimpleNamespace(**dict(metadata)).fps == 10
