"""GGUF files of drafters, as the published directories would be.

Knows: how llama.cpp spells a drafter. Must not know: how a GGUF file is laid out, what it drafts for.
llama.cpp's converter leaves the groups of tokens out, so that every token gets a logit.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from .. import _core
from ..errors import ModelFileError
from .container import GgufFile
from .names import TEXT_PREFIX, hf_name
from .settings import ARCHITECTURE, ROPE, text_config_of
from .tensors import SPARE, divisors

__all__ = ["DRAFTERS", "drafter_config", "register_drafter"]

DRAFTERS = ("gemma4-assistant", "gemma4_assistant", "gemma4_mtp")
"""What such files call their architecture."""
_PROJECTIONS = ("pre_projection.weight", "post_projection.weight")
_OWN_PREFIX = "model."  # of a drafter's tensors, where a full model's have `TEXT_PREFIX`


def drafter_config(file: GgufFile, rope: Any) -> dict[str, Any]:
    """config.json of a drafter.

    Args:
        file: of one of the `DRAFTERS`.
        rope: (head_dim / 2,) of the rotation frequencies of global layers.

    Raises:
        ModelFileError: a key is missing, malformed, or asks for what is not supported.
    """
    architecture = file.text("general.architecture")
    own = architecture + "."
    as_model = replace(file, metadata={_renamed(key, own): value for key, value in file.metadata.items()})
    try:
        text = text_config_of(as_model, rope)
    except ModelFileError as error:  # whoever reads it looks for the keys that there are
        raise ModelFileError(str(error).replace(f": {ARCHITECTURE}.", f": {own}")) from None
    return {
        "model_type": "gemma4_assistant",
        "backbone_hidden_size": file.integer(own + "embedding_length_out"),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "text_config": {**text, "vocab_size_per_layer_input": 0},
    }


def _renamed(key: str, own: str) -> str:
    return f"{ARCHITECTURE}.{key.removeprefix(own)}" if key.startswith(own) else key


def register_drafter(store: _core.TensorStore, file: GgufFile) -> Any:
    """Every tensor, under the name of the published directories; returns the divisors of global rotations."""
    for part in file.containers:
        number = store.add_file(str(part.path), part.data_start, part.alignment)
        for tensor in part.tensors.values():
            name = _published(tensor.name)
            if name is None:
                raise ModelFileError(f"{part.path}: tensor {tensor.name!r}: not a tensor of a drafter")
            store.add(name, tensor.dtype, tensor.shape, number, tensor.begin, tensor.end)
    store.validate()
    one = np.ones(1, np.float32).view(np.uint8)
    for name in file.tensors:
        if name.startswith("blk.") and name.endswith(".attn_q.weight"):
            layer = name.removesuffix("attn_q.weight")
            if layer + "layer_output_scale.weight" not in file.tensors:
                store.add_owned(f"{_OWN_PREFIX}layers.{layer.split('.')[1]}.layer_scalar", "F32", [1], one)
    return divisors(store, file)


def _published(name: str) -> str | None:
    if name == ROPE:
        return SPARE + name
    if name.startswith("nextn."):
        own = name.removeprefix("nextn.")
        return own if own in _PROJECTIONS else None
    known = hf_name(name)
    if known is None or not known.startswith((TEXT_PREFIX, "lm_head")):
        return None
    return known.replace(TEXT_PREFIX, _OWN_PREFIX, 1)
