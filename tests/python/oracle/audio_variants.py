"""Shapes of the audio encoder, scaled down, and one layer of the published size.

Knows: configuration values. The mel bins must be about as many as the channels of the first convolution, for the
reference sizes the matrix after the convolutions by those channels.
"""

from dataclasses import replace
from typing import Any

from .variants import E2B, Variant


def _variant(name: str, seed: int, **audio: Any) -> Variant:
    """The tiny E2B with other ears."""
    return replace(E2B, name=name, seed=seed, audio=audio)


AUDIO_VARIANTS: dict[str, Variant] = {
    v.name: v
    for v in (
        # As published in everything but width and depth.
        _variant(
            "audio-small",
            11,
            hidden_size=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            subsampling_conv_channels=[128, 5],
            output_proj_dims=36,
        ),
        # Odd sizes; blocks narrower than their past, so that some keys have no relative position; a view of the future.
        _variant(
            "audio-odd",
            12,
            hidden_size=42,
            num_hidden_layers=2,
            num_attention_heads=3,
            subsampling_conv_channels=[131, 7],
            output_proj_dims=29,
            conv_kernel_size=4,
            residual_weight=0.7,
            attention_chunk_size=5,
            attention_context_left=11,
            attention_context_right=3,
            attention_logit_cap=3.0,
            gradient_clipping=0.9,
            rms_norm_eps=1e-3,
        ),
        # No bounds, fewer mel bins, blocks wider than their past.
        _variant(
            "audio-plain",
            13,
            hidden_size=20,
            num_hidden_layers=2,
            num_attention_heads=2,
            subsampling_conv_channels=[82, 6],
            output_proj_dims=33,
            attention_chunk_size=17,
            attention_context_left=4,
            use_clipped_linears=False,
        ),
        _variant("audio-full", 14, num_hidden_layers=1),
    )
}
