"""Train the bundled model: seeded, resumable, chosen on group-disjoint dev windows.

`last.pt` of a run's folder holds everything needed to go on, and the averaged weights that did
best on the dev windows so far; `progress.tsv` one row for each look at dev.
"""

from __future__ import annotations

import copy
import logging
import math
import pickle
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
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
from virnucpro.training.sampler import Windows, WindowSampler, oriented
from virnucpro.training.windows import LabelledWindows

logger = logging.getLogger("virnucpro.training")

_SAVE_SECONDS = 60.0
_NEWTON, _MOMENTUM = (3.4445, -4.7750, 2.0315), 0.95
_TO_RANK = 512  # windows by which the channels of a larger model are ranked
_KEPT = ("made_from", "step", "best", "best_step", "best_weights", "since_best", "looks")


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSettings:
    """How to run a training, never what comes out of it but by `stop_after`."""

    folder: Path  # where the run keeps its state; the next call goes on with it
    device: torch.device
    fused: bool = False  # compile the repeated parts (worth it for long runs on a GPU)
    stop_after: float = float("inf")  # pause after this many seconds; the next call goes on (s)
    progress: bool = True  # show a bar


class MiniClassifier(nn.Module):
    """Layer norm, one hidden layer with squared ReLU, three classes.

    The third class, null, holds sequence that no genome explains (random, shuffled, low
    complexity). `kinds` further logits name the group that a sequence came from.
    """

    def __init__(self, width: int, hidden: int = 256, kinds: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        self.norm = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, hidden)
        self.out = nn.Linear(hidden, 3)
        self.kind = nn.Linear(hidden, kinds) if kinds else None

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> MiniClassifier:
        """The network that these weights are of."""
        hidden, width = tensors["hidden.weight"].shape
        network = cls(width, hidden, len(tensors.get("kind.weight", ())))
        network.load_state_dict(tensors)
        return network

    def forward(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of other, virus, null (n, 3) and of the kinds (n, kinds) of vectors (n, width)."""
        h = F.dropout(self.norm(vectors), self.dropout, self.training)
        h = F.relu(self.hidden(h))
        h = F.dropout(h * h, self.dropout, self.training)
        return self.out(h), self.kind(h) if self.kind is not None else h[:, :0]


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
        both: tuple[Tensor, Tensor] = self.classifier(torch.cat([dna, protein], dim=1))
        return both


@torch.no_grad()
def logits_of(model: MiniModel, windows: Windows, rows: int) -> tuple[Tensor, Tensor]:
    """Logits as `MiniModel` gives them, `rows` windows at a time, float32 on the CPU."""
    model.eval()
    parts = zip(*(torch.split(tensor, rows) for tensor in windows), strict=True)
    with torch.compiler.set_stance("force_eager"):
        found = [model(Windows(*part)) for part in parts]
    both = [torch.cat([logits.float() for logits in one]).cpu() for one in zip(*found, strict=True)]
    return both[0], both[1]


class Fit:
    """One training run on windows of `corpus`, chosen by the windows `dev`."""

    def __init__(
        self, corpus: Corpus, dev: list[LabelledWindows], recipe: Recipe, settings: FitSettings,
        virus_kinds: Mapping[str, Sequence[str]] | None = None, start: ModelSpec | None = None,
    ) -> None:  # fmt: skip
        self.recipe, self.settings, self.device = recipe, settings, settings.device
        self.autocast = torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"
        )
        torch.manual_seed(recipe.seed)
        kind_of_family = {f: kind for kind, own in (virus_kinds or {}).items() for f in own}
        names = []
        for g in corpus.groups:
            family = g.group if g.group in kind_of_family else g.group.split(" [")[0]
            kind = kind_of_family.get(family, g.kind)
            names.append((VIRUS, kind, g.group) if g.target == VIRUS else (g.target, g.kind, ""))
        self.kinds = sorted(set(names))
        # names of the groups in the manifest of a model
        self.groups = [f"{kind}: {group}" if group else kind for _, kind, group in self.kinds]
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
        self.teacher: MiniModel | None = None
        if start:
            self.teacher = MiniModel(recipe, 0)
            for part in ("dna", "protein"):
                encoder = load_small(getattr(start, part), self.device, torch.float32)
                setattr(self.teacher, part, encoder)
            tensors = read_classifier(start.classifier)[1]
            self.teacher.classifier = MiniClassifier.of(
                {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}
            ).to(self.device)
            self.teacher.requires_grad_(False).eval()
            self._begin_from(self.teacher, has_groups=start.groups == tuple(self.groups))
        self.average = copy.deepcopy(self.model)
        if settings.fused:
            # shapes stay free, so that buckets share one graph for each width and dilation
            torch._dynamo.config.recompile_limit = 64
            for part in [*self.model.modules(), *(self.teacher.modules() if self.teacher else ())]:
                if isinstance(part, Stem | Block | Pool):
                    part.compile(dynamic=True)
        self.optimisers = make_optimisers(self.model, recipe)
        self.dev = [(w, oriented(w.bases, self.device)) for w in dev if len(w.labels)]
        if not {VIRUS, OTHER} <= {w.labels[0].target for w, _ in self.dev}:
            raise ConfigError("dev files need viruses and others as long as the shortest window")
        # What a saved state must agree with before it is gone on from.
        self.made_from = digest_of(
            recipe.digest, corpus.digest(), self.kinds, start.digest if start else "",
            [(w.name, w.length_nt, w.labels, w.bases.tobytes().hex()) for w in dev],
        )  # fmt: skip
        self.step, self.best, self.best_step, self.since_best = 0, -1.0, 0, 0
        self.best_weights: dict[str, Tensor] = {}
        self.looks: list[str] = []  # rows of progress.tsv
        self.finished = False

    def run(self) -> None:
        """Train until the recipe's end, early stopping, or `stop_after`; resumes by itself."""
        recipe, settings = self.recipe, self.settings
        settings.folder.mkdir(parents=True, exist_ok=True)
        if (settings.folder / "last.pt").exists():
            self._resume(settings.folder / "last.pt")
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

    def best_model(self) -> MiniModel:
        """The weights that did best on dev, at `best_step`."""
        self.average.load_state_dict(self.best_weights)
        return self.average

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
        with self.autocast:
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
        return loss.detach()

    @torch.no_grad()
    def _begin_from(self, teacher: MiniModel, has_groups: bool) -> None:
        """Take over its weights; what it lacks, such as the names of the groups, stays random.

        Of a block with more hidden channels than ours, those stay that add most on windows of
        training; the mean of what the others add becomes part of the bias.
        """
        own_blocks, blocks = (
            [part for part in model.modules() if isinstance(part, Block)]
            for model in (self.model, teacher)
        )
        seen: dict[nn.Module, list[Tensor]] = {block.down: [] for block in blocks}

        def note(layer: nn.Module, given: tuple[Tensor], _: Tensor) -> None:
            seen[layer].append(given[0].flatten(0, -2))

        hooks = [layer.register_forward_hook(note) for layer in seen]
        longest = self.recipe.buckets[-1].longest
        teacher(self.sampler.draw(_TO_RANK, self.recipe.buckets[0].shortest, longest, 0)[0])
        for hook in hooks:
            hook.remove()
        for own, given in zip(own_blocks, blocks, strict=True):
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
        left_out = [".blocks."] if has_groups else [".blocks.", "classifier.kind."]
        rest = teacher.state_dict()
        for name in [name for name in rest if any(part in name for part in left_out)]:
            del rest[name]
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
        """Measure the averaged weights on dev; keep them if they are the best so far.

        Figures are the AUROC of each viral set against the cellular ones by length, the mean of
        which counts, and nulls called viral.
        """
        with self.autocast:
            logits = [logits_of(self.average, windows, 500)[0].numpy() for _, windows in self.dev]
        if not all(np.isfinite(x).all() for x in logits):
            told = f"training diverged by step {self.step}: lower the recipe's rates"
            raise VirNucProError(told)
        figures: dict[str, float] = {}
        for length in sorted({w.length_nt for w, _ in self.dev}):
            here = [(w, x) for (w, _), x in zip(self.dev, logits, strict=True)
                    if w.length_nt == length]  # fmt: skip
            of = {t: [x for w, x in here if w.labels[0].target == t] for t in (OTHER, NULL)}
            for windows, x in here:
                if windows.labels[0].target == VIRUS and of[OTHER]:
                    both = np.concatenate([x, *of[OTHER]])
                    viral = np.arange(len(both)) < len(x)
                    figures[f"auroc_{windows.name}_{length}"] = auroc(
                        both[:, 1] - both[:, 0], viral
                    )
            if of[NULL]:
                called = np.concatenate(of[NULL]).argmax(axis=1)
                figures[f"null_{length}"] = float((called == VIRUS).mean())
        value = float(np.mean([v for k, v in figures.items() if k.startswith("auroc")]))
        self.since_best += self.recipe.evaluate_every
        if value > self.best:
            self.best, self.best_step, self.since_best = value, self.step, 0
            self.best_weights = {k: v.cpu().clone() for k, v in self.average.state_dict().items()}
        logger.info("step %d: %s", self.step, " ".join(f"{k}={v:.4f}" for k, v in figures.items()))
        figures = {"seconds": seconds, "mean": value, **figures}
        self.looks = self.looks or ["\t".join(["step", *figures])]
        self.looks.append("\t".join([f"{self.step}", *(f"{v:.5g}" for v in figures.values())]))
        with atomic_write(self.settings.folder / "progress.tsv", "w") as file:
            file.writelines(f"{row}\n" for row in self.looks)

    def _save(self) -> None:
        state = {name: getattr(self, name) for name in _KEPT} | {
            "model": self.model.state_dict(), "average": self.average.state_dict(),
            "optimisers": [o.state_dict() for o in self.optimisers],
        }  # fmt: skip
        atomic_save(state, self.settings.folder / "last.pt")

    def _resume(self, path: Path) -> None:
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            made_from = state["made_from"]
        except (OSError, EOFError, RuntimeError, KeyError, TypeError, ValueError) as error:
            raise ModelError(f"{path}: damaged; remove {path.parent} to start over") from error
        except pickle.UnpicklingError as error:
            raise ModelError(f"{path}: refused, it holds more than weights") from error
        if made_from != self.made_from:
            raise UsageError(
                f"{path} was made with another recipe or other data; give another --run-dir, or "
                f"remove {path.parent} to start over"
            )
        for name in _KEPT:
            setattr(self, name, state[name])
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        logger.info("going on from step %d", self.step)


def group_weights(corpus: Corpus, recipe: Recipe) -> NDArray[np.float64]:
    """Share of windows of each group, by the square root of its bases and the recipe: (groups,)."""
    nt, target, kinds = corpus.group_nt, corpus.targets, np.array([g.kind for g in corpus.groups])
    favour = [recipe.family_weights.get(g.group, 1.0) for g in corpus.groups]
    size: NDArray[np.float64] = np.sqrt(nt.astype(np.float64)) * favour
    for kind in np.unique(kinds[target == OTHER]):
        inside = kinds == kind
        whole = np.sqrt(float(nt[inside].sum())) * recipe.kind_weights.get(kind, 1.0)
        size[inside] *= whole / size[inside].sum()
    shares = {VIRUS: recipe.virus_share, NULL: recipe.null_share}
    for value in np.unique(target):
        inside = target == value
        rest = 1 - recipe.virus_share - recipe.null_share
        size[inside] *= shares.get(int(value), rest) / size[inside].sum()
    weights: NDArray[np.float64] = size / size.sum()
    return weights


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
