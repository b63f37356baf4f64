"""Gemma 4 (text, vision, audio) written for training: parameters have the names of the published checkpoints.

What differs from an inference engine: all pictures of a batch are padded to one number of patches and masked, and
several dialogues about the same media are answered in one pass. The media are a prefix that every dialogue attends to;
prefixes and dialogues are packed into rows of a fixed length, where each dialogue sees its prefix and itself only.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field

import torch
from ears import AudioConfig, AudioTower
from layers import Clipped, Mlp, Norm, linear, unit
from torch import Tensor, nn
from torch.nn import functional as F

LAST = ["sliding_attention", "full_attention"]  # the layers that share keys and values


@dataclass
class TextConfig:
    vocab_size: int = 1864
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
    audio: AudioConfig = field(default_factory=AudioConfig)

    def to_dict(self) -> dict:
        return asdict(self)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE in halves over the last axis; cos and sin are of half its size, broadcast over the heads."""
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


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


class Embedder(nn.Module):
    """What an encoder says, in text space."""

    def __init__(self, size: int, text: int) -> None:
        super().__init__()
        self.embedding_projection = linear(size, text)

    def forward(self, x: Tensor) -> Tensor:
        return self.embedding_projection(unit(x))


class Body(nn.Module):
    def __init__(self, c: DemoConfig) -> None:
        super().__init__()
        self.vision_tower = VisionTower(c.vision)
        self.embed_vision = Embedder(c.vision.hidden_size, c.text.hidden_size)
        self.audio_tower = AudioTower(c.audio)
        self.embed_audio = Embedder(c.audio.output_proj_dims, c.text.hidden_size)
        self.language_model = LanguageModel(c.text)


@dataclass
class Rows:
    """Packed text, all (rows, length) int64 but `take`.

    A row holds trees: a prefix with media in it, and dialogues that see the prefix and themselves only.
    """

    ids: Tensor  # tokens; the pad token where a soft token stands
    source: Tensor  # index of the soft token that stands here, -1 for none
    position: Tensor  # in its own conversation
    tree: Tensor  # number of the tree, -1 is padding
    branch: Tensor  # 0 for the prefix, from 1 for its dialogues
    take: Tensor  # (rows, taken) places whose next token is asked for


class DemoModel(nn.Module):
    """The whole model, for batches of media with packed conversations about them."""

    def __init__(self, config: DemoConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Body(config)

    def soft_tokens(self, pixels: Tensor, positions: Tensor, valid: Tensor) -> Tensor:
        """(batch, cells, hidden) in text space."""
        return self.model.embed_vision(self.model.vision_tower(pixels, positions, valid)).float()

    def heard(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """(batch, frames / 4, hidden) in text space."""
        return self.model.embed_audio(self.model.audio_tower(frames, lengths)).float()

    def hidden(self, soft: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
        """Final hidden states where asked for (rows, taken, hidden), and what is known everywhere before the layers
        that own no keys (rows, length, hidden); soft (n, hidden) is what `source` points into.
        """
        lm, c = self.model.language_model, self.config.text
        words = lm.embed_tokens(rows.ids) * c.hidden_size**0.5
        x = torch.where((rows.source >= 0)[..., None], soft[rows.source.clamp(min=0)], words)
        ple = lm.per_layer(rows.ids, x)
        rope = lm.rope(rows.position)
        order = torch.arange(rows.ids.shape[1], device=soft.device)
        seen = (rows.tree[:, :, None] == rows.tree[:, None, :]) & (order[:, None] >= order)
        seen = seen & ((rows.branch[:, None, :] == 0) | (rows.branch[:, :, None] == rows.branch[:, None, :]))
        near = rows.position[:, :, None] - rows.position[:, None, :] < c.sliding_window
        mask = {"full_attention": seen[:, None], "sliding_attention": (seen & near)[:, None]}

        last = c.num_hidden_layers - c.num_kv_shared_layers  # from here on only what is asked for goes on
        stored: dict[str, tuple[Tensor, Tensor]] = {}
        for index, layer in enumerate(lm.layers):
            kind = layer.self_attn.kind
            if index == last:
                known = x
                x, ple = _taken(x, rows.take), _taken(ple, rows.take)
                rope = {name: (_taken(cos, rows.take), _taken(sin, rows.take)) for name, (cos, sin) in rope.items()}
                mask = {name: _taken(seen[:, 0], rows.take)[:, None] for name, seen in mask.items()}
            if not layer.self_attn.shared:
                stored[kind] = layer.self_attn.keys(layer.input_layernorm(x), rope[kind])
            x = layer(x, ple[:, :, index], rope[kind], stored[kind], mask[kind])
        return lm.norm(x), known

    def logits(self, hidden: Tensor) -> Tensor:
        """(…, vocabulary), soft-capped."""
        cap = self.config.text.final_logit_softcapping
        scores = F.linear(hidden, self.model.language_model.embed_tokens.weight).float()
        return cap * torch.tanh(scores / cap)


def _taken(x: Tensor, take: Tensor) -> Tensor:
    """(rows, taken, …) of (rows, length, …)."""
    index = take.view(*take.shape, *[1] * (x.ndim - 2)).expand(-1, -1, *x.shape[2:])
    return x.gather(1, index)
