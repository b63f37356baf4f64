"""text_config: sizes of the decoder, and the specification of each layer.

Knows: the field names and defaults of the published checkpoints. Must not know: encoders, tensors, names of models.
"""

from __future__ import annotations

from typing import Any

from .. import _core
from ..jsonfile import type_name
from .section import EPS, MAX_CONTEXT, MAX_LAYERS, MAX_WIDTH, THETA, Section, rope_style, rope_table

__all__ = ["text_config"]

_TEXT_DEFAULTS = {
    "vocab_size": 262_144,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 30,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131_072,
    "sliding_window": 512,
    "vocab_size_per_layer_input": 262_144,
}
_GLOBAL_HEAD_DIM = 512
_PATTERN = 6  # without `layer_types`, every sixth layer is global
_ROPE_DEFAULTS: dict[str, dict[str, Any]] = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
    "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1_000_000.0},
}
_SLIDING, _FULL = "sliding_attention", "full_attention"


def text_config(text: Section) -> _core.TextConfig:
    def size(name: str, low: int, high: int) -> int:
        return text.integer(name, _TEXT_DEFAULTS[name], low, high)

    text.require("hidden_activation", "gelu_pytorch_tanh", "gelu_pytorch_tanh")
    if text.boolean("attention_bias", False):
        raise text.error("attention_bias", "biases in attention are not supported")
    bidirectional = text.data.get("use_bidirectional_attention")
    if bidirectional not in (None, "vision"):
        raise text.error(
            "use_bidirectional_attention", f"only null and 'vision' are supported, found {str(bidirectional)[:40]!r}"
        )

    config = _core.TextConfig()
    config.vocab = size("vocab_size", 1, 1 << 24)
    config.hidden = size("hidden_size", 1, MAX_WIDTH)
    config.heads = size("num_attention_heads", 1, 4096)
    config.window = size("sliding_window", 1, MAX_CONTEXT)
    config.context = size("max_position_embeddings", 1, MAX_CONTEXT)
    config.norm_eps = text.real("rms_norm_eps", 1e-6, *EPS)
    cap = text.data.get("final_logit_softcapping")
    config.logit_cap = 0.0 if cap is None else text.real("final_logit_softcapping", None, 1e-6, 1e9)
    config.bidirectional_images = bidirectional == "vision"
    config.ple_dim = text.integer("hidden_size_per_layer_input", 256, 0, MAX_WIDTH)
    config.ple_vocab = size("vocab_size_per_layer_input", config.vocab, 1 << 24) if config.ple_dim else 0
    pad = text.data.get("pad_token_id", 0)
    config.pad_id = 0 if pad is None and not config.ple_dim else text.integer("pad_token_id", 0, 0, config.vocab - 1)
    if text.boolean("enable_moe_block", False):
        config.experts = text.integer("num_experts", None, 1, 1 << 16)
        config.experts_used = text.integer("top_k_experts", None, 1, config.experts)
        config.expert_ffn = text.integer("moe_intermediate_size", None, 1, MAX_WIDTH)
    config.layers = _layers(text, config)
    return config


def _layers(text: Section, config: _core.TextConfig) -> list[_core.LayerSpec]:
    count = text.integer("num_hidden_layers", _TEXT_DEFAULTS["num_hidden_layers"], 1, MAX_LAYERS)
    types = _layer_types(text, count)
    shapes = _head_shapes(text, types, config.heads)
    readers = text.integer("num_kv_shared_layers", 0, 0, count)
    sources = _kv_sources(text, types, readers)
    ffn = text.integer("intermediate_size", _TEXT_DEFAULTS["intermediate_size"], 1, MAX_WIDTH)
    wide = text.boolean("use_double_wide_mlp", False)
    k_is_v = text.boolean("attention_k_eq_v", False)
    rope = {kind: _rope(text, kind) for kind in dict.fromkeys(types)}

    layers = []
    for index, kind in enumerate(types):
        layer = _core.LayerSpec()
        layer.sliding = kind == _SLIDING
        layer.k_is_v = k_is_v and not layer.sliding
        layer.moe = config.experts > 0
        layer.kv_layer = sources[index]
        layer.head_dim, layer.kv_heads = shapes[index]
        layer.ffn = ffn * (2 if wide and index >= count - readers else 1)
        layer.rope_theta, fraction, layer.rope_factor = rope[kind]
        layer.rope_pairs = int(fraction * layer.head_dim // 2)
        layers.append(layer)
    return layers


def _layer_types(text: Section, count: int) -> list[str]:
    types = text.data.get("layer_types")
    if types is None:
        types = [_FULL if (index + 1) % _PATTERN == 0 else _SLIDING for index in range(count)]
    if not isinstance(types, list):
        raise text.error("layer_types", f"expected an array, found {type_name(types)}")
    if len(types) != count:
        raise text.error("layer_types", f"expected {count} entries (num_hidden_layers), found {len(types)}")
    for index, kind in enumerate(types):
        if kind not in (_SLIDING, _FULL):
            raise text.error(f"layer_types[{index}]", f"expected {_SLIDING!r} or {_FULL!r}, found {str(kind)[:40]!r}")
    return [*types[:-1], _FULL]  # the last layer is global whatever the file says, as in the reference


def _head_shapes(text: Section, types: list[str], heads: int) -> list[tuple[int, int]]:
    """(head_dim, kv_heads) of every layer, from either style of config."""
    base = {name: text.integer(name, _TEXT_DEFAULTS[name], 1, 65_536) for name in ("head_dim", "num_key_value_heads")}
    overrides = text.data.get("per_layer_config")
    if overrides is None:
        layer = {"head_dim": text.integer("global_head_dim", _GLOBAL_HEAD_DIM, 1, 65_536)}
        if text.boolean("attention_k_eq_v", False) and text.data.get("num_global_key_value_heads") is not None:
            layer["num_key_value_heads"] = text.integer("num_global_key_value_heads", None, 1, 65_536)
        overrides = {str(index): layer for index, kind in enumerate(types) if kind == _FULL}
    by_layer = _overrides(text, overrides, len(types))

    shapes = []
    for index, kind in enumerate(types):
        shape = {**base, **by_layer.get(index, {})}
        if shape["head_dim"] % 2:
            raise text.error("head_dim", f"must be even for the rotation, layer {index} has {shape['head_dim']}")
        if heads % shape["num_key_value_heads"]:
            raise text.error(
                "num_key_value_heads",
                f"{heads} attention heads are not a multiple of the {shape['num_key_value_heads']} of layer {index}",
            )
        shapes.append((shape["head_dim"], shape["num_key_value_heads"]))
        if shapes[types.index(kind)] != shapes[-1]:
            raise text.error("per_layer_config", f"layers {types.index(kind)} and {index} are both {kind} but differ")
    return shapes


def _overrides(text: Section, value: Any, count: int) -> dict[int, dict[str, int]]:
    """`per_layer_config`: layer index -> fields that differ there. Only the head shape may differ between layers."""
    if not isinstance(value, dict):
        raise text.error("per_layer_config", f"expected an object, found {type_name(value)}")
    result: dict[int, dict[str, int]] = {}
    for key, fields in value.items():
        where = f"per_layer_config.{key[:20]}"
        if not (key.isascii() and key.isdigit() and len(key) < 8 and int(key) < count) or int(key) in result:
            raise text.error(where, f"expected a layer index from 0 to {count - 1}, once each")
        if not isinstance(fields, dict):
            raise text.error(where, f"expected an object, found {type_name(fields)}")
        section = Section(fields, text.source, text.path + where + ".")
        for name, wanted in fields.items():
            neutral = wanted in ([], None) if name == "skip" else name in text.data and wanted == text.data[name]
            if name not in ("head_dim", "num_key_value_heads") and not neutral:
                raise section.error(name[:60], "cannot differ between layers")
        names = ("head_dim", "num_key_value_heads")
        result[int(key)] = {name: section.integer(name, None, 1, 65_536) for name in names if name in fields}
    return result


def _kv_sources(text: Section, types: list[str], readers: int) -> list[int]:
    """Whose keys and values each layer reads: its own, or those of the last owner of its type."""
    owners = len(types) - readers
    last = {kind: index for index, kind in enumerate(types[:owners])}
    missing = set(types[owners:]) - set(last)
    if readers and missing:
        raise text.error("num_kv_shared_layers", f"no layer before {owners} owns keys of type {sorted(missing)[0]}")
    return [index if index < owners else last[kind] for index, kind in enumerate(types)]


def _rope(text: Section, kind: str) -> tuple[float, float, float]:
    """(theta, fraction of the head that rotates, divisor of the positions)."""
    field, table = rope_table(text)
    if table is None:
        table = _ROPE_DEFAULTS
    rope = Section(table, text.source, f"{text.path}{field}.").section(kind)
    if rope is None:
        raise text.error(f"{field}.{kind}", "expected an object, found nothing")
    style = rope_style(rope, "default")
    if style not in ("default", "linear", "proportional"):
        raise rope.error(
            "rope_type", f"only 'default', 'linear' and 'proportional' are supported, found {style[:40]!r}"
        )
    theta = rope.real("rope_theta", None, *THETA)
    if style == "default":
        return theta, 1.0, 1.0
    if style == "linear":
        if rope.real("partial_rotary_factor", 1.0, 0.0, 1.0) != 1.0:
            raise rope.error("partial_rotary_factor", "is not supported with 'linear'")
        return theta, 1.0, rope.real("factor", None, 1e-6, 1e6)
    return theta, rope.real("partial_rotary_factor", 1.0, 0.0, 1.0), rope.real("factor", 1.0, 1e-6, 1e6)
