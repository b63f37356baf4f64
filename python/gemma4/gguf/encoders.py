"""The encoders of a GGUF file made for llama.cpp's multimodal tools (`mmproj`), under the names of the published
checkpoints.

Knows: what llama.cpp's `clip` keys and tensors mean. Must not know: the language model, how the engine computes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..errors import ModelFileError
from .container import GgufFile, GgufTensor
from .names import BOUNDS, hf_name
from .ollama import CLAMPS

__all__ = ["audio_config", "complete_bounds", "is_unified", "register_encoder", "soft_width", "vision_config"]

_PATCH = "v.patch_embd.weight"
_POSITIONS = "v.position_embd.weight"
# (of a model with encoders, of one without)
_PROJECTORS = {"vision": ("gemma4v", "gemma4uv"), "audio": ("gemma4a", "gemma4ua")}
_FLOATS = ("F32", "F16", "BF16")
_CLIPPED = ("attn_q", "attn_k", "attn_v", "attn_out", "ffn_gate", "ffn_up", "ffn_down")  # in CLAMPS' order


def is_unified(file: GgufFile) -> bool:
    """Whether pictures and sounds are projected as they are, without encoders (12B).

    Raises:
        ModelFileError: a projector of another model, or two that do not belong together.
    """
    found = {_projector(file, modality) for modality in _PROJECTORS} - {None}
    if len(found) > 1:
        raise file.error("clip.audio.projector_type", "does not belong to the same kind of model as clip.vision's")
    return found == {1}


def _projector(file: GgufFile, modality: str) -> int | None:
    """0 for an encoder, 1 for none; None where the file is deaf or blind."""
    if not file.boolean(f"clip.has_{modality}_encoder", False):
        return None
    key, known = f"clip.{modality}.projector_type", _PROJECTORS[modality]
    found = file.text(key, file.metadata.get("clip.projector_type"))
    if found not in known:
        raise file.error(key, f"expected {' or '.join(map(repr, known))}, found {found[:40]!r}")
    return known.index(found)


def soft_width(file: GgufFile) -> int | None:
    """The width of the soft tokens, which is that of the language model they were made for; None if unknown."""
    projections = (file.tensors.get(name) for name in ("mm.input_projection.weight", "mm.a.input_projection.weight"))
    return next((tensor.shape[0] for tensor in projections if tensor and len(tensor.shape) == 2), None)


def vision_config(file: GgufFile) -> dict[str, Any] | None:
    """As `vision_config` in config.json; None without a vision encoder."""
    kind = _projector(file, "vision")
    if kind is None:
        return None
    key = "clip.vision."
    if kind == 1:
        return _squares_config(file, key)
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


def _squares_config(file: GgufFile, key: str) -> dict[str, Any]:
    """Of squares of pixels that are projected as they are: their side is known by the size of the matrix alone."""
    patch = file.integer(key + "patch_size", low=1)
    width, values = _tensor(file, _PATCH, 2).shape
    side = math.isqrt(values // 3)
    if 3 * side * side != values or side % patch:
        raise ModelFileError(f"{file.path}: tensor {_PATCH!r}: {values} are no squares of patches of {patch} pixels")
    return {
        "model_type": "gemma4_unified_vision",
        "patch_size": patch,
        "pooling_kernel_size": side // patch,
        "mm_embed_dim": width,
        "output_proj_dims": width,
        "mm_posemb_size": _tensor(file, _POSITIONS, 3).shape[1],
        "rms_norm_eps": file.real(key + "attention.layer_norm_epsilon"),
    }


def audio_config(file: GgufFile) -> dict[str, Any] | None:
    """As `audio_config` in config.json; None without an audio encoder. What is the same in all models is left out."""
    kind = _projector(file, "audio")
    if kind is None:
        return None
    key = "clip.audio."
    if kind == 1:
        return {
            "model_type": "gemma4_unified_audio",
            "audio_embed_dim": _tensor(file, "mm.a.input_projection.weight", 2).shape[1],
            "rms_norm_eps": file.real(key + "attention.layer_norm_epsilon"),
        }
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


def _is_clipped(file: GgufFile, prefix: str) -> bool:
    return (prefix == "v." and CLAMPS in file.tensors) or any(
        name.startswith(prefix) and name.endswith(BOUNDS) for name in file.tensors
    )


def _tensor(file: GgufFile, name: str, rank: int) -> GgufTensor:
    tensor = file.tensors.get(name)
    if tensor is None or len(tensor.shape) != rank:
        found = "nothing" if tensor is None else f"shape {list(tensor.shape)}"
        raise ModelFileError(f"{file.path}: tensor {name!r}: expected {rank} dimensions, found {found}")
    return tensor


def register_encoder(store: _core.TensorStore, file: GgufFile, tensor: GgufTensor, number: int, unified: bool) -> None:
    """Add a tensor of a file that the store knows as `number`, under the name and in the arrangement of the published
    checkpoints.

    Raises:
        ModelFileError: a tensor that no encoder of this family has.
    """
    if tensor.name == CLAMPS and tensor.dtype == "F32":
        store.add(f"gguf.{tensor.name}", tensor.dtype, tensor.shape, number, tensor.begin, tensor.end)
        return
    name = hf_name(tensor.name, unified=unified)
    if name is None or not tensor.name.startswith(("v.", "a.", "mm.")):
        raise ModelFileError(f"{file.path}: tensor {tensor.name!r}: not a tensor of these encoders")
    shape = list(tensor.shape)
    arrange = _arrangement(tensor, unified)
    if tensor.name.endswith(".conv_dw.weight") and len(shape) == 2:
        shape.insert(1, 1)
    # A tensor that is arranged anew is registered too: every byte of the file must belong to one.
    store.add(f"gguf.{tensor.name}" if arrange else name, tensor.dtype, shape, number, tensor.begin, tensor.end)
    if arrange is None:
        return
    values = store.array(f"gguf.{tensor.name}")
    store.forget(f"gguf.{tensor.name}")
    dtype = tensor.dtype
    if dtype not in _FLOATS or arrange is _before_softplus:
        rows = np.ascontiguousarray(values).view(np.uint8).reshape(math.prod(shape[:-1]), -1)
        values, dtype = _core.decode(dtype, rows), "F32"
    arranged = arrange(values.reshape(shape))
    if arranged is None:
        raise ModelFileError(f"{file.path}: tensor {tensor.name!r}: not what it should be, with shape {shape}")
    arranged = np.ascontiguousarray(arranged)
    store.add_owned(name, dtype, list(arranged.shape), arranged.view(np.uint8))


Arrange = Callable[[NDArray[Any]], NDArray[Any] | None]


def _arrangement(tensor: GgufTensor, unified: bool) -> Arrange | None:
    """What turns the file's arrangement of a tensor into the published one, or into None where it cannot be; None where
    they are the same."""
    if tensor.name.endswith(".per_dim_scale.weight"):
        return _before_softplus
    if not unified:
        return _patches if tensor.name == _PATCH else None
    if tensor.name == _POSITIONS:
        return lambda values: values.transpose(1, 0, 2) if values.ndim == 3 else None
    return _squares if tensor.name == _PATCH or tensor.name.startswith("v.patch_norm.1.") else None


def _patches(values: NDArray[Any]) -> NDArray[Any] | None:
    """(hidden, channel, row, column) -> (hidden, row * column * channel)"""
    return values.transpose(0, 2, 3, 1).reshape(len(values), -1) if values.ndim == 4 else None


def _squares(values: NDArray[Any]) -> NDArray[Any] | None:
    """(…, channel * row * column) -> (…, row * column * channel)"""
    side = math.isqrt(values.shape[-1] // 3)
    if 3 * side * side != values.shape[-1]:
        return None
    return np.moveaxis(values.reshape(*values.shape[:-1], 3, side, side), -3, -1).reshape(values.shape)


def _before_softplus(values: NDArray[Any]) -> NDArray[Any] | None:
    """Of per-channel scales, which the file holds after their softplus."""
    return inverse_softplus(values.astype(np.float64)) if (values > 0).all() else None


def inverse_softplus(y: NDArray[np.float64]) -> NDArray[np.float32]:
    """x such that log(1 + exp(x)) = y > 0.

    >>> float(np.log1p(np.exp(inverse_softplus(np.array([0.7], np.float64))))[0])  # doctest: +ELLIPSIS
    0.7...
    """
    result: NDArray[np.float32] = (y + np.log(-np.expm1(-y))).astype(np.float32)
    return result


def complete_bounds(store: _core.TensorStore, file: GgufFile) -> None:
    """The bounds that the file leaves out: those of `CLAMPS` if it has that, or such as leave values alone."""
    clamps = None
    if CLAMPS in file.tensors:
        clamps = store.array(f"gguf.{CLAMPS}").reshape(-1, 4)
        store.forget(f"gguf.{CLAMPS}")
    for prefix in ("v.", "a."):
        if not _is_clipped(file, prefix):
            continue
        for tensor in file.tensors.values():
            name = hf_name(tensor.name) or ""
            if tensor.name.startswith(prefix) and name.endswith(".linear.weight"):
                _complete(store, file, tensor.name.removesuffix("weight"), name, clamps if prefix == "v." else None)


def _complete(store: _core.TensorStore, file: GgufFile, stem: str, name: str, clamps: NDArray[Any] | None) -> None:
    values = np.array([-math.inf, math.inf, -math.inf, math.inf], np.float32)
    if clamps is not None:
        _, _, layer, linear, _ = stem.split(".")
        row = int(layer) * len(_CLIPPED) + _CLIPPED.index(linear)
        if row >= len(clamps):
            raise ModelFileError(f"{file.path}: tensor {CLAMPS!r}: has no bounds of {stem}weight")
        values = np.array(clamps[row], np.float32)
    for bound, value in zip(BOUNDS, values, strict=True):
        if stem + bound not in file.tensors:
            store.add_owned(name.removesuffix("linear.weight") + bound, "F32", [1], value.reshape(1).view(np.uint8))
