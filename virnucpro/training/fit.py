"""Train the bundled model: seeded, resumable, chosen on group-disjoint dev windows.

`last.pt` of a run's folder holds everything needed to go on; `best.pt` the averaged weights that
did best on the dev windows so far; `progress.tsv` one row for each look at dev.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import pickle
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor, nn

from virnucpro.core.checkpoint import atomic_save
from virnucpro.core.errors import ConfigError, ModelError, UsageError, VirNucProError
from virnucpro.core.files import atomic_write, digest_of
from virnucpro.core.progress import ProgressReporter
from virnucpro.encoders.small import Block, Pool, Stem, TowerEncoder, load_small
from virnucpro.encoders.tokenizers import BASE_N
from virnucpro.models.classifier_file import read_classifier
from virnucpro.models.specs import ModelSpec
from virnucpro.training.corpus import NULL, OTHER, VIRUS, Corpus
from virnucpro.training.figures import auroc
from virnucpro.training.jobs import Recipe
from virnucpro.training.networks import MiniClassifier
from virnucpro.training.optim import make_optimisers, rate_at
from virnucpro.training.sampler import Windows, WindowSampler, oriented
from virnucpro.training.windows import LabelledWindows

logger = logging.getLogger("virnucpro.training")

_SAVE_SECONDS = 60.0
_TO_RANK = 512  # windows by which the channels of a larger model are ranked


class TrainingError(VirNucProError):
    """The weights are no longer finite."""

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step

    def __str__(self) -> str:
        return f"training diverged by step {self.step}: lower the recipe's rates"


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSettings:
    """How to run a training, never what comes out of it but by `stop_after`."""

    folder: Path  # where the run keeps its state; the next call goes on with it
    device: torch.device  # where to train
    fused: bool = False  # compile the repeated parts (worth it for long runs on a GPU)
    stop_after: float = float("inf")  # pause after this many seconds; the next call goes on (s)
    progress: bool = True  # show a bar


class MiniModel(nn.Module):
    """DNA encoder, protein encoder and classifier as one module; `kinds` groups are told apart."""

    def __init__(self, recipe: Recipe, kinds: int) -> None:
        super().__init__()
        self.dna = TowerEncoder("mini-dna", recipe.dna)
        self.protein = TowerEncoder("mini-protein", recipe.protein)
        width = self.dna.dim + self.protein.dim
        self.classifier = MiniClassifier(width, recipe.hidden, kinds, recipe.dropout)

    def forward(self, windows: Windows) -> tuple[Tensor, Tensor]:
        """Logits of other, virus, null (n, 3) and of the groups (n, kinds)."""
        dna = self.dna.embed(windows.bases, windows.lengths)
        protein = self.protein.embed(windows.residues, windows.residue_lengths)
        return self.classifier.both(torch.cat([dna, protein], dim=1))


@torch.no_grad()
def logits_of(model: MiniModel, windows: Windows, rows: int) -> tuple[Tensor, Tensor]:
    """Logits as `MiniModel` gives them, `rows` windows at a time, float32 on the CPU."""
    model.eval()
    parts = zip(*(torch.split(tensor, rows) for tensor in windows), strict=True)
    with torch.compiler.set_stance("force_eager"):
        found = [model(Windows(*part)) for part in parts]
    both = [torch.cat([logits.float() for logits in one]).cpu() for one in zip(*found, strict=True)]
    return both[0], both[1]


def group_weights(corpus: Corpus, recipe: Recipe) -> NDArray[np.float64]:
    """Share of windows of each group, by the square root of its bases and the recipe: (groups,)."""
    first, last = corpus.group_bounds()
    target, kinds = corpus.targets, np.array([g.kind for g in corpus.groups])
    favour = [recipe.family_weights.get(g.group, 1.0) for g in corpus.groups]
    size: NDArray[np.float64] = np.sqrt((last - first).astype(np.float64)) * favour
    for kind in np.unique(kinds[target == OTHER]):
        inside = kinds == kind
        whole = np.sqrt(float((last - first)[inside].sum())) * recipe.kind_weights.get(kind, 1.0)
        size[inside] *= whole / size[inside].sum()
    shares = {VIRUS: recipe.virus_share, NULL: recipe.null_share}
    for value in np.unique(target):
        inside = target == value
        rest = 1 - recipe.virus_share - recipe.null_share
        size[inside] *= shares.get(int(value), rest) / size[inside].sum()
    weights: NDArray[np.float64] = size / size.sum()
    return weights


class Fit:
    """One training run on windows of `corpus`, chosen by the windows `dev`."""

    def __init__(
        self, corpus: Corpus, dev: list[LabelledWindows], recipe: Recipe, settings: FitSettings,
        virus_kinds: Mapping[str, Sequence[str]] | None = None, start: ModelSpec | None = None,
    ) -> None:  # fmt: skip
        self.recipe, self.settings, self.device = recipe, settings, settings.device
        torch.manual_seed(recipe.seed)
        kind_of_family = {f: kind for kind, own in (virus_kinds or {}).items() for f in own}
        names = []
        for g in corpus.groups:
            family = g.group if g.group in kind_of_family else g.group.split(" [")[0]
            kind = kind_of_family.get(family, g.kind)
            names.append((VIRUS, kind, g.group) if g.target == VIRUS else (g.target, g.kind, ""))
        self.kinds = sorted(set(names))
        self.kind_of = torch.tensor([self.kinds.index(n) for n in names], device=self.device)
        # The groups of each kind of virus, and the kind of each group; -1 for none.
        order = sorted(virus_kinds or ())
        broad = [order.index(k) if t == VIRUS and k in order else -1 for t, k, _ in self.kinds]
        self.broad_kind_of = torch.tensor(broad, device=self.device)
        self.of_broad_kind = [
            at for k in range(len(order)) if len(at := torch.where(self.broad_kind_of == k)[0])
        ]
        self.model = MiniModel(recipe, len(self.kinds)).to(self.device)
        weights = group_weights(corpus, recipe)
        self.sampler = WindowSampler(corpus, weights, self.device, recipe.noise)
        self.teacher = _loaded(start, recipe, self.device) if start else None
        if start and self.teacher:
            self._begin_from(self.teacher, start.groups == tuple(group_names(self.kinds)))
        self.average = copy.deepcopy(self.model)
        if settings.fused:
            # shapes stay free, so that buckets share one graph for each width and dilation
            torch._dynamo.config.recompile_limit = 64
            for part in [*self.model.modules(), *(self.teacher.modules() if self.teacher else ())]:
                if isinstance(part, Stem | Block | Pool):
                    part.compile(dynamic=True)
        self.optimisers = make_optimisers(self.model, recipe)
        self.dev = [(w, oriented(w.bases, self.device)) for w in dev if len(w.labels)]
        # What a saved state must agree with before it is gone on from.
        self.made_from = digest_of(
            recipe.digest, corpus.digest(), [w.digest() for w in dev], self.kinds,
            start.digest if start else "",
        )  # fmt: skip
        if not {VIRUS, OTHER} <= {w.labels[0].target for w, _ in self.dev}:
            raise ConfigError("dev files need viruses and others as long as the shortest window")
        self.step, self.best, self.since_best, self.seen = 0, -1.0, 0, 0
        self.finished = False

    def run(self) -> None:
        """Train until the recipe's end, early stopping, or `stop_after`; resumes by itself."""
        recipe, settings = self.recipe, self.settings
        settings.folder.mkdir(parents=True, exist_ok=True)
        if (settings.folder / "last.pt").exists():
            self._resume()
        start = saved = time.monotonic()
        reporter, paused = ProgressReporter(settings.progress), False
        with reporter.create_file_bar(recipe.steps, desc="Training", unit="steps") as bar:
            bar.update(self.step)
            while self.step < recipe.steps and self.since_best <= recipe.patience and not paused:
                loss = self._one_step()
                if self.step % 50 == 0:
                    bar.update(50, loss=f"{float(loss):.4f}", best=f"{self.best:.4f}")
                if self.step % recipe.evaluate_every == 0 or self.step == recipe.steps:
                    self._look(time.monotonic() - start)
                paused = time.monotonic() - start > settings.stop_after
                if time.monotonic() - saved > _SAVE_SECONDS:
                    self._save()
                    saved = time.monotonic()
        self._save()
        self.finished = not paused

    def best_model(self) -> tuple[MiniModel, int]:
        """The weights that did best on dev, and their step."""
        saved = _read_state(self.settings.folder / "best.pt", self.device, self.made_from)
        self.average.load_state_dict(saved["weights"])
        return self.average, int(saved["step"])

    def _one_step(self) -> Tensor:
        recipe = self.recipe
        shares = np.array([b.share for b in recipe.buckets])
        rng = np.random.default_rng([recipe.seed, self.step])
        bucket = recipe.buckets[rng.choice(len(shares), p=shares / shares.sum())]
        seed = recipe.seed * 1_000_003 + self.step
        drawn = self.sampler.draw(bucket.batch, bucket.shortest, bucket.longest, seed)
        windows, target, group = drawn
        torch.manual_seed(seed)  # dropout follows the step too, so that resuming changes nothing
        self.model.train()
        with self._autocast():
            logits, kinds = self.model(windows)
            loss = F.cross_entropy(
                logits.float(), target, label_smoothing=recipe.smoothing, reduction="none"
            )
            if self.teacher and recipe.distil:
                with torch.no_grad():
                    given = self.teacher(windows)[0].float().softmax(dim=1)
                near = -(given * logits.float().log_softmax(dim=1)).sum(dim=1)
                clear = (windows.bases != BASE_N).all(dim=1)
                loss = torch.where(clear, torch.lerp(loss, near, recipe.distil), loss)
            loss = loss.mean()
            if recipe.kind_loss:
                loss = loss + recipe.kind_loss * self._kind_loss(kinds.float(), group)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        share = rate_at(self.step, recipe)
        for optimiser, top in zip(self.optimisers, (recipe.rate, recipe.muon_rate), strict=False):
            for parameters in optimiser.param_groups:
                parameters["lr"] = top * share
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        decay = min(recipe.ema, (self.step + 1) / (self.step + 20))  # young averages forget faster
        current = [p.detach() for p in self.model.parameters()]
        torch._foreach_lerp_([p.detach() for p in self.average.parameters()], current, 1 - decay)
        self.step += 1
        self.seen += bucket.batch
        return loss.detach()

    @torch.no_grad()
    def _begin_from(self, teacher: MiniModel, has_groups: bool) -> None:
        """Take over its weights; what it lacks, such as the names of the groups, stays random.

        Of a block with more hidden channels than ours, those stay that add most on windows of
        training; the mean of what the others add becomes part of the bias.
        """
        blocks, seen = _blocks(teacher), dict[nn.Module, list[Tensor]]()

        def note(layer: nn.Module, given: tuple[Tensor], _: Tensor) -> None:
            seen.setdefault(layer, []).append(given[0].flatten(0, -2))

        hooks = [block.down.register_forward_hook(note) for block in blocks]
        longest = self.recipe.buckets[-1].longest
        teacher(self.sampler.draw(_TO_RANK, self.recipe.buckets[0].shortest, longest, 0)[0])
        for hook in hooks:
            hook.remove()
        for own, given in zip(_blocks(self.model), blocks, strict=True):
            active = torch.cat(seen[given.down]).float()
            adds = active.square().mean(dim=0) * given.down.weight.square().sum(dim=0)
            kept = adds.argsort(descending=True)[: own.down.in_features].sort().values
            lost = active.mean(dim=0).index_fill(0, kept, 0)
            weights = given.state_dict()
            weights["down.bias"] = weights["down.bias"] + weights["down.weight"] @ lost
            weights["down.weight"] = weights["down.weight"][:, kept]
            for name in ("up.weight", "up.bias"):
                weights[name] = weights[name][kept]
            own.load_state_dict(weights)
        left_out = (".blocks.",) if has_groups else (".blocks.", "classifier.kind.")
        rest = {
            name: tensor
            for name, tensor in teacher.state_dict().items()
            if not any(part in name for part in left_out)
        }
        self.model.load_state_dict(rest, strict=False)

    def _kind_loss(self, logits: Tensor, group: Tensor) -> Tensor:
        """How wrong the group of each window is, and the kind of those that are viruses of one."""
        named = self.kind_of[group]
        loss = F.cross_entropy(logits, named)
        if not self.of_broad_kind:
            return loss
        broad = torch.stack([logits[:, at].logsumexp(dim=1) for at in self.of_broad_kind], dim=1)
        wrong = F.cross_entropy(broad, self.broad_kind_of[named], ignore_index=-1, reduction="sum")
        return loss + wrong / len(logits)

    def _look(self, seconds: float) -> None:
        """Measure the averaged weights on dev; keep them if they are the best so far."""
        with self._autocast():
            logits = [logits_of(self.average, windows, 500)[0].numpy() for _, windows in self.dev]
        figures = dev_figures([w for w, _ in self.dev], logits)
        value = float(np.mean([v for k, v in figures.items() if k.startswith("auroc")]))
        if not all(np.isfinite(x).all() for x in logits):
            raise TrainingError(self.step)
        self.since_best += self.recipe.evaluate_every
        if value > self.best:
            self.best, self.since_best = value, 0
            weights = {k: v.cpu() for k, v in self.average.state_dict().items()}
            best = {"weights": weights, "step": self.step, "figures": figures}
            atomic_save({**best, "made_from": self.made_from}, self.settings.folder / "best.pt")
        logger.info("step %d: %s", self.step, " ".join(f"{k}={v:.4f}" for k, v in figures.items()))
        figures = {"seconds": seconds, "mean": value, **figures}
        path = self.settings.folder / "progress.tsv"
        is_new = not path.exists()
        with path.open("a", encoding="utf-8") as file:
            if is_new:
                file.write("\t".join(["step", "windows", *figures]) + "\n")
            values = [str(self.step), str(self.seen), *(f"{v:.5g}" for v in figures.values())]
            file.write("\t".join(values) + "\n")

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.device.type != "cuda":
            return contextlib.nullcontext()
        return torch.autocast("cuda", dtype=torch.bfloat16)

    def _save(self) -> None:
        state = {
            "made_from": self.made_from, "step": self.step, "best": self.best,
            "since_best": self.since_best, "seen": self.seen,
            "model": self.model.state_dict(), "average": self.average.state_dict(),
            "optimisers": [o.state_dict() for o in self.optimisers],
        }  # fmt: skip
        atomic_save(state, self.settings.folder / "last.pt")

    def _resume(self) -> None:
        folder = self.settings.folder
        state = _read_state(folder / "last.pt", self.device, self.made_from)
        self.step, self.best = state["step"], state["best"]
        self.since_best, self.seen = state["since_best"], state["seen"]
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        log = folder / "progress.tsv"
        if log.exists():  # forget looks at dev that a killed run took after this state
            head, *rows = log.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [row for row in rows if int(row.split("\t", 1)[0]) <= self.step]
            with atomic_write(log, "w") as file:
                file.writelines([head, *kept])
        logger.info("going on from step %d", self.step)


def group_names(kinds: Sequence[tuple[int, str, str]]) -> list[str]:
    """Names of the groups in the manifest of a model."""
    return [f"{kind}: {group}" if group else kind for _, kind, group in kinds]


def _blocks(model: nn.Module) -> list[Block]:
    return [part for part in model.modules() if isinstance(part, Block)]


def dev_figures(sets: list[LabelledWindows], logits: list[NDArray[np.float32]]) -> dict[str, float]:
    """AUROC of each viral set against the cellular ones by length, and nulls called viral."""
    figures: dict[str, float] = {}
    for length in sorted({w.length_nt for w in sets}):
        here = [(w, x) for w, x in zip(sets, logits, strict=True) if w.length_nt == length]
        cells = [x for w, x in here if w.labels[0].target == OTHER]
        for windows, x in here:
            if windows.labels[0].target == VIRUS and cells:
                both = np.concatenate([x, *cells])
                viral = np.arange(len(both)) < len(x)
                figures[f"auroc_{windows.name}_{length}"] = auroc(both[:, 1] - both[:, 0], viral)
        null = [x for w, x in here if w.labels[0].target == NULL]
        if null:
            viral = np.concatenate(null).argmax(axis=1) == VIRUS
            figures[f"null_{length}"] = float(viral.mean())
    return figures


def _loaded(spec: ModelSpec, recipe: Recipe, device: torch.device) -> MiniModel:
    """A model of the bundled kind, not to be trained."""
    model = MiniModel(recipe, 0)
    for part in ("dna", "protein"):
        setattr(model, part, load_small(getattr(spec, part), device, torch.float32))
    tensors = {name: torch.from_numpy(t) for name, t in read_classifier(spec.classifier)[1].items()}
    model.classifier = MiniClassifier.of(tensors).to(device)
    return model.requires_grad_(False).eval()


def _read_state(path: Path, device: torch.device, made_from: str) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        found = state["made_from"]
    except (OSError, EOFError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path}: damaged; remove {path.parent} to start over") from error
    except pickle.UnpicklingError as error:
        raise ModelError(f"{path}: refused, it holds more than weights") from error
    if found != made_from:
        raise UsageError(
            f"{path} was made with another recipe or other data; give another --run-dir, or "
            f"remove {path.parent} to start over"
        )
    return state
