"""The encoders of a GGUF file made for llama.cpp's multimodal tools (`mmproj`), under the names of the published
checkpoints.

Knows: what llama.cpp's `clip` keys and tensors mean. Must not know: the language model, how the engine computes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _core
from .errors import ModelFileError
from .gguf import GgufFile, GgufTensor
from .gguf_names import BOUNDS, hf_name

__all__ = ["audio_config", "register_encoders", "vision_config"]

_PATCH = "v.patch_embd.weight"
_POSITIONS = "v.position_embd.weight"
_UNIFIED = ("gemma4uv", "gemma4ua")


def vision_config(file: GgufFile) -> dict[str, Any] | None:
    """As `vision_config` in config.json; None without a vision encoder."""
    if not _has(file, "vision", "gemma4v"):
        return None
    key = "clip.vision."
    heads = file.integer(key + "attention.head_count", low=1)
    q, k = (_tensor(file, f"v.blk.0.attn_{part}.weight", 2).shape[0] for part in "qk")
    head_dim = file.integer(key + "attention.head_dim", q // heads, low=1)
    return {
        "model_type": "gemma4_vision",
        "hidden_size": file.integer(key + "embedding_length"),
        "intermediate_size": file.integer(key + "feed_forward_length"),
        "num_hidden_layers": file.integer(key + "block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": file.integer(key + "attention.head_count_kv", k // head_dim, low=1),
        "head_dim": head_dim,
        "patch_size": file.integer(key + "patch_size"),
        "pooling_kernel_size": file.integer(key + "projector.scale_factor", 3),
        "position_embedding_size": _tensor(file, _POSITIONS, 3).shape[1],
        "rms_norm_eps": file.real(key + "attention.layer_norm_epsilon"),
        "rope_parameters": {"rope_type": "axial", "rope_theta": 100.0},
        "hidden_activation": "gelu_pytorch_tanh",
        "use_clipped_linears": _is_clipped(file, "v."),
        "standardize": "v.std_bias" in file.tensors,
    }


def audio_config(file: GgufFile) -> dict[str, Any] | None:
    """As `audio_config` in config.json; None without an audio encoder. What is the same in all models is left out."""
    if not _has(file, "audio", "gemma4a"):
        return None
    key = "clip.audio."
    hidden = file.integer(key + "embedding_length")
    if file.integer(key + "feed_forward_length", 4 * hidden) != 4 * hidden:
        raise file.error(key + "feed_forward_length", f"must be four times the width, {4 * hidden}")
    return {
        "model_type": "gemma4_audio",
        "hidden_size": hidden,
        "num_hidden_layers": file.integer(key + "block_count"),
        "num_attention_heads": file.integer(key + "attention.head_count", low=1),
        "subsampling_conv_channels": [_tensor(file, f"a.conv1d.{i}.weight", 4).shape[0] for i in (0, 1)],
        "conv_kernel_size": _tensor(file, "a.blk.0.conv_dw.weight", 2).shape[1],
        "output_proj_dims": _tensor(file, "a.pre_encode.out.weight", 2).shape[0],
        "rms_norm_eps": file.real(key + "attention.layer_norm_epsilon"),
        "use_clipped_linears": _is_clipped(file, "a."),
    }


def _has(file: GgufFile, modality: str, projector: str) -> bool:
    if not file.boolean(f"clip.has_{modality}_encoder", False):
        return False
    key = f"clip.{modality}.projector_type"
    found = file.text(key, file.metadata.get("clip.projector_type"))
    if found in _UNIFIED:
        raise file.error(key, "a unified model (12B), which this version reads from safetensors only")
    if found != projector:
        raise file.error(key, f"expected {projector!r}, found {found[:40]!r}")
    return True


def _is_clipped(file: GgufFile, prefix: str) -> bool:
    return any(name.startswith(prefix) and name.endswith(BOUNDS) for name in file.tensors)


def _tensor(file: GgufFile, name: str, rank: int) -> GgufTensor:
    tensor = file.tensors.get(name)
    if tensor is None or len(tensor.shape) != rank:
        found = "nothing" if tensor is None else f"shape {list(tensor.shape)}"
        raise ModelFileError(f"{file.path}: tensor {name!r}: expected {rank} dimensions, found {found}")
    return tensor


def register_encoders(store: _core.TensorStore, file: GgufFile) -> None:
    """Add every tensor of the file under the name and in the arrangement of the published checkpoints.

    Raises:
        ModelFileError: a tensor that no encoder of this family has, or one in a format that cannot be rearranged.
    """
    number = store.add_file(str(file.path), file.data_start, file.alignment)
    for tensor in file.tensors.values():
        name = hf_name(tensor.name)
        if name is None or not tensor.name.startswith(("v.", "a.", "mm.")):
            raise ModelFileError(f"{file.path}: tensor {tensor.name!r}: not a tensor of these encoders")
        shape = list(tensor.shape)
        arranged = tensor.name == _PATCH or tensor.name.endswith(".per_dim_scale.weight")
        if tensor.name.endswith(".conv_dw.weight") and len(shape) == 2:
            shape.insert(1, 1)
        # A tensor that is arranged anew is registered too: every byte of the file must belong to one.
        store.add(f"gguf.{tensor.name}" if arranged else name, tensor.dtype, shape, number, tensor.begin, tensor.end)
        if arranged:
            _add_arranged(store, file, tensor, name)
    for prefix in ("v.", "a."):
        if _is_clipped(file, prefix):
            _complete_bounds(store, file, prefix)


def _add_arranged(store: _core.TensorStore, file: GgufFile, tensor: GgufTensor, name: str) -> None:
    """The patch embedding from (hidden, channel, row, column) to (hidden, row * column * channel), and per-channel
    scales from after their softplus to before it."""
    if tensor.dtype not in ("F32", "F16", "BF16"):
        raise ModelFileError(f"{file.path}: tensor {tensor.name!r}: type {tensor.dtype} is not supported there")
    values = store.array(f"gguf.{tensor.name}")
    store.forget(f"gguf.{tensor.name}")
    if tensor.name == _PATCH:
        _tensor(file, _PATCH, 4)
        rows = np.ascontiguousarray(values.transpose(0, 2, 3, 1)).reshape(len(values), -1)
        store.add_owned(name, tensor.dtype, list(rows.shape), rows.view(np.uint8))
        return
    numbers = _core.decode(tensor.dtype, np.ascontiguousarray(values).view(np.uint8)).astype(np.float64)
    if not (numbers > 0).all():
        raise ModelFileError(f"{file.path}: tensor {tensor.name!r}: expected values above 0, they are softplus of some")
    store.add_owned(name, "F32", list(numbers.shape), inverse_softplus(numbers).view(np.uint8))


def inverse_softplus(y: NDArray[np.float64]) -> NDArray[np.float32]:
    """x such that log(1 + exp(x)) = y > 0.

    >>> float(np.log1p(np.exp(inverse_softplus(np.array([0.7], np.float64))))[0])  # doctest: +ELLIPSIS
    0.7...
    """
    result: NDArray[np.float32] = (y + np.log(-np.expm1(-y))).astype(np.float32)
    return result


def _complete_bounds(store: _core.TensorStore, file: GgufFile, prefix: str) -> None:
    """Bounds that the file leaves out leave values alone."""
    for tensor in file.tensors.values():
        name = hf_name(tensor.name) or ""
        if not tensor.name.startswith(prefix) or not name.endswith(".linear.weight"):
            continue
        for bound in BOUNDS:
            if tensor.name.removesuffix("weight") + bound not in file.tensors:
                infinite = np.array([-math.inf if bound.endswith("min") else math.inf], np.float32)
                store.add_owned(name.removesuffix("linear.weight") + bound, "F32", [1], infinite.view(np.uint8))
