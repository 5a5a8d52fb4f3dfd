"""Train the published classifier on vectors of frozen encoders, made once and kept in blocks."""

import copy
import io
import logging
import shutil
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import nn

from virnucpro.core.checkpoint import Ledger
from virnucpro.core.errors import ConfigError
from virnucpro.core.files import digest_of
from virnucpro.core.log import ProgressReporter
from virnucpro.models.classifier_file import PUBLISHED_KIND
from virnucpro.models.store import base_model
from virnucpro.pipeline.stream import DirectScorer
from virnucpro.training import corpus as corpora
from virnucpro.training.corpus import VIRUS, Drawing, LabelledWindows
from virnucpro.training.evaluation import auroc
from virnucpro.training.fit import FitSettings, write_model
from virnucpro.training.jobs import Job, MlpRecipe

logger = logging.getLogger("virnucpro.training")

BLOCK_WINDOWS = 1_000


class Features(NamedTuple):
    """Vectors of the ORFs of n windows."""

    vectors: NDArray[np.float32]  # (rows, d)
    window: NDArray[np.int64]  # window of each row, (rows,)
    viral: NDArray[np.bool_]  # whether each window is viral, (n,)


def embed_windows(
    folder: Path, name: str, drawn: Sequence[LabelledWindows], encoder: DirectScorer,
    stop_at: float, progress: ProgressReporter,
) -> Features | None:  # fmt: skip
    """Embed windows block by block, reusing finished blocks; None if `stop_at` came before."""
    ledger, model = Ledger(folder, folder / "ledger", repair=True), encoder.model
    windows = np.concatenate([w.bases for w in drawn])
    firsts = range(0, len(windows), BLOCK_WINDOWS)
    found = [(np.empty((0, model.dim), np.float32), np.empty(0, np.int64))]
    with progress.create_file_bar(len(firsts), desc=f"Embedding {name}", unit="blocks") as bar:
        for first in firsts:
            block, unit = windows[first : first + BLOCK_WINDOWS], f"{name}-{first}"
            key = digest_of(
                model.dna.identity(), model.protein.identity(), str(model.orf_policy),
                model.chunk_nt, block.tobytes().hex(),
            )  # fmt: skip
            if entry := ledger.read(unit, key):
                made = np.load(io.BytesIO(entry.payload))
                rows, of = made["vectors"], made["window"]
            elif time.monotonic() > stop_at:
                return None
            else:
                parts, before = list[Any](), 0
                for shard, of_orfs in encoder.vectors(corpora.as_records(block)):
                    record = shard.chunks["record"][shard.orfs["chunk"]].astype(np.int64)
                    parts.append((of_orfs, before + record))
                    before += len(shard.records)
                rows, of = map(np.concatenate, zip(*parts, strict=True))
                content = io.BytesIO()
                np.savez(content, vectors=rows, window=of)
                ledger.discard(unit)
                ledger.commit(unit, key, content.getvalue())
            found.append((rows, first + of))
            bar.update()
    viral = np.array([label.target == VIRUS for w in drawn for label in w.labels])
    vectors, window = map(np.concatenate, zip(*found, strict=True))
    return Features(vectors, window, viral)


def fit_mlp(
    train: Features, dev: Features, recipe: MlpRecipe, device: torch.device,
    progress: ProgressReporter,
) -> tuple[nn.Module, int, float]:  # fmt: skip
    """Train until the held-out windows get no better: the best network, its epoch and AUROC.

    The network is that of Li-Jing-1997/VirNucPro at 0f93f27, `prediction.py`. Rows come in random
    order, and both classes weigh the same.
    """
    for name, features, fewest in (("training", train, recipe.batch), ("held-out", dev, 2)):
        if (rows := len(features.window)) < fewest:
            raise ConfigError(f"{rows} {name} rows with a reading frame: too few")
        if len(set(features.viral[features.window])) < 2:
            raise ConfigError(f"{name} rows are of one class only")
    torch.manual_seed(recipe.seed)
    network = nn.Sequential(OrderedDict(
        hidden_layer=nn.Linear(train.vectors.shape[1], recipe.hidden),
        bn1=nn.BatchNorm1d(recipe.hidden), relu=nn.ReLU(), dropout=nn.Dropout(recipe.dropout),
        output_layer=nn.Linear(recipe.hidden, 2),
    )).to(device)  # fmt: skip
    how: dict[str, Any] = {"lr": recipe.rate, "weight_decay": recipe.decay}
    optimiser: torch.optim.Optimizer = torch.optim.AdamW(network.parameters(), **how)
    if recipe.optimiser == "sgd":
        optimiser = torch.optim.SGD(network.parameters(), momentum=0.9, **how)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, recipe.epochs)
    target, count = train.viral[train.window].astype(np.int64), len(train.window)
    balance = torch.from_numpy(0.5 * count / np.bincount(target)).float().to(device)
    steps, best = count // recipe.batch, (network, 0, -1.0)
    with progress.create_file_bar(recipe.epochs, desc="Training", unit="epochs") as bar:
        for epoch in range(1, recipe.epochs + 1):
            order = np.random.default_rng([recipe.seed, epoch]).permutation(count)
            network.train()
            loss = 0.0
            for chosen in np.split(order[: steps * recipe.batch], steps):
                logits = network(torch.from_numpy(train.vectors[chosen]).to(device))
                truth = torch.from_numpy(target[chosen]).to(device)
                wrong = F.cross_entropy(logits, truth, balance)
                optimiser.zero_grad(set_to_none=True)
                wrong.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                loss += wrong.item() / steps
            schedule.step()
            value = _window_auroc(network, dev, device)
            bar.update(1, loss=f"{loss:.4f}", auroc=f"{value:.4f}")
            logger.info("epoch %d: loss %.4f, held-out AUROC %.4f", epoch, loss, value)
            if value > best[2]:
                best = copy.deepcopy(network), epoch, value
            elif epoch - best[1] >= recipe.patience:
                break
    return best


@torch.no_grad()
def _window_auroc(network: nn.Module, features: Features, device: torch.device) -> float:
    """AUROC over windows with a row; a window's score is that of its highest row."""
    network.eval()
    highest = np.full(len(features.viral), -1.0)
    parts = np.array_split(features.vectors, -(-len(features.vectors) // 4096))
    logits = torch.cat([network(torch.from_numpy(part).to(device)).cpu() for part in parts])
    np.maximum.at(highest, features.window, logits.softmax(dim=1)[:, 1].double().numpy())
    return auroc(highest[highest >= 0], features.viral[highest >= 0])


def train_mlp(
    job: Job, recipe: MlpRecipe, settings: FitSettings, home: Path, output: Path
) -> tuple[int, float] | None:
    """Draw windows, embed them, train, write the model directory, with encoders that are files.

    Returns the epoch of the weights, and their AUROC on held-out windows; None if time was up.
    """
    base = base_model(job.model, home)
    train, dev = corpora.load_labelled(job.data)
    encoder = DirectScorer(base, str(settings.device))
    stop_at = time.monotonic() + settings.stop_after
    nulls = int(recipe.null_share * recipe.windows / 3)
    progress, found = ProgressReporter(settings.progress), []
    for name, sets, count, null_count in (
        ("train", {"train": train}, recipe.windows, nulls), ("dev", dev, recipe.dev_windows, 0)
    ):  # fmt: skip
        drawing = Drawing((base.chunk_nt,), count, null_count, recipe.seed)
        if not (windows := corpora.dev_windows(sets, drawing)):
            raise ConfigError(f"no record is as long as a chunk ({base.chunk_nt} nt)")
        features = embed_windows(settings.folder, name, windows, encoder, stop_at, progress)
        if features is None:
            return None
        found.append(features)
        share = 100 * len(np.unique(features.window)) / len(features.viral)
        logger.info("%s: %d rows; %.1f%% of the windows", name, len(features.window), share)
    network, epoch, best = fit_mlp(found[0], found[1], recipe, settings.device, progress)

    output.mkdir(parents=True, exist_ok=True)
    said: dict[str, Any] = {"calibration": "", "groups": [], "chunk_nt": base.chunk_nt,
                            "orf_policy": asdict(base.orf_policy)}  # fmt: skip
    for slot, spec in (("dna", base.dna), ("protein", base.protein)):
        said[slot] = {"installed": spec.name}
        if spec.is_small:
            target = output / f"{slot}.safetensors"
            if target.resolve() != spec.path.resolve():
                shutil.copyfile(spec.path, target)
            said[slot] = {"kind": spec.kind, "dim": spec.dim, "file": target.name}
    state = network.state_dict()
    del state["bn1.num_batches_tracked"]
    source = f"virnucpro train, recipe {digest_of(asdict(recipe))[:16]}, epoch {epoch}"
    write_model(output, state, PUBLISHED_KIND, said, name=job.name, source=source,
                 licence="not stated")  # fmt: skip
    return epoch, best
