"""What llama.cpp calls the tensors of Gemma 4, beside the names of the published checkpoints.

Knows: names. Must not know: files, shapes, formats.
A clipped linear is one row of a table: its four bounds follow the name of its matrix on either side.
"""

from __future__ import annotations

import re
from functools import lru_cache

__all__ = ["BOUNDS", "ENCODER", "TEXT_PREFIX", "hf_name", "llama_name"]

TEXT_PREFIX = "model.language_model."
ENCODER = re.compile(r"(v|a|mm)\..*")
"""Tensors of the encoders."""
BOUNDS = ("input_min", "input_max", "output_min", "output_max")

_TEXT = {
    "embed_tokens.weight": "token_embd.weight",
    "norm.weight": "output_norm.weight",
    "embed_tokens_per_layer.weight": "per_layer_token_embd.weight",
    "per_layer_model_projection.weight": "per_layer_model_proj.weight",
    "per_layer_projection_norm.weight": "per_layer_proj_norm.weight",
}
_TEXT_LAYER = {
    "input_layernorm.weight": "attn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "self_attn.q_norm.weight": "attn_q_norm.weight",
    "self_attn.k_norm.weight": "attn_k_norm.weight",
    "post_attention_layernorm.weight": "post_attention_norm.weight",
    "pre_feedforward_layernorm.weight": "ffn_norm.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
    "post_feedforward_layernorm.weight": "post_ffw_norm.weight",
    "router.proj.weight": "ffn_gate_inp.weight",
    "router.scale": "ffn_gate_inp.scale",
    "router.per_expert_scale": "ffn_down_exps.scale",
    "experts.gate_up_proj": "ffn_gate_up_exps.weight",
    # Where a file has both apart; the published checkpoints do not.
    "experts.gate_proj": "ffn_gate_exps.weight",
    "experts.up_proj": "ffn_up_exps.weight",
    "experts.down_proj": "ffn_down_exps.weight",
    "post_feedforward_layernorm_1.weight": "post_ffw_norm_1.weight",
    "pre_feedforward_layernorm_2.weight": "pre_ffw_norm_2.weight",
    "post_feedforward_layernorm_2.weight": "post_ffw_norm_2.weight",
    "per_layer_input_gate.weight": "inp_gate.weight",
    "per_layer_projection.weight": "proj.weight",
    "post_per_layer_input_norm.weight": "post_norm.weight",
    "layer_scalar": "layer_output_scale.weight",
}
_ENCODERS = {
    "model.vision_tower.patch_embedder.input_proj.weight": "v.patch_embd.weight",
    "model.vision_tower.patch_embedder.position_embedding_table": "v.position_embd.weight",
    "model.vision_tower.std_bias": "v.std_bias",
    "model.vision_tower.std_scale": "v.std_scale",
    "model.embed_vision.embedding_projection.weight": "mm.input_projection.weight",
    "model.audio_tower.subsample_conv_projection.layer0.conv.weight": "a.conv1d.0.weight",
    "model.audio_tower.subsample_conv_projection.layer0.norm.weight": "a.conv1d.0.norm.weight",
    "model.audio_tower.subsample_conv_projection.layer1.conv.weight": "a.conv1d.1.weight",
    "model.audio_tower.subsample_conv_projection.layer1.norm.weight": "a.conv1d.1.norm.weight",
    "model.audio_tower.subsample_conv_projection.input_proj_linear.weight": "a.input_projection.weight",
    "model.audio_tower.output_proj.weight": "a.pre_encode.out.weight",
    "model.audio_tower.output_proj.bias": "a.pre_encode.out.bias",
    "model.embed_audio.embedding_projection.weight": "mm.a.input_projection.weight",
}
# Of a model without encoders (12B), whose patches and their places have the names that an encoder's have.
_UNIFIED = {
    "model.vision_embedder.patch_dense.weight": "v.patch_embd.weight",
    "model.vision_embedder.patch_dense.bias": "v.patch_embd.bias",
    "model.vision_embedder.pos_embedding": "v.position_embd.weight",
    **{
        f"model.vision_embedder.{norm}.{part}": f"v.patch_norm.{index}.{part}"
        for index, norm in enumerate(("patch_ln1", "patch_ln2", "pos_norm"), 1)
        for part in ("weight", "bias")
    },
}
_UNIFIED_BACK = {theirs: ours for ours, theirs in _UNIFIED.items()}
_VISION_LINEARS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_out",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_VISION_LAYER = {
    "input_layernorm.weight": "ln1.weight",
    "self_attn.q_norm.weight": "attn_q_norm.weight",
    "self_attn.k_norm.weight": "attn_k_norm.weight",
    "post_attention_layernorm.weight": "attn_post_norm.weight",
    "pre_feedforward_layernorm.weight": "ln2.weight",
    "post_feedforward_layernorm.weight": "ffn_post_norm.weight",
}
_AUDIO_LINEARS = {
    "feed_forward1.ffw_layer_1": "ffn_up",
    "feed_forward1.ffw_layer_2": "ffn_down",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.post": "attn_out",
    "lconv1d.linear_start": "conv_pw1",
    "lconv1d.linear_end": "conv_pw2",
    "feed_forward2.ffw_layer_1": "ffn_up_1",
    "feed_forward2.ffw_layer_2": "ffn_down_1",
}
_AUDIO_LAYER = {
    "feed_forward1.pre_layer_norm.weight": "ffn_norm.weight",
    "feed_forward1.post_layer_norm.weight": "ffn_post_norm.weight",
    "norm_pre_attn.weight": "attn_pre_norm.weight",
    "self_attn.relative_k_proj.weight": "attn_k_rel.weight",
    "self_attn.per_dim_scale": "per_dim_scale.weight",
    "norm_post_attn.weight": "attn_post_norm.weight",
    # llama.cpp has the names of these two norms the wrong way round, and reads them so.
    "lconv1d.pre_layer_norm.weight": "conv_norm.weight",
    "lconv1d.conv_norm.weight": "norm_conv.weight",
    "lconv1d.depthwise_conv1d.weight": "conv_dw.weight",
    "feed_forward2.pre_layer_norm.weight": "ffn_norm_1.weight",
    "feed_forward2.post_layer_norm.weight": "ffn_post_norm_1.weight",
    "norm_out.weight": "ln2.weight",
}


def _with_bounds(linears: dict[str, str], layer: dict[str, str]) -> dict[str, str]:
    names = dict(layer)
    for ours, theirs in linears.items():
        names[f"{ours}.linear.weight"] = f"{theirs}.weight"
        names.update({f"{ours}.{bound}": f"{theirs}.{bound}" for bound in BOUNDS})
    return names


_PLAIN = {
    "lm_head.weight": "output.weight",
    **{TEXT_PREFIX + ours: theirs for ours, theirs in _TEXT.items()},
    **_ENCODERS,
    **_UNIFIED,
}
# (the checkpoint's prefix, llama.cpp's prefix, names within a layer)
_LAYERED = (
    (TEXT_PREFIX + "layers.", "blk.", _TEXT_LAYER),
    ("model.vision_tower.encoder.layers.", "v.blk.", _with_bounds(_VISION_LINEARS, _VISION_LAYER)),
    ("model.audio_tower.layers.", "a.blk.", _with_bounds(_AUDIO_LINEARS, _AUDIO_LAYER)),
)
_NUMBER = re.compile(r"(0|[1-9]\d{0,4})\.(.+)")


def llama_name(name: str) -> str | None:
    """llama.cpp's name of a checkpoint's tensor; None for one that it does not have.

    >>> llama_name("model.language_model.layers.7.self_attn.o_proj.weight")
    'blk.7.attn_output.weight'
    >>> llama_name("model.vision_tower.encoder.layers.0.mlp.up_proj.input_max")
    'v.blk.0.ffn_up.input_max'
    """
    return _PLAIN.get(name) or _in_layer(name, [(ours, theirs, table) for ours, theirs, table in _LAYERED])


def hf_name(name: str, *, unified: bool = False) -> str | None:
    """The checkpoint's name of a tensor that llama.cpp calls `name`; None for one that a checkpoint does not have.

    Args:
        name: with the prefix `v.` of what belongs to pictures, `a.` to sound, `mm.` between them and the text.
        unified: the model has no encoders.

    >>> hf_name("blk.7.layer_output_scale.weight")
    'model.language_model.layers.7.layer_scalar'
    >>> hf_name("rope_freqs.weight") is None
    True
    """
    plain, layered = _reversed()
    own = _UNIFIED_BACK.get(name) if unified else None
    return own or plain.get(name) or _in_layer(name, layered)


def _in_layer(name: str, tables: list[tuple[str, str, dict[str, str]]]) -> str | None:
    for source, target, table in tables:
        if name.startswith(source):
            match = _NUMBER.fullmatch(name, len(source))
            found = match and table.get(match[2])
            return f"{target}{match[1]}.{found}" if match and found else None
    return None


@lru_cache(maxsize=1)
def _reversed() -> tuple[dict[str, str], list[tuple[str, str, dict[str, str]]]]:
    plain = {theirs: ours for ours, theirs in _PLAIN.items() if ours not in _UNIFIED}
    layered = [(theirs, ours, {inner: outer for outer, inner in table.items()}) for ours, theirs, table in _LAYERED]
    return plain, layered
