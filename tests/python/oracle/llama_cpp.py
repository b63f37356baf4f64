"""Checkpoints small enough to keep what llama.cpp's converter makes of them in `data/llama_cpp`, by its `make.py`.

Knows: the reference's classes. Must not know: the engine under test, llama.cpp. Weights are the same on every machine:
drawn by a generator whose stream is frozen, and rounded to BF16, as published.
"""

import json
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from .checkpoints import write_checkpoint
from .tiny_tokenizer import IDS
from .unified import UNIFIED, write_unified
from .variants import E2B, MOE, Variant

DATA = Path(__file__).parents[1] / "data" / "llama_cpp"
_VOCAB = 1760
_TEXT = {"vocab_size": _VOCAB, "hidden_size": 32, "intermediate_size": 44}
# Published, and what llama.cpp takes for granted.
_POOL = {"pooling_kernel_size": 3}

CONVERTED = {
    "e2b": Variant(
        name="e2b",
        seed=21,
        text={**E2B.text, **_TEXT, "vocab_size_per_layer_input": _VOCAB, "hidden_size_per_layer_input": 4},
        vision={**E2B.vision, **_POOL, "num_hidden_layers": 1, "position_embedding_size": 300},
        audio=E2B.audio,
    ),
    "26b-a4b": Variant(
        name="26b-a4b",
        seed=22,
        text={**MOE.text, **_TEXT, "num_hidden_layers": 6, "layer_types": MOE.text["layer_types"][:6]},
        vision={**MOE.vision, **_POOL, "num_hidden_layers": 1, "position_embedding_size": 300},
    ),
    "12b": Variant(
        name="12b",
        seed=23,
        text={**UNIFIED.text, **_TEXT},
        vision={**UNIFIED.vision, **_POOL, "mm_embed_dim": 20, "output_proj_dims": 20, "mm_posemb_size": 300},
        audio=UNIFIED.audio,
    ),
}
SUPPRESSED = [IDS["<audio|>"], IDS["<image|>"]]


def write_converted(directory: Path, name: str) -> Path:
    """The checkpoint that the file of this name was made from, in BF16."""
    variant = CONVERTED[name]
    random = np.random.RandomState(variant.seed)

    def normal(shape: Any, generator: Any = None) -> torch.Tensor:
        return torch.from_numpy(random.standard_normal(tuple(shape)).astype(np.float32))

    def uniform(shape: Any, generator: Any = None) -> torch.Tensor:
        return torch.from_numpy(random.random_sample(tuple(shape)).astype(np.float32))

    write = write_unified if name == "12b" else write_checkpoint
    with mock.patch.object(torch, "randn", normal), mock.patch.object(torch, "rand", uniform):
        write(directory, variant, "BF16")
    generation = directory / "generation_config.json"
    settings = {**json.loads(generation.read_text("utf-8")), "suppress_tokens": SUPPRESSED}
    generation.write_text(json.dumps(settings), encoding="utf-8")
    # Fields that the published files have and the converter asks for.
    processor = directory / "processor_config.json"
    settings = json.loads(processor.read_text("utf-8"))
    settings["image_processor"] |= {"image_mean": [0.0, 0.0, 0.0], "image_std": [1.0, 1.0, 1.0]}
    processor.write_text(json.dumps(settings), encoding="utf-8")
    config = directory / "config.json"
    settings = json.loads(config.read_text("utf-8"))
    settings["text_config"].setdefault("moe_intermediate_size", None)
    config.write_text(json.dumps(settings), encoding="utf-8")
    return directory
