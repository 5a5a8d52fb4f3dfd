"""Labelled FASTA as one array of bases, in groups to sample from: a virus family, or a species."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from functools import partial
from itertools import chain, count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from virnucpro.core.errors import ConfigError, InputError
from virnucpro.core.files import digest_of
from virnucpro.core.text import clipped
from virnucpro.encoders.tokenizers import LetterTokenizer
from virnucpro.sequences.fasta import read_records
from virnucpro.sequences.streams import UNPACK_ERRORS, open_unpacked
from virnucpro.training.jobs import LabelledFiles

MIN_RECORD_NT = 60
OTHER, VIRUS, NULL = 0, 1, 2
_HELD_OUT = 10  # of so many groups one is held out


@dataclass(frozen=True, slots=True)
class Label:
    """What one record is."""

    target: int  # OTHER, VIRUS or NULL
    kind: str  # reported class, such as `bacteria` or `virus`
    group: str  # what sampling balances within a kind, such as a family or a species


LabelOf = Callable[[str], Label | None]  # by record id
Labelled = tuple[Label, str, NDArray[np.uint8]]  # label, id and bases of a record


@dataclass(frozen=True, slots=True)
class Corpus:
    """Records end to end, group after group."""

    bases: NDArray[np.uint8]  # shape (total,), uint8: 0..3 for A, C, G, T, 4 for anything else
    starts: NDArray[np.int64]  # shape (records,), int64: where each record begins
    ends: NDArray[np.int64]  # shape (records,), int64: one past its last base
    ids: tuple[str, ...]  # record ids, in the same order
    groups: tuple[Label, ...]  # the label shared by each group's records
    group_of: NDArray[np.int64]  # shape (records,), int64: index into `groups`, non-decreasing

    @classmethod
    def of(cls, records: Iterable[Labelled]) -> Corpus:
        """Lay records end to end, sorted by group."""
        rows = sorted(records, key=lambda r: (r[0].target, r[0].kind, r[0].group))
        groups = tuple(dict.fromkeys(r[0] for r in rows))
        index = {label: i for i, label in enumerate(groups)}
        sizes = np.array([len(r[2]) for r in rows])
        return cls(
            bases=np.concatenate([r[2] for r in rows]),
            starts=np.cumsum(sizes) - sizes,
            ends=np.cumsum(sizes),
            ids=tuple(r[1] for r in rows),
            groups=groups,
            group_of=np.array([index[r[0]] for r in rows]),
        )

    @property
    def targets(self) -> NDArray[np.int64]:
        """Target of each group, shape (groups,)."""
        return np.array([group.target for group in self.groups])

    def records(self) -> Iterator[Labelled]:
        """Label, id and bases of each record, in order."""
        for i, (start, end) in enumerate(zip(self.starts, self.ends, strict=True)):
            yield self.groups[self.group_of[i]], self.ids[i], self.bases[start:end]

    def of_groups(self, wanted: NDArray[np.bool_]) -> Corpus:
        """The records of some groups, in their order; `wanted` has shape (groups,)."""
        chosen = wanted[self.group_of]
        return Corpus.of(r for r, is_in in zip(self.records(), chosen, strict=True) if is_in)

    def followed_by(self, other: Corpus) -> Corpus:
        """Both as one; the groups of `other` follow those of this one."""
        return Corpus(
            bases=np.concatenate([self.bases, other.bases]),
            starts=np.concatenate([self.starts, other.starts + len(self.bases)]),
            ends=np.concatenate([self.ends, other.ends + len(self.bases)]),
            ids=self.ids + other.ids,
            groups=self.groups + other.groups,
            group_of=np.concatenate([self.group_of, other.group_of + len(self.groups)]),
        )

    def group_bounds(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First base of each group and one past its last: two arrays (groups,)."""
        first = np.searchsorted(self.group_of, np.arange(len(self.groups)), side="left")
        last = np.searchsorted(self.group_of, np.arange(len(self.groups)), side="right") - 1
        return self.starts[first], self.ends[last]

    def digest(self) -> str:
        """Hex SHA-256 over letters, borders and labels."""
        content = hashlib.sha256(self.bases.data)
        for numbers in (self.starts, self.ends, self.group_of):
            content.update(numbers.tobytes())
        return digest_of(content.hexdigest(), [astuple(label) for label in self.groups])


def read_labels(path: Path) -> dict[str, Label]:
    """Labels by record id, from a table with the columns id, class (or kind) and maybe group.

    Class `virus` is the positive class, `null` the third, anything else is other. Without a
    `group` column a virus belongs to its family, or to its source where the family is open,
    and anything else to its species, or its source.
    """
    labels: dict[str, Label] = {}
    with open_unpacked(path) as unpacked:
        text = io.TextIOWrapper(unpacked.source, encoding="utf-8", newline="")
        rows = csv.DictReader(text, delimiter="\t", quoting=csv.QUOTE_NONE)
        try:
            names = set(rows.fieldnames or ())
            column = "kind" if "kind" in names and "class" not in names else "class"
            if not {"id", column} <= names:
                raise InputError(str(path), "needs the columns id and class", 1)
            for row in rows:
                if row["id"] is None or row[column] is None:
                    raise InputError(str(path), f"the row has no id or no {column}", rows.line_num)
                labels[row["id"]] = _label(row[column], _group(row[column], row))
        except (*UNPACK_ERRORS, UnicodeDecodeError, csv.Error) as error:
            raise InputError(str(path), f"cannot be read ({clipped(error)})") from error
    return labels


def _label(kind: str, group: str) -> Label:
    return Label({"virus": VIRUS, "null": NULL}.get(kind, OTHER), kind, group)


def _group(kind: str, row: dict[str, str]) -> str:
    source, family = row.get("source") or "unnamed", row.get("family") or ""
    if row.get("group"):
        return row["group"]
    if kind != "virus":
        return row.get("species") or source
    if family and "(" not in family:
        return family
    folder = source.split("/")[-2] if "/" in source else source
    return f"{family or 'unresolved'} [{folder}]"


def load_corpus(files: Iterable[tuple[Path, LabelOf]]) -> Corpus:
    """Labelled records of at least 60 nt, of FASTA files with what finds the label of a record."""
    encode = LetterTokenizer("mini-dna").encode
    files, records = list(files), list[Labelled]()
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
    """Training corpus, and dev sets by name; without dev files groups are never in both."""
    if not files.train:
        raise ConfigError("no training files: name them in the list train of data")
    paths, train = files.train + files.dev, len(files.train)
    pairs = _with_labels(paths, files, by_record=True)
    corpus = load_corpus(pairs[:train])
    return (corpus, _sets(pairs[train:])) if files.dev else _held_out(corpus)


def load_dev(files: LabelledFiles) -> dict[str, Corpus]:
    """Dev sets by name; without a table a class is one group."""
    return _sets(_with_labels(files.dev, files, by_record=False))


def _with_labels(
    paths: Sequence[Path], files: LabelledFiles, by_record: bool
) -> list[tuple[Path, LabelOf]]:
    if files.tables:
        labels: dict[str, Label] = {}
        for table in files.tables:
            found = read_labels(table)
            if twice := labels.keys() & found.keys():
                raise InputError(str(table), f"record {min(twice)} is in another table too")
            labels |= found
        return [(path, labels.get) for path in paths]
    if len(files.classes) != len(paths):
        raise ConfigError("give a table of labels, or a class for each file")

    def of_class(kind: str, seq_id: str) -> Label:
        return _label(kind, seq_id if by_record else kind)

    classes = [partial(of_class, kind) for kind in files.classes]
    return list(zip(paths, classes, strict=True))


def _sets(files: Sequence[tuple[Path, LabelOf]]) -> dict[str, Corpus]:
    """Sets by the stems of their files; where a stem is taken also the number of the file."""
    sets: dict[str, Corpus] = {}
    for number, file in enumerate(files, start=1):
        stem = file[0].name.split(".")[0]
        tried = chain([stem], (f"{stem} {k}" for k in count(number)))
        sets[next(name for name in tried if name not in sets)] = load_corpus([file])
    return sets


def _held_out(corpus: Corpus) -> tuple[Corpus, dict[str, Corpus]]:
    """Split by group: about a tenth of each class's groups, picked by hash, become dev sets."""
    held = np.zeros(len(corpus.groups), dtype=bool)
    for target, name in ((VIRUS, "viruses"), (OTHER, "others")):
        inside = np.flatnonzero(corpus.targets == target).tolist()
        if len(inside) < 2:
            raise ConfigError(f"{name} have a single group or none; give dev files or more groups")
        inside.sort(key=lambda i: hashlib.sha256(corpus.groups[i].group.encode()).digest())
        held[inside[: max(1, len(inside) // _HELD_OUT)]] = True
    viral = corpus.targets == VIRUS
    dev = {"dev_virus": held & viral, "dev_other": held & ~viral}
    return corpus.of_groups(~held), {name: corpus.of_groups(own) for name, own in dev.items()}


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
