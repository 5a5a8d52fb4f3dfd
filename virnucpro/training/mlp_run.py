"""From labelled FASTA to a model directory with the published classifier: the steps."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import numpy as np

from virnucpro.core.errors import ConfigError
from virnucpro.core.progress import ProgressReporter
from virnucpro.models.published import CLASSIFIERS, DNA_ENCODER, PROTEIN_ENCODER
from virnucpro.models.specs import ModelSpec
from virnucpro.models.store import find_encoder, resolve_model
from virnucpro.pipeline.direct import DirectEncoder
from virnucpro.sequences.orfs import OrfPolicy
from virnucpro.training.corpus import Corpus
from virnucpro.training.export import CLASSIFIER_FILE, export_mlp
from virnucpro.training.feature_store import Features, FeatureStore
from virnucpro.training.fit import FitSettings
from virnucpro.training.jobs import Job
from virnucpro.training.labelled import load_labelled
from virnucpro.training.mlp import MlpFit, MlpRecipe, fit_mlp
from virnucpro.training.scoring import split_by_target
from virnucpro.training.windows import LabelledWindows, draw_nulls, draw_windows

logger = logging.getLogger("virnucpro.training")


def train_mlp(
    job: Job, recipe: MlpRecipe, settings: FitSettings, home: Path, output: Path
) -> MlpFit | None:
    """Draw windows, embed them, train, write the model directory; None if time was up.

    Raises:
        InputError: unreadable sequences or labels.
        ConfigError: no training files, or too little to train on.
        ModelError: the encoders are missing.
    """
    base = base_model(job.model, home)
    train, dev = load_labelled(job.data)
    encoder = DirectEncoder(base, str(settings.device), "packed")
    store = FeatureStore(settings.folder, encoder, time.monotonic() + settings.stop_after)
    rng = np.random.default_rng([recipe.seed, 0])
    drawn = _drawn({"train": train}, base.chunk_nt, recipe.windows, rng)
    nulls = int(recipe.null_share * recipe.windows / 3)
    if nulls:
        drawn += draw_nulls(np.concatenate([w.bases for w in drawn]), nulls, rng)
    held = _drawn(dev, base.chunk_nt, recipe.dev_windows, rng)
    progress = ProgressReporter(settings.progress)
    found: list[Features] = []
    for name, windows in (("train", drawn), ("dev", held)):
        features = store.embed(name, windows, progress)
        if features is None:
            return None
        found.append(features)
        covered = len(np.unique(features.window)) / max(1, features.windows)
        logger.info("%s: %d rows; %.1f%% of the windows", name, len(features), 100 * covered)
    fit = fit_mlp(found[0], found[1], recipe, encoder.device, progress)
    source = f"virnucpro train, recipe {recipe.digest[:16]}, epoch {fit.epoch}"
    export_mlp(output, job.name, base, fit.network, source)
    return fit


def base_model(name: str, home: Path) -> ModelSpec:
    """Encoders, chunk length and ORF policy to train a classifier for.

    Raises:
        ModelError: they are not installed.
    """
    if name == "mini":
        return resolve_model("mini", None, home)
    if name not in CLASSIFIERS:
        return resolve_model("custom", Path(name), home)
    return ModelSpec(
        name=name,
        dna=find_encoder(DNA_ENCODER, home),
        protein=find_encoder(PROTEIN_ENCODER, home),
        classifier=Path(CLASSIFIER_FILE),
        classifier_sha256="",
        orf_policy=OrfPolicy("open-frame"),
        chunk_nt=CLASSIFIERS[name].chunk_nt,
    )


def _drawn(
    sets: dict[str, Corpus], length_nt: int, count: int, rng: np.random.Generator
) -> list[LabelledWindows]:
    """Windows of the viral and of the other records of each set, `count` of each."""
    drawn = []
    for name, corpus in split_by_target(dict(sorted(sets.items()))).items():
        windows = draw_windows(corpus, name, length_nt, count, rng)
        drawn += [windows] if len(windows.labels) else []
    if not drawn:
        raise ConfigError(f"no record is as long as a chunk ({length_nt} nt)")
    return drawn
