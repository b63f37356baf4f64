"""Writes random tiny checkpoints in Hugging Face layout with the reference's own `save_pretrained`.

Knows: the reference's model class and what a good random initialisation is. Must not know: the engine under test.
"""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import (
    Gemma4AudioConfig,
    Gemma4Config,
    Gemma4ForConditionalGeneration,
    Gemma4TextConfig,
    Gemma4VisionConfig,
)

from .tiny_tokenizer import IDS, write_tokenizer
from .variants import Variant

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# Standard deviation of the logits before the soft-cap at 30: the largest of a few thousand is then near 50, where the
# cap changes both values and gaps.
LOGIT_SPREAD = 14.0


def build_config(variant: Variant, tied: bool = True) -> Gemma4Config:
    """The reference's configuration of a variant."""
    token_ids = {
        "boi_token_id": IDS["<|image>"],
        "eoi_token_id": IDS["<image|>"],
        "image_token_id": IDS["<|image|>"],
        "video_token_id": IDS["<|video|>"],
        "boa_token_id": IDS["<|audio>"],
        "eoa_token_index": IDS["<audio|>"],
        "audio_token_id": IDS["<|audio|>"],
    }
    return Gemma4Config(
        text_config=Gemma4TextConfig(**variant.text),
        vision_config=Gemma4VisionConfig(**variant.vision),
        audio_config=Gemma4AudioConfig(**variant.audio) if variant.audio else None,
        tie_word_embeddings=tied,
        **token_ids,
    )


def build_model(variant: Variant, tied: bool = True) -> Gemma4ForConditionalGeneration:
    """The reference model in float32 with seeded weights under which every mechanism changes the output."""
    model = Gemma4ForConditionalGeneration(build_config(variant, tied)).eval()
    generator = torch.Generator().manual_seed(variant.seed)
    # The ears have a stream of their own: with or without them the rest of a variant is the same.
    audio_generator = torch.Generator().manual_seed(variant.seed + 1000)
    with torch.no_grad():
        # Sorted, so that the values depend on the seed and the names alone. The tied output matrix appears once.
        for name, tensor in sorted([*model.named_parameters(), *model.named_buffers()]):
            if not name.endswith(("inv_freq", "embed_scale", "inv_timescales", "softcap")):
                is_audio = name.startswith("model.audio_tower")
                _initialise(name, tensor, audio_generator if is_audio else generator)
    return model


def _initialise(name: str, tensor: torch.Tensor, generator: torch.Generator) -> None:
    """Fills one tensor.

    Unit-variance linears, attention logits of a few units (neither uniform nor one-hot), sandwich norms of about 0.6 so
    that no branch drowns the residual stream, and an embedding small enough that the tied output matrix does not
    simply repeat the last token.
    """

    def normal(mean: float, deviation: float) -> torch.Tensor:
        return mean + deviation * torch.randn(tensor.shape, generator=generator)

    def uniform(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(tensor.shape, generator=generator)

    last = name.rsplit(".", 1)[-1]
    if last == "layer_scalar":
        value = uniform(0.6, 1.3)
    elif last == "per_expert_scale":
        value = uniform(0.4, 1.8)
    elif name.endswith("router.scale"):
        value = normal(1.5, 0.4) * math.sqrt(tensor.numel())
    elif last in ("input_min", "output_min"):
        value = -uniform(0.8, 1.6)
    elif last in ("input_max", "output_max"):
        value = uniform(0.8, 1.6)
    elif last == "std_bias":
        value = normal(0.0, 4.0)
    elif last == "std_scale":
        value = uniform(0.05, 0.3)
    elif last == "position_embedding_table":
        value = normal(0.0, 0.5)
    elif name.endswith("embed_tokens.weight"):
        value = normal(0.0, 0.5 / math.sqrt(tensor.shape[1]))
    elif name.endswith("embed_tokens_per_layer.weight"):
        value = normal(0.0, 0.3)
    elif name.endswith(("q_norm.weight", "k_norm.weight")):
        value = normal(1.0, 0.25) * 1.2 * tensor.numel() ** -0.25
    elif last == "per_dim_scale":
        value = normal(0.0, 1.0)
    elif name.endswith("language_model.norm.weight"):
        value = normal(1.0, 0.25) * LOGIT_SPREAD / 0.5
    elif ".post_" in name and last == "weight" and tensor.ndim == 1:
        value = normal(0.6, 0.2)
    elif last == "weight" and tensor.ndim == 1:
        value = normal(1.0, 0.25)
    else:
        value = normal(0.0, tensor.shape[-1] ** -0.5)
    tensor.copy_(value)


def write_checkpoint(directory: Path, variant: Variant, dtype: str = "F32", shard_size: str | None = None) -> Path:
    """A complete checkpoint: weights (one file, or shards of at most `shard_size`), configs, tokenizer, template."""
    directory.mkdir(parents=True, exist_ok=True)
    model = build_model(variant).to(DTYPES[dtype])
    model.save_pretrained(directory, max_shard_size=shard_size or "1GB")
    write_surroundings(directory, variant)
    return directory


def write_surroundings(directory: Path, variant: Variant) -> None:
    """What a checkpoint has beside its weights."""
    write_tokenizer(directory, variant.vocab)
    write_processor(directory, variant)
    generation = {"eos_token_id": [IDS["<eos>"], IDS["<turn|>"]], "bos_token_id": IDS["<bos>"], "pad_token_id": 0}
    (directory / "generation_config.json").write_text(json.dumps(generation), encoding="utf-8")


def write_processor(directory: Path, variant: Variant) -> None:
    """processor_config.json as the published checkpoints have it."""
    image = {
        "image_processor_type": "Gemma4ImageProcessor",
        "patch_size": variant.vision["patch_size"],
        "pooling_kernel_size": variant.vision["pooling_kernel_size"],
        "max_soft_tokens": 280,
        "do_convert_rgb": True,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": False,
        "resample": 3,
        "rescale_factor": 1 / 255,
        "image_mean": [0.0, 0.0, 0.0],
        "image_std": [1.0, 1.0, 1.0],
    }
    config = {"processor_class": "Gemma4Processor", "image_seq_length": 280, "image_processor": image}
    (directory / "processor_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def to_published_style(config: dict[str, Any]) -> dict[str, Any]:
    """A config.json with `per_layer_config`, rewritten with the keys of the published checkpoints."""
    text = dict(config["text_config"])
    overrides = {int(index): fields for index, fields in text.pop("per_layer_config").items()}  # keys may be "05"
    globals_ = [i for i, kind in enumerate(text["layer_types"]) if kind == "full_attention"]
    first = overrides[globals_[0]]
    if sorted(overrides) != globals_ or any(fields != first for fields in overrides.values()):
        raise ValueError("the overrides are not the same for all global layers and only for them")
    text["global_head_dim"] = first["head_dim"]
    text["num_global_key_value_heads"] = first.get("num_key_value_heads")
    return {**config, "text_config": text}


def rewrite_as_published(source: Path, directory: Path) -> Path:
    """The checkpoint in `source` with its config in the published style."""
    directory.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        if file.name != "config.json":
            shutil.copyfile(file, directory / file.name)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    (directory / "config.json").write_text(json.dumps(to_published_style(config), indent=2), encoding="utf-8")
    return directory
