"""What the keys of a GGUF file say, as the JSON files of a published checkpoint would.

Knows: what llama.cpp's keys mean. Must not know: how a GGUF file is laid out, how the engine computes.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from ..errors import ModelFileError
from ..jsonfile import parse_object
from ..tokens import markers
from .container import GgufFile, GgufTensor
from .encoders import audio_config, is_unified, vision_config
from .metadata import OWN, SAMPLING, SUPPRESS
from .names import ENCODER

__all__ = ["config_of", "end_ids", "generation_of", "hidden_size", "of_keys", "processor_of", "text_config_of"]

_UNROTATED = 1e29  # frequencies divided by more than this stand still
ROPE = "rope_freqs.weight"
ARCHITECTURE = "gemma4"
_LAYERS = {True: "sliding_attention", False: "full_attention"}


def config_of(file: GgufFile, encoders: GgufFile | None, divisors: Any, ids: dict[str, int]) -> dict[str, Any]:
    """config.json.

    Args:
        file: with the decoder.
        encoders: the file with the encoders, which may be the same; None without.
        divisors: (head_dim / 2,) of the rotation frequencies of global layers.
        ids: of the added tokens.

    Raises:
        ModelFileError: a key is missing, malformed, or asks for what is not supported.
    """
    unified = encoders is not None and is_unified(encoders)
    config: dict[str, Any] = {
        "model_type": "gemma4_unified" if unified else "gemma4",
        "architectures": [f"Gemma4{'Unified' if unified else ''}ForConditionalGeneration"],
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "eos_token_id": end_ids(file, ids),
        "text_config": text_config_of(file, divisors),
        **_media_tokens(ids),
    }
    if encoders is not None:
        config["vision_config"] = vision_config(encoders)
        config["audio_config"] = audio_config(encoders)
        if config["vision_config"] is None and config["audio_config"] is None:
            name = next((repr(name) for name in encoders.tensors if ENCODER.fullmatch(name)), "none")
            raise ModelFileError(f"{encoders.path}: tensor {name}: of an encoder, without the keys that describe one")
    return config


def processor_of(encoders: GgufFile | None) -> dict[str, Any]:
    """What processor_config.json would say of pictures; empty where nothing differs from the defaults."""
    key = OWN + "max_soft_tokens"
    return {} if encoders is None or key not in encoders.metadata else {"max_soft_tokens": encoders.integer(key)}


def hidden_size(file: GgufFile) -> int:
    """The width of the decoder."""
    return file.integer(_key("embedding_length"))


def text_config_of(file: GgufFile, rope: Any) -> dict[str, Any]:
    layers = file.integer(_key("block_count"), low=1, high=1024)
    sliding = [bool(value) for value in file.array(_key("attention.sliding_window_pattern"), "biu", layers)]
    if sliding[-1]:
        raise file.error(_key("attention.sliding_window_pattern"), "the last layer must be global")
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise ModelFileError(f"{file.path}: tensor 'token_embd.weight': expected a matrix, found {found(embedding)}")
    vocab = embedding.shape[0]
    if len(file.strings("tokenizer.ggml.tokens")) > vocab:
        raise file.error("tokenizer.ggml.tokens", f"has more tokens than the {vocab} rows of token_embd.weight")
    ple = file.integer(_key("embedding_length_per_layer_input"), 0)
    return {
        "model_type": "gemma4_text",
        "vocab_size": vocab,
        "hidden_size": file.integer(_key("embedding_length")),
        "num_hidden_layers": layers,
        "layer_types": [_LAYERS[value] for value in sliding],
        "max_position_embeddings": file.integer(_key("context_length")),
        "sliding_window": file.integer(_key("attention.sliding_window")),
        "rms_norm_eps": file.real(_key("attention.layer_norm_rms_epsilon")),
        "final_logit_softcapping": _cap(file),
        "hidden_size_per_layer_input": ple,
        "vocab_size_per_layer_input": vocab,
        "pad_token_id": file.integer("tokenizer.ggml.padding_token_id", 0, 0, vocab - 1),
        "hidden_activation": "gelu_pytorch_tanh",
        # No key of llama.cpp's says it; the published models without per-layer embeddings are the ones that do.
        "use_bidirectional_attention": "vision" if file.boolean(OWN + "bidirectional_images", ple == 0) else None,
        **_heads(file, sliding),
        **_feed_forward(file, layers),
        **_experts(file),
        "rope_parameters": _rope(file, rope),
        "attention_k_eq_v": _k_is_v(file, sliding),
    }


def _key(name: str) -> str:
    return f"{ARCHITECTURE}.{name}"


# What a field of text_config is read from, where that is one key alone.
_KEYS = {
    "hidden_size": "embedding_length", "num_hidden_layers": "block_count", "max_position_embeddings": "context_length",
    "sliding_window": "attention.sliding_window", "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "final_logit_softcapping": "final_logit_softcapping", "intermediate_size": "feed_forward_length",
    "hidden_size_per_layer_input": "embedding_length_per_layer_input", "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv", "num_experts": "expert_count",
    "num_kv_shared_layers": "attention.shared_kv_layers", "top_k_experts": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
    "rope_parameters.full_attention.rope_theta": "rope.freq_base",
}  # fmt: skip


def of_keys(message: str) -> str:
    """A message about a field of config.json, about the key that it was read from."""

    def key(found: re.Match[str]) -> str:
        return _key(_KEYS[found[1]]) if found[1] in _KEYS else found[0]

    return re.sub(r"config\.json: text_config\.([\w.]+)(?=: )", key, message)


def _cap(file: GgufFile) -> float | None:
    cap = file.real(_key("final_logit_softcapping"), 0.0)
    return cap or None


def _heads(file: GgufFile, sliding: list[bool]) -> dict[str, Any]:
    """Head counts and sizes: those of sliding layers, and for each other layer what differs there."""
    layers = len(sliding)
    heads = file.per_layer(_key("attention.head_count"), layers)
    if len(set(heads)) != 1:
        raise file.error(_key("attention.head_count"), "layers with different numbers of heads are not supported")
    kv_heads = file.per_layer(_key("attention.head_count_kv"), layers, heads[0])
    size = {False: file.integer(_key("attention.key_length"))}
    size[True] = file.integer(_key("attention.key_length_swa"), size[False])
    for kind, suffix in ((False, ""), (True, "_swa")):
        if file.integer(_key("attention.value_length" + suffix), size[kind]) != size[kind]:
            raise file.error(_key("attention.value_length" + suffix), f"must be that of the keys, {size[kind]}")
        if file.integer(_key("rope.dimension_count" + suffix), size[kind]) != size[kind]:
            raise file.error(_key("rope.dimension_count" + suffix), f"must be the size of a head, {size[kind]}")
    base = sliding.index(True) if True in sliding else 0
    common = {"head_dim": size[sliding[base]], "num_key_value_heads": kv_heads[base]}
    overrides = {}
    for index, kind in enumerate(sliding):
        own = {"head_dim": size[kind], "num_key_value_heads": kv_heads[index]}
        if own != common:
            overrides[str(index)] = own
    return {"num_attention_heads": heads[0], **common, "per_layer_config": overrides}


def _feed_forward(file: GgufFile, layers: int) -> dict[str, Any]:
    widths = file.per_layer(_key("feed_forward_length"), layers)
    shared = file.integer(_key("attention.shared_kv_layers"), 0, 0, layers)
    wide = len(set(widths)) > 1
    expected = [widths[0] * (2 if wide and index >= layers - shared else 1) for index in range(layers)]
    if widths != expected:
        raise file.error(
            _key("feed_forward_length"), "expected one width, or twice it in the layers that share keys and values"
        )
    return {"intermediate_size": widths[0], "num_kv_shared_layers": shared, "use_double_wide_mlp": wide}


def _experts(file: GgufFile) -> dict[str, Any]:
    count = file.integer(_key("expert_count"), 0)
    if not count:
        return {"enable_moe_block": False}
    return {
        "enable_moe_block": True,
        "num_experts": count,
        "top_k_experts": file.integer(_key("expert_used_count")),
        "moe_intermediate_size": file.integer(_key("expert_feed_forward_length")),
    }


def _rope(file: GgufFile, divisors: Any) -> dict[str, Any]:
    scaling = file.text(_key("rope.scaling.type"), "none")
    if scaling != "none" or file.real(_key("rope.scaling.factor"), 1.0) not in (0.0, 1.0):
        raise file.error(_key("rope.scaling.type"), f"scaled rotations ({scaling[:20]}) are not supported")
    theta = file.real(_key("rope.freq_base"))
    half = file.integer(_key("attention.key_length")) // 2
    pairs = int(np.count_nonzero(divisors < _UNROTATED))
    turning = divisors[:pairs]
    if len(divisors) != half or not (turning > 0).all() or (turning != turning[:1]).any():
        raise ModelFileError(
            f"{file.path}: tensor {ROPE!r}: expected {half} divisors, equal for the pairs that rotate and then beyond "
            f"{_UNROTATED:g} for those that do not"
        )
    return {
        "sliding_attention": {
            "rope_type": "default", "rope_theta": file.real(_key("rope.freq_base_swa"), theta),
        },
        "full_attention": {
            "rope_type": "proportional", "rope_theta": theta,
            "partial_rotary_factor": rotary_fraction(pairs, 2 * half),
            "factor": float(turning[0]) if pairs else 1.0,
        },
    }  # fmt: skip


def rotary_fraction(pairs: int, head_dim: int) -> float:
    """The fraction of a head that rotates, such that rounding down gives back the number of pairs.

    >>> rotary_fraction(64, 512)
    0.25
    """
    fraction = 2 * pairs / head_dim
    return fraction if int(fraction * head_dim // 2) == pairs else math.nextafter(fraction, 2.0)


def _k_is_v(file: GgufFile, sliding: list[bool]) -> bool:
    """Whether global layers that own their keys have no values of their own."""
    owners = range(len(sliding) - file.integer(_key("attention.shared_kv_layers"), 0, 0, len(sliding)))
    missing = {
        f"blk.{index}.attn_v.weight" not in file.tensors and f"blk.{index}.attn_qkv.weight" not in file.tensors
        for index in owners
        if not sliding[index]
    }
    return missing == {True}


def _media_tokens(ids: dict[str, int]) -> dict[str, int]:
    names = {
        "boi_token_id": markers.IMAGE_BEGIN, "image_token_id": markers.IMAGE, "eoi_token_id": markers.IMAGE_END,
        "boa_token_id": markers.AUDIO_BEGIN, "audio_token_id": markers.AUDIO, "eoa_token_id": markers.AUDIO_END,
        "video_token_id": markers.VIDEO,
    }  # fmt: skip
    return {name: ids[text] for name, text in names.items() if text in ids}


def end_ids(file: GgufFile, ids: dict[str, int]) -> list[int]:
    """What ends an answer. llama.cpp finds most by their text, since the format has room for one id only."""
    for key in (OWN + "eos_token_ids", "tokenizer.ggml.eos_token_ids"):
        if key in file.metadata:
            return file.ids(key)
    first = [file.integer("tokenizer.ggml.eos_token_id")] if "tokenizer.ggml.eos_token_id" in file.metadata else []
    return list(dict.fromkeys([*first, *(ids[text] for text in markers.ENDS if text in ids)]))


def _rounds_to(kept: Any, value: Any) -> bool:
    """Whether a key of 32 bits says the same."""
    return isinstance(kept, int | float) and np.float32(kept) == np.float32(value)


def generation_of(file: GgufFile, ends: list[int]) -> dict[str, Any]:
    """generation_config.json."""
    given = {name: file.number(key) for name, (key, _) in SAMPLING.items() if key in file.metadata}
    sample = bool(given) and given.get("temperature", 1.0) != 0
    own = OWN + "generation_config"  # what there are no keys for; those win, as other tools change them
    kept = parse_object(file.text(own).encode(), f"{file.path}: {own}") if own in file.metadata else {}
    changed = {name: value for name, value in given.items() if not _rounds_to(kept.get(name), value)}
    generation = {"do_sample": sample, **kept, "eos_token_id": ends, **changed}
    if SUPPRESS in file.metadata:
        generation["suppress_tokens"] = file.ids(SUPPRESS)
    return generation


def found(tensor: GgufTensor | None) -> str:
    """A tensor, for a message."""
    return "nothing" if tensor is None else f"{tensor.dtype} {list(tensor.shape)}"
