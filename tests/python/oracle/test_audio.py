"""Hearing against the reference: frames, soft tokens and logits for every length, alone and beside other media."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import gemma4
import numpy as np
import pytest
import torch
from gemma4.media.mel import FrontEnd, token_count
from numpy.typing import NDArray
from transformers import Gemma4AudioFeatureExtractor

from .audio_variants import AUDIO_VARIANTS
from .checkpoints import write_checkpoint
from .engine import Floats
from .prompts import picture, text_ids
from .reference import Reference
from .tiny_tokenizer import IDS
from .tolerance import PROMISED, assert_close, relative_error

TINY = [name for name in AUDIO_VARIANTS if name != "audio-full"]
# Where the number of frames, of frames after the first convolution, or of soft tokens changes, and around it.
EDGES = sorted(
    {at + step for at in (161, 321, 481, 641, 801, 1_281, 1_441, 2_081, 3_841) for step in (-1, 0, 1)} - {160}
)
SECONDS = (16_000, 7 * 16_000, 479_840, 480_000)  # 1 s, 7 s, 29.99 s, 30 s


def sound(samples: int) -> Floats:
    """Noise over a chirp, about as loud as speech."""
    rng, t = np.random.default_rng(samples), np.arange(samples) / 16_000
    return (0.3 * np.sin(2 * np.pi * (300 + 200 * t) * t) + rng.normal(0, 0.05, samples)).astype(np.float32)


class AudioReference(Reference):
    """The reference with its feature extractor."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        bins = self.model.config.audio_config.subsampling_conv_channels[0] // 4 * 4
        self.extractor = Gemma4AudioFeatureExtractor(feature_size=bins)

    def features(self, sounds: Sequence[Floats]) -> dict[str, torch.Tensor]:
        """Padded frames and their mask."""
        return dict(self.extractor(list(sounds), return_tensors="pt"))

    @torch.no_grad()
    def audio_tokens(self, samples: Floats) -> Floats:
        """(n, text hidden)"""
        features = self.features([samples])
        out = self.model.model.get_audio_features(*features.values(), return_dict=True)
        return out.pooler_output[out.attention_mask].numpy()

    @torch.no_grad()
    def heard_logits(self, ids: NDArray[np.int32], sounds: Sequence[Floats], images: Sequence[Any] = ()) -> Floats:
        """(T, vocab) of a prompt whose placeholders are in place."""
        inputs = self.inputs(ids, images, 70)
        return self.model(**inputs, **self.features(sounds)).logits[0].numpy()


def placeholders(mask: NDArray[np.bool_]) -> int:
    """As the reference's processor counts them: the mask through two halvings."""
    for _ in range(2):
        mask = mask[::2][: (len(mask) + 2 - 3) // 2 + 1]
    return int(mask.sum())


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], tuple[gemma4.Model, AudioReference]]]:
    """name -> the engine with an exact cache, and the reference."""

    @cache
    def make(name: str) -> tuple[gemma4.Model, AudioReference]:
        directory = write_checkpoint(tmp_path_factory.mktemp(name), AUDIO_VARIANTS[name])
        model = gemma4.Model.from_pretrained(directory, kv_cache="f32", num_threads=2)
        return model, AudioReference(directory)

    yield make
    make.cache_clear()


def prompt(count: int) -> NDArray[np.int32]:
    """Text, one sound of `count` soft tokens, text."""
    variant = AUDIO_VARIANTS["audio-small"]
    run = [IDS["<|audio>"], *[IDS["<|audio|>"]] * count, IDS["<audio|>"]]
    return np.concatenate([text_ids(variant, 7), np.array(run, np.int32), text_ids(variant, 6, seed=1)[1:]])


def heard(model: gemma4.Model, samples: Floats) -> Floats:
    """(T, vocab) of the engine for `prompt`."""
    inputs = model.prepare([{"role": "user", "content": [{"type": "audio", "audio": samples}]}])
    (clip,) = inputs.audio
    return model.forward(replace(inputs, input_ids=prompt(clip.count), audio=(replace(clip, start=8),)))


# -- frames ------------------------------------------------------------------------------------------------------------


def check_frames(samples: Floats, bins: int) -> None:
    """Equal where the reference's mask is set, and as many; its placeholders are our soft tokens."""
    ours = FrontEnd(bins).log_mel(samples)
    done = Gemma4AudioFeatureExtractor(feature_size=bins)([samples], return_tensors="np")
    frames, mask = done["input_features"][0], done["input_features_mask"][0]
    assert not frames[~mask].any()
    assert ours.shape == (mask.sum(), bins)
    assert placeholders(mask) == token_count(len(samples))
    np.testing.assert_allclose(ours, frames[mask], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bins", [128, 80])
def test_frames(bins: int) -> None:
    for count in [*EDGES, 4_000, *SECONDS]:
        check_frames(sound(count), bins)
    check_frames(np.zeros(5_000, np.float32), bins)


@pytest.mark.slow
def test_frames_of_every_length() -> None:
    for count in range(129, 4_001):  # of fewer samples the reference makes no frame, and fails
        check_frames(sound(4_000)[:count], 128)


# -- soft tokens -------------------------------------------------------------------------------------------------------


def check_soft_tokens(model: gemma4.Model, reference: AudioReference, samples: Floats) -> None:
    ours, theirs = model.encode_audio(samples), reference.audio_tokens(samples)
    assert len(ours) == len(theirs) == token_count(len(samples))
    assert_close(ours, theirs)


@pytest.mark.parametrize("name", TINY)
def test_soft_tokens(load: Callable[[str], tuple[gemma4.Model, AudioReference]], name: str) -> None:
    for count in [*EDGES, 4_000, *SECONDS]:
        check_soft_tokens(*load(name), sound(count))


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_soft_tokens_of_every_length(load: Callable[[str], tuple[gemma4.Model, AudioReference]], name: str) -> None:
    for count in range(161, 4_001):
        check_soft_tokens(*load(name), sound(4_000)[:count])


@pytest.mark.slow
def test_soft_tokens_of_a_layer_of_the_published_size(
    load: Callable[[str], tuple[gemma4.Model, AudioReference]],
) -> None:
    for count in (161, 4_000, *SECONDS):
        check_soft_tokens(*load("audio-full"), sound(count))


def test_no_sound_no_tokens(load: Callable[[str], tuple[gemma4.Model, AudioReference]]) -> None:
    """Of 129 to 160 samples the reference makes one frame, and masks it."""
    model, reference = load("audio-small")
    for count in (129, 160):
        assert len(model.encode_audio(sound(count))) == len(reference.audio_tokens(sound(count))) == 0


# -- logits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TINY)
def test_logits(load: Callable[[str], tuple[gemma4.Model, AudioReference]], name: str) -> None:
    model, reference = load(name)
    for count in (161, 640, 642, 4_000, 16_000):
        assert_close(heard(model, sound(count)), reference.heard_logits(prompt(token_count(count)), [sound(count)]))


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_logits_of_long_sounds(load: Callable[[str], tuple[gemma4.Model, AudioReference]], name: str) -> None:
    model, reference = load(name)
    for count in [*EDGES, *SECONDS]:
        assert_close(heard(model, sound(count)), reference.heard_logits(prompt(token_count(count)), [sound(count)]))


@pytest.mark.parametrize("name", TINY)
def test_two_sounds_and_a_picture(load: Callable[[str], tuple[gemma4.Model, AudioReference]], name: str) -> None:
    """The reference pads both sounds to the longer one and masks the rest."""
    model, reference = load(name)
    first, second, image = sound(3_000), sound(21_111), picture(62, 85)
    content: list[dict[str, Any]] = [
        {"type": "audio", "audio": first},
        {"type": "text", "text": "between"},
        {"type": "image", "image": image},
        {"type": "audio", "audio": second},
        {"type": "text", "text": "what"},
    ]
    inputs = model.prepare([{"role": "user", "content": content}], max_soft_tokens=70)
    assert [clip.count for clip in inputs.audio] == [token_count(3_000), token_count(21_111)]
    assert (inputs.input_ids == IDS["<|audio|>"]).sum() == sum(clip.count for clip in inputs.audio)
    expected = reference.heard_logits(inputs.input_ids, [first, second], [image])
    assert_close(model.forward(inputs), expected)
    swapped = reference.heard_logits(inputs.input_ids, [first, second[::-1].copy()], [image])
    assert relative_error(swapped[-1:], expected[-1:]) > 20 * PROMISED


# -- the checkpoints themselves ----------------------------------------------------------------------------------------

ABLATIONS = {
    "per-dimension scale": ("per_dim_scale", 0.0),
    "relative positions": ("relative_k_proj.weight", 0.0),
    "depthwise convolution": ("depthwise_conv1d.weight", 0.2),
    "norm before attention": ("norm_pre_attn.weight", 1.0),
    "norm after attention": ("norm_post_attn.weight", 1.0),
    "last norm": ("norm_out.weight", 1.0),
    "layer norm": ("layer1.norm.weight", 1.0),
    "bias": ("output_proj.bias", 0.0),
    "lower input bound": ("audio_tower.layers.0.self_attn.q_proj.input_min", -float("inf")),
    "upper output bound": ("audio_tower.layers.0.lconv1d.linear_start.output_max", float("inf")),
}


@pytest.mark.parametrize("what", ABLATIONS)
def test_mechanism_matters(load: Callable[[str], tuple[gemma4.Model, AudioReference]], what: str) -> None:
    """Switching it off moves the soft tokens by much more than is promised, so the comparisons above prove it."""
    _, reference = load("audio-small")
    suffix, value = ABLATIONS[what]
    model = reference.model
    found = [t for n, t in [*model.named_parameters(), *model.named_buffers()] if n.endswith(suffix)]
    whole, kept = reference.audio_tokens(sound(16_000)), [tensor.clone() for tensor in found]
    assert found
    with torch.no_grad():
        for tensor in found:
            tensor.fill_(value)
        without = reference.audio_tokens(sound(16_000))
        for tensor, old in zip(found, kept, strict=True):
            tensor.copy_(old)
    assert relative_error(without, whole) > 20 * PROMISED
