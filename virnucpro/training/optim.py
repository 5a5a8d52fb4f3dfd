"""Optimisers and learning-rate schedule of the bundled kind."""

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from virnucpro.training.jobs import Recipe

_NEWTON = (3.4445, -4.7750, 2.0315)
_MOMENTUM = 0.95


class Muon(torch.optim.Optimizer):
    """Momentum whose update for each matrix is made orthogonal (Keller Jordan, 2024)."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float, decay: float) -> None:
        super().__init__(params, {"lr": lr, "decay": decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move every matrix along its orthogonal update."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                shapes[p.shape].append(p)
            for same in shapes.values():
                for p in same:
                    if "moment" not in self.state[p]:
                        self.state[p]["moment"] = torch.zeros_like(p)
                grads = [p.grad for p in same if p.grad is not None]
                moments = [self.state[p]["moment"] for p in same]
                torch._foreach_lerp_(moments, grads, 1 - _MOMENTUM)
                blend = torch._foreach_lerp(grads, moments, _MOMENTUM)
                update = _orthogonal(torch.stack([b.flatten(1) for b in blend]))
                update = update * max(1.0, update.shape[1] / update.shape[2]) ** 0.5
                for p, u in zip(same, update, strict=True):
                    p.mul_(1 - group["lr"] * group["decay"])
                    p.add_(u.view_as(p), alpha=-group["lr"])


def _orthogonal(matrices: Tensor) -> Tensor:
    """Nearly the nearest semi-orthogonal matrices: shape (k, rows, columns) to the same."""
    x = matrices.bfloat16() if matrices.is_cuda else matrices
    is_tall = x.shape[1] > x.shape[2]
    x = x.mT if is_tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) * 1.02 + 1e-7)
    a, b, c = _NEWTON
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    out: Tensor = (x.mT if is_tall else x).to(matrices.dtype)
    return out


def make_optimisers(model: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """AdamW for all, or Muon for the inner matrices of the towers and AdamW for the rest."""
    inner, plain, bare = list[nn.Parameter](), list[nn.Parameter](), list[nn.Parameter]()
    for name, p in model.named_parameters():
        if p.ndim < 2:
            bare.append(p)
        elif recipe.optimiser == "muon" and ".blocks." in name and p.shape[1] > 1:
            inner.append(p)
        else:
            plain.append(p)
    optimisers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(
            [{"params": plain, "weight_decay": recipe.decay}, {"params": bare, "weight_decay": 0}],
            lr=recipe.rate, betas=(0.9, 0.98), fused=any(p.is_cuda for p in plain),
        )
    ]  # fmt: skip
    return [*optimisers, Muon(inner, recipe.muon_rate, recipe.decay)] if inner else optimisers


def rate_at(step: int, recipe: Recipe) -> float:
    """Share of the highest learning rate at `step`: rises, then falls to 0 along a cosine."""
    warm = max(1, int(recipe.warmup * recipe.steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, recipe.steps - warm)))
