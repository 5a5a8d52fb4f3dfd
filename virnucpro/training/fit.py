"""Train a model of the bundled kind: seeded, resumable, chosen on group-disjoint dev windows.

`last.pt` of a run's folder holds everything needed to go on, and the averaged weights that did
best on the dev windows so far.
"""

from __future__ import annotations

import copy
import hashlib
import logging
import math
import pickle
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor, nn

from virnucpro.core.checkpoint import atomic_save
from virnucpro.core.errors import ConfigError, ModelError, UsageError, VirNucProError
from virnucpro.core.files import atomic_write, digest_of
from virnucpro.core.log import ProgressReporter
from virnucpro.encoders.small import Block, Pool, Stem, TowerEncoder, load_small, save_tower
from virnucpro.encoders.tokenizers import BASE_N
from virnucpro.models.classifier_file import MINI_KIND, read_classifier
from virnucpro.models.specs import ModelSpec
from virnucpro.models.store import CLASSIFIER_FILE, load_model, write_manifest
from virnucpro.scores.classifier import mini_scores
from virnucpro.scores.kinds import KINDS, Kinds
from virnucpro.training import corpus as corpora
from virnucpro.training.calibrate import CHUNK_LENGTHS, fit_calibration, fit_kinds, fit_mix
from virnucpro.training.corpus import NULL, OTHER, VIRUS, Bases, Corpus, Drawing, LabelledWindows
from virnucpro.training.evaluation import auroc
from virnucpro.training.jobs import Job, Recipe
from virnucpro.training.sampler import Windows, WindowSampler, oriented

logger = logging.getLogger("virnucpro.training")

CALIBRATION_FILE = "calibration.json"
_SAVE_SECONDS = 60.0
_AT_ONCE = 256  # windows without gradients
_TO_RANK = 512  # windows by which the channels of a larger model are ranked
_KEPT = ("made_from", "step", "best", "best_step", "best_weights", "since_best")


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSettings:
    """How to run a training, never what comes out of it but by `stop_after`."""

    folder: Path  # where the run keeps its state; the next call goes on with it
    device: torch.device
    fused: bool = False  # compile the repeated parts (worth it for long runs on a GPU)
    stop_after: float = float("inf")  # pause after this many seconds; the next call goes on (s)
    progress: bool = True  # show a bar


class MiniModel(nn.Module):
    """DNA encoder, protein encoder, and a classifier with one hidden layer of squared ReLU.

    Of its three classes the third, null, holds sequence that no genome explains (random, shuffled,
    low complexity). Further logits tell `groups` apart, such as families, if there are any.
    """

    def __init__(
        self, dna: TowerEncoder, protein: TowerEncoder, hidden: int, groups: int,
        dropout: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.dna, self.protein, self.dropout, width = dna, protein, dropout, dna.dim + protein.dim
        layers = {"norm": nn.LayerNorm(width), "hidden": nn.Linear(width, hidden),
                  "out": nn.Linear(hidden, 3)}  # fmt: skip
        self.classifier = nn.ModuleDict(layers)
        if groups:
            self.classifier["kind"] = nn.Linear(hidden, groups)

    @classmethod
    def load(cls, spec: ModelSpec, device: torch.device) -> MiniModel:
        """From the files of a model, to be asked and not to be trained."""
        tensors = read_classifier(spec.classifier)[1]
        dna, protein = (load_small(s, device, torch.float32) for s in (spec.dna, spec.protein))
        hidden, groups = len(tensors["hidden.bias"]), len(tensors.get("kind.bias", ()))
        model = cls(dna, protein, hidden, groups).to(device)
        model.classifier.load_state_dict({k: torch.from_numpy(v) for k, v in tensors.items()})
        return model.requires_grad_(False).eval()

    def forward(self, windows: Windows) -> tuple[Tensor, Tensor]:
        """Logits of other, virus, null (n, 3) and of the groups (n, groups)."""
        dna = self.dna.embed(windows.bases, windows.lengths)
        protein = self.protein.embed(windows.residues, windows.residue_lengths)
        layers = self.classifier
        h = layers["norm"](torch.cat([dna, protein], dim=1))
        h = F.relu(layers["hidden"](F.dropout(h, self.dropout, self.training)))
        h = F.dropout(h * h, self.dropout, self.training)
        return layers["out"](h), layers["kind"](h) if "kind" in layers else h[:, :0]


@torch.no_grad()
def logits_of(model: MiniModel, windows: Windows) -> tuple[Tensor, Tensor]:
    """Logits as `MiniModel` gives them, float32 on the CPU."""
    model.eval()
    parts = zip(*(torch.split(tensor, _AT_ONCE) for tensor in windows), strict=True)
    with torch.compiler.set_stance("force_eager"):
        found = [model(Windows(*part)) for part in parts]
    classes, groups = zip(*found, strict=True)
    return torch.cat(classes).float().cpu(), torch.cat(groups).float().cpu()


class Fit:
    """One training run on windows of `corpus`; `average`, finished, did best on those of `dev`."""

    def __init__(
        self, corpus: Corpus, dev: list[LabelledWindows], recipe: Recipe, settings: FitSettings,
        virus_kinds: Mapping[str, Sequence[str]], start: ModelSpec | None = None,
    ) -> None:  # fmt: skip
        self.recipe, self.settings, self.device = recipe, settings, settings.device
        if not {VIRUS, OTHER} <= {w.labels[0].target for w in dev}:
            raise ConfigError("dev files need viruses and others as long as the shortest window")
        kind = self.device.type
        self.autocast = torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda")
        torch.manual_seed(recipe.seed)
        kind_of_family = {f: kind for kind, own in virus_kinds.items() for f in own}
        names = []
        for target, kind, group in corpus.groups:
            if target == VIRUS:
                family = group if group in kind_of_family else group.split(" [")[0]
                kind = f"{kind_of_family.get(family, kind)}: {group}"
            names.append((target, kind))
        told_apart = sorted(set(names))
        self.groups = [name for _, name in told_apart]  # as the manifest of a model has them
        self.named = torch.tensor([told_apart.index(name) for name in names], device=self.device)
        # the kind of virus of each group, -1 for none, and the groups of each kind
        self.kind_of = torch.from_numpy(Kinds(self.groups).of_group).to(self.device)
        self.of_kind = [torch.where(self.kind_of == k)[0] for k in range(len(KINDS))]
        towers = TowerEncoder("mini-dna", recipe.dna), TowerEncoder("mini-protein", recipe.protein)
        model = MiniModel(*towers, recipe.hidden, len(self.groups), recipe.dropout)
        self.model = model.to(self.device)
        weights = group_weights(corpus, recipe)
        self.sampler = WindowSampler(corpus, weights, self.device, recipe.noise)
        self.teacher = MiniModel.load(start, self.device) if start else None
        if start and self.teacher:
            self._begin_from(self.teacher, has_groups=start.groups == tuple(self.groups))
        self.average = copy.deepcopy(self.model)
        if settings.fused:
            # shapes stay free, so that buckets share one graph for each width and dilation
            torch._dynamo.config.recompile_limit = 64
            for part in [*self.model.modules(), *(self.teacher.modules() if self.teacher else ())]:
                if isinstance(part, Stem | Block | Pool):
                    part.compile(dynamic=True)
        self.optimisers, self.matrices = make_optimisers(self.model, recipe)
        self.parts: list[Any] = [self.model, self.average, *self.optimisers]  # kept besides `_KEPT`
        self.dev = [(w, oriented(w.bases, self.device)) for w in dev]
        # What a saved state must agree with before it is gone on from.
        content = hashlib.sha256(corpus.bases.data)
        content.update(np.stack([corpus.ends, corpus.group_of]).tobytes())
        self.made_from = digest_of(
            digest_of(asdict(recipe)), content.hexdigest(), corpus.groups,
            start.digest if start else "", self.groups,
            [(w.name, w.labels, w.bases.tobytes().hex()) for w in dev],
        )  # fmt: skip
        self.step, self.best, self.best_step, self.since_best = 0, -1.0, 0, 0
        self.best_weights: dict[str, Tensor] = {}
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
                    self._look()
                paused = time.monotonic() - start > settings.stop_after
                if time.monotonic() - saved > _SAVE_SECONDS:
                    self._save()
                    saved = time.monotonic()
        self._save()
        self.finished = not paused
        if self.finished:
            self.average.load_state_dict(self.best_weights)

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
            logits, groups = (x.float() for x in self.model(windows))
            loss = F.cross_entropy(
                logits, target, label_smoothing=recipe.smoothing, reduction="none"
            )
            if self.teacher and recipe.distil:
                with torch.no_grad():
                    given = self.teacher(windows)[0].float().softmax(dim=1)
                near = F.cross_entropy(logits, given, reduction="none")
                clear = (windows.bases != BASE_N).all(dim=1)
                loss = torch.where(clear, torch.lerp(loss, near, recipe.distil), loss)
            loss = loss.mean()
            if recipe.kind_loss:
                named = self.named[group]
                wrong = F.cross_entropy(groups, named)
                if any(len(of) for of in self.of_kind):
                    kinds = torch.stack([groups[:, of].logsumexp(dim=1) for of in self.of_kind], 1)
                    wrong = wrong + F.cross_entropy(
                        kinds, self.kind_of[named], ignore_index=-1, reduction="sum"
                    ) / len(named)
                loss = loss + recipe.kind_loss * wrong
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        # the rates rise, then fall to 0 along a cosine
        warm = max(1, int(recipe.warmup * recipe.steps))
        done = max(0, self.step - warm) / max(1, recipe.steps - warm)
        share = min((self.step + 1) / warm, 0.5 * (1 + math.cos(math.pi * done)))
        for matrix, whole in self.matrices:
            matrix.grad = None if whole.grad is None else whole.grad.flatten(1)
        for optimiser, top in zip(self.optimisers, (recipe.rate, recipe.muon_rate), strict=False):
            for parameters in optimiser.param_groups:
                parameters["lr"] = top * share
            optimiser.step()
        self.model.zero_grad()
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
        own_blocks = [part for part in self.model.modules() if isinstance(part, Block)]
        blocks = [part for part in teacher.modules() if isinstance(part, Block)]
        seen: dict[nn.Module, Tensor] = {}

        def note(layer: nn.Module, given: tuple[Tensor]) -> None:
            seen[layer] = given[0].flatten(0, -2).float()

        hooks = [block.down.register_forward_pre_hook(note) for block in blocks]
        first, last = self.recipe.buckets[0], self.recipe.buckets[-1]
        teacher(self.sampler.draw(_TO_RANK, first.shortest, last.longest, 0)[0])
        for hook in hooks:
            hook.remove()
        for own, given in zip(own_blocks, blocks, strict=True):
            active = seen[given.down]
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

    def _look(self) -> None:
        """Measure the averaged weights on dev; keep them if they are the best so far.

        Figures are the AUROC of each viral set against the cellular ones by length, the mean of
        which counts, and nulls called viral.
        """
        with self.autocast:
            logits = [logits_of(self.average, windows)[0].numpy() for _, windows in self.dev]
        if not all(np.isfinite(x).all() for x in logits):
            told = f"training diverged by step {self.step}: lower the recipe's rates"
            raise VirNucProError(told)
        found = [(w.labels[0], w.bases.shape[1], w.name, x)
                 for (w, _), x in zip(self.dev, logits, strict=True)]  # fmt: skip
        figures: dict[str, float] = {}
        for label, length, name, x in found:
            others = [y for of, nt, _, y in found if (of.target, nt) == (OTHER, length)]
            if label.target == VIRUS and others:
                both = np.concatenate([x, *others])
                viral = np.arange(len(both)) < len(x)
                figures[f"auroc_{name}_{length}"] = auroc(both[:, 1] - both[:, 0], viral)
            elif label.target == NULL:
                called = x.argmax(axis=1) == VIRUS
                figures[f"{label.group}_{length}"] = float(called.mean())
        value = float(np.mean([v for k, v in figures.items() if k.startswith("auroc")]))
        self.since_best += self.recipe.evaluate_every
        if value > self.best:
            self.best, self.best_step, self.since_best = value, self.step, 0
            self.best_weights = {k: v.cpu().clone() for k, v in self.average.state_dict().items()}
        said = " ".join(f"{k}={v:.4f}" for k, v in figures.items())
        logger.info("step %d: mean=%.4f %s", self.step, value, said)

    def _save(self) -> None:
        state = {name: getattr(self, name) for name in _KEPT}
        state["parts"] = [part.state_dict() for part in self.parts]
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
        for part, saved in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(saved)
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
    rest = 1 - recipe.virus_share - recipe.null_share
    for value, share in ((OTHER, rest), (VIRUS, recipe.virus_share), (NULL, recipe.null_share)):
        inside = target == value
        size[inside] *= share / max(size[inside].sum(), 1e-9)
    return size


def make_optimisers(
    model: nn.Module, recipe: Recipe
) -> tuple[list[torch.optim.Optimizer], list[tuple[nn.Parameter, nn.Parameter]]]:
    """AdamW for all, or Muon for the inner matrices of the towers and AdamW for the rest.

    Beside them the matrices that Muon takes, each with the kernel whose memory it shares.
    """
    matrices, others = list[tuple[nn.Parameter, nn.Parameter]](), list[nn.Parameter]()
    for name, p in model.named_parameters():
        if recipe.optimiser == "muon" and ".blocks." in name and p.ndim > 1:
            matrices.append((nn.Parameter(p.detach().flatten(1)), p))
        else:
            others.append(p)
    decays = [{"params": [p for p in others if p.ndim > 1], "weight_decay": recipe.decay},
              {"params": [p for p in others if p.ndim < 2], "weight_decay": 0}]  # fmt: skip
    is_fused = any(p.is_cuda for p in others)
    adamw = torch.optim.AdamW(decays, betas=(0.9, 0.98), fused=is_fused)
    optimisers: list[torch.optim.Optimizer] = [adamw]
    if matrices:
        optimisers.append(torch.optim.Muon([m for m, _ in matrices], weight_decay=recipe.decay))
    return optimisers, matrices


def train_bundled(job: Job, recipe: Recipe, settings: FitSettings, output: Path) -> Fit:
    """Train, resuming what `settings.folder` holds; once finished, write the calibrated model."""
    corpus, dev = corpora.load_labelled(job.data)
    logger.info("training on %d bases of %d groups", len(corpus.bases), len(corpus.groups))
    drawing = Drawing(CHUNK_LENGTHS, job.dev_count, job.dev_count // 4, recipe.seed)
    start = load_model(job.start, settings.folder) if job.start else None
    made_up, drawn = corpora.with_made_up(corpus, recipe), corpora.dev_windows(dev, drawing)
    fit = Fit(made_up, drawn, recipe, settings, job.virus_kinds, start)
    fit.run()
    if fit.finished:
        model, groups = fit.average, fit.groups

        def score(bases: Bases) -> NDArray[np.float32]:
            logits = logits_of(model, oriented(bases, settings.device))
            return mini_scores(*logits, Kinds(groups))

        output.mkdir(parents=True, exist_ok=True)
        calibration = fit_calibration(score, dev, job.dev_count, job.chunk_nt)
        calibration = fit_kinds(calibration, score, dev, job, groups)
        calibration = fit_mix(calibration, score, dev, groups, job.chunk_nt, job.dev_count)
        calibration.save(output / CALIBRATION_FILE, ", ".join(sorted(dev)))
        source = f"virnucpro train, recipe {digest_of(asdict(recipe))[:16]}, step {fit.best_step}"
        export_model(output, job.name, model, groups, job.chunk_nt, source)
    return fit


def export_model(
    folder: Path, name: str, model: MiniModel, groups: list[str], chunk_nt: int, source: str
) -> None:
    """Write weights and the manifest beside the `calibration.json` that is in the folder."""
    said: dict[str, Any] = {}
    for slot, encoder in (("dna", model.dna), ("protein", model.protein)):
        said[slot] = {"kind": encoder.kind, "dim": encoder.dim, "file": f"{slot}.safetensors"}
        save_tower(encoder, folder / f"{slot}.safetensors")
    said |= {"calibration": CALIBRATION_FILE, "groups": groups, "chunk_nt": chunk_nt,
             "orf_policy": {"name": "longest", "keep": 1}}  # fmt: skip
    head = {name: tensor.half() for name, tensor in model.classifier.state_dict().items()}
    write_model(folder, head, MINI_KIND, said, name=name, source=source, licence="MIT")


def write_model(
    folder: Path, state: dict[str, torch.Tensor], kind: str, said: dict[str, Any], **origin: str
) -> None:
    """Write a classifier's weights, and the manifest of the folder."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in state.items()}
    with atomic_write(folder / CLASSIFIER_FILE) as file:
        file.write(save(tensors, metadata={"kind": kind}))
    encoders = [said[slot]["file"] for slot in ("dna", "protein") if "file" in said[slot]]
    names = [CLASSIFIER_FILE, *encoders, *filter(None, [said["calibration"]])]
    write_manifest(folder, names, revision="", model={**said, "classifier": CLASSIFIER_FILE},
                   **origin)  # fmt: skip
