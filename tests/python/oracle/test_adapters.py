"""Adapters that PEFT saved, against the reference with them merged into its weights."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gemma4
import numpy as np
import pytest
import torch
from gemma4.checkpoint import conversion

from .engine import core_of, soft_of
from .lora import EXPERTS, TEXT, adapted, renamed
from .prompts import Prompt, picture, text_ids
from .reference import Reference
from .test_audio import AudioReference, sound
from .tolerance import PROMISED, ROUNDING, assert_close, relative_error
from .unified import UNIFIED, UnifiedReference, write_unified
from .variants import VARIANTS, Variant


def load(checkpoint: Path, adapter: Any) -> gemma4.Model:
    return gemma4.Model.from_pretrained(checkpoint, kv_cache="f32", num_threads=2, adapter=adapter)


def core_adapter(model: gemma4.Model) -> Any:
    return model._runtime.adapters.chosen(None)


def matters(got: Any, expected: Any) -> None:
    """The adapter changes the result by far more than what is allowed to be wrong."""
    assert relative_error(got, expected) > 20 * PROMISED


def test_common_targets(variant: Variant, reference: Reference, checkpoint: Path, tmp_path: Path) -> None:
    """Rank 16 on all of the decoder's usual linears; every position, through the sliding window and shared layers."""
    merged = adapted(reference, tmp_path)
    model = load(checkpoint, tmp_path)
    ids = text_ids(variant, 100)
    expected = merged.logits(ids)
    assert_close(model.forward(ids), expected)
    matters(model.forward(ids, adapter=False), expected)


def test_experts(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """The fused parameters of all experts and the router; rows of many tokens, and one at a time."""
    checkpoint, variant = make_checkpoint("26b-a4b"), VARIANTS["26b-a4b"]
    targets = rf"{TEXT}|.*router\.proj"
    merged = adapted(Reference(checkpoint), tmp_path, target_modules=targets, target_parameters=EXPERTS)
    model = load(checkpoint, tmp_path)
    ids = text_ids(variant, 60)
    expected = merged.logits(ids)
    assert_close(model.forward(ids), expected)
    session = core_of(model).sequence(64, "f32", adapter=core_adapter(model))
    session.prefill(ids[:40], logits="none")
    assert_close([session.decode(int(token)).copy() for token in ids[40:]], expected[40:])


@pytest.mark.parametrize("parameter", EXPERTS)
def test_one_parameter_of_the_experts(parameter: str, make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    checkpoint, variant = make_checkpoint("26b-a4b"), VARIANTS["26b-a4b"]
    merged = adapted(Reference(checkpoint), tmp_path, target_modules=[], target_parameters=[parameter], r=4)
    ids = text_ids(variant, 30)
    assert_close(load(checkpoint, tmp_path).forward(ids), merged.logits(ids))


def test_all_linears(
    variant: Variant, reference: Reference, checkpoint: Path, two_images: Prompt, tmp_path: Path
) -> None:
    """Per-layer embeddings, the encoder, its way in and out: soft tokens too, and prompts that hold them."""
    merged = adapted(reference, tmp_path, target_modules="all-linear", r=8)
    model = load(checkpoint, tmp_path)
    image = picture(61, 83)
    assert_close(model.encode_image(image, 70), merged.soft_tokens(image, 70))
    matters(model.encode_image(image, 70, adapter=False), merged.soft_tokens(image, 70))
    soft = [
        gemma4._core.SoftTokens(begin, model.encode_image(image, 70), True)
        for (begin, _), image in zip(two_images.runs, two_images.images, strict=True)
    ]
    assert len(soft_of(model, two_images)) == len(soft)
    session = core_of(model).sequence(512, "f32", adapter=core_adapter(model))
    got = np.array(session.prefill(two_images.ids, soft, "all"))
    assert_close(got, merged.logits(two_images.ids, two_images.images, two_images.budget))


def test_ears(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    checkpoint = make_checkpoint("e2b")
    merged = adapted(AudioReference(checkpoint), tmp_path, target_modules="all-linear", r=8)
    assert isinstance(merged, AudioReference)
    model, heard = load(checkpoint, tmp_path), sound(20_000)
    assert_close(model.encode_audio(heard), merged.audio_tokens(heard))
    matters(model.encode_audio(heard, adapter=False), merged.audio_tokens(heard))


@pytest.mark.parametrize(
    "config",
    [
        pytest.param({"use_rslora": True}, id="rslora"),
        pytest.param({"use_dora": True}, id="dora"),
        pytest.param({"use_dora": True, "use_rslora": True, "target_modules": "all-linear", "r": 5}, id="dora-all"),
        pytest.param(
            {
                "rank_pattern": {"q_proj": 3, r"layers\.[0-4]\.mlp\.up_proj": 5, "layers.1.mlp.down_proj": 7},
                "alpha_pattern": {"model.language_model.layers.3.self_attn.o_proj": 90, r".*\.gate_proj": 3.5},
            },
            id="patterns",
        ),
        pytest.param({"target_modules": r".*language_model\.layers\.[14]\..*\.k_proj|lm_head"}, id="head"),
    ],
)
@pytest.mark.parametrize("name", ["e2b", "26b-a4b"])
def test_kinds(name: str, config: dict[str, Any], make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    checkpoint, variant = make_checkpoint(name), VARIANTS[name]
    merged = adapted(Reference(checkpoint), tmp_path, **config)
    ids = text_ids(variant, 60)
    assert_close(load(checkpoint, tmp_path).forward(ids), merged.logits(ids))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_formats(variant: Variant, reference: Reference, checkpoint: Path, dtype: str, tmp_path: Path) -> None:
    """The matrices are read as they are stored; the reference widens the same rounded numbers."""
    merged = adapted(reference, tmp_path, getattr(torch, dtype))
    ids = text_ids(variant, 40)
    assert_close(load(checkpoint, tmp_path).forward(ids), merged.logits(ids))


def test_beside_weights_of_other_formats(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """A GGUF file of the same numbers gives the same bits; beside rounded weights the adapter is as exact as they."""
    checkpoint, variant = make_checkpoint("e2b"), VARIANTS["e2b"]
    reference = Reference(checkpoint)
    merged = adapted(reference, tmp_path / "adapter")
    done = conversion.convert(checkpoint, tmp_path / "a.gguf", "f32", progress=False)
    ids = text_ids(variant, 60)
    expected = np.array(load(checkpoint, tmp_path / "adapter").forward(ids))
    assert np.array_equal(load(done.path, tmp_path / "adapter").forward(ids), expected)

    halves = make_checkpoint("e2b", "BF16")
    rounded = Reference(halves)
    adapted(rounded, tmp_path / "other")
    model = gemma4.Model.from_pretrained(halves, kv_cache="f32", adapter=tmp_path / "adapter")
    error = relative_error(model.forward(ids), merged.logits(ids))
    assert error <= 2 * relative_error(rounded.logits(ids), reference.logits(ids)) + ROUNDING


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("model.model.language_model.", "model.model."),
        ("base_model.model.model.language_model.", "model.language_model."),
        ("base_model.model.", ""),
        ("model.model.language_model.", "model.language_model.model."),
        (".weight", ".default.weight"),
        (".weight", ".my_adapter.weight"),
    ],
)
def test_spellings(old: str, new: str, make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """Of trainers that saw the decoder alone, of older layouts, and with the adapter's name in the keys."""
    checkpoint, variant = make_checkpoint("e2b"), VARIANTS["e2b"]
    adapted(Reference(checkpoint), tmp_path / "a", r=4, rank_pattern={"q_proj": 2})
    other = renamed(tmp_path / "a", tmp_path / "b", old, new)
    ids = text_ids(variant, 20)
    expected = np.array(load(checkpoint, tmp_path / "a").forward(ids))
    assert np.array_equal(load(checkpoint, other).forward(ids), expected)


def test_projections_that_nothing_reads(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """Trainers that give them to layers which share keys and values save them; they change nothing."""
    from safetensors.torch import load_file, save_file

    checkpoint, variant = make_checkpoint("e2b"), VARIANTS["e2b"]
    merged = adapted(Reference(checkpoint), tmp_path, r=4)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    at = "base_model.model.model.language_model.layers.{}.self_attn.k_proj.lora_{}.weight"
    tensors |= {at.format(8, part): tensors[at.format(5, part)].clone() for part in "AB"}
    save_file(tensors, path)
    ids = text_ids(variant, 20)
    assert_close(load(checkpoint, tmp_path).forward(ids), merged.logits(ids))
    tensors[at.format(8, "A")] = tensors[at.format(8, "A")][:, :-1].clone()
    save_file(tensors, path)
    with pytest.raises(gemma4.ModelFileError, match=r"layers.8.self_attn.k_proj.lora_A.weight: expected \(4, 72\)"):
        load(checkpoint, tmp_path)


def test_several_by_name(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """Each request has its own; one without is to the bit what the model without adapters gives."""
    checkpoint, variant = make_checkpoint("e2b"), VARIANTS["e2b"]
    reference, ids = Reference(checkpoint), text_ids(variant, 40)
    first = adapted(reference, tmp_path / "first").logits(ids)
    second = adapted(reference, tmp_path / "second", r=3, use_rslora=True).logits(ids)
    plain = np.array(load(checkpoint, None).forward(ids))
    model = load(checkpoint, {"first": tmp_path / "first", "second": str(tmp_path / "second")})
    assert model.adapters == ("first", "second")
    for _ in range(2):
        assert_close(model.forward(ids, adapter="second"), second)
        assert np.array_equal(model.forward(ids), plain)
        assert_close(model.forward(ids, adapter="first"), first)
        assert np.array_equal(model.forward(ids, adapter=False), plain)
    started = time.perf_counter()
    for _ in range(100):
        model._runtime.adapters.chosen("first"), model._runtime.adapters.chosen("second")
    assert (time.perf_counter() - started) / 200 < 1e-3


def test_decoding_has_the_bits_of_a_prompt(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """What an adapter adds to a row does not depend on the rows beside it."""
    checkpoint, variant = make_checkpoint("e2b"), VARIANTS["e2b"]
    adapted(Reference(checkpoint), tmp_path)
    model, ids = load(checkpoint, tmp_path), text_ids(variant, 20)
    whole = np.array(core_of(model).sequence(64, "f32", adapter=core_adapter(model)).prefill(ids, logits="all"))
    session = core_of(model).sequence(64, "f32", adapter=core_adapter(model))
    for row, token in zip(whole, ids, strict=True):
        assert np.array_equal(session.decode(int(token)), row)


def test_without_encoders(tmp_path: Path) -> None:
    """The unified shape: its projections under the names of the reference's modules."""
    checkpoint = write_unified(tmp_path / "model", UNIFIED)
    merged = adapted(UnifiedReference(checkpoint), tmp_path / "adapter", target_modules="all-linear", r=8)
    assert isinstance(merged, UnifiedReference)
    model, ids = load(checkpoint, tmp_path / "adapter"), text_ids(UNIFIED, 40)
    assert_close(model.forward(ids), merged.logits(ids))
    image, heard = picture(61, 83), sound(5_000)
    assert_close(model.encode_image(image, 70), merged.soft_tokens(image, 70))
    assert_close(model.encode_audio(heard), merged.audio_tokens(heard))
