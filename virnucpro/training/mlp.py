"""Train the published classifier on vectors of frozen encoders.

The network is the published one: linear, batch norm, ReLU, dropout, linear. Windows of the
held-out groups decide when to stop.
"""

from __future__ import annotations

import copy
import logging
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor

from virnucpro.core.errors import ConfigError
from virnucpro.core.files import digest_of
from virnucpro.core.progress import ProgressReporter
from virnucpro.scores.classifier import PublishedMlp
from virnucpro.training.feature_store import Features
from virnucpro.training.metrics import auroc

logger = logging.getLogger("virnucpro.training")


@dataclass(frozen=True, slots=True, kw_only=True)
class MlpRecipe:
    """Everything that decides the weights, besides data and encoders.

    Attributes:
        windows: windows drawn of the viral and of the other training records, each.
        dev_windows: the same of each held-out set.
        null_share: random, shuffled and low-complexity windows, of `windows`; they are `other`.
        hidden: hidden width.
        dropout: after the ReLU.
        optimiser: `sgd` with momentum 0.9, or `adamw`.
        rate: learning rate; falls to 0 along a cosine.
        decay: weight decay.
        batch: rows of a step.
        epochs: the most passes over the rows.
        patience: passes without a better figure before training stops.
        seed: everything random follows from it.
    """

    windows: int = 20_000
    dev_windows: int = 2_000
    null_share: float = 0.1
    hidden: int = 512
    dropout: float = 0.5
    optimiser: Literal["sgd", "adamw"] = "adamw"
    rate: float = 1e-3
    decay: float = 0.01
    batch: int = 256
    epochs: int = 40
    patience: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch < 2:
            raise ValueError("batch must be 2 or more: the network has a batch norm")
        if min(self.windows, self.dev_windows, self.hidden, self.epochs) < 1 or self.dropout > 1:
            raise ValueError(
                "windows, dev_windows, hidden and epochs must be 1 or more, dropout 1 or less"
            )

    @property
    def digest(self) -> str:
        """Identity of the recipe (hex)."""
        return digest_of(asdict(self))


@dataclass(frozen=True, slots=True)
class MlpFit:
    """A trained classifier, the epoch it is from, and what it reached on the held-out groups."""

    network: PublishedMlp
    epoch: int
    auroc: float


def fit_mlp(
    train: Features, dev: Features, recipe: MlpRecipe, device: torch.device,
    progress: ProgressReporter,
) -> MlpFit:  # fmt: skip
    """Train until the held-out windows get no better; returns the best epoch's weights.

    Raises:
        ConfigError: too few rows, or of one class only.
    """
    for name, features in (("training", train), ("held-out", dev)):
        if (len(features) < recipe.batch and name == "training") or len(features) < 2:
            raise ConfigError(f"{len(features)} {name} rows with a reading frame: too few")
        if features.viral.all() or not features.viral.any():
            raise ConfigError(f"{name} rows are of one class only")
    torch.manual_seed(recipe.seed)
    network = PublishedMlp(train.width, recipe.hidden).to(device)
    optimiser = _optimiser(network, recipe)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, recipe.epochs)
    best: MlpFit | None = None
    with progress.create_file_bar(recipe.epochs, desc="Training", unit="epochs") as bar:
        for epoch in range(1, recipe.epochs + 1):
            loss = _one_epoch(network, optimiser, train, recipe, epoch)
            schedule.step()
            value = window_auroc(dev, scores_of(network, dev))
            bar.update(1, loss=f"{loss:.4f}", auroc=f"{value:.4f}")
            logger.info("epoch %d: loss %.4f, held-out AUROC %.4f", epoch, loss, value)
            if best is None or value > best.auroc:
                best = MlpFit(copy.deepcopy(network).eval(), epoch, value)
            elif epoch - best.epoch >= recipe.patience:
                break
    assert best is not None
    return best


def _optimiser(network: PublishedMlp, recipe: MlpRecipe) -> torch.optim.Optimizer:
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(
            network.parameters(), lr=recipe.rate, momentum=0.9, weight_decay=recipe.decay
        )
    return torch.optim.AdamW(network.parameters(), lr=recipe.rate, weight_decay=recipe.decay)


def _one_epoch(
    network: PublishedMlp, optimiser: torch.optim.Optimizer, train: Features, recipe: MlpRecipe,
    epoch: int,
) -> float:  # fmt: skip
    """One pass over the rows in random order; both classes weigh the same."""
    device = network.output_layer.weight.device
    share = float(train.viral.mean())
    balance = torch.tensor([0.5 / (1 - share), 0.5 / share], device=device, dtype=torch.float32)
    order = np.random.default_rng([recipe.seed, epoch]).permutation(len(train))
    network.train()
    total = 0.0
    whole = len(order) - len(order) % recipe.batch
    for rows in np.split(order[:whole], whole // recipe.batch):
        vectors = torch.from_numpy(train.take(rows)).to(device)
        target = torch.from_numpy(train.viral[rows].astype(np.int64)).to(device)
        loss = F.cross_entropy(_logits(network, vectors, recipe.dropout), target, balance)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        total += loss.item() * len(rows)
    return total / whole


def _logits(network: PublishedMlp, vectors: Tensor, dropout: float) -> Tensor:
    h = torch.relu(network.bn1(network.hidden_layer(vectors)))
    logits: Tensor = network.output_layer(F.dropout(h, dropout))
    return logits


@torch.no_grad()
def scores_of(network: PublishedMlp, features: Features) -> NDArray[np.float64]:
    """P(virus) of every row: shape (rows,)."""
    device = network.output_layer.weight.device
    network.eval()
    parts = []
    for rows in np.array_split(np.arange(len(features)), max(1, len(features) // 4096)):
        vectors = torch.from_numpy(features.take(rows)).to(device)
        parts.append(network(vectors).softmax(dim=1)[:, 1].double().cpu().numpy())
    return np.concatenate(parts)


def window_auroc(features: Features, scores: NDArray[np.float64]) -> float:
    """AUROC over windows with a row; a window's score is that of its highest row."""
    highest = np.full(features.windows, -1.0)
    np.maximum.at(highest, features.window, scores)
    viral = np.zeros(features.windows, dtype=bool)
    viral[features.window[features.viral]] = True
    scored = highest >= 0
    return auroc(highest[scored], viral[scored])
