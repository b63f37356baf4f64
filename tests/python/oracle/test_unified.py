"""The unified model, which has no encoders, against the reference: pixels, soft tokens, logits, answers."""

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import gemma4
import numpy as np
import pytest
import torch
from gemma4 import _core
from gemma4.config import parse_config
from gemma4.errors import MediaError, ModelFileError, RequestError
from gemma4.media import pictures
from safetensors.torch import load_file, save_file

from .engine import prefill, soft_of
from .prompts import image_prompt, picture, text_ids
from .test_audio import sound
from .tiny_tokenizer import IDS
from .tolerance import PROMISED, VISION_ROUNDING, assert_close, relative_error
from .unified import OTHER, UNIFIED, UNIFIED_VARIANTS, UnifiedReference, write_unified

BUDGETS = (70, 140, 280, 560, 1120)
# As in test_vision.py, and one of the exact size that no resize touches.
SHAPES = ((61, 83), (3, 5), (30, 90), (93, 31), (1, 1000), (997, 2), (56, 72))
NAMES = list(UNIFIED_VARIANTS)
Pair = tuple[gemma4.Model, UnifiedReference]
Load = Callable[..., Pair]


def engine(directory: Path) -> gemma4.Model:
    return gemma4.Model.from_pretrained(directory, kv_cache="f32", num_threads=2)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """(name, dtype) -> directory; each is written once."""

    @cache
    def make(name: str, dtype: str = "F32") -> Path:
        return write_unified(tmp_path_factory.mktemp(f"{name}-{dtype}"), UNIFIED_VARIANTS[name], dtype)

    return make


@pytest.fixture(scope="module")
def load(checkpoint: Callable[..., Path]) -> Iterator[Load]:
    """(name, dtype) -> the engine with an exact cache, and the reference."""

    @cache
    def make(name: str, dtype: str = "F32") -> Pair:
        directory = checkpoint(name, dtype)
        return engine(directory), UnifiedReference(directory)

    yield make
    make.cache_clear()


# -- pixels ------------------------------------------------------------------------------------------------------------


def test_resize_is_torchs() -> None:
    """Bit for bit, up and down, along one axis and along both."""
    sizes = ((61, 83), (84, 108), (997, 2), (840, 12), (600, 455), (120, 60), (30, 30), (30, 90), (90, 30), (1, 1))
    for shape in sizes:
        image = picture(*shape)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
        for size in sizes:
            expected = torch.nn.functional.interpolate(pixels, size=size, mode="bicubic", antialias=True)
            assert np.array_equal(pictures.resize(np.asarray(image), size), expected[0].permute(1, 2, 0).numpy()), size


# -- soft tokens -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("budget", BUDGETS)
def test_pictures(load: Load, name: str, budget: int) -> None:
    """From the picture through our resize to text space."""
    model, reference = load(name)
    for shape in SHAPES:
        image = picture(*shape)
        ours = model.encode_image(image, max_soft_tokens=budget)
        assert len(ours) <= budget
        assert_close(ours, reference.soft_tokens(image, budget), VISION_ROUNDING)


@pytest.mark.parametrize("name", NAMES)
def test_sounds_of_every_length(load: Load, name: str) -> None:
    """The last frame is filled up with silence; a soft token for every begun frame."""
    model, reference = load(name)
    frame = (UNIFIED_VARIANTS[name].audio or {})["audio_embed_dim"]
    whole = sound(4_000)
    for count in range(1, 4_001):
        ours = model.encode_audio(whole[:count])
        assert len(ours) == -(-count // frame)
        assert_close(ours, reference.audio_tokens(whole[:count]), VISION_ROUNDING)


@pytest.mark.parametrize("name", NAMES)
def test_long_sounds(load: Load, name: str) -> None:
    model, reference = load(name)
    for count in (16_000, 7 * 16_000, 479_999, 480_000):
        assert_close(model.encode_audio(sound(count)), reference.audio_tokens(sound(count)), VISION_ROUNDING)
    with pytest.raises(MediaError, match="30 s"):
        model.encode_audio(sound(480_001))
    assert not model.encode_audio(np.zeros(1_280, np.float32)).any()


@pytest.mark.parametrize("name", NAMES)
def test_placeholders_are_soft_tokens(load: Load, name: str) -> None:
    """For every length, what `prepare` leaves room for is what the engine makes."""
    model, _ = load(name)
    for count in [*range(1, 4_001, 37), 639, 640, 641, 1_279, 1_280, 1_281]:
        inputs = model.prepare([{"role": "user", "content": [{"type": "audio", "audio": sound(count)}]}])
        (clip,) = inputs.audio
        assert (inputs.input_ids == IDS["<|audio|>"]).sum() == clip.count == len(model.encode_audio(sound(count)))


# -- logits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_text(load: Load, name: str) -> None:
    """Around the window: K = V, proportional rotation, shared keys, wide MLPs, as the config says."""
    model, reference = load(name)
    window = UNIFIED_VARIANTS[name].window
    for count in (1, window - 1, window, window + 1, window + 150):
        ids = text_ids(UNIFIED_VARIANTS[name], count, seed=5)
        assert_close(model.forward(ids), reference.logits(ids))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_pictures_and_sounds_in_one_prompt(load: Load, name: str, dtype: str) -> None:
    """Through `prepare` and `forward`; the reference widens the same rounded weights."""
    model, reference = load(name, dtype)
    images, sounds = [picture(33, 47, seed=5), picture(64, 21, seed=6)], [sound(3_000), sound(1_281)]
    content: list[dict[str, Any]] = [
        {"type": "text", "text": "look "},
        {"type": "image", "image": images[0]},
        {"type": "audio", "audio": sounds[0]},
        {"type": "text", "text": " and "},
        {"type": "image", "image": images[1]},
        {"type": "audio", "audio": sounds[1]},
        {"type": "text", "text": "what"},
    ]
    inputs = model.prepare([{"role": "user", "content": content}], max_soft_tokens=70)
    ids = np.asarray(inputs.input_ids)
    assert (ids == IDS["<|image|>"]).sum() == sum(reference.soft_token_count(image, 70) for image in images)
    assert (ids == IDS["<|audio|>"]).sum() == sum(len(reference.audio_tokens(clip)) for clip in sounds)
    expected = reference.media_logits(ids, images, sounds)
    assert_close(model.forward(inputs), expected)
    quiet = reference.media_logits(ids, images, [0 * clip for clip in sounds])
    assert relative_error(quiet[-1:], expected[-1:]) > 20 * PROMISED


@pytest.mark.parametrize("name", NAMES)
def test_two_pictures(load: Load, name: str) -> None:
    """One run longer than the window and one shorter, cut into every kind of chunk; where the config says so the
    tokens of a picture see each other both ways."""
    model, reference = load(name)
    variant = UNIFIED_VARIANTS[name]
    images = [picture(62, 85, seed=1), picture(9, 158, seed=2)]
    counts = [reference.soft_token_count(image, 70) for image in images]
    if variant.bidirectional:
        assert counts[0] > variant.window > counts[1]
    prompt = image_prompt(variant, images, counts)
    expected = reference.logits(prompt.ids, images, 70)
    for chunk in (1, 7, variant.window, 100, 512):
        assert_close(prefill(model, prompt.ids, soft_of(model, prompt), chunk), expected)
    reference.model.config.text_config.use_bidirectional_attention = None
    causal = reference.logits(prompt.ids, images, 70)
    reference.model.config.text_config.use_bidirectional_attention = "vision" if variant.bidirectional else None
    assert (relative_error(causal, expected) > 20 * PROMISED) == variant.bidirectional


def test_the_other_masks(load: Load, checkpoint: Callable[..., Path]) -> None:
    """The reference makes two kinds of masks for pictures (see `UnifiedReference.narrow_logits`). The engine follows
    the forward pass, which differs visibly, and computes the other kind where `whole_images` is off."""
    _, reference = load("12b")
    images = [picture(62, 85, seed=1), picture(9, 158, seed=2)]
    prompt = image_prompt(UNIFIED, images, [reference.soft_token_count(image, 70) for image in images])
    narrow = reference.narrow_logits(prompt.ids, images)
    assert relative_error(narrow, reference.logits(prompt.ids, images, 70)) > 20 * PROMISED
    model = engine(checkpoint("12b"))
    parsed = parse_config(json.loads((checkpoint("12b") / "config.json").read_text()))
    parsed.core.text.whole_images = False
    core = _core.Model(parsed.core, model._runtime.loaded.store, parsed.text_prefix, (), 1)
    soft = soft_of(model, prompt)
    for chunk in (7, 512):
        assert_close(core.sequence(512, "f32", chunk).prefill(prompt.ids, soft, "all"), narrow)


@pytest.mark.parametrize("name", NAMES)
def test_answers(load: Load, name: str) -> None:
    """Greedy tokens behind a picture and a sound."""
    model, reference = load(name)
    image, clip = picture(40, 52, seed=3), sound(2_000)
    inputs = model.prepare("what", images=[image], audio=[clip], max_soft_tokens=70)
    done = reference.model.generate(
        **reference.media(inputs.input_ids, [image], [clip]),
        max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    ours = model.generate(inputs, max_new_tokens=12, temperature=0, ignore_eos=True)
    assert list(ours.token_ids) == done[0, len(inputs) :].tolist()
    assert model.modalities == {"text", "image", "audio", "video"}


def test_text_only_checkpoint(load: Load, tmp_path: Path) -> None:
    model, reference = load("12b")
    from transformers import Gemma4UnifiedForCausalLM

    text = Gemma4UnifiedForCausalLM(reference.model.config.text_config)
    text.model.load_state_dict(reference.model.model.language_model.state_dict())
    text.save_pretrained(tmp_path)
    alone = engine(tmp_path)
    ids = text_ids(UNIFIED, 60)
    assert alone.modalities == {"text"}
    assert np.array_equal(alone.forward(ids), model.forward(ids))


# -- the checkpoints themselves ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "suffix",
    [
        "patch_ln1.weight", "patch_ln1.bias", "patch_dense.bias", "patch_ln2.weight", "patch_ln2.bias",
        "pos_norm.weight", "pos_norm.bias", "pos_embedding",
    ],
)  # fmt: skip
def test_mechanism_matters(load: Load, suffix: str) -> None:
    """Switching it off moves the soft tokens by much more than is promised, so the comparisons above prove it."""
    _, reference = load("12b")
    (found,) = [tensor for name, tensor in reference.model.named_parameters() if name.endswith(suffix)]
    whole, kept = reference.soft_tokens(picture(61, 83), 70), found.detach().clone()
    with torch.no_grad():
        found.fill_(1.0 if suffix.endswith("weight") else 0.0)
        without = reference.soft_tokens(picture(61, 83), 70)
        found.copy_(kept)
    assert relative_error(without, whole) > 20 * PROMISED


PUBLISHED = ("model.vision_embedder.patch_dense.weight", "model.embed_vision.embedding_projection.weight")
MODULES = {
    "model.embed_vision.embedding_projection": "model.embed_vision.multimodal_embedder.embedding_projection",
    "model.vision_embedder.": "model.embed_vision.",
}


def rewritten(source: Path, directory: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
    """A copy of a checkpoint with other tensors."""
    for file in source.iterdir():
        if file.suffix != ".safetensors":
            (directory / file.name).write_bytes(file.read_bytes())
    tensors = load_file(source / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    return directory


def test_both_spellings_of_names(load: Load, checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """`save_pretrained` gives the published names; those of the reference's modules are read too, as it does."""
    model, _ = load("12b")
    assert all(name in model.tensors for name in PUBLISHED)

    def rename(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            for old, new in MODULES.items():
                if name.startswith(old):
                    tensors[name.replace(old, new)] = tensors.pop(name)
                    break

    other = engine(rewritten(checkpoint("12b"), tmp_path, rename))
    assert not any(name in other.tensors for name in PUBLISHED)
    assert np.array_equal(other.encode_image(picture(9, 9)), model.encode_image(picture(9, 9)))


@pytest.mark.parametrize(
    "name",
    [
        *PUBLISHED, "model.vision_embedder.patch_ln1.bias", "model.vision_embedder.patch_ln2.weight",
        "model.vision_embedder.patch_dense.bias", "model.vision_embedder.pos_embedding",
        "model.vision_embedder.pos_norm.bias", "model.embed_audio.embedding_projection.weight",
    ],
)  # fmt: skip
def test_wrong_tensors_are_named(checkpoint: Callable[..., Path], tmp_path: Path, name: str) -> None:
    def broken(kind: str, change: Callable[[dict[str, torch.Tensor]], Any], what: str) -> None:
        (tmp_path / kind).mkdir()
        directory = rewritten(checkpoint("12b"), tmp_path / kind, change)
        with pytest.raises(ModelFileError) as caught:
            engine(directory)
        assert kind in str(caught.value) and what in str(caught.value)

    broken("missing", lambda tensors: tensors.pop(name), name)
    broken("mis-shaped", lambda tensors: tensors.update({name: tensors[name][..., :-1].contiguous()}), name)
    (tmp_path / "unknown").mkdir()
    more = rewritten(checkpoint("12b"), tmp_path / "unknown", lambda t: t.update({name + "2": torch.zeros(3)}))
    with pytest.warns(RuntimeWarning, match=name + "2"):
        engine(more)


def test_without_eyes_or_ears(load: Load, checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """Each may be absent; the errors say so."""
    config = json.loads((checkpoint("12b") / "config.json").read_text())

    def drop(*prefixes: str) -> Callable[[dict[str, torch.Tensor]], Any]:
        return lambda tensors: [tensors.pop(name) for name in list(tensors) if name.startswith(prefixes)]

    eyes = ("model.vision_embedder.", "model.embed_vision.")
    for name, field, prefixes in (("blind", "vision_config", eyes), ("deaf", "audio_config", ("model.embed_audio.",))):
        (tmp_path / name).mkdir()
        directory = rewritten(checkpoint("12b"), tmp_path / name, drop(*prefixes))
        (directory / "config.json").write_text(json.dumps({**config, field: None}))
        model = engine(directory)
        if name == "blind":
            assert model.modalities == {"text", "audio"}
            with pytest.raises(RequestError, match="no vision"):
                model.encode_image(picture(5, 5))
            with pytest.raises(RequestError, match="no vision"):
                model.generate("what", images=[picture(5, 5)])
        else:
            assert model.modalities == {"text", "image", "video"}
            with pytest.raises(MediaError, match="no audio"):
                model.encode_audio(sound(700))
            with pytest.raises(MediaError, match="no audio"):
                model.generate("what", audio=[sound(700)])


def test_pictures_beyond_the_positions(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """A table for fewer places than the budget has."""
    name = "model.vision_embedder.pos_embedding"
    short = rewritten(checkpoint("12b"), tmp_path, lambda tensors: tensors.update({name: tensors[name][:69].clone()}))
    config = json.loads((short / "config.json").read_text())
    config["vision_config"]["mm_posemb_size"] = 69
    (short / "config.json").write_text(json.dumps(config))
    model = engine(short)
    assert len(model.encode_image(picture(10, 10), max_soft_tokens=70)) == 64
    with pytest.raises(MediaError, match="positions"):
        model.encode_image(picture(1, 1000), max_soft_tokens=70)


def test_processor_must_fit(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    directory = rewritten(checkpoint("12b"), tmp_path, lambda tensors: None)
    settings = json.loads((directory / "processor_config.json").read_text())
    for part, field, value in (
        ("image_processor", "patch_size", 5),
        ("feature_extractor", "audio_samples_per_token", 320),
        ("feature_extractor", "sampling_rate", 8_000),
    ):
        changed = {**settings, part: {**settings[part], field: value}}
        (directory / "processor_config.json").write_text(json.dumps(changed))
        with pytest.raises(ModelFileError, match=field):
            engine(directory)


def test_other_variant_is_other() -> None:
    """The second shape says no to what the first says yes to."""
    assert UNIFIED.bidirectional and not OTHER.bidirectional
    assert UNIFIED.text["attention_k_eq_v"] and "attention_k_eq_v" not in OTHER.text
    assert OTHER.text["num_kv_shared_layers"] and OTHER.text["use_double_wide_mlp"]
