"""From labelled FASTA to a model directory with the published classifier: the steps."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from virnucpro.core.errors import ConfigError
from virnucpro.core.progress import ProgressReporter
from virnucpro.models.published import CLASSIFIERS, DNA_ENCODER, PROTEIN_ENCODER
from virnucpro.models.specs import ModelSpec
from virnucpro.models.store import find_encoder, resolve_model
from virnucpro.pipeline.direct import DirectEncoder, DirectOptions
from virnucpro.sequences.orfs import OrfPolicy
from virnucpro.training.corpus import VIRUS, Corpus
from virnucpro.training.export import CLASSIFIER_FILE, export_mlp
from virnucpro.training.feature_store import Features, FeatureStore
from virnucpro.training.jobs import MlpJob
from virnucpro.training.labelled import load_labelled
from virnucpro.training.mlp import MlpFit, fit_mlp
from virnucpro.training.windows import LabelledWindows, draw_nulls, draw_windows

logger = logging.getLogger("virnucpro.training")


@dataclass(frozen=True, slots=True, kw_only=True)
class MlpSettings:
    """How to run it.

    Attributes:
        folder: where the vectors are kept; the next call goes on with them.
        home: the model home.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `N`.
        stop_after: begin no further block of vectors after this many seconds (s).
        progress: shows how far it is.
    """

    folder: Path
    home: Path
    device: str = "auto"
    stop_after: float = float("inf")
    progress: ProgressReporter


def train_mlp(job: MlpJob, settings: MlpSettings, output: Path) -> MlpFit | None:
    """Draw windows, embed them, train, write the model directory; None if time was up.

    Raises:
        InputError: unreadable sequences or labels.
        ConfigError: no training files, or too little to train on.
        ModelError: the encoders are missing.
    """
    base = base_model(job.model, settings.home)
    train, dev = load_labelled(job.files)
    device = settings.device
    encoder = DirectEncoder(base, device, DirectOptions(engine="packed"))
    store = FeatureStore(settings.folder, encoder, time.monotonic() + settings.stop_after)
    rng = np.random.default_rng([job.recipe.seed, 0])
    drawn = _drawn({"train": train}, base.chunk_nt, job.recipe.windows, rng)
    nulls = int(job.recipe.null_share * job.recipe.windows / 3)
    if nulls:
        drawn += draw_nulls(np.concatenate([w.bases for w in drawn]), nulls, rng)
    held = _drawn(dev, base.chunk_nt, job.recipe.dev_windows, rng)
    found: list[Features] = []
    for name, windows in (("train", drawn), ("dev", held)):
        features = store.embed(name, windows, settings.progress)
        if features is None:
            return None
        found.append(features)
        covered = len(np.unique(features.window)) / max(1, features.windows)
        logger.info("%s: %d rows; %.1f%% of the windows", name, len(features), 100 * covered)
    fit = fit_mlp(found[0], found[1], job.recipe, encoder.device, settings.progress)
    source = f"virnucpro train, recipe {job.recipe.digest[:16]}, epoch {fit.epoch}"
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
    for name, corpus in sorted(sets.items()):
        viral = np.array([g.target == VIRUS for g in corpus.groups])
        for wanted in (viral, ~viral):
            if wanted.any():
                windows = draw_windows(corpus.of_groups(wanted), name, length_nt, count, rng)
                drawn += [windows] if len(windows.labels) else []
    if not drawn:
        raise ConfigError(f"no record is as long as a chunk ({length_nt} nt)")
    return drawn
