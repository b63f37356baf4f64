"""Muon for the projections, AdamW for the rest.

Muon (Jordan et al. 2024; scaled as in Liu et al. 2025, so that one rate serves both) makes each projection's update
orthogonal. For a model this small it needs clearly fewer pictures than AdamW.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn


def orthogonal(update: Tensor, steps: int = 5) -> Tensor:
    """Nearest orthogonal matrices (batch, m, n) by the quintic Newton-Schulz iteration."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = update / (update.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    for _ in range(steps):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x


PLACES = 4.0  # rate of the position tables, whose rows are as large as 0.5 and have far to go


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised. Weights of one shape are updated together; several processes share the work."""

    def __init__(
        self, groups: list[dict], lr: float = 2e-3, momentum: float = 0.95, weight_decay: float = 0.05
    ) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        together = dist.is_available() and dist.is_initialized()
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        updates: list[Tensor] = []
        for number, group in enumerate(self.param_groups):
            weights = group["params"]
            for weight in weights:
                self.state[weight].setdefault("momentum", torch.zeros_like(weight))
            past = [self.state[w]["momentum"] for w in weights]
            gradients = [w.grad for w in weights]
            torch._foreach_lerp_(past, gradients, 1 - group["momentum"])
            mixed = torch.stack(torch._foreach_lerp(gradients, past, group["momentum"]))
            updates.append(orthogonal(mixed) if number % self.world == self.rank else torch.zeros_like(mixed))
        if self.world > 1:
            flat = torch.cat([update.flatten() for update in updates])
            dist.all_reduce(flat)
            parts = flat.split([update.numel() for update in updates])
            updates = [part.view_as(update) for part, update in zip(parts, updates, strict=True)]
        for group, update in zip(self.param_groups, updates, strict=True):
            scale = 0.2 * max(update.shape[-2:]) ** 0.5
            torch._foreach_mul_(group["params"], 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(group["params"], list(update.unbind()), alpha=-group["lr"] * scale)


def make_optimizers(model: nn.Module, muon: float) -> list[torch.optim.Optimizer]:
    """Optimizers of what is to be taught, whose groups have a `share` of the common rate: `muon` for projections."""
    shapes: dict[tuple[int, ...], list[Tensor]] = {}
    tables, places, rest = [], [], []
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            continue
        if weight.ndim == 2 and "embed_tokens" not in name and "helpers" not in name:
            shapes.setdefault(tuple(weight.shape), []).append(weight)
        elif "position_embedding_table" in name:
            places.append(weight)
        elif weight.ndim >= 2:
            tables.append(weight)
        else:
            rest.append(weight)
    groups: list[dict] = [
        {"params": tables, "share": 1.0, "weight_decay": 0.01},
        {"params": places, "share": PLACES, "weight_decay": 0.0},
        {"params": rest, "share": 1.0, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    adam = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98), eps=1e-9, fused=True)
    if not shapes:
        return [adam]
    ordered = sorted(shapes.items(), key=lambda item: -len(item[1]) * item[0][0] * item[0][1] * min(item[0]))
    return [Muon([{"params": weights, "share": muon} for _, weights in ordered]), adam]
