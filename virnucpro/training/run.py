"""From labelled FASTA to a model directory: the steps of `virnucpro train`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from virnucpro.training.corpus import NULL, VIRUS, Corpus, Label, assemble, join
from virnucpro.training.jobs import TrainJob
from virnucpro.training.labelled import load_labelled
from virnucpro.training.nulls import null_bank
from virnucpro.training.recipe import Recipe
from virnucpro.training.windows import dev_windows

if TYPE_CHECKING:
    from virnucpro.training.fit import Fit, FitReport, FitSettings

logger = logging.getLogger("virnucpro.training")

DEV_LENGTHS = (150, 300, 500, 1000)
_NULL_SOURCE_WINDOWS = 4_000


def load_sets(job: TrainJob) -> tuple[Corpus, dict[str, Corpus]]:
    """Training corpus with null sequences, and dev sets by name.

    Raises:
        InputError: unreadable sequences or labels.
        ConfigError: no training files, or no table and not one class a file.
    """
    train, dev = load_labelled(job.files)
    return with_nulls(train, job.recipe), dev


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
    bank = null_bank(rng, corpus.bases[start[:, None] + np.arange(length)], recipe.null_bank_share)
    return join(
        corpus,
        assemble(
            (Label(NULL, "null", kind), f"{kind}{i}", row)
            for kind, block in bank
            for i, row in enumerate(block)
        ),
    )


def fit_job(
    job: TrainJob, sets: tuple[Corpus, dict[str, Corpus]], settings: FitSettings
) -> tuple[Fit, FitReport]:
    """Train, resuming what `settings.folder` holds."""
    from virnucpro.training.fit import Fit

    train, dev = sets
    logger.info("training on %d bases of %d groups", len(train.bases), len(train.groups))
    windows = dev_windows(dev, DEV_LENGTHS, job.dev_count, job.dev_count // 4, job.recipe.seed)
    fit = Fit(train, windows, job.recipe, settings)
    return fit, fit.run()


def finish_job(job: TrainJob, fit: Fit, dev: dict[str, Corpus], output: Path) -> None:
    """Calibrate the best weights of a finished run and write the model directory."""
    from virnucpro.training.calibrate import Limits, fit_calibration
    from virnucpro.training.export import export_model, probabilities, save_calibration

    step = fit.load_best()
    limits = Limits(chunk_nt=job.chunk_nt)
    calibration = fit_calibration(
        lambda bases: probabilities(fit.model, bases), dev, job.dev_count, limits
    )
    save_calibration(output, calibration, ", ".join(sorted(dev)))
    kinds = [f"virus: {group}" if target == VIRUS else kind for target, kind, group in fit.kinds]
    source = f"virnucpro train, recipe {job.recipe.digest[:16]}, step {step}"
    export_model(output, job.name, fit.model, kinds, job.chunk_nt, source)
