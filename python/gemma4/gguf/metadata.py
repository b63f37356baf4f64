"""What a GGUF file says about a checkpoint beside its tensors: sizes, sampling, encoders.

Knows: llama.cpp's keys. Must not know: files, tensors, formats.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..config import GenerationDefaults, ParsedConfig, PatchGrid, read_eos
from ..errors import ModelFileError

__all__ = ["decoder_keys", "encoder_keys", "general_keys", "generation_keys", "owners", "rotary_divisors"]

_MOST_MERGES = 1 << 20
OWN = "gemma4_hf."  # keys that llama.cpp does not read
SUPPRESS = "tokenizer.ggml.suppress_tokens"
_FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 7, "Q4_K": 15, "Q5_K": 17, "Q6_K": 18, "BF16": 32}
_UNROTATED = 1e30
SAMPLING: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "temperature": ("general.sampling.temp", np.float32),
    "top_k": ("general.sampling.top_k", np.int32),
    "top_p": ("general.sampling.top_p", np.float32),
    "min_p": ("general.sampling.min_p", np.float32),
    "repetition_penalty": ("general.sampling.penalty_repeat", np.float32),
}
_PICTURE_SIDE = 224  # llama.cpp asks for a size and does not use it


def general_keys(name: str, kind: str, architecture: str) -> dict[str, Any]:
    """What any file begins with; `kind`: the format of most matrices, a name in `TYPES`."""
    return {
        "general.architecture": architecture,
        "general.name": name,
        "general.file_type": _FILE_TYPES[kind],
        "general.quantization_version": 2,
        "general.type": "mmproj" if architecture == "clip" else "model",
    }


def encoder_keys(parsed: ParsedConfig, budget: int | None, source: str) -> dict[str, Any]:
    """Keys of the encoders; `budget`: the checkpoint's soft tokens of a picture, if it names them.

    Raises:
        ModelFileError: there are none, or they are such that llama.cpp would compute something else.
    """
    core = parsed.core
    metadata: dict[str, Any] = {}
    pictured, heard = core.vision or core.pixels, core.audio or core.samples
    if core.vision is not None:
        metadata |= _vision(core.vision, core.text.hidden, source)
    if parsed.grid is not None and core.pixels is not None:
        metadata |= _squares(core.pixels, parsed.grid, core.text.hidden)
    if pictured and budget is not None:
        metadata[OWN + "max_soft_tokens"] = budget
    if core.audio is not None:
        metadata |= _audio(core.audio, core.text.hidden, source)
    if core.samples is not None:
        metadata |= _frames(core.samples, core.text.hidden, source)
    if pictured is None and heard is None:
        raise ModelFileError(f"{source}: there are no encoders to write")
    if core.text.ple_dim and core.text.pad_id:
        raise ModelFileError(f"{source}: pad_token_id: llama.cpp gives pictures the per-layer embedding of token 0")
    return metadata


# -- the decoder -------------------------------------------------------------------------------------------------------


def decoder_keys(text: _core.TextConfig, source: str) -> dict[str, Any]:
    """Keys of the decoder.

    Raises:
        ModelFileError: the config asks for what llama.cpp's `gemma4` architecture cannot express.
    """
    layers = text.layers
    last = layers[-1]
    sliding = next((layer for layer in layers if layer.sliding), last)
    _check_rotation(text, source)
    metadata: dict[str, Any] = {
        "block_count": len(layers),
        "context_length": text.context,
        "embedding_length": text.hidden,
        "embedding_length_per_layer_input": text.ple_dim,
        "feed_forward_length": _one_or_all([layer.ffn for layer in layers]),
        "attention.head_count": text.heads,
        "attention.head_count_kv": _one_or_all([layer.kv_heads for layer in layers]),
        "attention.key_length": last.head_dim,
        "attention.value_length": last.head_dim,
        "attention.key_length_swa": sliding.head_dim,
        "attention.value_length_swa": sliding.head_dim,
        "attention.layer_norm_rms_epsilon": float(text.norm_eps),
        "attention.sliding_window": text.window,
        "attention.sliding_window_pattern": np.array([layer.sliding for layer in layers]),
        "attention.shared_kv_layers": len(layers) - owners(layers),
        "rope.freq_base": float(last.rope_theta),
        "rope.freq_base_swa": float(sliding.rope_theta),
        "rope.dimension_count": last.head_dim,
        "rope.dimension_count_swa": sliding.head_dim,
    }
    if text.logit_cap:
        metadata["final_logit_softcapping"] = float(text.logit_cap)
    if text.experts:
        metadata["expert_count"] = text.experts
        metadata["expert_used_count"] = text.experts_used
        metadata["expert_feed_forward_length"] = text.expert_ffn
    if text.ple_dim and text.ple_vocab != text.vocab:
        raise ModelFileError(f"{source}: vocab_size_per_layer_input: GGUF expects vocab_size, {text.vocab}")
    return {f"gemma4.{key}": value for key, value in metadata.items()} | {
        OWN + "bidirectional_images": bool(text.bidirectional_images)
    }


def _one_or_all(values: list[int]) -> int | NDArray[np.int32]:
    return values[0] if len(set(values)) == 1 else np.array(values, np.int32)


def owners(layers: list[_core.LayerSpec]) -> int:
    """How many layers own their keys and values; those behind them read others'."""
    return next((index for index, layer in enumerate(layers) if layer.kv_layer != index), len(layers))


def _check_rotation(text: _core.TextConfig, source: str) -> None:
    for layer in text.layers:
        if layer.sliding and (layer.rope_pairs * 2 != layer.head_dim or layer.rope_factor != 1.0):
            raise ModelFileError(
                f"{source}: rope_parameters.sliding_attention: GGUF can only express a rotation of the whole head"
            )


def rotary_divisors(text: _core.TextConfig) -> NDArray[np.float32]:
    """(head_dim / 2,) what the frequencies of global layers are divided by; those that do not rotate nearly stop."""
    last = text.layers[-1]
    divisors = np.full(last.head_dim // 2, _UNROTATED, np.float32)
    divisors[: last.rope_pairs] = last.rope_factor
    return divisors


def generation_keys(data: Mapping[str, Any], parsed: ParsedConfig, source: str) -> dict[str, Any]:
    """Keys of generation_config.json; `source` is what messages call it."""
    metadata: dict[str, Any] = {}
    eos = read_eos(data, source) or parsed.eos_ids
    if eos:
        # llama.cpp takes the first, and finds the others by their text.
        metadata["tokenizer.ggml.eos_token_id"] = eos[0]
        metadata[OWN + "eos_token_ids"] = np.array(eos, np.int32)
    for name, (key, kind) in SAMPLING.items():
        value = data.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and data.get("do_sample") is True:
            metadata[key] = kind(value)
    suppressed = GenerationDefaults.from_config(data, source, parsed.core.text.vocab).bans.suppress_tokens
    if suppressed:
        metadata[SUPPRESS] = np.array(suppressed, np.int32)
    if data:  # llama.cpp has no keys for most of it
        metadata[OWN + "generation_config"] = json.dumps(data)
    return metadata


# -- the encoders ------------------------------------------------------------------------------------------------------


def _vision(vision: _core.VisionConfig, text_hidden: int, source: str) -> dict[str, Any]:
    if vision.rope_theta != 100.0:
        raise ModelFileError(f"{source}: vision_config.rope_parameters.rope_theta: llama.cpp knows 100 only")
    metadata = {
        "projector_type": "gemma4v",
        "projection_dim": text_hidden,
        "image_size": _PICTURE_SIDE,
        "image_mean": np.zeros(3, np.float32),
        "image_std": np.ones(3, np.float32),
        "patch_size": vision.patch,
        "projector.scale_factor": vision.pool,
        "embedding_length": vision.hidden,
        "feed_forward_length": vision.ffn,
        "block_count": vision.layers,
        "attention.head_count": vision.heads,
        "attention.head_count_kv": vision.kv_heads,
        "attention.head_dim": vision.head_dim,
        "attention.layer_norm_epsilon": float(vision.norm_eps),
    }
    # Without this, llama.cpp takes another approximation of gelu than the reference.
    keys: dict[str, Any] = {"clip.has_vision_encoder": True, "clip.use_gelu": True}
    return keys | {f"clip.vision.{key}": value for key, value in metadata.items()}


# What llama.cpp asks for of an encoder, and a model without one does not have.
_NO_ENCODER = {"feed_forward_length": 0, "block_count": 0, "attention.head_count": 0}


def _squares(pixels: _core.PixelConfig, grid: PatchGrid, text_hidden: int) -> dict[str, Any]:
    metadata = {
        "projector_type": "gemma4uv",
        "projection_dim": text_hidden,
        "image_size": _PICTURE_SIDE,
        "image_mean": np.zeros(3, np.float32),
        "image_std": np.ones(3, np.float32),
        "patch_size": grid.patch,
        "projector.scale_factor": grid.pool,
        "embedding_length": pixels.width,
        "attention.layer_norm_epsilon": float(pixels.norm_eps),
        **_NO_ENCODER,
    }
    return {"clip.has_vision_encoder": True} | {f"clip.vision.{key}": value for key, value in metadata.items()}


_FRAME, _FRAME_EPS, _MELS = 640, 1e-6, 128  # what llama.cpp cuts sounds into; it asks for bands, and does not use them


def _frames(samples: _core.SampleConfig, text_hidden: int, source: str) -> dict[str, Any]:
    if samples.frame != _FRAME or np.float32(samples.norm_eps) != np.float32(_FRAME_EPS):
        raise ModelFileError(
            f"{source}: audio_config: llama.cpp knows only frames of {_FRAME} samples and rms_norm_eps {_FRAME_EPS}"
        )
    metadata = {
        "projector_type": "gemma4ua",
        "projection_dim": text_hidden,
        "num_mel_bins": _MELS,
        "embedding_length": samples.frame,
        "attention.layer_norm_epsilon": float(samples.norm_eps),
        **_NO_ENCODER,
    }
    return {"clip.has_audio_encoder": True} | {f"clip.audio.{key}": value for key, value in metadata.items()}


# What llama.cpp's audio encoder has as constants.
_AUDIO = {"chunk": 12, "left": 13, "right": 0, "logit_cap": 50.0, "residual_weight": 0.5, "gradient_clip": 1e10}


def _audio(audio: _core.AudioConfig, text_hidden: int, source: str) -> dict[str, Any]:
    for name, value in _AUDIO.items():
        if np.float32(getattr(audio, name)) != np.float32(value):
            raise ModelFileError(f"{source}: audio_config: llama.cpp knows only {name} = {value}")
    metadata = {
        "projector_type": "gemma4a",
        "projection_dim": text_hidden,
        "num_mel_bins": audio.mel_bins,
        "embedding_length": audio.hidden,
        "feed_forward_length": 4 * audio.hidden,
        "block_count": audio.layers,
        "attention.head_count": audio.heads,
        "attention.layer_norm_epsilon": float(audio.norm_eps),
    }
    return {"clip.has_audio_encoder": True} | {f"clip.audio.{key}": value for key, value in metadata.items()}
