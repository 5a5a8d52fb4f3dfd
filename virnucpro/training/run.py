"""From labelled FASTA to a model directory: the steps of `virnucpro train`."""

import logging
import shutil
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import nn

from virnucpro.core.errors import ConfigError
from virnucpro.core.files import atomic_write
from virnucpro.core.progress import ProgressReporter
from virnucpro.encoders.small import save_tower
from virnucpro.models.classifier_file import MINI_KIND, PUBLISHED_KIND
from virnucpro.models.manifest import write_manifest
from virnucpro.models.store import CLASSIFIER_FILE, base_model, load_model
from virnucpro.scores.classifier import mini_scores
from virnucpro.scores.kinds import Kinds
from virnucpro.training import corpus as corpora
from virnucpro.training import windows as draws
from virnucpro.training.calibrate import calibrated
from virnucpro.training.corpus import NULL, OTHER, VIRUS, Corpus, Label
from virnucpro.training.fit import Fit, FitSettings, MiniModel, logits_of
from virnucpro.training.jobs import Job, MlpRecipe, Recipe
from virnucpro.training.mlp import MlpFit, embed_windows, fit_mlp
from virnucpro.training.sampler import oriented
from virnucpro.training.scoring import ModelOnDevice
from virnucpro.training.windows import Drawing, LabelledWindows

logger = logging.getLogger("virnucpro.training")

CALIBRATION_FILE = "calibration.json"
DEV_LENGTHS = (150, 300, 500, 1000)
_NULL_SOURCE_WINDOWS = 4_000
_WORN_COPIES = 3


def train_bundled(job: Job, recipe: Recipe, settings: FitSettings, output: Path) -> Fit:
    """Train, resuming what `settings.folder` holds; once finished, write the calibrated model."""
    corpus, dev = corpora.load_labelled(job.data)
    logger.info("training on %d bases of %d groups", len(corpus.bases), len(corpus.groups))
    drawing = Drawing(DEV_LENGTHS, job.dev_count, job.dev_count // 4, recipe.seed)
    made_up = with_nulls(with_insertions(corpus, recipe), recipe)
    start = load_model(job.start, settings.folder) if job.start else None
    fit = Fit(made_up, draws.dev_windows(dev, drawing), recipe, settings, job.virus_kinds, start)
    fit.run()
    if fit.finished:
        model = fit.best_model()
        score = partial(probabilities, model, Kinds(fit.groups))
        calibration = calibrated(score, dev, job, fit.groups)
        output.mkdir(parents=True, exist_ok=True)
        calibration.save(output / CALIBRATION_FILE, ", ".join(sorted(dev)))
        source = f"virnucpro train, recipe {recipe.digest[:16]}, step {fit.best_step}"
        export_model(output, job.name, model, fit.groups, job.chunk_nt, source)
    return fit


def with_insertions(corpus: Corpus, recipe: Recipe) -> Corpus:
    """The corpus and worn copies of the families that insert themselves into genomes."""
    rng = np.random.default_rng([recipe.seed, 8])
    worn = [
        (Label(OTHER, "insertion", label.group), f"{name} worn {k}", draws.decayed(rng, bases))
        for label, name, bases in corpus.records()
        if label.target == VIRUS and label.group in (recipe.decayed or ())
        for k in range(_WORN_COPIES)
    ]
    return Corpus.of(worn, behind=corpus)


def with_nulls(corpus: Corpus, recipe: Recipe) -> Corpus:
    """The corpus and a bank of null sequences, shuffled from windows of the corpus itself."""
    length = max(b.longest for b in recipe.buckets)
    rng = np.random.default_rng([recipe.seed, 7])
    room = corpus.ends - corpus.starts - length + 1
    usable = np.flatnonzero(room > 0)
    if not len(usable) or recipe.null_share <= 0:
        return corpus
    record = rng.choice(usable, _NULL_SOURCE_WINDOWS)
    start = corpus.starts[record] + (rng.random(len(record)) * room[record]).astype(np.int64)
    windows = corpus.bases[start[:, None] + np.arange(length)]
    bank = draws.null_bank(rng, windows, recipe.null_bank_share, bool(recipe.noise.adapter_share))
    nulls = ((Label(NULL, "null", kind), f"{kind}{i}", row)
             for kind, block in bank for i, row in enumerate(block))  # fmt: skip
    return Corpus.of(nulls, behind=corpus)


def probabilities(
    model: MiniModel, kinds: Kinds, bases: NDArray[np.uint8], rows: int = 256
) -> NDArray[np.float32]:
    """Scores of windows (n, length), `rows` at a time, as `Classifier.scores` gives them."""
    windows = oriented(bases, next(model.parameters()).device)
    return mini_scores(*logits_of(model, windows, rows), kinds)


def export_model(
    folder: Path, name: str, model: MiniModel, groups: list[str], chunk_nt: int, source: str
) -> None:
    """Write weights and the manifest beside the `calibration.json` that is in the folder."""
    names = ["dna.safetensors", "protein.safetensors", CLASSIFIER_FILE, CALIBRATION_FILE]
    save_tower(model.dna, folder / names[0])
    save_tower(model.protein, folder / names[1])
    save_classifier(model.classifier, MINI_KIND, torch.float16, folder / CLASSIFIER_FILE)
    write_manifest(
        folder, names, name=name, source=source, revision="", licence="MIT",
        model={
            "dna": {"kind": "mini-dna", "dim": model.dna.dim, "file": names[0]},
            "protein": {"kind": "mini-protein", "dim": model.protein.dim, "file": names[1]},
            "classifier": CLASSIFIER_FILE, "calibration": CALIBRATION_FILE,
            "orf_policy": {"name": "longest", "keep": 1}, "chunk_nt": chunk_nt, "groups": groups,
        },
    )  # fmt: skip


def train_mlp(
    job: Job, recipe: MlpRecipe, settings: FitSettings, home: Path, output: Path
) -> MlpFit | None:
    """Draw windows, embed them, train, write the model directory; None if time was up.

    Encoders that are files of a model are copied.
    """
    base = base_model(job.model, home)
    train, dev = corpora.load_labelled(job.data)
    encoder = ModelOnDevice(base, str(settings.device))
    stop_at = time.monotonic() + settings.stop_after
    rng = np.random.default_rng([recipe.seed, 0])

    def windows_of(sets: dict[str, Corpus], count: int) -> list[LabelledWindows]:
        """Windows of the viral and of the other records of each set, `count` of each."""
        of_target = corpora.split_by_target(dict(sorted(sets.items()))).items()
        drawn = [draws.draw_windows(c, name, base.chunk_nt, count, rng) for name, c in of_target]
        drawn = [windows for windows in drawn if len(windows.labels)]
        if not drawn:
            raise ConfigError(f"no record is as long as a chunk ({base.chunk_nt} nt)")
        return drawn

    drawn = windows_of({"train": train}, recipe.windows)
    if nulls := int(recipe.null_share * recipe.windows / 3):
        drawn += draws.draw_nulls(np.concatenate([w.bases for w in drawn]), nulls, rng)
    held = windows_of(dev, recipe.dev_windows)
    progress, found = ProgressReporter(settings.progress), []
    for name, windows in (("train", drawn), ("dev", held)):
        features = embed_windows(settings.folder, name, windows, encoder, stop_at, progress)
        if features is None:
            return None
        found.append(features)
        rows, covered = len(features.window), len(np.unique(features.window))
        share = 100 * covered / max(1, features.windows)
        logger.info("%s: %d rows; %.1f%% of the windows", name, rows, share)
    fit = fit_mlp(found[0], found[1], recipe, settings.device, progress)

    output.mkdir(parents=True, exist_ok=True)
    save_classifier(fit.network, PUBLISHED_KIND, torch.float32, output / CLASSIFIER_FILE)
    names, encoders = [CLASSIFIER_FILE], dict[str, dict[str, Any]]()
    for slot, spec in (("dna", base.dna), ("protein", base.protein)):
        encoders[slot] = {"installed": spec.name}
        if spec.is_small:
            target = output / f"{slot}.safetensors"
            if target.resolve() != spec.path.resolve():
                shutil.copyfile(spec.path, target)
            encoders[slot] = {"kind": spec.kind, "dim": spec.dim, "file": target.name}
            names.append(target.name)
    source = f"virnucpro train, recipe {recipe.digest[:16]}, epoch {fit.epoch}"
    write_manifest(
        output, names, name=job.name, source=source, revision="", licence="not stated",
        model={
            **encoders, "classifier": CLASSIFIER_FILE, "calibration": "", "groups": [],
            "orf_policy": asdict(base.orf_policy), "chunk_nt": base.chunk_nt,
        },
    )  # fmt: skip
    return fit


def save_classifier(network: nn.Module, kind: str, dtype: torch.dtype, path: Path) -> None:
    """Write a classifier as safetensors that name their kind."""
    state = network.state_dict()
    state.pop("bn1.num_batches_tracked", None)
    tensors = {name: tensor.to(dtype).cpu().contiguous() for name, tensor in state.items()}
    with atomic_write(path) as file:
        file.write(save(tensors, metadata={"kind": kind}))
