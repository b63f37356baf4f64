"""The audio encoder of Gemma 4 written for training: parameters have the names of the published checkpoints.

A conformer on log-mel frames. What differs from an inference engine: attention looks at each token's own window of the
past instead of chunk by chunk, which gives the same numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from layers import Clipped, Norm, linear
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass
class AudioConfig:
    hidden_size: int = 128
    num_hidden_layers: int = 3
    num_attention_heads: int = 4
    subsampling_conv_channels: list[int] = field(default_factory=lambda: [128, 16])  # the first as many as mel bins
    conv_kernel_size: int = 5
    residual_weight: float = 0.5
    attention_chunk_size: int = 12
    attention_context_left: int = 13
    attention_context_right: int = 0
    attention_logit_cap: float = 50.0
    output_proj_dims: int = 128
    rms_norm_eps: float = 1e-6


class Convolution(nn.Module):
    """Halves time and frequency; frames after the end count as zeros."""

    def __init__(self, before: int, after: int, eps: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False)
        self.norm = nn.LayerNorm(after, eps=eps, bias=False)
        nn.init.normal_(self.conv.weight, std=(9 * before) ** -0.5)
        if before == 1:  # frames are far from zero on average; what matters is how they differ
            with torch.no_grad():
                self.conv.weight -= 0.8 * self.conv.weight.mean(dim=(2, 3), keepdim=True)

    def forward(self, x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, before, frames, bins) and (batch, frames) -> half of each."""
        x = self.conv(x * valid[:, None, :, None]).permute(0, 2, 3, 1)
        return F.relu(self.norm(x)).permute(0, 3, 1, 2), valid[:, ::2]


class Subsampling(nn.Module):
    def __init__(self, c: AudioConfig) -> None:
        super().__init__()
        first, second = c.subsampling_conv_channels
        self.layer0 = Convolution(1, first, c.rms_norm_eps)
        self.layer1 = Convolution(first, second, c.rms_norm_eps)
        self.input_proj_linear = linear(first // 4 * second, c.hidden_size)

    def forward(self, frames: Tensor, valid: Tensor) -> Tensor:
        x, valid = self.layer0(frames[:, None], valid)
        x, valid = self.layer1(x, valid)
        return self.input_proj_linear(x.permute(0, 2, 3, 1).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, c: AudioConfig) -> None:
        super().__init__()
        self.ffw_layer_1 = Clipped(c.hidden_size, 4 * c.hidden_size)
        self.ffw_layer_2 = Clipped(4 * c.hidden_size, c.hidden_size)
        self.pre_layer_norm, self.post_layer_norm = Norm(c.hidden_size), Norm(c.hidden_size)
        self.weight = c.residual_weight

    def forward(self, x: Tensor) -> Tensor:
        y = self.ffw_layer_2(F.silu(self.ffw_layer_1(self.pre_layer_norm(x))))
        return x + self.weight * self.post_layer_norm(y)


class Attention(nn.Module):
    """Local attention with relative positions: a token sees itself and the 11 before it."""

    def __init__(self, c: AudioConfig) -> None:
        super().__init__()
        assert c.attention_context_right == 0
        self.heads, self.past, self.cap = c.num_attention_heads, c.attention_context_left - 1, c.attention_logit_cap
        self.head_dim = c.hidden_size // c.num_attention_heads
        self.q_proj, self.k_proj, self.v_proj, self.post = (Clipped(c.hidden_size, c.hidden_size) for _ in range(4))
        self.relative_k_proj = linear(c.hidden_size, c.hidden_size)
        self.per_dim_scale = nn.Parameter(torch.zeros(self.head_dim))
        count = c.hidden_size // 2
        waves = torch.exp(torch.arange(count) * (-math.log(1e4) / max(count - 1, 1)))
        angle = torch.arange(self.past - 1, -1, -1)[:, None] * waves  # from the farthest to the token itself
        self.register_buffer("places", torch.cat([angle.sin(), angle.cos()], dim=1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, count, _ = x.shape
        q, k, v = (p(x).view(batch, count, self.heads, self.head_dim) for p in (self.q_proj, self.k_proj, self.v_proj))
        q = q * (self.head_dim**-0.5 / math.log(2) * F.softplus(self.per_dim_scale))
        k, v = (F.pad(t, (0, 0, 0, 0, self.past - 1, 0)).unfold(1, self.past, 1) for t in (k, v))
        relative = self.relative_k_proj(self.places).view(self.past, self.heads, self.head_dim)
        scores = torch.einsum("bthd,bthdp->bthp", q, k * (math.log(1 + math.e) / math.log(2)))
        scores = scores + torch.einsum("bthd,phd->bthp", q, relative)
        scores = self.cap * torch.tanh(scores / self.cap)
        place = torch.arange(count)[:, None] + torch.arange(self.past) - (self.past - 1)
        scores = scores.masked_fill((place < 0)[None, :, None], -1e9)
        out = torch.einsum("bthp,bthdp->bthd", scores.float().softmax(-1), v)
        return self.post(out.reshape(batch, count, -1))


class LightConvolution(nn.Module):
    def __init__(self, c: AudioConfig) -> None:
        super().__init__()
        size, self.kernel = c.hidden_size, c.conv_kernel_size
        self.linear_start, self.linear_end = Clipped(size, 2 * size), Clipped(size, size)
        self.depthwise_conv1d = nn.Conv1d(size, size, self.kernel, groups=size, bias=False)
        self.pre_layer_norm, self.conv_norm = Norm(size), Norm(size)

    def forward(self, x: Tensor) -> Tensor:
        y = F.glu(self.linear_start(self.pre_layer_norm(x)), dim=-1)
        y = self.depthwise_conv1d(F.pad(y.transpose(1, 2), (self.kernel - 1, 0))).transpose(1, 2)
        return x + self.linear_end(F.silu(self.conv_norm(y)))


class AudioLayer(nn.Module):
    def __init__(self, c: AudioConfig) -> None:
        super().__init__()
        self.feed_forward1, self.feed_forward2 = FeedForward(c), FeedForward(c)
        self.self_attn, self.lconv1d = Attention(c), LightConvolution(c)
        self.norm_pre_attn, self.norm_post_attn, self.norm_out = (Norm(c.hidden_size) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.feed_forward1(x)
        x = x + self.norm_post_attn(self.self_attn(self.norm_pre_attn(x)))
        return self.norm_out(self.feed_forward2(self.lconv1d(x)))


class AudioTower(nn.Module):
    def __init__(self, c: AudioConfig) -> None:
        super().__init__()
        self.subsample_conv_projection = Subsampling(c)
        self.layers = nn.ModuleList(AudioLayer(c) for _ in range(c.num_hidden_layers))
        self.output_proj = nn.Linear(c.hidden_size, c.output_proj_dims)
        nn.init.normal_(self.output_proj.weight, std=c.hidden_size**-0.5)
        nn.init.zeros_(self.output_proj.bias)

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """(batch, frames / 4, output) of (batch, frames, bins) log-mel, `lengths` (batch,) of them real."""
        valid = (torch.arange(frames.shape[1]) < lengths[:, None]).to(frames.dtype)
        x = self.subsample_conv_projection(frames, valid)
        for layer in self.layers:
            x = layer(x)
        return self.output_proj(x)
