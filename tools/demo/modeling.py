"""Gemma 4 (text, vision, audio) written for training: parameters have the names of the published checkpoints.

What differs from an inference engine: pictures of any size stand one after another without padding, and so do rows of
text; only attention looks at each apart. Several dialogues about the same media are answered in one pass: the media are
a prefix that every dialogue attends to, and a row holds prefixes with dialogues that see their own prefix and
themselves only.
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
    sliding_window: int = 1536  # more than a picture of the largest budget with what is said about it
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
    position_embedding_size: int = 512
    rms_norm_eps: float = 1e-6


@dataclass
class DemoConfig:
    text: TextConfig = field(default_factory=TextConfig)
    vision: VisionConfig = field(default_factory=VisionConfig)
    audio: AudioConfig = field(default_factory=AudioConfig)

    def to_dict(self) -> dict:
        return asdict(self)


Seen = list[Tensor]


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

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], sizes: list[int]) -> Tensor:
        q, k, v = (p(x).view(len(x), self.heads, self.head_dim) for p in (self.q_proj, self.k_proj, self.v_proj))

        def turn(t: Tensor) -> Tensor:
            a, b = t.unflatten(-1, (2, 2, -1)).unbind(-2)  # (patches, heads, axis, quarter)
            cos, sin = rope
            return torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-2).flatten(-3)

        q, k, v = turn(self.q_norm(q)), turn(self.k_norm(k)), unit(v)
        out = [_attend(*parts) for parts in zip(q.split(sizes), k.split(sizes), v.split(sizes), strict=True)]
        return self.o_proj(torch.cat(out).flatten(1))


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """(queries, heads, head) of (queries | keys, heads, head); unscaled, as q and k are normed."""
    q, k, v = (t.transpose(0, 1)[None] for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)[0].transpose(0, 1)


class VisionLayer(nn.Module):
    def __init__(self, c: VisionConfig) -> None:
        super().__init__()
        self.self_attn = VisionAttention(c)
        self.mlp = Mlp(c.hidden_size, c.intermediate_size, Clipped)
        self.input_layernorm, self.pre_feedforward_layernorm = Norm(c.hidden_size), Norm(c.hidden_size)
        self.post_attention_layernorm = Norm(c.hidden_size, 0.25)
        self.post_feedforward_layernorm = Norm(c.hidden_size, 0.25)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], sizes: list[int]) -> Tensor:
        x = x + self.post_attention_layernorm(self.self_attn(self.input_layernorm(x), rope, sizes))
        return x + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x)))


class PatchEmbedder(nn.Module):
    def __init__(self, c: VisionConfig) -> None:
        super().__init__()
        self.input_proj = linear(3 * c.patch_size**2, c.hidden_size)
        table = torch.stack([_waves(c.position_embedding_size, c.hidden_size)] * 2)
        turn = torch.linalg.qr(torch.randn(2, c.hidden_size, c.hidden_size))[0]
        self.position_embedding_table = nn.Parameter(0.5 * 2**0.5 * table @ turn)

    def forward(self, pixels: Tensor, positions: Tensor) -> Tensor:
        table = self.position_embedding_table
        return self.input_proj(pixels) + table[0][positions[..., 0]] + table[1][positions[..., 1]]


def _waves(count: int, size: int) -> Tensor:
    """(count, size) of positions, smooth, so that places a picture seldom has resemble their neighbours."""
    position = torch.arange(count)[:, None]
    waves = 2 * math.pi / torch.logspace(math.log10(4), math.log10(160), size // 2)
    return torch.cat([(position * waves).sin(), (position * waves).cos()], dim=1)


def continued(table: Tensor, count: int) -> Tensor:
    """(2, count, hidden) position tables that go on as the waves which their far rows are."""
    known, hidden = table.shape[1:]
    if known >= count:
        return table
    shapes = _waves(count, hidden)
    far = slice(known // 2, known)
    turn = torch.linalg.lstsq(shapes[far].expand(2, -1, -1), table[:, far], driver="gelsd").solution
    return torch.cat([table, (shapes @ turn)[:, known:]], dim=1)


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

    def forward(self, pixels: Tensor, positions: Tensor, sizes: list[int], inner: list[Tensor] | None = None) -> Tensor:
        """(patches / pool^2, hidden) soft tokens before projection.

        pixels (patches, 3 * size^2) in -1..1, picture after picture, cell by cell; positions (patches, 2) x and y;
        `sizes`: how many patches each picture has; `inner` receives (cells, hidden) after each layer.
        """
        c = self.config
        half = c.head_dim // 4
        frequency = 100.0 ** (-torch.arange(half, device=pixels.device) / half)
        angles = (positions[..., None].float() * frequency)[:, None]  # (patches, 1, axis, half)
        rope = (angles.cos(), angles.sin())
        x = self.patch_embedder(pixels, positions)
        for layer in self.encoder.layers:
            x = layer(x, rope, sizes)
            pooled = x.view(-1, c.pooling_kernel_size**2, c.hidden_size).float().mean(dim=1)
            if inner is not None:
                inner.append(pooled)
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
        """(tokens, heads, head) keys and values, as often as queries look at them."""
        shape = (len(x), self.kv_heads, self.head_dim)
        k, v = rotate(self.k_norm(self.k_proj(x).view(shape)), *rope), unit(self.v_proj(x).view(shape))
        repeat = self.heads // self.kv_heads
        return k.repeat_interleave(repeat, dim=1), v.repeat_interleave(repeat, dim=1)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], kv: tuple[Tensor, Tensor], seen: Seen) -> Tensor:
        q = rotate(self.q_norm(self.q_proj(x).view(len(x), self.heads, self.head_dim)), *rope)
        parts = zip(
            q.split([len(mask) for mask in seen]),
            *(t.split([mask.shape[1] for mask in seen]) for t in kv),
            seen,
            strict=True,
        )
        return self.o_proj(torch.cat([_attend(*part) for part in parts]).flatten(1))


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
        self, x: Tensor, ple: Tensor, rope: tuple[Tensor, Tensor], kv: tuple[Tensor, Tensor], seen: Seen
    ) -> Tensor:
        x = x + self.post_attention_layernorm(self.self_attn(self.input_layernorm(x), rope, kv, seen))
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
        """cos and sin (tokens, 1, head / 2) for each kind of layer."""
        c = self.config
        tables = {}
        for kind, size, theta, part in (
            ("sliding_attention", c.head_dim, 1e4, 1.0),
            ("full_attention", c.global_head_dim, 1e6, 0.25),
        ):
            pairs = torch.arange(size // 2, device=positions.device)
            frequency = torch.where(pairs < part * size / 2, theta ** (-2.0 * pairs / size), 0.0)
            angle = (positions[..., None].float() * frequency)[:, None]
            tables[kind] = (angle.cos(), angle.sin())
        return tables

    def per_layer(self, ids: Tensor, x: Tensor) -> Tensor:
        """(tokens, layers, size): what each layer's per-layer branch multiplies with."""
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
    """Packed text, row after row, all (tokens,) int64 but the last two.

    A row holds trees: a prefix with media in it, and dialogues that see the prefix and themselves only.
    """

    ids: Tensor  # tokens; the pad token where a soft token stands
    source: Tensor  # index of the soft token that stands here, -1 for none
    position: Tensor  # in its own conversation
    tree: Tensor  # number of the tree in its row
    branch: Tensor  # 0 for the prefix, from 1 for its dialogues
    take: Tensor  # (taken,) ascending places whose next token is asked for
    sizes: Tensor  # (rows,) how many tokens each row has


class DemoModel(nn.Module):
    """The whole model, for media with packed conversations about them."""

    def __init__(self, config: DemoConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Body(config)

    def soft_tokens(
        self, pixels: Tensor, positions: Tensor, sizes: list[int], inner: list[Tensor] | None = None
    ) -> Tensor:
        """(cells, hidden) in text space; see `VisionTower`."""
        return self.model.embed_vision(self.model.vision_tower(pixels, positions, sizes, inner)).float()

    def heard(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """(batch, frames / 4, hidden) in text space."""
        return self.model.embed_audio(self.model.audio_tower(frames, lengths)).float()

    def hidden(self, soft: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
        """Final hidden states where asked for (taken, hidden), and what is known everywhere before the layers that own
        no keys (tokens, hidden); soft (n, hidden) is what `source` points into.
        """
        lm, c = self.model.language_model, self.config.text
        words = lm.embed_tokens(rows.ids) * c.hidden_size**0.5
        x = torch.where((rows.source >= 0)[..., None], soft[rows.source.clamp(min=0)], words)
        ple = lm.per_layer(rows.ids, x)
        rope = lm.rope(rows.position)
        seen = what_is_seen(rows, c.sliding_window)

        last = c.num_hidden_layers - c.num_kv_shared_layers  # from here on only what is asked for goes on
        stored: dict[str, tuple[Tensor, Tensor]] = {}
        for index, layer in enumerate(lm.layers):
            kind = layer.self_attn.kind
            if index == last:
                known = x
                x, ple = x[rows.take], ple[rows.take]
                rope = {name: (cos[rows.take], sin[rows.take]) for name, (cos, sin) in rope.items()}
                seen = what_is_seen(rows, c.sliding_window, rows.take)
            if not layer.self_attn.shared:
                stored[kind] = layer.self_attn.keys(layer.input_layernorm(x), rope[kind])
            x = layer(x, ple[:, index], rope[kind], stored[kind], seen[kind])
        return lm.norm(x), known

    def logits(self, hidden: Tensor) -> Tensor:
        """(…, vocabulary), soft-capped."""
        cap = self.config.text.final_logit_softcapping
        scores = F.linear(hidden, self.model.language_model.embed_tokens.weight).float()
        return cap * torch.tanh(scores / cap)


def what_is_seen(rows: Rows, window: int, take: Tensor | None = None) -> dict[str, Seen]:
    """For each kind of layer and each row a mask to add, (queries, keys); queries are all tokens or those of `take`."""
    seen: dict[str, Seen] = {"full_attention": [], "sliding_attention": []}
    first = 0
    for size in rows.sizes.tolist():
        here = slice(first, first + size)
        tree, branch, position, order = rows.tree[here], rows.branch[here], rows.position[here], torch.arange(size)
        asked = order if take is None else take[(take >= first) & (take < first + size)] - first
        mask = (tree[asked, None] == tree) & (order[asked, None] >= order)
        mask = mask & ((branch == 0) | (branch[asked, None] == branch))
        near = mask & (position[asked, None] - position < window)
        for kind, allowed in (("full_attention", mask), ("sliding_attention", near)):
            seen[kind].append(torch.zeros(mask.shape).masked_fill_(~allowed, float("-inf")))
        first += size
    return seen
