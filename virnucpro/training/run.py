"""From labelled FASTA to a model directory: the steps of `virnucpro train`."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import numpy as np

from virnucpro.training.calibrate import Limits, fit_calibration
from virnucpro.training.corpus import NULL, VIRUS, Corpus, Label, assemble, join
from virnucpro.training.export import export_model, probabilities, save_calibration
from virnucpro.training.fit import Fit, FitReport, FitSettings
from virnucpro.training.jobs import Job
from virnucpro.training.labelled import load_labelled
from virnucpro.training.nulls import null_bank
from virnucpro.training.recipe import Recipe
from virnucpro.training.windows import dev_windows

logger = logging.getLogger("virnucpro.training")

DEV_LENGTHS = (150, 300, 500, 1000)
_NULL_SOURCE_WINDOWS = 4_000


def train_bundled(job: Job, recipe: Recipe, settings: FitSettings, output: Path) -> FitReport:
    """Train, resuming what `settings.folder` holds; once finished, write the model directory.

    The best weights are calibrated on the dev sets.

    Raises:
        InputError: unreadable sequences or labels.
        ConfigError: no training files, no labels, or dev sets of one class.
        UsageError: `settings.folder` holds a run of another recipe or of other data.
        ModelError: what it holds is damaged.
    """
    corpus, dev = load_labelled(job.data)
    logger.info("training on %d bases of %d groups", len(corpus.bases), len(corpus.groups))
    corpus = with_nulls(corpus, recipe)
    windows = dev_windows(dev, DEV_LENGTHS, job.dev_count, job.dev_count // 4, recipe.seed)
    fit = Fit(corpus, windows, recipe, settings)
    report = fit.run()
    if not report.finished:
        return report
    step = fit.load_best()
    calibration = fit_calibration(
        partial(probabilities, fit.model), dev, job.dev_count, Limits(chunk_nt=job.chunk_nt)
    )
    save_calibration(output, calibration, ", ".join(sorted(dev)))
    kinds = [f"virus: {group}" if target == VIRUS else kind for target, kind, group in fit.kinds]
    source = f"virnucpro train, recipe {recipe.digest[:16]}, step {step}"
    export_model(output, job.name, fit.model, kinds, job.chunk_nt, source)
    return report


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
