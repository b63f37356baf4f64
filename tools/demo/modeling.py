"""Gemma 4 (text and vision) written for training: parameters have the names of the published checkpoints.

What differs from an inference engine: all pictures of a batch are padded to one number of patches and masked, and
several dialogues about one picture are answered in one pass. The picture is a prefix that every dialogue of it attends
to; dialogues are packed into rows of a fixed length, where each sees the prefix and itself only.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LAST = ["sliding_attention", "full_attention"]  # the layers that share keys and values


@dataclass
class TextConfig:
    vocab_size: int = 1669
    hidden_size: int = 128
    intermediate_size: int = 192
    layer_types: list[str] = field(default_factory=lambda: [*["sliding_attention"] * 3, "full_attention", *LAST])
    num_kv_shared_layers: int = 2
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 32
    global_head_dim: int = 64
    hidden_size_per_layer_input: int = 16
    sliding_window: int = 256
    final_logit_softcapping: float = 30.0
    rms_norm_eps: float = 1e-6

    @property
    def num_hidden_layers(self) -> int:
        return len(self.layer_types)


@dataclass
class VisionConfig:
    hidden_size: int = 128
    intermediate_size: int = 256
    num_hidden_layers: int = 4
    num_attention_heads: int = 2
    head_dim: int = 64
    patch_size: int = 16
    pooling_kernel_size: int = 2
    position_embedding_size: int = 256
    rms_norm_eps: float = 1e-6


@dataclass
class DemoConfig:
    text: TextConfig = field(default_factory=TextConfig)
    vision: VisionConfig = field(default_factory=VisionConfig)

    def to_dict(self) -> dict:
        return asdict(self)


def linear(fan_in: int, fan_out: int) -> nn.Linear:
    """A projection without bias, weights (fan_out, fan_in) ~ N(0, 1/fan_in)."""
    layer = nn.Linear(fan_in, fan_out, bias=False)
    nn.init.normal_(layer.weight, std=fan_in**-0.5)
    return layer


class Norm(nn.Module):
    """RMSNorm; the weight multiplies, and its start value decides how much a branch says at first."""

    def __init__(self, size: int, start: float = 1.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.full((size,), start))

    def forward(self, x: Tensor) -> Tensor:
        return unit(x, self.eps) * self.weight


def unit(x: Tensor, eps: float = 1e-6) -> Tensor:
    """RMSNorm without a weight, in f32."""
    x = x.float()
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE in halves over the last axis; cos and sin are of half its size, broadcast over the heads."""
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


class Clipped(nn.Module):
    """The vision tower's projection. Its bounds are measured at export; here only the weight exists."""

    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__()
        self.linear = linear(fan_in, fan_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


class Mlp(nn.Module):
    def __init__(self, hidden: int, width: int, kind: type[Clipped] | None = None) -> None:
        super().__init__()
        make = kind or linear
        self.gate_proj, self.up_proj, self.down_proj = make(hidden, width), make(hidden, width), make(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.gelu(self.gate_proj(x), approximate="tanh") * self.up_proj(x))


class VisionAttention(nn.Module):
    def __init__(self, c: VisionConfig) -> None:
        super().__init__()
        self.heads, self.head_dim = c.num_attention_heads, c.head_dim
        width = self.heads * self.head_dim
        self.q_proj, self.k_proj, self.v_proj = (Clipped(c.hidden_size, width) for _ in range(3))
        self.o_proj = Clipped(width, c.hidden_size)
        self.q_norm = Norm(c.head_dim, c.head_dim**-0.25)
        self.k_norm = Norm(c.head_dim, c.head_dim**-0.25)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor, Tensor, Tensor], mask: Tensor) -> Tensor:
        batch, count, _ = x.shape
        q, k, v = (p(x).view(batch, count, self.heads, self.head_dim) for p in (self.q_proj, self.k_proj, self.v_proj))
        cos_x, sin_x, cos_y, sin_y = rope

        def turn(t: Tensor) -> Tensor:
            by_x, by_y = t.chunk(2, dim=-1)
            return torch.cat([rotate(by_x, cos_x, sin_x), rotate(by_y, cos_y, sin_y)], dim=-1)

        q, k = turn(self.q_norm(q)).to(v.dtype), turn(self.k_norm(k)).to(v.dtype)
        v = unit(v).to(v.dtype)
        out = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask, scale=1.0
        )
        return self.o_proj(out.transpose(1, 2).reshape(batch, count, -1))


class VisionLayer(nn.Module):
    def __init__(self, c: VisionConfig) -> None:
        super().__init__()
        self.self_attn = VisionAttention(c)
        self.mlp = Mlp(c.hidden_size, c.intermediate_size, Clipped)
        self.input_layernorm, self.pre_feedforward_layernorm = Norm(c.hidden_size), Norm(c.hidden_size)
        self.post_attention_layernorm = Norm(c.hidden_size, 0.25)
        self.post_feedforward_layernorm = Norm(c.hidden_size, 0.25)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor, Tensor, Tensor], mask: Tensor) -> Tensor:
        x = x + self.post_attention_layernorm(self.self_attn(self.input_layernorm(x), rope, mask))
        return x + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x)))


class PatchEmbedder(nn.Module):
    def __init__(self, c: VisionConfig) -> None:
        super().__init__()
        self.input_proj = linear(3 * c.patch_size**2, c.hidden_size)
        # smooth in the position, so that places a training picture seldom has resemble their neighbours
        position = torch.arange(c.position_embedding_size)[:, None]
        waves = 2 * math.pi / torch.logspace(math.log10(4), math.log10(160), c.hidden_size // 2)
        table = torch.stack([torch.cat([(position * waves).sin(), (position * waves).cos()], dim=1)] * 2)
        turn = torch.linalg.qr(torch.randn(2, c.hidden_size, c.hidden_size))[0]
        self.position_embedding_table = nn.Parameter(0.5 * 2**0.5 * table @ turn)

    def forward(self, pixels: Tensor, positions: Tensor) -> Tensor:
        table = self.position_embedding_table
        return self.input_proj(pixels) + table[0][positions[..., 0]] + table[1][positions[..., 1]]


class VisionEncoder(nn.Module):
    def __init__(self, c: VisionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(VisionLayer(c) for _ in range(c.num_hidden_layers))


class VisionTower(nn.Module):
    def __init__(self, c: VisionConfig) -> None:
        super().__init__()
        self.config = c
        self.patch_embedder = PatchEmbedder(c)
        self.encoder = VisionEncoder(c)

    def forward(self, pixels: Tensor, positions: Tensor, valid: Tensor) -> Tensor:
        """(batch, patches / pool^2, hidden) soft tokens before projection.

        pixels (batch, patches, 3 * size^2) in -1..1, cell by cell; positions (batch, patches, 2) x and y;
        valid (batch, patches) bool.
        """
        c = self.config
        half = c.head_dim // 4
        frequency = 100.0 ** (-torch.arange(half, device=pixels.device) / half)
        angles = positions[..., None].float() * frequency
        cos, sin = angles.cos()[:, :, None], angles.sin()[:, :, None]
        rope = (cos[..., 0, :], sin[..., 0, :], cos[..., 1, :], sin[..., 1, :])
        x = self.patch_embedder(pixels, positions)
        mask = valid[:, None, None, :]
        for layer in self.encoder.layers:
            x = layer(x, rope, mask)
        pooled = x.view(x.shape[0], -1, c.pooling_kernel_size**2, c.hidden_size).float().mean(dim=2)
        return pooled * c.hidden_size**0.5


class TextAttention(nn.Module):
    def __init__(self, c: TextConfig, index: int) -> None:
        super().__init__()
        self.kind = c.layer_types[index]
        self.heads, self.kv_heads = c.num_attention_heads, c.num_key_value_heads
        self.head_dim = c.global_head_dim if self.kind == "full_attention" else c.head_dim
        self.shared = index >= c.num_hidden_layers - c.num_kv_shared_layers
        self.q_proj = linear(c.hidden_size, self.heads * self.head_dim)
        self.q_norm = Norm(self.head_dim, self.head_dim**-0.25)
        if not self.shared:
            self.k_norm = Norm(self.head_dim, self.head_dim**-0.25)
            self.k_proj = linear(c.hidden_size, self.kv_heads * self.head_dim)
            self.v_proj = linear(c.hidden_size, self.kv_heads * self.head_dim)
        self.o_proj = linear(self.heads * self.head_dim, c.hidden_size)

    def keys(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """(batch, kv heads, tokens, head) keys and values."""
        shape = (*x.shape[:2], self.kv_heads, self.head_dim)
        v = self.v_proj(x).view(shape)
        k = rotate(self.k_norm(self.k_proj(x).view(shape)), *rope).to(v.dtype)
        return k.transpose(1, 2), unit(v).to(v.dtype).transpose(1, 2)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], kv: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        batch, count, _ = x.shape
        q = rotate(self.q_norm(self.q_proj(x).view(batch, count, self.heads, self.head_dim)), *rope)
        repeat = self.heads // self.kv_heads
        k, v = (t.repeat_interleave(repeat, dim=1) for t in kv)
        out = F.scaled_dot_product_attention(q.to(v.dtype).transpose(1, 2), k, v, attn_mask=mask, scale=1.0)
        return self.o_proj(out.transpose(1, 2).reshape(batch, count, -1))


class TextLayer(nn.Module):
    def __init__(self, c: TextConfig, index: int) -> None:
        super().__init__()
        self.self_attn = TextAttention(c, index)
        self.mlp = Mlp(c.hidden_size, c.intermediate_size * (2 if self.self_attn.shared else 1))
        self.input_layernorm, self.pre_feedforward_layernorm = Norm(c.hidden_size), Norm(c.hidden_size)
        self.post_attention_layernorm = Norm(c.hidden_size, 0.25)
        self.post_feedforward_layernorm = Norm(c.hidden_size, 0.25)
        self.post_per_layer_input_norm = Norm(c.hidden_size, 0.25)
        self.per_layer_input_gate = linear(c.hidden_size, c.hidden_size_per_layer_input)
        self.per_layer_projection = linear(c.hidden_size_per_layer_input, c.hidden_size)
        self.layer_scalar = nn.Parameter(torch.ones(1))

    def forward(
        self, x: Tensor, ple: Tensor, rope: tuple[Tensor, Tensor], kv: tuple[Tensor, Tensor], mask: Tensor
    ) -> Tensor:
        x = x + self.post_attention_layernorm(self.self_attn(self.input_layernorm(x), rope, kv, mask))
        x = x + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x)))
        gate = F.gelu(self.per_layer_input_gate(x), approximate="tanh") * ple
        return (x + self.post_per_layer_input_norm(self.per_layer_projection(gate))) * self.layer_scalar


class LanguageModel(nn.Module):
    def __init__(self, c: TextConfig) -> None:
        super().__init__()
        self.config = c
        self.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size)
        nn.init.normal_(self.embed_tokens.weight, std=c.hidden_size**-0.5)
        total = c.num_hidden_layers * c.hidden_size_per_layer_input
        self.embed_tokens_per_layer = nn.Embedding(c.vocab_size, total)
        nn.init.normal_(self.embed_tokens_per_layer.weight, std=c.hidden_size_per_layer_input**-0.5)
        self.per_layer_model_projection = linear(c.hidden_size, total)
        self.per_layer_projection_norm = Norm(c.hidden_size_per_layer_input)
        self.layers = nn.ModuleList(TextLayer(c, i) for i in range(c.num_hidden_layers))
        self.norm = Norm(c.hidden_size)

    def rope(self, positions: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """cos and sin (batch, tokens, 1, head / 2) for each kind of layer."""
        c = self.config
        tables = {}
        for kind, size, theta, part in (
            ("sliding_attention", c.head_dim, 1e4, 1.0),
            ("full_attention", c.global_head_dim, 1e6, 0.25),
        ):
            pairs = torch.arange(size // 2, device=positions.device)
            frequency = torch.where(pairs < part * size / 2, theta ** (-2.0 * pairs / size), 0.0)
            angle = (positions[..., None].float() * frequency)[:, :, None]
            tables[kind] = (angle.cos(), angle.sin())
        return tables

    def per_layer(self, ids: Tensor, x: Tensor) -> Tensor:
        """(batch, tokens, layers, size): what each layer's per-layer branch multiplies with."""
        c = self.config
        size = c.hidden_size_per_layer_input
        table = self.embed_tokens_per_layer(ids) * size**0.5
        projected = self.per_layer_model_projection(x) * c.hidden_size**-0.5
        shape = (*ids.shape, c.num_hidden_layers, size)
        return (self.per_layer_projection_norm(projected.view(shape)) + table.view(shape)) * 2**-0.5


class EmbedVision(nn.Module):
    def __init__(self, c: DemoConfig) -> None:
        super().__init__()
        self.embedding_projection = linear(c.vision.hidden_size, c.text.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.embedding_projection(unit(x))


class Body(nn.Module):
    def __init__(self, c: DemoConfig) -> None:
        super().__init__()
        self.vision_tower = VisionTower(c.vision)
        self.embed_vision = EmbedVision(c)
        self.language_model = LanguageModel(c.text)


class DemoModel(nn.Module):
    """The whole model, for a batch of pictures with packed dialogues."""

    def __init__(self, config: DemoConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Body(config)

    def soft_tokens(self, pixels: Tensor, positions: Tensor, valid: Tensor) -> Tensor:
        """(batch, cells, hidden) in text space."""
        return self.model.embed_vision(self.model.vision_tower(pixels, positions, valid)).float()

    def hidden(
        self, soft: Tensor, cells: Tensor, opening: Tensor, ids: Tensor, offset: Tensor, segment: Tensor
    ) -> Tensor:
        """Final hidden states (batch * rows, length, hidden) of the packed dialogues.

        soft (batch, cells, hidden) with `cells` (batch,) of them real; opening (k,) token ids before the picture;
        ids, offset, segment (batch, rows, length): tokens, their place in their dialogue, its number (-1 is padding).
        """
        lm, c = self.model.language_model, self.config.text
        batch, rows, length = ids.shape
        scale = c.hidden_size**0.5
        before = opening.shape[0]
        prefix = before + soft.shape[1]

        start_ids = torch.cat([opening, opening.new_zeros(soft.shape[1])]).expand(batch, -1)  # pictures use the pad row
        start = torch.cat([(lm.embed_tokens(opening) * scale).expand(batch, -1, -1), soft], dim=1)
        start_ple = lm.per_layer(start_ids, start)
        place = torch.arange(prefix, device=ids.device)
        start_rope = lm.rope(place.expand(batch, -1))
        start_mask = (place[:, None] >= place)[None, None]

        ids, segment = ids.reshape(batch * rows, length), segment.reshape(batch * rows, length)
        position = (offset + (before + cells)[:, None, None]).reshape(batch * rows, length)
        x = lm.embed_tokens(ids) * scale
        ple = lm.per_layer(ids, x)
        rope = lm.rope(position)
        order = torch.arange(length, device=ids.device)
        own = (segment[:, :, None] == segment[:, None, :]) & (order[:, None] >= order)
        seen = (place < (before + cells)[:, None])[:, None, None, :].expand(batch, rows, length, prefix)
        mask = torch.cat([seen.reshape(batch * rows, length, prefix), own], dim=2)[:, None]

        last = c.num_hidden_layers - c.num_kv_shared_layers - 1
        stored: dict[str, tuple[Tensor, Tensor]] = {}
        for index, layer in enumerate(lm.layers):
            attention = layer.self_attn
            kind = attention.kind
            if not attention.shared:
                normed = layer.input_layernorm(start)
                first = attention.keys(normed, start_rope[kind])
                if index < last:
                    start = layer(start, start_ple[:, :, index], start_rope[kind], first, start_mask)
                second = attention.keys(layer.input_layernorm(x), rope[kind])
                stored[kind] = tuple(
                    torch.cat([a[:, None].expand(-1, rows, -1, -1, -1).flatten(0, 1), b], dim=2)
                    for a, b in zip(first, second, strict=True)
                )
            x = layer(x, ple[:, :, index], rope[kind], stored[kind], mask)
        return lm.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """(…, vocabulary), soft-capped."""
        cap = self.config.text.final_logit_softcapping
        scores = F.linear(hidden, self.model.language_model.embed_tokens.weight).float()
        return cap * torch.tanh(scores / cap)
