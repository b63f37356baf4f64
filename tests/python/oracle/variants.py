"""The four published shapes, scaled down until a test takes milliseconds.

Knows: configuration values. Must not know: how a checkpoint is written or what reads it.
Every mechanism of a variant is present, and sizes are odd on purpose: a kernel that only works for multiples of 8,
16 or 32 channels, or that confuses two sizes, fails here.
"""

from dataclasses import dataclass, field
from typing import Any

_TEXT: dict[str, Any] = {
    "intermediate_size": 100,
    "sliding_window": 32,
    "max_position_embeddings": 2048,
    "final_logit_softcapping": 30.0,
    "hidden_size_per_layer_input": 0,
}


@dataclass(frozen=True)
class Variant:
    """One shape: the arguments of the reference's configuration classes."""

    name: str
    seed: int
    text: dict[str, Any]
    vision: dict[str, Any]
    audio: dict[str, Any] | None = field(default=None)

    @property
    def vocab(self) -> int:
        return int(self.text["vocab_size"])

    @property
    def window(self) -> int:
        return int(self.text["sliding_window"])

    @property
    def bidirectional(self) -> bool:
        return self.text.get("use_bidirectional_attention") == "vision"


def _pattern(layers: int, sliding_per_global: int) -> list[str]:
    """`sliding_per_global` sliding layers, then a global one; the last layer is always global."""
    kinds = [
        "full_attention" if (i + 1) % (sliding_per_global + 1) == 0 else "sliding_attention" for i in range(layers)
    ]
    return [*kinds[:-1], "full_attention"]


# Layers 6 to 9 read the keys and values of layer 5 (sliding) and of layer 4 (global): the source of the global reader
# is not the layer before the first reader.
E2B = Variant(
    name="e2b",
    seed=1,
    text={
        **_TEXT,
        "vocab_size": 2051,
        "vocab_size_per_layer_input": 2051,
        "hidden_size": 72,
        "num_hidden_layers": 10,
        "layer_types": _pattern(10, 4),
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "global_head_dim": 32,
        "hidden_size_per_layer_input": 12,
        "num_kv_shared_layers": 4,
        "use_double_wide_mlp": True,
    },
    vision={
        "hidden_size": 28,
        "intermediate_size": 52,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "patch_size": 4,
        "pooling_kernel_size": 3,
        "position_embedding_size": 4000,
        "use_clipped_linears": True,
    },
    # The published E2B has ears; a checkpoint with audio tensors must load where only text and images are asked for.
    audio={
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "subsampling_conv_channels": [8, 4],
        "output_proj_dims": 24,
    },
)

E4B = Variant(
    name="e4b",
    seed=2,
    text={
        **_TEXT,
        "vocab_size": 2503,
        "vocab_size_per_layer_input": 2503,
        "hidden_size": 88,
        "num_hidden_layers": 12,
        "layer_types": _pattern(12, 5),
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 24,
        "global_head_dim": 40,
        "hidden_size_per_layer_input": 20,
        "num_kv_shared_layers": 5,
    },
    vision={
        "hidden_size": 36,
        "intermediate_size": 68,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
        "head_dim": 8,
        "patch_size": 5,
        "pooling_kernel_size": 2,
        "position_embedding_size": 3000,
        "use_clipped_linears": True,
    },
)

MOE = Variant(
    name="26b-a4b",
    seed=3,
    text={
        **_TEXT,
        "vocab_size": 3001,
        "vocab_size_per_layer_input": 3001,
        "hidden_size": 72,
        "num_hidden_layers": 12,
        "layer_types": _pattern(12, 5),
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 24,
        "global_head_dim": 40,
        "num_global_key_value_heads": 1,
        "attention_k_eq_v": True,
        "enable_moe_block": True,
        "num_experts": 7,
        "top_k_experts": 3,
        "moe_intermediate_size": 44,
        "use_bidirectional_attention": "vision",
        # The smallest budget gives pictures of 35 to 70 soft tokens: shorter and longer than this window.
        "sliding_window": 48,
    },
    vision={
        "hidden_size": 44,
        "intermediate_size": 76,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
        "head_dim": 16,
        "patch_size": 4,
        "pooling_kernel_size": 2,
        "position_embedding_size": 3000,
        "standardize": True,
    },
)

DENSE = Variant(
    name="31b",
    seed=4,
    text={
        **_TEXT,
        "vocab_size": 3967,
        "vocab_size_per_layer_input": 3967,
        "hidden_size": 88,
        "num_hidden_layers": 12,
        "layer_types": _pattern(12, 5),
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 16,
        "global_head_dim": 32,
        "num_global_key_value_heads": 2,
        "attention_k_eq_v": True,
        "use_bidirectional_attention": "vision",
        # The smallest budget gives pictures of 35 to 70 soft tokens: shorter and longer than this window.
        "sliding_window": 48,
    },
    vision={
        "hidden_size": 40,
        "intermediate_size": 60,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 20,
        "patch_size": 6,
        "pooling_kernel_size": 3,
        "position_embedding_size": 4000,
        "standardize": True,
    },
)

VARIANTS: dict[str, Variant] = {v.name: v for v in (E2B, E4B, MOE, DENSE)}
