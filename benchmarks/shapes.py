"""The official shapes of the family, as config.json says them, and the tensors that a GGUF file of each holds.

Knows: sizes, llama.cpp's names of tensors. Must not know: files, formats, values.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from gemma4 import _core
from gemma4.gguf.metadata import owners

VOCAB = 262_144
BOUNDS = ("input_min", "input_max", "output_min", "output_max")
Shape = tuple[int, ...]


class Family(NamedTuple):
    """One model: its text config without the layers, sliding layers for each global one, and its encoders."""

    text: dict[str, Any]
    layers: int
    readers: int
    period: int
    """Layers of one round of the pattern: `period - 1` sliding ones, then a global one."""
    vision: dict[str, Any]
    audio: dict[str, Any] | None


_SMALL_EYE = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 16, "num_attention_heads": 12,
    "num_key_value_heads": 12, "head_dim": 64, "position_embedding_size": 10_240, "use_clipped_linears": True,
}  # fmt: skip
_LARGE_EYE = {
    "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
    "num_key_value_heads": 16, "head_dim": 72, "position_embedding_size": 10_240, "standardize": True,
}  # fmt: skip
_EAR = {
    "hidden_size": 1024, "num_hidden_layers": 12, "num_attention_heads": 8, "subsampling_conv_channels": [128, 32],
    "conv_kernel_size": 5, "output_proj_dims": 1536, "use_clipped_linears": True,
}  # fmt: skip


def _text(hidden: int, ffn: int, heads: tuple[int, int, int], **more: Any) -> dict[str, Any]:
    """`heads`: query heads, key heads of sliding layers, key heads of global layers."""
    return {
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_attention_heads": heads[0],
        "num_key_value_heads": heads[1],
        "num_global_key_value_heads": heads[2],
        "head_dim": 256,
        "global_head_dim": 512,
        "sliding_window": 512,
        "max_position_embeddings": 131_072,
        "hidden_size_per_layer_input": 0,
        **more,
    }


_LARGE = {
    "sliding_window": 1024, "max_position_embeddings": 262_144, "attention_k_eq_v": True,
    "use_bidirectional_attention": "vision",
}  # fmt: skip
_EXPERTS = {"enable_moe_block": True, "num_experts": 128, "top_k_experts": 8, "moe_intermediate_size": 704}

FAMILY: dict[str, Family] = {
    "e2b": Family(
        _text(1536, 6144, (8, 1, 1), hidden_size_per_layer_input=256, use_double_wide_mlp=True),
        35, 20, 5, _SMALL_EYE, _EAR,
    ),
    "e4b": Family(_text(2560, 10_240, (8, 2, 2), hidden_size_per_layer_input=256), 42, 18, 6, _SMALL_EYE, _EAR),
    "26b-a4b": Family(_text(2816, 2112, (16, 8, 2), **_LARGE, **_EXPERTS), 30, 0, 6, _LARGE_EYE, None),
    "31b": Family(_text(5376, 21_504, (32, 16, 4), **_LARGE), 60, 0, 6, _LARGE_EYE, None),
}  # fmt: skip

# Every mechanism of E2B in a file of a few MB, for tests; rows stay whole in blocks of 256.
_TINY_EYE = {
    **_SMALL_EYE, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 32, "position_embedding_size": 256,
}  # fmt: skip
_TINY_EAR = {
    **_EAR, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "subsampling_conv_channels": [16, 8],
    "output_proj_dims": 96,
}  # fmt: skip
TINY_VOCAB = 2048
_TINY = {
    "hidden_size": 256, "intermediate_size": 512, "head_dim": 32, "global_head_dim": 64, "sliding_window": 64,
    "max_position_embeddings": 4096,
}  # fmt: skip


def tiny(name: str) -> Family:
    """A model with the mechanisms of another and the widths of a toy."""
    full = FAMILY[name]
    text = {**full.text, **_TINY}
    if text["hidden_size_per_layer_input"]:
        text["hidden_size_per_layer_input"] = 32
    if "num_experts" in text:
        text |= {"num_experts": 8, "top_k_experts": 2, "moe_intermediate_size": 64}
    readers = full.period if full.readers else 0
    eye = {**_TINY_EYE, "standardize": full.vision.get("standardize", False)}
    return Family(text, 2 * full.period, readers, full.period, eye, full.audio and _TINY_EAR)


def with_layers(family: Family, layers: int) -> Family:
    """The first layers of a model at its widths, in the proportion of layers that own keys to layers that do not.

    Raises:
        ValueError: not a whole number of rounds of the pattern, without which no layer's role would be the same.
    """
    if layers % family.period or not 0 < layers <= family.layers:
        raise ValueError(f"layers: expected a multiple of {family.period} up to {family.layers}, found {layers}")
    share = (family.layers - family.readers) / family.layers
    own = max(1, round(share * layers / family.period)) * family.period
    return family._replace(layers=layers, readers=layers - own)


def config(family: Family, vocab: int, control: dict[str, int]) -> dict[str, Any]:
    """config.json; `control` has the ids of the control tokens."""
    types = ["full_attention" if (i + 1) % family.period == 0 else "sliding_attention" for i in range(family.layers)]
    text = {
        "vocab_size": vocab,
        "vocab_size_per_layer_input": vocab,
        "num_hidden_layers": family.layers,
        "num_kv_shared_layers": family.readers,
        "layer_types": types,
        "final_logit_softcapping": 30.0,
        "rms_norm_eps": 1e-6,
        "pad_token_id": 0,
        **family.text,
    }
    return {
        "model_type": "gemma4",
        "text_config": {"model_type": "gemma4_text", **text},
        "vision_config": {"model_type": "gemma4_vision", **family.vision},
        "audio_config": family.audio and {"model_type": "gemma4_audio", **family.audio},
        "tie_word_embeddings": True,
        "eos_token_id": [control["<eos>"], control["<turn|>"]],
        "boi_token_id": control["<|image>"],
        "image_token_id": control["<|image|>"],
        "eoi_token_id": control["<image|>"],
        "boa_token_id": control["<|audio>"],
        "audio_token_id": control["<|audio|>"],
        "eoa_token_id": control["<audio|>"],
        "video_token_id": control["<|video|>"],
    }


# -- tensors -----------------------------------------------------------------------------------------------------------


def text_tensors(text: _core.TextConfig) -> Iterator[tuple[str, Shape]]:
    """llama.cpp's names and NumPy's shapes of the decoder's tensors, in the order of the layers."""
    yield "token_embd.weight", (text.vocab, text.hidden)
    if text.ple_dim:
        width = len(text.layers) * text.ple_dim
        yield "per_layer_token_embd.weight", (text.vocab, width)
        yield "per_layer_model_proj.weight", (width, text.hidden)
        yield "per_layer_proj_norm.weight", (text.ple_dim,)
    yield "output_norm.weight", (text.hidden,)
    first_reader = owners(text.layers)
    for index, layer in enumerate(text.layers):
        for name, shape in _layer(text, layer, index < first_reader):
            yield f"blk.{index}.{name}", shape


def _layer(text: _core.TextConfig, layer: _core.LayerSpec, owns: bool) -> Iterator[tuple[str, Shape]]:
    hidden, queries = text.hidden, text.heads * layer.head_dim
    yield "attn_norm.weight", (hidden,)
    yield "attn_q.weight", (queries, hidden)
    yield "attn_q_norm.weight", (layer.head_dim,)
    if owns:
        yield "attn_k.weight", (layer.kv_heads * layer.head_dim, hidden)
        yield "attn_k_norm.weight", (layer.head_dim,)
        if not layer.k_is_v:
            yield "attn_v.weight", (layer.kv_heads * layer.head_dim, hidden)
    yield "attn_output.weight", (hidden, queries)
    yield "post_attention_norm.weight", (hidden,)
    yield "ffn_norm.weight", (hidden,)
    yield "ffn_gate.weight", (layer.ffn, hidden)
    yield "ffn_up.weight", (layer.ffn, hidden)
    yield "ffn_down.weight", (hidden, layer.ffn)
    yield "post_ffw_norm.weight", (hidden,)
    if layer.moe:
        yield "ffn_gate_inp.weight", (text.experts, hidden)
        yield "ffn_gate_inp.scale", (hidden,)
        yield "ffn_gate_up_exps.weight", (text.experts, 2 * text.expert_ffn, hidden)
        yield "ffn_down_exps.weight", (text.experts, hidden, text.expert_ffn)
        yield "ffn_down_exps.scale", (text.experts,)
        for norm in ("pre_ffw_norm_2", "post_ffw_norm_1", "post_ffw_norm_2"):
            yield f"{norm}.weight", (hidden,)
    if text.ple_dim:
        yield "inp_gate.weight", (text.ple_dim, hidden)
        yield "proj.weight", (hidden, text.ple_dim)
        yield "post_norm.weight", (hidden,)
    yield "layer_output_scale.weight", (1,)


def encoder_tensors(core: _core.ModelConfig) -> Iterator[tuple[str, Shape]]:
    """The same of the file with the encoders."""
    if core.vision is not None:
        yield from _vision(core.vision, core.text.hidden)
    if core.audio is not None:
        yield from _audio(core.audio, core.text.hidden)


def _vision(eye: _core.VisionConfig, text_hidden: int) -> Iterator[tuple[str, Shape]]:
    hidden, queries, keys = eye.hidden, eye.heads * eye.head_dim, eye.kv_heads * eye.head_dim
    yield "v.patch_embd.weight", (hidden, 3, eye.patch, eye.patch)
    yield "v.position_embd.weight", (2, eye.positions, hidden)
    if eye.standardize:
        yield "v.std_bias", (hidden,)
        yield "v.std_scale", (hidden,)
    linears = {
        "attn_q": (queries, hidden), "attn_k": (keys, hidden), "attn_v": (keys, hidden), "attn_out": (hidden, queries),
        "ffn_gate": (eye.ffn, hidden), "ffn_up": (eye.ffn, hidden), "ffn_down": (hidden, eye.ffn),
    }  # fmt: skip
    for index in range(eye.layers):
        for norm in ("ln1", "attn_post_norm", "ln2", "ffn_post_norm"):
            yield f"v.blk.{index}.{norm}.weight", (hidden,)
        for norm in ("attn_q_norm", "attn_k_norm"):
            yield f"v.blk.{index}.{norm}.weight", (eye.head_dim,)
        yield from _linears(f"v.blk.{index}.", linears, eye.clipped)
    yield "mm.input_projection.weight", (text_hidden, hidden)


def _linears(prefix: str, linears: dict[str, Shape], clipped: bool) -> Iterator[tuple[str, Shape]]:
    for name, shape in linears.items():
        yield f"{prefix}{name}.weight", shape
        for bound in BOUNDS if clipped else ():
            yield f"{prefix}{name}.{bound}", (1,)


def _audio(ear: _core.AudioConfig, text_hidden: int) -> Iterator[tuple[str, Shape]]:
    hidden = ear.hidden
    for index, (inputs, channels) in enumerate(((1, ear.channels1), (ear.channels1, ear.channels2))):
        yield f"a.conv1d.{index}.weight", (channels, inputs, 3, 3)
        yield f"a.conv1d.{index}.norm.weight", (channels,)
    # Each convolution halves the mel bins.
    yield "a.input_projection.weight", (hidden, ear.channels2 * (ear.mel_bins // 4))
    square = (hidden, hidden)
    linears = {
        "ffn_up": (4 * hidden, hidden), "ffn_down": (hidden, 4 * hidden), "attn_q": square, "attn_k": square,
        "attn_v": square, "attn_out": square, "conv_pw1": (2 * hidden, hidden), "conv_pw2": square,
        "ffn_up_1": (4 * hidden, hidden), "ffn_down_1": (hidden, 4 * hidden),
    }  # fmt: skip
    norms = (
        "ffn_norm", "ffn_post_norm", "attn_pre_norm", "attn_post_norm", "conv_norm", "norm_conv", "ffn_norm_1",
        "ffn_post_norm_1", "ln2",
    )  # fmt: skip
    for index in range(ear.layers):
        prefix = f"a.blk.{index}."
        for norm in norms:
            yield f"{prefix}{norm}.weight", (hidden,)
        yield f"{prefix}attn_k_rel.weight", square
        yield f"{prefix}per_dim_scale.weight", (hidden // ear.heads,)
        yield f"{prefix}conv_dw.weight", (hidden, ear.conv_kernel)
        yield from _linears(prefix, linears, ear.clipped)
    yield "a.pre_encode.out.weight", (ear.out, hidden)
    yield "a.pre_encode.out.bias", (ear.out,)
    yield "mm.a.input_projection.weight", (text_hidden, ear.out)
