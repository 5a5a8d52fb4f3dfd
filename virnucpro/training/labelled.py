"""Labelled FASTA files to a training corpus and dev sets."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path

import numpy as np

from virnucpro.core.errors import ConfigError
from virnucpro.training.corpus import (
    NULL,
    OTHER,
    VIRUS,
    Corpus,
    Label,
    load_corpus,
    read_labels,
    read_sequences,
)

_HELD_OUT = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledFiles:
    """FASTA to train, to choose and to measure on.

    Attributes:
        train: FASTA files to train on.
        dev: FASTA files to choose or to measure on, each of them a set.
        table: TSV of id, class and group; None means that `classes` says what a file holds.
        classes: class of each file without a table: `virus`, `null` or any other. Of each
            training file, or of each dev file where there are only those.
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
    names = zip(set_names(files.dev), files.dev, strict=True)
    return train, {name: load_corpus([path], labels) for name, path in names}


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
