"""Train the published classifier on vectors of frozen encoders.

Vectors of the windows are made once, block by block: `{name}-{k}.npy` holds them (rows, d) float32,
and the ledger the window of each row (rows,) int64. Windows of held-out groups decide when to stop.
"""

import copy
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor, nn

from virnucpro.core.checkpoint import Ledger
from virnucpro.core.errors import ConfigError
from virnucpro.core.files import atomic_write, digest_of
from virnucpro.core.progress import ProgressReporter
from virnucpro.training.corpus import VIRUS
from virnucpro.training.figures import auroc
from virnucpro.training.jobs import MlpRecipe
from virnucpro.training.scoring import ModelOnDevice
from virnucpro.training.windows import LabelledWindows

logger = logging.getLogger("virnucpro.training")

BLOCK_WINDOWS = 1_000


class PublishedMlp(nn.Module):
    """Linear, batch norm, ReLU, dropout, linear.

    Source:
        Li-Jing-1997/VirNucPro at 0f93f27, `prediction.py`.
    """

    def __init__(self, width: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        self.hidden_layer = nn.Linear(width, hidden)
        self.bn1 = nn.BatchNorm1d(hidden)
        self.output_layer = nn.Linear(hidden, 2)

    def forward(self, vectors: Tensor) -> Tensor:
        """Logits, shape (n, 2), for vectors of shape (n, width)."""
        h = torch.relu(self.bn1(self.hidden_layer(vectors)))
        logits: Tensor = self.output_layer(F.dropout(h, self.dropout, self.training))
        return logits


class Features(NamedTuple):
    """Vectors of the ORFs of n windows."""

    vectors: NDArray[np.float32]  # (rows, d)
    window: NDArray[np.int64]  # window of each row, (rows,)
    viral: NDArray[np.bool_]  # whether it is viral, (rows,)
    windows: int  # those without a row included


def embed_windows(
    folder: Path, name: str, drawn: Sequence[LabelledWindows], encoder: ModelOnDevice,
    stop_at: float, progress: ProgressReporter,
) -> Features | None:  # fmt: skip
    """Embed windows block by block, reusing finished blocks; None if `stop_at` came before."""
    folder.mkdir(parents=True, exist_ok=True)
    ledger, model = Ledger(folder, folder / "ledger", repair=True), encoder.model
    parts = [w.bases[k : k + BLOCK_WINDOWS] for w in drawn
             for k in range(0, len(w.bases), BLOCK_WINDOWS)]  # fmt: skip
    blocks, rows, before = list[NDArray[np.float32]](), [np.empty(0, np.int64)], 0
    with progress.create_file_bar(len(parts), desc=f"Embedding {name}", unit="blocks") as bar:
        for k, bases in enumerate(parts):
            unit = f"{name}-{k:05d}"
            output = folder / f"{unit}.npy"
            key = digest_of(
                model.dna.identity(), model.protein.identity(), str(model.orf_policy),
                model.chunk_nt, bases.tobytes().hex(),
            )  # fmt: skip
            if entry := ledger.read(unit, key):
                of = np.frombuffer(entry.payload, np.int64)
            else:
                if time.monotonic() > stop_at:
                    return None
                vectors, of = encoder.vectors(bases)
                with atomic_write(output) as file:
                    np.save(file, vectors, allow_pickle=False)
                ledger.discard(unit)
                ledger.commit(unit, key, of.tobytes(), [output])
            blocks.append(np.load(output, allow_pickle=False))
            rows.append(before + of)
            before += len(bases)
            bar.update()
    window = np.concatenate(rows)
    viral = np.array([label.target == VIRUS for w in drawn for label in w.labels])
    return Features(np.concatenate(blocks), window, viral[window], before)


class MlpFit(NamedTuple):
    """A trained classifier, the epoch it is from, and what it reached on the held-out groups."""

    network: PublishedMlp
    epoch: int
    auroc: float


def fit_mlp(
    train: Features, dev: Features, recipe: MlpRecipe, device: torch.device,
    progress: ProgressReporter,
) -> MlpFit:  # fmt: skip
    """Train until the held-out windows get no better; returns the best epoch's weights.

    Rows come in random order, and both classes weigh the same.
    """
    for name, features, fewest in (("training", train, recipe.batch), ("held-out", dev, 2)):
        if (rows := len(features.window)) < fewest:
            raise ConfigError(f"{rows} {name} rows with a reading frame: too few")
        if features.viral.all() or not features.viral.any():
            raise ConfigError(f"{name} rows are of one class only")
    torch.manual_seed(recipe.seed)
    network = PublishedMlp(train.vectors.shape[1], recipe.hidden, recipe.dropout).to(device)
    how: dict[str, Any] = {"lr": recipe.rate, "weight_decay": recipe.decay}
    optimiser: torch.optim.Optimizer = torch.optim.AdamW(network.parameters(), **how)
    if recipe.optimiser == "sgd":
        optimiser = torch.optim.SGD(network.parameters(), momentum=0.9, **how)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, recipe.epochs)
    share, count = float(train.viral.mean()), len(train.window)
    balance = torch.tensor([0.5 / (1 - share), 0.5 / share], device=device, dtype=torch.float32)
    steps, best = count // recipe.batch, MlpFit(network, 0, -1.0)
    with progress.create_file_bar(recipe.epochs, desc="Training", unit="epochs") as bar:
        for epoch in range(1, recipe.epochs + 1):
            order = np.random.default_rng([recipe.seed, epoch]).permutation(count)
            network.train()
            loss = 0.0
            for chosen in np.split(order[: steps * recipe.batch], steps):
                vectors = torch.from_numpy(train.vectors[chosen]).to(device)
                target = torch.from_numpy(train.viral[chosen].astype(np.int64)).to(device)
                wrong = F.cross_entropy(network(vectors), target, balance)
                optimiser.zero_grad(set_to_none=True)
                wrong.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                loss += wrong.item() / steps
            schedule.step()
            value = _window_auroc(network, dev, device)
            bar.update(1, loss=f"{loss:.4f}", auroc=f"{value:.4f}")
            logger.info("epoch %d: loss %.4f, held-out AUROC %.4f", epoch, loss, value)
            if value > best.auroc:
                best = MlpFit(copy.deepcopy(network), epoch, value)
            elif epoch - best.epoch >= recipe.patience:
                break
    return best


@torch.no_grad()
def _window_auroc(network: PublishedMlp, features: Features, device: torch.device) -> float:
    """AUROC over windows with a row; a window's score is that of its highest row."""
    network.eval()
    highest = np.full(features.windows, -1.0)
    viral = np.zeros(features.windows, dtype=bool)
    viral[features.window] = features.viral
    count = len(features.window)
    for rows in np.array_split(np.arange(count), max(1, count // 4096)):
        vectors = torch.from_numpy(features.vectors[rows]).to(device)
        scores = network(vectors).softmax(dim=1)[:, 1].double().cpu().numpy()
        np.maximum.at(highest, features.window[rows], scores)
    return auroc(highest[highest >= 0], viral[highest >= 0])
