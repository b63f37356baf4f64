"""Blocks that the encoders and the decoder have in common."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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
