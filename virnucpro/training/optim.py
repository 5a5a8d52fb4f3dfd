"""Optimisers, learning-rate schedule and the averaged weights."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from virnucpro.training.recipe import Recipe

_NEWTON = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """Momentum whose update for each matrix is made orthogonal.

    Matrices of one shape go through the iteration together.

    Source: Newton-Schulz iteration and coefficients as published by Keller Jordan (Muon, 2024).
    """

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float, decay: float, momentum: float = 0.95
    ) -> None:
        super().__init__(params, {"lr": lr, "decay": decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move every matrix along its orthogonal update."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    shapes[p.shape].append(p)
            for same in shapes.values():
                self._step_same(same, group)

    def _step_same(self, same: list[Tensor], group: dict[str, Any]) -> None:
        moments = []
        for p in same:
            state = self.state[p]
            if "moment" not in state:
                state["moment"] = torch.zeros_like(p)
            moments.append(state["moment"])
        grads = [p.grad for p in same if p.grad is not None]
        torch._foreach_lerp_(moments, grads, 1 - group["momentum"])
        blend = torch._foreach_lerp(grads, moments, group["momentum"])
        stack = torch.stack([b.flatten(1) for b in blend])
        update = orthogonal(stack)
        update = update * max(1.0, update.shape[1] / update.shape[2]) ** 0.5
        for p, u in zip(same, update, strict=True):
            p.mul_(1 - group["lr"] * group["decay"])
            p.add_(u.view_as(p), alpha=-group["lr"])


def orthogonal(matrices: Tensor) -> Tensor:
    """Nearly the nearest semi-orthogonal matrices: shape (k, rows, columns) to the same."""
    x = matrices.bfloat16() if matrices.is_cuda else matrices
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) * 1.02 + 1e-7)
    a, b, c = _NEWTON
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    out: Tensor = (x.mT if tall else x).to(matrices.dtype)
    return out


def make_optimisers(model: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """AdamW for all, or Muon for the inner matrices of the towers and AdamW for the rest."""
    inner, plain, bare = [], list[nn.Parameter](), list[nn.Parameter]()
    for name, p in model.named_parameters():
        matrix = p.ndim >= 2 and ".blocks." in name
        if matrix and recipe.optimiser == "muon" and p.shape[1] > 1:
            inner.append(p)
        elif p.ndim >= 2:
            plain.append(p)
        else:
            bare.append(p)
    fused = any(p.is_cuda for p in plain)
    optimisers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(
            [{"params": plain, "weight_decay": recipe.decay}, {"params": bare, "weight_decay": 0}],
            lr=recipe.rate,
            betas=(0.9, 0.98),
            fused=fused,
        )
    ]
    if inner:
        optimisers.append(Muon(inner, recipe.muon_rate, recipe.decay))
    return optimisers


def rate_at(step: int, recipe: Recipe) -> float:
    """Share of the highest learning rate at `step`: rises, then falls to 0 along a cosine."""
    warm = max(1, int(recipe.warmup * recipe.steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, recipe.steps - warm)))


class Average:
    """Exponential moving average of a model's parameters."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.names = [name for name, _ in model.named_parameters()]
        self.values = [p.detach().clone() for p in model.parameters()]

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Blend the current weights in; young averages forget faster."""
        decay = min(self.decay, (step + 1) / (step + 20))
        torch._foreach_lerp_(self.values, [p.detach() for p in model.parameters()], 1 - decay)

    def state(self) -> dict[str, Tensor]:
        """The averaged weights by name."""
        return dict(zip(self.names, self.values, strict=True))

    def load(self, state: dict[str, Tensor]) -> None:
        """Take over averaged weights."""
        for name, value in zip(self.names, self.values, strict=True):
            value.copy_(state[name])
