"""Directories as the reference's own `save_pretrained` writes them: weights, config, tokenizer, processor, generation
config; and the five generations of the published chat template, which `trl` brings.

Knows: transformers. Nothing in these directories is written by this repository but the weights' values.
"""

import json
import shutil
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import gemma4
import numpy as np
import pytest
import torch
from gemma4.checkpoint import DirectoryCheckpoint
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, Gemma4ForConditionalGeneration, GenerationConfig
from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil

from . import checkpoints, unified
from .prompts import picture, text_ids
from .reference import Reference
from .test_prompts import _reference_ids
from .tiny_tokenizer import IDS, write_tokenizer
from .tolerance import assert_close, relative_error
from .variants import VARIANTS, Variant

STEPS = 100
# As published, with the ids of the tests' tokenizer.
GENERATION = {
    "bos_token_id": IDS["<bos>"],
    "do_sample": True,
    "eos_token_id": [IDS["<eos>"], IDS["<turn|>"], IDS["<|tool_response>"]],
    "pad_token_id": IDS["<pad>"],
    "suppress_tokens": [IDS["<audio|>"], IDS["<image|>"]],
    "temperature": 1.0,
    "top_k": 64,
    "top_p": 0.95,
}


def published_template(generation: int) -> str:
    """The text of the first to fifth generation of the published chat template."""
    name = "gemma4.jinja" if generation == 1 else f"gemma4_v{generation}.jinja"
    files = metadata.files("trl") or []
    return next(file for file in files if file.match(f"trl/chat_templates/{name}")).read_text()


class Saved(NamedTuple):
    variant: Variant
    dtype: str
    shard_size: str | None
    template: int


SAVED = {
    "E2B f32": Saved(VARIANTS["e2b"], "F32", None, 1),
    "E2B bf16, sharded": Saved(VARIANTS["e2b"], "BF16", "200KB", 5),
    "E4B f16, sharded": Saved(VARIANTS["e4b"], "F16", "150KB", 2),
    "26B bf16": Saved(VARIANTS["26b-a4b"], "BF16", None, 3),
    "31B bf16, sharded": Saved(VARIANTS["31b"], "BF16", "100KB", 4),
    "12B f16": Saved(unified.UNIFIED, "F16", None, 5),
    "12B bf16, sharded": Saved(unified.UNIFIED, "BF16", "100KB", 1),
}


def save(directory: Path, saved: Saved) -> Path:
    """A directory by transformers alone."""
    variant = saved.variant
    build = unified.build_model if variant is unified.UNIFIED else checkpoints.build_model
    model = build(variant).to(checkpoints.DTYPES[saved.dtype])
    model.generation_config = GenerationConfig(**GENERATION)
    model.save_pretrained(directory, max_shard_size=saved.shard_size or "1GB")
    made = directory / "made"
    made.mkdir()
    write_tokenizer(made, variant.vocab)
    tokenizer = AutoTokenizer.from_pretrained(made)
    tokenizer.chat_template = published_template(saved.template)
    tokenizer.save_pretrained(directory)
    shutil.rmtree(made)
    sizes = {name: variant.vision[name] for name in ("patch_size", "pooling_kernel_size")}
    Gemma4ImageProcessorPil(**sizes).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module", params=list(SAVED))
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Saved]:
    saved = SAVED[request.param]
    return save(tmp_path_factory.mktemp("saved"), saved), saved


def reference_of(directory: Path, variant: Variant) -> Any:
    return (unified.UnifiedReference if variant is unified.UNIFIED else Reference)(directory)


def test_a_directory_of_transformers_answers_alike(directory: tuple[Path, Saved]) -> None:
    """Ids, logits, soft tokens, and an answer with the generation config as it was saved."""
    path, saved = directory
    assert (path / "model.safetensors.index.json").exists() == (saved.shard_size is not None)
    reference = reference_of(path, saved.variant)
    model = gemma4.Model.from_pretrained(path, kv_cache="f32", num_threads=2)
    conversation = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "what is  here?\n 12"}]
    ids = model.prepare(conversation).input_ids
    assert ids.tolist() == _reference_ids(AutoTokenizer.from_pretrained(path), conversation, [])
    assert_close(model.forward(ids), reference.logits(ids))

    image = picture(40, 70, seed=3)
    pixels = np.asarray(image)
    soft = reference.soft_tokens(image, 70, **({} if saved.variant is unified.UNIFIED else {"padded": False}))
    assert_close(model.encode_image(pixels, max_soft_tokens=70), soft)

    row = torch.from_numpy(np.asarray(ids, np.int64))[None]
    expected = reference.model.generate(row, max_new_tokens=STEPS, do_sample=False)[0, len(ids) :].tolist()
    ours = model.generate(ids, max_new_tokens=STEPS, do_sample=False, repetition_guard=False)
    assert ours.token_ids.tolist() == expected


def test_suppressed_tokens_matter(tmp_path: Path) -> None:
    """The seed is such that without them the answer would be another."""
    path = save(tmp_path / "a", SAVED["E2B f32"])
    model = gemma4.Model.from_pretrained(path, kv_cache="f32", num_threads=2)
    ids = text_ids(VARIANTS["e2b"], 20, seed=5)
    options = {"max_new_tokens": 60, "do_sample": False, "repetition_guard": False}
    free = model.generate(ids, suppress_tokens=[], **options).token_ids.tolist()
    data = json.loads((path / "generation_config.json").read_text())
    data["suppress_tokens"] = free[3:6]
    (path / "generation_config.json").write_text(json.dumps(data))
    model = gemma4.Model.from_pretrained(path, kv_cache="f32", num_threads=2)
    held = model.generate(ids, **options).token_ids.tolist()
    assert held != free and not set(held) & set(free[3:6])
    row = torch.from_numpy(np.asarray(ids, np.int64))[None]
    expected = Reference(path).model.generate(row, max_new_tokens=60, do_sample=False)[0, len(ids) :].tolist()
    assert held == expected


def test_a_tokenizer_that_transformers_saved(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """Its `model_max_length` is 1e30, written as an integer of 31 digits."""
    reference = AutoTokenizer.from_pretrained(make_checkpoint("e2b"))
    reference.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["model_max_length"] > 1 << 64
    tokenizer = DirectoryCheckpoint(tmp_path).tokenizer()
    text = "A dog, a red circle;  12 ▁ \n\n é 漢字 🦊"
    ids = reference.encode(text, add_special_tokens=False)
    assert tokenizer.encode(text) == ids
    assert tokenizer.decode(ids) == reference.decode(ids)
    assert tokenizer.special_token("bos_token") == reference.bos_token


# -- spellings of config.json ------------------------------------------------------------------------------------------

SLIDING = {"rope_theta": 5_000.0}
GLOBAL = {"partial_rotary_factor": 0.5, "rope_theta": 2e6}
DEFAULT, PROPORTIONAL = {"rope_type": "default"}, {"rope_type": "proportional"}
OLD_DEFAULT, OLD_PROPORTIONAL = {"type": "default"}, {"type": "proportional"}
TEXT_SPELLINGS: dict[str, dict[str, Any]] = {
    "type": {
        "rope_parameters": {
            "sliding_attention": OLD_DEFAULT | SLIDING, "full_attention": OLD_PROPORTIONAL | GLOBAL,
        }
    },
    "rope_scaling": {
        "rope_parameters": None,
        "rope_scaling": {"sliding_attention": DEFAULT | SLIDING, "full_attention": PROPORTIONAL | GLOBAL},
    },
    "both, the older wins": {
        "rope_scaling": {"sliding_attention": OLD_DEFAULT | SLIDING, "full_attention": OLD_PROPORTIONAL | GLOBAL},
    },
    "linear": {
        "rope_parameters": {
            "sliding_attention": DEFAULT | SLIDING,
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 2e6},
        }
    },
    "a factor that default does not read": {
        "rope_parameters": {
            "sliding_attention": DEFAULT | SLIDING | {"factor": 3.0, "partial_rotary_factor": 0.5},
            "full_attention": PROPORTIONAL | GLOBAL | {"factor": 4.0},
        }
    },
}  # fmt: skip


def edited(source: Path, directory: Path, **sections: dict[str, Any]) -> Path:
    """A copy whose config.json says something else in `text_config`, `vision_config` …"""
    shutil.copytree(source, directory)
    config = json.loads((directory / "config.json").read_text())
    for name, fields in sections.items():
        config[name] = None if fields is None else {**config[name], **fields}
    (directory / "config.json").write_text(json.dumps(config))
    return directory


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of the reference, about the older names
@pytest.mark.parametrize("name", TEXT_SPELLINGS)
def test_spellings_of_rotations(name: str, make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    path = edited(make_checkpoint("e2b"), tmp_path / "a", text_config=TEXT_SPELLINGS[name])
    ids = text_ids(VARIANTS["e2b"], 70, seed=3)
    ours = gemma4.Model.from_pretrained(path, kv_cache="f32", num_threads=1).forward(ids)
    assert_close(ours, Reference(path).logits(ids))
    usual = gemma4.Model.from_pretrained(make_checkpoint("e2b"), kv_cache="f32", num_threads=1).forward(ids)
    assert relative_error(ours, usual) > 0.02


VISION_SPELLINGS: dict[str, dict[str, Any]] = {
    "type": {"rope_parameters": {"type": "axial", "rope_theta": 30.0}},
    "rope_scaling": {"rope_parameters": None, "rope_scaling": {"rope_type": "default", "rope_theta": 30.0}},
    "rope_theta": {"rope_parameters": None, "rope_theta": 30.0},
    "inner rope_theta first": {"rope_parameters": {"rope_type": "axial", "rope_theta": 30.0}, "rope_theta": 7.0},
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", VISION_SPELLINGS)
def test_spellings_of_rotations_in_pictures(name: str, make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    path = edited(make_checkpoint("e2b"), tmp_path / "a", vision_config=VISION_SPELLINGS[name])
    image = picture(60, 45, seed=4)
    ours = gemma4.Model.from_pretrained(path, num_threads=1).encode_image(image, max_soft_tokens=70)
    assert_close(ours, Reference(path).soft_tokens(image, 70, padded=False))
    usual = gemma4.Model.from_pretrained(make_checkpoint("e2b"), num_threads=1).encode_image(image, max_soft_tokens=70)
    assert relative_error(ours, usual) > 0.02


@pytest.mark.parametrize("style", ["dynamic", "yarn", "llama3", "longrope", "mrope"])
def test_rotations_that_are_not_computed_are_refused(
    style: str, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    for key in ("type", "rope_type"):
        rope = {"sliding_attention": DEFAULT | SLIDING, "full_attention": {key: style, "factor": 2.0, **GLOBAL}}
        path = edited(make_checkpoint("e2b"), tmp_path / key, text_config={"rope_scaling": rope})
        with pytest.raises(gemma4.ModelFileError, match=rf"rope_scaling\.full_attention\.rope_type: .*'{style}'"):
            gemma4.Model.from_pretrained(path)


def test_null_stands_for_absent(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """`eoa_token_id` beside the other name, mechanisms that a checkpoint does not have, encoders left out."""
    source = make_checkpoint("e2b")
    nulls = {"enable_moe_block": None, "attention_k_eq_v": None, "attention_bias": None, "rope_scaling": None}
    path = edited(source, tmp_path / "a", text_config=nulls)
    config = json.loads((path / "config.json").read_text())
    config["eoa_token_id"] = None
    (path / "config.json").write_text(json.dumps(config))
    ids = text_ids(VARIANTS["e2b"], 40, seed=3)
    usual = gemma4.Model.from_pretrained(source, kv_cache="f32", num_threads=1)
    model = gemma4.Model.from_pretrained(path, kv_cache="f32", num_threads=1)
    assert model.modalities == usual.modalities
    assert np.array_equal(model.forward(ids), usual.forward(ids))

    blind = edited(source, tmp_path / "b", vision_config=None, audio_config=None)
    model = gemma4.Model.from_pretrained(blind, kv_cache="f32", num_threads=1)
    assert model.modalities == {"text"}
    assert np.array_equal(model.forward(ids), usual.forward(ids))
    reference = Gemma4ForConditionalGeneration.from_pretrained(blind, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        expected = reference(torch.from_numpy(np.asarray(ids, np.int64))[None]).logits[0].numpy()
    assert_close(model.forward(ids), expected)


def test_tensors_that_nobody_reads_are_named(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    path = edited(make_checkpoint("e2b"), tmp_path / "a", vision_config={"use_clipped_linears": False})
    tensors = load_file(path / "model.safetensors")
    tensors["score.weight"] = torch.zeros(2, 3)
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    with pytest.warns(RuntimeWarning, match=r"1 tensors .*: score\.weight"):
        model = gemma4.Model.from_pretrained(path, num_threads=1)
    image = picture(60, 45, seed=4)
    assert_close(model.encode_image(image, 70), Reference(path).soft_tokens(image, 70, padded=False))


# -- templates ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["chat_template.jinja", "tokenizer_config.json", "named", "chat_template.json"])
def test_templates_where_checkpoints_keep_them(
    place: str, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    path = tmp_path / "a"
    shutil.copytree(make_checkpoint("e2b"), path)
    (path / "chat_template.jinja").unlink()
    text = "{{ bos_token }}{% for m in messages %}" + place + "{{ m.content }}{% endfor %}"
    config = json.loads((path / "tokenizer_config.json").read_text())
    if place == "chat_template.jinja":
        (path / place).write_text(text)
        config["chat_template"] = "older"
    elif place == "chat_template.json":
        (path / place).write_text(json.dumps({"chat_template": text}))
        (path / "chat_template.jinja").write_text("another")
    else:
        other = {"name": "tool_use", "template": "other"}
        config["chat_template"] = text if place != "named" else [other, {"name": "default", "template": text}]
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    model = gemma4.Model.from_pretrained(path, num_threads=1)
    said = model.tokenizer.decode(model.prepare("hello").input_ids)
    assert said == place + "hello"
