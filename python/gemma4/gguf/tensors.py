"""The tensors of GGUF files under the names of the published checkpoints, registered where they lie in the mapped file.

Knows: what llama.cpp's tensors mean. Must not know: keys, how a GGUF file is laid out, how the engine computes.
Copied are only the few that the file arranges differently (the patch embedding, small vectors of the audio encoder) and
constants that it leaves out.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _core
from ..errors import ModelFileError
from .container import GgufFile, GgufTensor
from .encoders import register_encoder
from .names import ENCODER, TEXT_PREFIX, hf_name
from .settings import ROPE, found

__all__ = ["SPARE", "complete_text", "divisors", "register"]

SPARE = "gguf."  # where tensors are registered that are read only here


def register(store: _core.TensorStore, file: GgufFile, unified: bool) -> None:
    """Every tensor of every part, under the name of the published checkpoints."""
    for part in file.containers:
        number = store.add_file(str(part.path), part.data_start, part.alignment)
        for tensor in part.tensors.values():
            if ENCODER.fullmatch(tensor.name):
                register_encoder(store, part, tensor, number, unified)
            else:
                _register_text(store, part, tensor, number)


def _register_text(store: _core.TensorStore, file: GgufFile, tensor: GgufTensor, number: int) -> None:
    name = hf_name(tensor.name)
    if name is None and (tensor.name == ROPE or tensor.name.endswith(".attn_qkv.weight")):
        name = SPARE + tensor.name
    if name is None or not name.startswith((TEXT_PREFIX, "lm_head", SPARE)):
        raise ModelFileError(f"{file.path}: tensor {tensor.name!r}: not a tensor of this architecture")
    store.add(name, tensor.dtype, tensor.shape, number, tensor.begin, tensor.end)


def divisors(store: _core.TensorStore, file: GgufFile) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Of the rotation frequencies of global layers."""
    rope = file.tensors.get(ROPE)
    if rope is None or rope.dtype != "F32" or len(rope.shape) != 1:
        raise ModelFileError(f"{file.path}: tensor {ROPE!r}: expected a vector of F32, found {found(rope)}")
    values = np.array(store.array(SPARE + ROPE))
    store.forget(SPARE + ROPE)
    return values


def complete_text(store: _core.TensorStore, file: GgufFile, text: dict[str, Any]) -> None:
    """What the published checkpoints have and this file does not: scalars of one, q, k and v apart."""
    one = np.ones(1, np.float32).view(np.uint8)
    for index, kind in enumerate(text["layer_types"]):
        at = f"{TEXT_PREFIX}layers.{index}."
        if f"blk.{index}.layer_output_scale.weight" not in file.tensors:
            store.add_owned(at + "layer_scalar", "F32", [1], one)
        fused = f"blk.{index}.attn_qkv.weight"
        if fused not in file.tensors:
            continue
        shape = {**text, **text["per_layer_config"].get(str(index), {})}
        kv = shape["num_key_value_heads"] * shape["head_dim"]
        first = 0
        for part, rows in (("q", text["num_attention_heads"] * shape["head_dim"]), ("k", kv), ("v", kv)):
            store.add_rows(f"{at}self_attn.{part}_proj.weight", SPARE + fused, first, first + rows)
            first += rows
        store.forget(SPARE + fused)
        if file.tensors[fused].shape[0] != first:
            raise ModelFileError(f"{file.path}: tensor {fused!r}: expected {first} rows in a {kind} layer")
