"""Labelled sequences as one long array of bases, sorted into groups to sample from.

A group is what sampling balances: a virus family, or one species of one cellular class.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from virnucpro.core.errors import InputError
from virnucpro.core.files import digest_of
from virnucpro.core.text import clipped
from virnucpro.encoders.tokenizers import BaseTokenizer
from virnucpro.sequences.fasta import read_records
from virnucpro.sequences.unpack import UNPACK_ERRORS, open_unpacked

MIN_RECORD_NT = 60
OTHER, VIRUS, NULL = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Label:
    """What one record is.

    Attributes:
        target: OTHER, VIRUS or NULL.
        kind: reported class, such as `bacteria` or `virus`.
        group: what sampling balances within a kind, such as a family or a species.
    """

    target: int
    kind: str
    group: str


Labels = dict[str, Label]  # by record id


def target_of(kind: str) -> int:
    """OTHER, VIRUS or NULL of a reported class."""
    return {"virus": VIRUS, "null": NULL}.get(kind, OTHER)


@dataclass(frozen=True, slots=True)
class Corpus:
    """Records end to end, group after group.

    Attributes:
        bases: shape (total,), uint8: 0..3 for A, C, G, T, 4 for anything else.
        starts: shape (records,), int64: where each record begins.
        ends: shape (records,), int64: one past its last base.
        ids: record ids, in the same order.
        groups: the label shared by each group's records.
        group_of: shape (records,), int64: index into `groups`, non-decreasing.
    """

    bases: NDArray[np.uint8]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    ids: tuple[str, ...]
    groups: tuple[Label, ...]
    group_of: NDArray[np.int64]

    def digest(self) -> str:
        """Hex SHA-256 over letters, borders and labels."""
        content = hashlib.sha256(self.bases.data)
        for numbers in (self.starts, self.ends, self.group_of):
            content.update(numbers.tobytes())
        return digest_of(content.hexdigest(), [astuple(label) for label in self.groups])

    def group_bounds(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First base of each group and one past its last: two arrays (groups,)."""
        first = np.searchsorted(self.group_of, np.arange(len(self.groups)), side="left")
        last = np.searchsorted(self.group_of, np.arange(len(self.groups)), side="right") - 1
        return self.starts[first], self.ends[last]

    def of_groups(self, wanted: NDArray[np.bool_]) -> Corpus:
        """The records of some groups, in their order; `wanted` has shape (groups,)."""
        picked = np.flatnonzero(wanted[self.group_of])
        return assemble(
            (
                self.groups[self.group_of[i]],
                self.ids[i],
                self.bases[self.starts[i] : self.ends[i]],
            )
            for i in picked
        )


def read_labels(path: Path) -> Labels:
    """Read a table with the columns id, class and group (or family, species, source).

    Class `virus` is the positive class, `null` the third, anything else is other. Without a
    `group` column a virus belongs to its family, or to its source where the family is open,
    and anything else to its species, or its source.

    Raises:
        InputError: unreadable, the columns `id` and `class` are missing, or a row lacks them.
    """
    labels: Labels = {}
    with open_unpacked(path) as unpacked:
        text = io.TextIOWrapper(unpacked.source, encoding="utf-8", newline="")
        rows = csv.DictReader(text, delimiter="\t", quoting=csv.QUOTE_NONE)
        try:
            if not {"id", "class"} <= set(rows.fieldnames or ()):
                raise InputError(str(path), "needs the columns id and class", 1)
            for row in rows:
                if row["id"] is None or row["class"] is None:
                    raise InputError(str(path), "the row has no id or no class", rows.line_num)
                labels[row["id"]] = _label(row)
        except (*UNPACK_ERRORS, UnicodeDecodeError, csv.Error) as error:
            raise InputError(str(path), f"cannot be read ({clipped(error)})") from error
    return labels


def _label(row: dict[str, str]) -> Label:
    kind = row["class"]
    target = target_of(kind)
    source = row.get("source") or "unnamed"
    if row.get("group"):
        return Label(target, kind, row["group"])
    if target != VIRUS:
        return Label(target, kind, row.get("species") or source)
    family = row.get("family") or ""
    if not family or "(" in family:
        family = f"{family or 'unresolved'} [{source.split('/')[-2] if '/' in source else source}]"
    return Label(target, kind, family)


def load_corpus(paths: Sequence[Path], labels: Labels | Sequence[Labels]) -> Corpus:
    """Read labelled records of at least 60 nt; records without a label are an error.

    Args:
        paths: FASTA files.
        labels: of all records, or for each file those of its records.

    Raises:
        InputError: a record's id is not in `labels`, or no record is left.
    """
    encode = BaseTokenizer().encode
    records: list[tuple[Label, str, NDArray[np.uint8]]] = []
    each = [labels] * len(paths) if isinstance(labels, dict) else labels
    for path, own in zip(paths, each, strict=True):
        for record in read_records([path]):
            if record.seq_id not in own:
                raise InputError(str(path), f"record {clipped(record.seq_id)} has no label")
            if len(record.sequence) >= MIN_RECORD_NT:
                bases = encode(record.sequence).astype(np.uint8)
                records.append((own[record.seq_id], record.seq_id, bases))
    if not records:
        raise InputError(", ".join(map(str, paths)), "no labelled record of 60 nt or more")
    return assemble(records)


def assemble(records: Iterable[tuple[Label, str, NDArray[np.uint8]]]) -> Corpus:
    """Lay records end to end, sorted by group."""
    rows = sorted(records, key=lambda r: (r[0].target, r[0].kind, r[0].group))
    groups = tuple(dict.fromkeys(r[0] for r in rows))
    index = {label: i for i, label in enumerate(groups)}
    ends = np.cumsum([len(r[2]) for r in rows])
    return Corpus(
        bases=np.concatenate([r[2] for r in rows]),
        starts=ends - np.array([len(r[2]) for r in rows]),
        ends=ends,
        ids=tuple(r[1] for r in rows),
        groups=groups,
        group_of=np.array([index[r[0]] for r in rows]),
    )


def join(first: Corpus, second: Corpus) -> Corpus:
    """Both corpora as one; the groups of `second` follow those of `first`."""
    return Corpus(
        bases=np.concatenate([first.bases, second.bases]),
        starts=np.concatenate([first.starts, second.starts + len(first.bases)]),
        ends=np.concatenate([first.ends, second.ends + len(first.bases)]),
        ids=first.ids + second.ids,
        groups=first.groups + second.groups,
        group_of=np.concatenate([first.group_of, second.group_of + len(first.groups)]),
    )
