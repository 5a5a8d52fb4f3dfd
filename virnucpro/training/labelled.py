"""Labelled FASTA files to a training corpus and dev sets."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path

import numpy as np

from virnucpro.core.errors import ConfigError
from virnucpro.sequences.fasta import read_records
from virnucpro.training.corpus import (
    OTHER,
    VIRUS,
    Corpus,
    Label,
    Labels,
    load_corpus,
    read_labels,
    target_of,
)

_HELD_OUT = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledFiles:
    """FASTA to train, to choose and to measure on.

    Attributes:
        train: FASTA files to train on.
        dev: FASTA files to choose or to measure on, each of them a set.
        table: TSV of id, class and group; None means that `classes` says what a file holds.
        classes: class of each file without a table, those of `train` first: `virus`, `null` or
            any other.
    """

    train: tuple[Path, ...] = ()
    dev: tuple[Path, ...] = ()
    table: Path | None = None
    classes: tuple[str, ...] = ()

    def under(self, root: Path) -> LabelledFiles:
        """The same files, their names relative to `root`."""
        return replace(
            self,
            train=tuple(root / path for path in self.train),
            dev=tuple(root / path for path in self.dev),
            table=root / self.table if self.table else None,
        )


def load_labelled(files: LabelledFiles) -> tuple[Corpus, dict[str, Corpus]]:
    """Training corpus, and dev sets by name; without dev files groups are never in both.

    Without a table each record is a group of its own.

    Raises:
        InputError: unreadable sequences or labels, or records without a label.
        ConfigError: no training files, or no table and not one class a file.
    """
    if not files.train:
        raise ConfigError("no training files: name them in the list train of data")
    labels = _labels(files, by_record=True)
    train = load_corpus(files.train, labels[: len(files.train)])
    return (train, _sets(files.dev, labels[len(files.train) :])) if files.dev else hold_out(train)


def load_dev(files: LabelledFiles) -> dict[str, Corpus]:
    """Dev sets by name; without a table a class is one group.

    Raises:
        InputError: unreadable sequences or labels, or records without a label.
        ConfigError: no table, and not one class a file.
    """
    files = replace(files, train=())
    return _sets(files.dev, _labels(files, by_record=False))


def _labels(files: LabelledFiles, by_record: bool) -> list[Labels]:
    """Labels of the records of each file."""
    paths = files.train + files.dev
    if files.table:
        return [read_labels(files.table)] * len(paths)
    if len(files.classes) != len(paths):
        raise ConfigError("give a table of labels, or a class for each file")
    return [
        {
            record.seq_id: Label(target_of(kind), kind, record.seq_id if by_record else kind)
            for record in read_records([path])
        }
        for path, kind in zip(paths, files.classes, strict=True)
    ]


def _sets(paths: Sequence[Path], labels: Sequence[Labels]) -> dict[str, Corpus]:
    rows = zip(set_names(paths), paths, labels, strict=True)
    return {name: load_corpus([path], own) for name, path, own in rows}


def set_names(paths: Sequence[Path]) -> list[str]:
    """A name for the set in each file: its stem, and where that is taken also its number.

    >>> set_names([Path("a.fa"), Path("b.fa"), Path("other/a.fa.gz")])
    ['a', 'b', 'a 3']
    """
    names: list[str] = []
    for number, path in enumerate(paths, start=1):
        stem = path.name.split(".")[0]
        tried = chain([stem], (f"{stem} {k}" for k in count(number)))
        names.append(next(name for name in tried if name not in names))
    return names


def hold_out(corpus: Corpus) -> tuple[Corpus, dict[str, Corpus]]:
    """Split by group: about a tenth of each class's groups, picked by hash, become dev sets.

    Raises:
        ConfigError: viruses or others have a single group or none, so nothing can be held out.
    """
    held = np.zeros(len(corpus.groups), dtype=bool)
    for target, name in ((VIRUS, "viruses"), (OTHER, "others")):
        inside = [i for i, g in enumerate(corpus.groups) if g.target == target]
        if len(inside) < 2:
            raise ConfigError(f"{name} have a single group or none; give dev files or more groups")
        inside.sort(key=lambda i: hashlib.sha256(corpus.groups[i].group.encode()).digest())
        held[inside[: max(1, len(inside) // _HELD_OUT)]] = True
    viral = np.array([g.target == VIRUS for g in corpus.groups])
    dev = {
        "dev_virus": corpus.of_groups(held & viral),
        "dev_other": corpus.of_groups(held & ~viral),
    }
    return corpus.of_groups(~held), dev
