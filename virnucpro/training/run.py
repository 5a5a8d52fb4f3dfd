"""From labelled FASTA to a model directory: the steps of `virnucpro train`."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from virnucpro.core.errors import ConfigError
from virnucpro.training.corpus import (
    NULL,
    OTHER,
    VIRUS,
    Corpus,
    Label,
    assemble,
    join,
    load_corpus,
    read_labels,
    read_sequences,
)
from virnucpro.training.nulls import null_bank
from virnucpro.training.recipe import Recipe, recipe_from
from virnucpro.training.windows import dev_windows

if TYPE_CHECKING:
    from virnucpro.training.fit import Fit, FitReport, FitSettings

logger = logging.getLogger("virnucpro.training")

DEV_LENGTHS = (150, 300, 500, 1000)
_NULL_SOURCE_WINDOWS = 4_000
_HELD_OUT = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledFiles:
    """FASTA to train and to choose on.

    Attributes:
        train: FASTA files to train on.
        dev: FASTA files to choose on; without any, a tenth of the groups is held out.
        table: TSV of id, class and group; None means that `classes` says what a file holds.
        classes: class of each training file without a table: `virus`, `null` or any other.
    """

    train: tuple[Path, ...]
    dev: tuple[Path, ...] = ()
    table: Path | None = None
    classes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainJob:
    """One training, as read from a configuration file and the command line.

    Attributes:
        name: name of the model.
        recipe: what decides the weights.
        files: labelled FASTA.
        chunk_nt: chunk length that the model is to be run with.
        dev_count: windows of each dev set and length.
    """

    name: str
    recipe: Recipe
    files: LabelledFiles
    chunk_nt: int = 500
    dev_count: int = 2_000


def read_job(path: Path, data: Path | None, **overrides: Any) -> TrainJob:
    """Read a training configuration.

    Args:
        path: YAML with the mappings `data` (train, dev, table or classes) and `recipe`.
        data: folder that the names under `data` are relative to; None means the file's own.
        overrides: recipe settings to change.

    Raises:
        ConfigError: a mapping or a name is missing, or a recipe setting is unknown.
    """
    loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(loaded, dict) or not isinstance(loaded.get("recipe"), dict):
        raise ConfigError(f"{path}: needs a mapping named recipe")
    return TrainJob(
        name=str(loaded.get("name", "custom")),
        recipe=recipe_from({**loaded["recipe"], **overrides}),
        files=labelled_files(loaded.get("data") or {}, data or path.parent),
        chunk_nt=int(loaded.get("chunk_nt", 500)),
        dev_count=int(loaded.get("dev_count", 2_000)),
    )


def labelled_files(names: dict[str, Any], root: Path) -> LabelledFiles:
    """The mapping `data` of a configuration, with names relative to `root`."""
    return LabelledFiles(
        train=tuple(root / name for name in names.get("train", ())),
        dev=tuple(root / name for name in names.get("dev", ())),
        table=root / names["table"] if names.get("table") else None,
        classes=tuple(names.get("classes", ())),
    )


def load_sets(job: TrainJob) -> tuple[Corpus, dict[str, Corpus]]:
    """Training corpus with null sequences, and dev sets by name.

    Raises:
        InputError: unreadable sequences or labels.
        ConfigError: no training files, or no table and not one class a file.
    """
    train, dev = load_labelled(job.files)
    return with_nulls(train, job.recipe), dev


def load_labelled(files: LabelledFiles) -> tuple[Corpus, dict[str, Corpus]]:
    """Training corpus, and dev sets by name; without dev files groups are never in both.

    Raises:
        InputError: unreadable sequences or labels.
        ConfigError: no training files, or no table and not one class a file.
    """
    if not files.train:
        raise ConfigError("no training files")
    if files.table:
        labels = read_labels(files.table)
    elif len(files.classes) == len(files.train):
        labels = {}
        for path, kind in zip(files.train, files.classes, strict=True):
            labels |= _labels_of_file(path, kind)
    else:
        raise ConfigError("give a table of labels, or a class for each training file")
    train = load_corpus(files.train, labels)
    if not files.dev:
        return hold_out(train)
    return train, {path.name.split(".")[0]: load_corpus([path], labels) for path in files.dev}


def _labels_of_file(path: Path, kind: str) -> dict[str, Label]:
    target = {"virus": VIRUS, "null": NULL}.get(kind, OTHER)
    return {seq_id: Label(target, kind, seq_id) for seq_id, _ in read_sequences(path)}


def hold_out(corpus: Corpus) -> tuple[Corpus, dict[str, Corpus]]:
    """Split by group: about a tenth of each class's groups, picked by hash, become dev sets.

    Raises:
        ConfigError: a class has a single group, so nothing can be held out.
    """
    held = np.zeros(len(corpus.groups), dtype=bool)
    for target in {g.target for g in corpus.groups} - {NULL}:
        inside = [i for i, g in enumerate(corpus.groups) if g.target == target]
        if len(inside) < 2:
            raise ConfigError("a class has a single group; give dev files or a group column")
        inside.sort(key=lambda i: hashlib.sha256(corpus.groups[i].group.encode()).digest())
        held[inside[: max(1, len(inside) // _HELD_OUT)]] = True
    viral = np.array([g.target == VIRUS for g in corpus.groups])
    dev = {
        "dev_virus": corpus.of_groups(held & viral),
        "dev_other": corpus.of_groups(held & ~viral),
    }
    return corpus.of_groups(~held), dev


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
