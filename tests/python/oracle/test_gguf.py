"""The four shapes as GGUF: what comes back is the checkpoint, to the bit where the format holds it."""

from collections.abc import Callable
from pathlib import Path

import gemma4
import numpy as np
import pytest
from gemma4.checkpoint import conversion
from gemma4.gguf import read_gguf

from .engine import CONTEXT, core_of, soft_of
from .prompts import Prompt, image_prompt, picture, text_ids
from .variants import VARIANTS, Variant


def load(path: Path, mmproj: Path | None = None) -> gemma4.Model:
    return gemma4.Model.from_pretrained(path, mmproj=mmproj, kv_cache="f32", num_threads=1)


def logits(model: gemma4.Model, prompt: Prompt) -> np.ndarray:
    return np.array(core_of(model).sequence(CONTEXT, "f32").prefill(prompt.ids, soft_of(model, prompt), "all"))


@pytest.fixture
def prompt(variant: Variant, model: gemma4.Model) -> Prompt:
    pictures = [picture(62, 85, seed=1), picture(9, 156, seed=2)]
    counts = [len(model.encode_image(item, max_soft_tokens=70)) for item in pictures]
    return image_prompt(variant, pictures, counts)


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
def test_nothing_is_lost(
    variant: Variant, dtype: str, make_checkpoint: Callable[..., Path], prompt: Prompt, tmp_path: Path
) -> None:
    source = make_checkpoint(variant.name, dtype)
    done = conversion.convert(source, tmp_path / "a.gguf", dtype.lower(), tmp_path / "b.gguf", progress=False)
    expected, got = load(source), load(done.path, done.mmproj)
    assert got.modalities == expected.modalities
    assert np.array_equal(logits(got, prompt), logits(expected, prompt))


def test_sounds(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    source = make_checkpoint("e2b")
    done = conversion.convert(source, tmp_path / "a.gguf", "f32", tmp_path / "b.gguf", progress=False)
    samples = np.random.default_rng(0).normal(0, 0.1, 20_000).astype(np.float32)
    expected, got = load(source).encode_audio(samples), load(done.path, done.mmproj).encode_audio(samples)
    # One vector is stored after its softplus; taking it back may cost a rounding.
    assert np.abs(got - expected).max() <= 1e-6 * np.abs(expected).max()


@pytest.mark.parametrize("name", VARIANTS)
def test_config_styles_make_the_same_file(name: str, make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    files = []
    for published in (False, True):
        path = tmp_path / f"{published}.gguf"
        conversion.convert(make_checkpoint(name, published=published), path, "f32", progress=False)
        file = read_gguf(path)
        files.append(({**file.metadata, "general.name": ""}, file.tensors, path.read_bytes()[file.data_start :]))
    for key, value in files[0][0].items():
        assert np.array_equal(value, files[1][0][key]), key
    assert files[0][1:] == files[1][1:]


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("dtype", ["q8_0", "q4_0", "q4_k"])
def test_odd_rows_are_not_quantized(
    name: str, dtype: str, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    """Rows of 72, 88 or 100 are whole in no block: 16 bits instead, as llama.cpp does."""
    done = conversion.convert(make_checkpoint(name, "BF16"), tmp_path / "a.gguf", dtype, progress=False)
    tensors = read_gguf(done.path).tensors
    assert {t.dtype for t in tensors.values() if len(t.shape) > 1 and t.shape[-1] % 32} <= {"BF16", "F32"}
    model = load(done.path)
    assert np.isfinite(model.forward(text_ids(VARIANTS[name], 40))).all()


def test_an_order_that_llama_cpp_cannot_run_is_noted(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """The tiny E2B's global layers read a layer that is not the last owner; the published one's do."""
    notes = {
        name: conversion.convert(make_checkpoint(name), tmp_path / f"{name}.gguf", "f32", progress=False).notes
        for name in ("e2b", "31b")
    }
    assert any("llama.cpp cannot run" in note for note in notes["e2b"])
    assert not any("llama.cpp cannot run" in note for note in notes["31b"])


def test_tensors_that_no_layer_reads(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """Published checkpoints hold keys and values of layers that read others'; they are left out and counted."""
    import shutil

    from gemma4.checkpoint import safetensors

    source = Path(shutil.copytree(make_checkpoint("e2b"), tmp_path / "source"))
    path = source / "model.safetensors"
    header, start = safetensors.read_header(path)
    data = path.read_bytes()[start:]
    shape = header["model.language_model.layers.5.self_attn.k_proj.weight"]["shape"]
    extra = np.zeros(shape, np.float32).tobytes()
    name = "model.language_model.layers.7.self_attn.k_proj.weight"
    header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(extra)]}
    import json

    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data + extra)
    done = conversion.convert(source, tmp_path / "x.gguf", "f32", progress=False)
    assert "blk.7.attn_k.weight" not in done.tensors and any("1 tensor" in note for note in done.notes)
