"""vision_config and audio_config: sizes of the encoders, or of what stands in their place.

Knows: the field names and defaults of the published checkpoints. Must not know: the decoder, tensors.
"""

from __future__ import annotations

from .. import _core
from .section import EPS, MAX_LAYERS, MAX_WIDTH, THETA, Section, rope_style, rope_table

__all__ = ["audio_config", "patch", "pixel_config", "pool", "sample_config", "vision_config"]


def vision_config(vision: Section) -> _core.VisionConfig:
    vision.require("hidden_activation", "gelu_pytorch_tanh", "gelu_pytorch_tanh")
    if vision.data.get("attention_bias") not in (None, False):
        raise vision.error("attention_bias", "biases in attention are not supported")
    config = _core.VisionConfig()
    config.hidden = vision.integer("hidden_size", 768, 1, MAX_WIDTH)
    config.ffn = vision.integer("intermediate_size", 3072, 1, MAX_WIDTH)
    config.layers = vision.integer("num_hidden_layers", 16, 1, MAX_LAYERS)
    config.heads = vision.integer("num_attention_heads", 12, 1, 4096)
    config.kv_heads = vision.integer("num_key_value_heads", 12, 1, config.heads)
    config.head_dim = vision.integer("head_dim", 64, 4, 65_536)
    config.patch = patch(vision)
    config.pool = pool(vision)
    config.positions = vision.integer("position_embedding_size", 10_240, 1, 1 << 24)
    config.norm_eps = vision.real("rms_norm_eps", 1e-6, *EPS)
    config.clipped = vision.boolean("use_clipped_linears", False)
    config.standardize = vision.boolean("standardize", False)
    if config.heads % config.kv_heads:
        raise vision.error("num_key_value_heads", f"{config.heads} heads are not a multiple of {config.kv_heads}")
    if config.head_dim % 4:
        raise vision.error("head_dim", f"must be a multiple of 4 for the rotation by x and y, found {config.head_dim}")
    field, table = rope_table(vision)
    rope = Section(table or {}, vision.source, f"{vision.path}{field}.")
    if rope_style(rope, "axial") not in ("axial", "default"):  # older files say default and mean axial
        raise rope.error("rope_type", f"only 'axial' is supported, found {rope_style(rope, '')[:40]!r}")
    theta = rope if rope.given("rope_theta") else vision
    config.rope_theta = theta.real("rope_theta", 100.0, *THETA)
    return config


def audio_config(audio: Section) -> _core.AudioConfig:
    audio.require("hidden_act", "silu", "silu")
    # What masked positions get in the reference; here they are not looked at, which is the same if exp() makes it 0.
    audio.real("attention_invalid_logits_value", -1e9, -1e38, -1e4)
    channels = audio.data.get("subsampling_conv_channels", [128, 32])
    sizes = isinstance(channels, list) and [n for n in channels if type(n) is int and 4 <= n <= 4096]
    if not sizes or len(sizes) != 2 or sizes != channels:
        raise audio.error("subsampling_conv_channels", f"expected two sizes of 4 to 4096, found {str(channels)[:40]}")
    config = _core.AudioConfig()
    config.hidden = audio.integer("hidden_size", 1024, 2, MAX_WIDTH)
    config.layers = audio.integer("num_hidden_layers", 12, 1, MAX_LAYERS)
    config.heads = audio.integer("num_attention_heads", 8, 1, 4096)
    if config.hidden % config.heads or config.hidden % 2:
        raise audio.error("hidden_size", f"must be even and a multiple of the {config.heads} heads")
    config.channels1, config.channels2 = sizes
    config.mel_bins = sizes[0] // 4 * 4  # what fits the matrix after the convolutions
    config.conv_kernel = audio.integer("conv_kernel_size", 5, 1, 256)
    config.chunk = audio.integer("attention_chunk_size", 12, 1, 4096)
    config.left = audio.integer("attention_context_left", 13, 2, 4096)
    config.right = audio.integer("attention_context_right", 0, 0, 4096)
    config.out = audio.integer("output_proj_dims", 1536, 1, MAX_WIDTH)
    config.norm_eps = audio.real("rms_norm_eps", 1e-6, *EPS)
    config.residual_weight = audio.real("residual_weight", 0.5, -1e6, 1e6)
    config.logit_cap = audio.real("attention_logit_cap", 50.0, 1e-6, 1e9)
    config.gradient_clip = audio.real("gradient_clipping", 1e10, 1e-6, 3.4e38)
    config.clipped = audio.boolean("use_clipped_linears", True)
    return config


def patch(vision: Section) -> int:
    return vision.integer("patch_size", 16, 1, 256)


def pool(vision: Section) -> int:
    return vision.integer("pooling_kernel_size", 3, 1, 64)


def pixel_config(vision: Section) -> _core.PixelConfig:
    config = _core.PixelConfig()
    config.side = patch(vision) * pool(vision)
    config.width = vision.integer("mm_embed_dim", 3840, 1, MAX_WIDTH)
    config.positions = vision.integer("mm_posemb_size", 1120, 1, 1 << 24)
    config.norm_eps = vision.real("rms_norm_eps", 1e-6, *EPS)
    for name, default, expected in (
        ("model_patch_size", config.side, config.side),
        ("output_proj_dims", 3840, config.width),
    ):
        if vision.integer(name, default, 1, MAX_WIDTH) != expected:
            raise vision.error(name, f"expected {expected}, found {vision.data.get(name, default)}")
    return config


def sample_config(audio: Section) -> _core.SampleConfig:
    config = _core.SampleConfig()
    # One number with four names, of which the first is what the published files say.
    names = ("audio_embed_dim", "audio_samples_per_token", "hidden_size", "output_proj_dims")
    sizes = {name: audio.integer(name, None, 1, 65_536) for name in names if name in audio.data}
    for name, size in sizes.items():
        if size != next(iter(sizes.values())):
            raise audio.error(name, f"expected {next(iter(sizes.values()))} as {next(iter(sizes))}, found {size}")
    config.frame = next(iter(sizes.values()), 640)
    config.norm_eps = audio.real("rms_norm_eps", 1e-6, *EPS)
    return config
