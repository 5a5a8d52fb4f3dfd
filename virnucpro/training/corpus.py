"""Labelled FASTA as one array of bases, in groups to sample from: a virus family, or a species."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from virnucpro.core.errors import ConfigError, InputError
from virnucpro.core.records import Record
from virnucpro.core.text import clipped
from virnucpro.encoders.tokenizers import LetterTokenizer
from virnucpro.sequences.fasta import read_records
from virnucpro.sequences.streams import UNPACK_ERRORS, open_unpacked
from virnucpro.training.jobs import LabelledFiles

MIN_RECORD_NT = 60
OTHER, VIRUS, NULL = 0, 1, 2
_HELD_OUT = 10  # of so many groups one is held out
_LETTERS = np.frombuffer(b"ACGTN", dtype=np.uint8)

Bases = NDArray[np.uint8]  # 0..3 for A, C, G, T, 4 for anything else


class Label(NamedTuple):
    """What one record is."""

    target: int  # OTHER, VIRUS or NULL
    kind: str  # reported class, such as `bacteria` or `virus`
    group: str  # what sampling balances within a kind, such as a family or a species


LabelOf = Callable[[str], Label | None]  # by record id
Labelled = tuple[Label, str, Bases]  # label, id and bases of a record


@dataclass(frozen=True, slots=True, eq=False)
class Corpus:
    """Records end to end, group after group."""

    bases: Bases  # (nt,)
    starts: NDArray[np.int64]  # (records,): where each record begins
    ends: NDArray[np.int64]  # (records,): one past its last base
    ids: tuple[str, ...]
    groups: tuple[Label, ...]  # the label shared by each group's records
    group_of: NDArray[np.int64]  # (records,): index into `groups`, non-decreasing

    @classmethod
    def of(cls, records: Iterable[Labelled]) -> Corpus:
        """Lay records end to end, sorted by group."""
        labels, ids, bases = zip(*sorted(records, key=itemgetter(0)), strict=True)
        index = {label: i for i, label in enumerate(dict.fromkeys(labels))}
        sizes = np.array([len(one) for one in bases])
        ends = np.cumsum(sizes)
        group_of = np.array([index[label] for label in labels])
        return cls(np.concatenate(bases), ends - sizes, ends, ids, tuple(index), group_of)

    @property
    def targets(self) -> NDArray[np.int64]:
        """Target of each group, (groups,)."""
        return np.array([group.target for group in self.groups])

    @property
    def group_nt(self) -> NDArray[np.int64]:
        """Bases of each group, (groups,)."""
        return np.bincount(self.group_of, self.ends - self.starts).astype(np.int64)

    def records(self) -> Iterator[Labelled]:
        """Label, id and bases of each record, in order."""
        for i, (start, end) in enumerate(zip(self.starts, self.ends, strict=True)):
            yield self.groups[self.group_of[i]], self.ids[i], self.bases[start:end]

    def of_groups(self, wanted: NDArray[np.bool_]) -> Corpus:
        """The records of some groups, in their order; `wanted` has shape (groups,)."""
        chosen = wanted[self.group_of]
        return Corpus.of(r for r, is_in in zip(self.records(), chosen, strict=True) if is_in)


def as_records(rows: Iterable[Bases]) -> Iterator[Record]:
    """Bases as records that predictions take, named by their place."""
    for number, bases in enumerate(rows):
        letters = _LETTERS[bases].tobytes().decode("ascii")
        yield Record(f"r{number}", f"r{number}", letters)


def read_labels(path: Path) -> dict[str, Label]:
    """Labels by record id, from a table with the columns id, class (or kind) and maybe group.

    Class `virus` is the positive class, `null` the third, anything else is other. Without a
    `group` column a virus belongs to its family, or to its source where the family is open,
    and anything else to its species, or its source.
    """
    labels: dict[str, Label] = {}
    with open_unpacked(path) as unpacked:
        try:
            text = io.StringIO(b"".join(unpacked.pieces).decode("utf-8"), newline="")
            rows = csv.DictReader(text, delimiter="\t", quoting=csv.QUOTE_NONE)
            names = rows.fieldnames or ()
            column = "kind" if "kind" in names and "class" not in names else "class"
            if not {"id", column} <= {*names}:
                raise InputError(str(path), "needs the columns id and class", 1)
            for row in rows:
                if row["id"] is None or row[column] is None:
                    raise InputError(str(path), f"the row has no id or no {column}", rows.line_num)
                group, source = row.get("group"), row.get("source") or "unnamed"
                if not group and row[column] != "virus":
                    group = row.get("species") or source
                elif not group:
                    group = row.get("family")
                    if not group or "(" in group:
                        folder = source.split("/")[-2] if "/" in source else source
                        group = f"{group or 'unresolved'} [{folder}]"
                labels[row["id"]] = _label(row[column], group)
        except (*UNPACK_ERRORS, UnicodeDecodeError, csv.Error) as error:
            raise InputError(str(path), f"cannot be read ({clipped(error)})") from error
    return labels


def _label(kind: str, group: str) -> Label:
    return Label({"virus": VIRUS, "null": NULL}.get(kind, OTHER), kind, group)


def load_corpus(files: Sequence[tuple[Path, LabelOf]]) -> Corpus:
    """Labelled records of at least 60 nt, of FASTA files with what finds the label of a record."""
    encode = LetterTokenizer("mini-dna").encode
    records = list[Labelled]()
    for path, label_of in files:
        for record in read_records([path]):
            label = label_of(record.seq_id)
            if label is None:
                raise InputError(str(path), f"record {clipped(record.seq_id)} has no label")
            if len(record.sequence) >= MIN_RECORD_NT:
                records.append((label, record.seq_id, encode(record.sequence).astype(np.uint8)))
    if not records:
        names = ", ".join(str(path) for path, _ in files)
        raise InputError(names, "no labelled record of 60 nt or more")
    return Corpus.of(records)


def load_labelled(files: LabelledFiles) -> tuple[Corpus, dict[str, Corpus]]:
    """Training corpus, and dev sets by name; without dev files groups are never in both.

    Then about a tenth of each class's groups, picked by hash, become dev sets. Without a table
    each record is a group.
    """
    if not files.train:
        raise ConfigError("no training files: name them in the list train of data")
    corpus = load_corpus(_with_labels(files, is_train=True))
    if files.dev:
        return corpus, load_dev(files)
    viral, held = corpus.targets == VIRUS, np.zeros(len(corpus.groups), dtype=bool)
    for own, name in ((viral, "viruses"), (corpus.targets == OTHER, "others")):
        inside = np.flatnonzero(own).tolist()
        if len(inside) < 2:
            raise ConfigError(f"{name} have a single group or none; give dev files or more groups")
        inside.sort(key=lambda i: hashlib.sha256(corpus.groups[i].group.encode()).digest())
        held[inside[: max(1, len(inside) // _HELD_OUT)]] = True
    dev = {
        "dev_virus": corpus.of_groups(held & viral),
        "dev_other": corpus.of_groups(held & ~viral),
    }
    return corpus.of_groups(~held), dev


def load_dev(files: LabelledFiles) -> dict[str, Corpus]:
    """Dev sets by the stems of their files; where a stem is taken also the number of the file.

    Without a table each class is a group.
    """
    sets: dict[str, Corpus] = {}
    for number, file in enumerate(_with_labels(files, is_train=False), start=1):
        name = file[0].name.split(".")[0]
        while name in sets:
            name = f"{name} {number}"
        sets[name] = load_corpus([file])
    return sets


def _with_labels(files: LabelledFiles, is_train: bool) -> list[tuple[Path, LabelOf]]:
    """Training or dev files, and what finds the labels of the records in each."""
    paths, first = (files.train, 0) if is_train else (files.dev, len(files.train))
    if files.tables:
        labels: dict[str, Label] = {}
        for table in files.tables:
            found = read_labels(table)
            if twice := labels.keys() & found.keys():
                raise InputError(str(table), f"record {min(twice)} is in another table too")
            labels |= found
        return [(path, labels.get) for path in paths]
    if len(files.classes) != len(files.train + files.dev):
        raise ConfigError("give a table of labels, or a class for each file")

    def of_class(kind: str, seq_id: str) -> Label:
        return _label(kind, seq_id if is_train else kind)

    classes = files.classes[first : first + len(paths)]
    return [(path, partial(of_class, kind)) for path, kind in zip(paths, classes, strict=True)]


def split_by_target(sets: dict[str, Corpus]) -> dict[str, Corpus]:
    """Sets that hold viruses and others become two, so that windows of both are drawn."""
    out: dict[str, Corpus] = {}
    for name, corpus in sets.items():
        viral = corpus.targets == VIRUS
        if viral.all() or not viral.any():
            out[name] = corpus
        else:
            out[f"{name} virus"] = corpus.of_groups(viral)
            out[f"{name} other"] = corpus.of_groups(~viral)
    return out
