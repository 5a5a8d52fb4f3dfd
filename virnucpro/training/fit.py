"""Train the bundled model: seeded, resumable, chosen on group-disjoint dev windows.

A run is a folder. `last.pt` holds everything needed to go on; `best.pt` the averaged weights
that did best on the dev windows so far; `progress.tsv` one row for each look at dev.
"""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from virnucpro.core.checkpoint import atomic_save
from virnucpro.core.errors import ConfigError, VirNucProError
from virnucpro.core.files import digest_of
from virnucpro.core.progress import Bar, ProgressReporter
from virnucpro.training.corpus import NULL, OTHER, VIRUS, Corpus, Label
from virnucpro.training.model import MiniModel, compile_blocks
from virnucpro.training.optim import Average, make_optimisers, rate_at
from virnucpro.training.recipe import Bucket, Recipe
from virnucpro.training.sampler import Windows, WindowSampler, orient
from virnucpro.training.states import cut_log, read_state
from virnucpro.training.windows import LabelledWindows, dev_figures

logger = logging.getLogger("virnucpro.training")


class TrainingError(VirNucProError):
    """The weights are no longer finite."""

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step

    def __str__(self) -> str:
        return f"training diverged by step {self.step}: lower the recipe's rates"


_SAVE_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSettings:
    """How to run a training, never what comes out of it but by `stop_after`.

    Attributes:
        folder: where the run keeps its state; the next call goes on with it.
        device: where to train.
        fused: compile the repeated parts (worth it for long runs on a GPU).
        stop_after: pause after this many seconds; the next call goes on (s).
        progress: show a bar.
    """

    folder: Path
    device: torch.device
    fused: bool = False
    stop_after: float = float("inf")
    progress: bool = True


@dataclass(frozen=True, slots=True)
class FitReport:
    """What a training reached: optimiser steps done, best dev figure, finished or paused."""

    steps: int
    best: float
    finished: bool


def group_weights(corpus: Corpus, recipe: Recipe) -> np.ndarray:
    """Share of windows of each group, shape (groups,), summing to 1.

    Virus families and null kinds: square root of bases, times `family_weights`. Others: the
    class by the square root of its bases times `kind_weights`, and so the groups in it.
    """
    first, last = corpus.group_bounds()
    size: np.ndarray = np.sqrt((last - first).astype(np.float64))
    target = np.array([g.target for g in corpus.groups])
    kinds = np.array([g.kind for g in corpus.groups])
    for i, label in enumerate(corpus.groups):
        size[i] *= recipe.family_weights.get(label.group, 1.0)
    for kind in np.unique(kinds[(target != VIRUS) & (target != NULL)]):
        inside = kinds == kind
        whole = np.sqrt(float((last - first)[inside].sum())) * recipe.kind_weights.get(kind, 1.0)
        size[inside] *= whole / size[inside].sum()
    shares = {VIRUS: recipe.virus_share, NULL: recipe.null_share}
    for value in np.unique(target):
        inside = target == value
        rest = 1 - recipe.virus_share - recipe.null_share
        size[inside] *= shares.get(int(value), rest) / size[inside].sum()
    shares_of: np.ndarray = size / size.sum()
    return shares_of


def _kind(label: Label) -> tuple[int, str, str]:
    """What the second loss tells apart: virus families, and classes of anything else."""
    return label.target, label.kind, label.group if label.target == VIRUS else ""


class Fit:
    """One training run.

    Raises:
        ConfigError: the dev windows are not of viruses and of others.
    """

    def __init__(
        self, corpus: Corpus, dev: list[LabelledWindows], recipe: Recipe, settings: FitSettings
    ) -> None:
        self.recipe, self.settings, self.device = recipe, settings, settings.device
        torch.manual_seed(recipe.seed)
        names = [_kind(g) for g in corpus.groups]
        self.kinds = sorted(set(names))
        self.kind_of = torch.tensor([self.kinds.index(n) for n in names], device=self.device)
        self.model = MiniModel(recipe, len(self.kinds)).to(self.device)
        if settings.fused:
            compile_blocks(self.model)
        weights = group_weights(corpus, recipe)
        self.sampler = WindowSampler(corpus, weights, self.device, recipe.noise)
        self.optimisers = make_optimisers(self.model, recipe)
        self.average = Average(self.model, recipe.ema)
        self.dev = [(w, self._on_device(w)) for w in dev if len(w.labels)]
        # What a saved state must agree with before it is gone on from.
        self.made_from = digest_of(recipe.digest, corpus.digest(), [w.digest() for w in dev])
        if not {VIRUS, OTHER} <= {w.labels[0].target for w, _ in self.dev}:
            raise ConfigError("dev files need viruses and others as long as the shortest window")
        self.step, self.best, self.since_best, self.seen = 0, -1.0, 0, 0

    def _on_device(self, windows: LabelledWindows) -> Windows:
        rows = torch.from_numpy(windows.bases.astype(np.int64)).to(self.device)
        return orient(rows, torch.full((len(rows),), windows.length_nt, device=self.device))

    def run(self) -> FitReport:
        """Train until the recipe's end, early stopping, or `stop_after`; resumes by itself."""
        self.settings.folder.mkdir(parents=True, exist_ok=True)
        self._resume()
        start = saved = time.monotonic()
        reporter = ProgressReporter(self.settings.progress)
        paused = False
        with reporter.create_file_bar(self.recipe.steps, desc="Training", unit="steps") as bar:
            bar.update(self.step)
            while not self._is_over() and not paused:
                loss = self._one_step()
                self._tell(bar, loss)
                if self.step % self.recipe.evaluate_every == 0 or self.step == self.recipe.steps:
                    self._look(time.monotonic() - start)
                paused = time.monotonic() - start > self.settings.stop_after
                if time.monotonic() - saved > _SAVE_SECONDS:
                    self._save()
                    saved = time.monotonic()
        self._save()
        return FitReport(self.step, self.best, not paused)

    def _is_over(self) -> bool:
        return self.step >= self.recipe.steps or self.since_best > self.recipe.patience

    def _tell(self, bar: Bar, loss: Tensor) -> None:
        if self.step % 50 == 0:
            bar.update(50, loss=f"{float(loss):.4f}", best=f"{self.best:.4f}")

    def _bucket(self) -> Bucket:
        shares = np.array([b.share for b in self.recipe.buckets])
        rng = np.random.default_rng([self.recipe.seed, self.step])
        return self.recipe.buckets[rng.choice(len(shares), p=shares / shares.sum())]

    def _one_step(self) -> Tensor:
        bucket, recipe = self._bucket(), self.recipe
        seed = recipe.seed * 1_000_003 + self.step
        windows, target, group = self.sampler.draw(
            bucket.batch, bucket.shortest, bucket.longest, seed
        )
        torch.manual_seed(seed)  # dropout follows the step too, so that resuming changes nothing
        self.model.train()
        with self._autocast():
            logits, kinds = self.model(windows)
            loss = F.cross_entropy(logits.float(), target, label_smoothing=recipe.smoothing)
            if recipe.kind_loss:
                of_kind = F.cross_entropy(kinds.float(), self.kind_of[group])
                loss = loss + recipe.kind_loss * of_kind
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        share = rate_at(self.step, recipe)
        for optimiser, top in zip(self.optimisers, (recipe.rate, recipe.muon_rate), strict=False):
            for group_ in optimiser.param_groups:
                group_["lr"] = top * share
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.average.update(self.model, self.step)
        self.step += 1
        self.seen += bucket.batch
        return loss.detach()

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.device.type != "cuda":
            return contextlib.nullcontext()
        return torch.autocast("cuda", dtype=torch.bfloat16)

    @torch.no_grad()
    def dev_logits(self) -> list[np.ndarray]:
        """Logits of the averaged weights for every dev set, each (n, 3) float32."""
        live = {k: v.clone() for k, v in self.model.named_parameters()}
        self._put(self.average.state())
        self.model.eval()
        with torch.compiler.set_stance("force_eager"), self._autocast():
            logits = [self._logits(windows) for _, windows in self.dev]
        self._put(live)
        return logits

    def _logits(self, windows: Windows) -> np.ndarray:
        each = (windows.bases, windows.lengths, windows.residues, windows.residue_lengths)
        parts = zip(*(torch.split(t, 500) for t in each), strict=True)
        logits = torch.cat([self.model(Windows(*part))[0].float() for part in parts])
        return logits.cpu().numpy()

    def load_best(self) -> int:
        """Put the weights that did best on dev into the model; returns their step."""
        saved = read_state(self.settings.folder / "best.pt", self.device, self.made_from)
        self._put(saved["weights"])
        return int(saved["step"])

    @torch.no_grad()
    def _put(self, weights: dict[str, Tensor]) -> None:
        for name, p in self.model.named_parameters():
            p.copy_(weights[name])

    def _look(self, seconds: float) -> None:
        logits = self.dev_logits()
        figures = dev_figures([w for w, _ in self.dev], logits)
        value = float(np.mean([v for k, v in figures.items() if k.startswith("auroc")]))
        if not all(np.isfinite(x).all() for x in logits):
            raise TrainingError(self.step)
        self.since_best += self.recipe.evaluate_every
        if value > self.best:
            self.best, self.since_best = value, 0
            state = {k: v.cpu() for k, v in self.average.state().items()}
            best = {"weights": state, "step": self.step, "figures": figures}
            atomic_save({**best, "made_from": self.made_from}, self.settings.folder / "best.pt")
        self._log({"seconds": seconds, "mean": value, **figures})

    def _log(self, figures: dict[str, float]) -> None:
        path = self.settings.folder / "progress.tsv"
        fresh = not path.exists()
        with path.open("a", encoding="utf-8") as file:
            if fresh:
                file.write("\t".join(["step", "windows", *figures]) + "\n")
            values = [str(self.step), str(self.seen), *(f"{v:.5g}" for v in figures.values())]
            file.write("\t".join(values) + "\n")
        logger.info("step %d: %s", self.step, " ".join(f"{k}={v:.4f}" for k, v in figures.items()))

    def _save(self) -> None:
        state = {
            "made_from": self.made_from, "step": self.step, "best": self.best,
            "since_best": self.since_best, "seen": self.seen,
            "model": self.model.state_dict(), "average": self.average.state(),
            "optimisers": [o.state_dict() for o in self.optimisers],
        }  # fmt: skip
        atomic_save(state, self.settings.folder / "last.pt")

    def _resume(self) -> None:
        if not (self.settings.folder / "last.pt").exists():
            return
        state = read_state(self.settings.folder / "last.pt", self.device, self.made_from)
        self.step, self.best = state["step"], state["best"]
        self.since_best, self.seen = state["since_best"], state["seen"]
        self.model.load_state_dict(state["model"])
        self.average.load(state["average"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        cut_log(self.settings.folder / "progress.tsv", self.step)
        logger.info("going on from step %d", self.step)
