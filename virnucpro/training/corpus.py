"""Labelled sequence: groups to sample from, windows to measure on, and what no genome explains."""

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
from virnucpro.training.jobs import LabelledFiles, Recipe

MIN_RECORD_NT = 60
OTHER, VIRUS, NULL = 0, 1, 2
_HELD_OUT = 10  # of so many groups one is held out
_LETTERS = np.frombuffer(b"ACGTN", dtype=np.uint8)
_NULL_SOURCE_WINDOWS = 4_000
_WORN_COPIES = 3
_REPEAT_UNITS = np.array([6, 4, 4, 3, 2, 2, 1, 1, 1, 1, 1, 1]) / 27  # shares of 1 to 12 bases
_ADAPTERS = (
    "AGATCGGAAGAGCACACGTCTGAACTCCAGTCA", "AGATCGGAAGAGCGTCGTGTAGGGAAAGAGTGT",
    "CTGTCTCTTATACACATCT", "TGGAATTCTCGGGTGCCAAGG", "CAAGCAGAAGACGGCATACGAGAT",
    "AATGATACGGCGACCACCGAGATCTACAC", "AATGTACTTCGTTCAGTTACGTATTGCT",
)  # fmt: skip

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


@dataclass(frozen=True, slots=True)
class Drawing:
    """How windows are drawn."""

    lengths: tuple[int, ...]  # of the windows (nt)
    count: int  # windows of each set and length
    null_count: int  # random, shuffled and low-complexity windows of each length, as many of each
    seed: int  # everything follows from it


class LabelledWindows(NamedTuple):
    """Windows of one length from one set, all of one target where the set is."""

    name: str  # set, such as `dev_known`
    labels: tuple[Label, ...]  # n labels
    records: tuple[str, ...]  # that the n windows come from; empty for null sequences
    bases: Bases  # (n, length in nt)


def draw_windows(
    corpus: Corpus, name: str, length_nt: int, count: int, rng: np.random.Generator
) -> LabelledWindows:
    """Windows on random strands of records that are long enough; none where none is.

    Viral windows: families weighted by the square root of their bases; others: by bases.
    """
    size = corpus.ends - corpus.starts
    room, group = size - length_nt + 1, corpus.group_of
    if room.max() < 1:
        return LabelledWindows(name, (), (), np.zeros((0, length_nt), np.uint8))
    size = np.where(room > 0, size, 0)
    total = np.bincount(group, size)
    viral = corpus.targets == VIRUS
    share = np.where(viral, np.sqrt(total), total)
    for side in (viral, ~viral):
        share[side] /= max(share[side].sum(), 1e-9)
    weight = share[group] * size / np.maximum(total, 1)[group]
    record = rng.choice(len(size), count, p=weight / weight.sum())
    start = corpus.starts[record] + (rng.random(count) * room[record]).astype(np.int64)
    bases = corpus.bases[start[:, None] + np.arange(length_nt)]
    flip = rng.random(count) < 0.5
    bases[flip] = other_strand(bases[flip])
    labels, ids = (corpus.groups[g] for g in group[record]), (corpus.ids[r] for r in record)
    return LabelledWindows(name, tuple(labels), tuple(ids), bases)


def other_strand(windows: Bases) -> Bases:
    """The other strand of each window."""
    turned = windows[..., ::-1]
    return np.where(turned < 4, 3 - turned, turned).astype(np.uint8)


def dev_windows(sets: dict[str, Corpus], drawing: Drawing) -> list[LabelledWindows]:
    """All sets at all lengths, then nulls of each length; a set with short records gives none.

    Of a set that holds viruses and others, windows of both are drawn. Nulls are random, real
    windows shuffled, and of low complexity.
    """
    drawn: list[LabelledWindows] = []
    for at, length_nt in enumerate(drawing.lengths):
        first = len(drawn)
        for which, (name, corpus) in enumerate(sorted(split_by_target(sets).items())):
            rng = np.random.default_rng([drawing.seed, at, which])
            drawn.append(draw_windows(corpus, name, length_nt, drawing.count, rng))
        real = np.concatenate([w.bases for w in drawn[first:]])
        if (n := drawing.null_count) and len(real):
            rng = np.random.default_rng([drawing.seed, at, 99])
            picked = without_n(rng, real[rng.integers(0, len(real), n)])
            nulls = {
                "random": uniform(rng, n, length_nt),
                "shuffled": np.stack([dinucleotide_shuffle(rng, row) for row in picked]),
                "low-complexity": low_complexity(rng, n, length_nt),
            }
            for kind, bases in nulls.items():
                label = Label(NULL, "null", kind)
                drawn.append(LabelledWindows("null", (label,) * n, ("",) * n, bases))
    return [windows for windows in drawn if windows.labels]


def uniform(rng: np.random.Generator, n: int, length: int) -> Bases:
    """Each base with probability 1/4: shape (n, length)."""
    return rng.integers(0, 4, (n, length), dtype=np.uint8)


def low_complexity(rng: np.random.Generator, n: int, length: int) -> Bases:
    """Tandem repeats of units of 1 to 12 bases, homopolymers among them, with some noise."""
    unit = uniform(rng, n, 12)
    size = rng.choice(np.arange(1, 13), n, p=_REPEAT_UNITS)[:, None]
    out = np.take_along_axis(unit, np.arange(length)[None] % size, axis=1)
    noise = rng.random((n, 1)) * 0.15 * (rng.random((n, 1)) < 0.8)
    random = uniform(rng, n, length)
    return np.where(rng.random((n, length)) < noise, random, out).astype(np.uint8)


def adapters(rng: np.random.Generator, n: int, length: int) -> Bases:
    """What is read behind an insert: shape (n, length).

    Common adapters, or made-up ones of 20 to 40 bases, each with an index of 8 random bases; in
    half of the sequences one and the same again and again; then G, as some machines read no signal.
    """
    known = [np.array(["ACGT".index(base) for base in adapter]) for adapter in _ADAPTERS]
    out = np.full((n, length), 2, dtype=np.uint8)
    for row in out:
        parts = []
        for which in rng.integers(2 * len(known), size=rng.integers(1, 13)):
            made_up = rng.integers(0, 4, rng.integers(20, 41))
            parts.append(known[which] if which < len(known) else made_up)
            parts.append(rng.integers(0, 4, 8))
        parts = parts[:2] * len(parts) if rng.random() < 0.5 else parts
        joined = np.concatenate(parts)[:length]
        row[: len(joined)] = joined
    return out


def without_n(rng: np.random.Generator, windows: Bases) -> Bases:
    """The windows with a random base in place of every ambiguous one."""
    return np.where(windows > 3, rng.integers(0, 4, windows.shape), windows).astype(np.uint8)


def dinucleotide_shuffle(rng: np.random.Generator, bases: Bases) -> Bases:
    """The same dinucleotides in random order (Altschul and Erickson 1985): shape (length,)."""
    edges = [list(bases[1:][bases[:-1] == base]) for base in range(4)]
    last = int(bases[-1])
    while True:
        exits = {b: int(rng.integers(len(e))) for b, e in enumerate(edges) if e and b != last}
        reached = {last}  # by the steps from every other base, or the path ends too early
        for _ in exits:
            reached |= {b for b, i in exits.items() if int(edges[b][i]) in reached}
        if reached >= exits.keys():
            break
    for base, out in enumerate(edges):
        final = [out.pop(exits[base])] if base in exits else []
        edges[base] = [*rng.permutation(np.array(out, dtype=np.uint8)), *final]
    next_edge = [iter(out) for out in edges]
    path = [bases[0]]
    while len(path) < len(bases):
        path.append(next(next_edge[path[-1]]))
    return np.array(path, dtype=np.uint8)


def null_bank(
    rng: np.random.Generator, windows: Bases, share: float, with_adapters: bool
) -> dict[str, Bases]:
    """Null sequences by kind, some shuffled from `windows`; share 1 gives about 60 Mbp."""
    length = windows.shape[1]

    def some(n: int) -> int:
        return max(8, int(n * share))

    def like(n: int) -> Bases:
        return without_n(rng, windows[rng.integers(0, len(windows), some(n))])

    skewed = rng.dirichlet([2.0] * 4, some(6_000)).cumsum(axis=1)[:, None, :3]
    bank = {
        "uniform": uniform(rng, some(16_000), length),
        "skewed": (rng.random((len(skewed), length, 1)) > skewed).sum(axis=2).astype(np.uint8),
        "bases": rng.permuted(like(8_000), axis=1),
        "dinucleotides": np.stack([dinucleotide_shuffle(rng, row) for row in like(20_000)]),
        "low": low_complexity(rng, some(10_000), length),
    }
    return bank | {"adapters": adapters(rng, some(6_000), length)} if with_adapters else bank


def with_made_up(corpus: Corpus, recipe: Recipe) -> Corpus:
    """The corpus, worn copies of families that insert themselves into genomes, and nulls.

    Worn copies have 8% to 25% of their bases substituted, and indels that break their frames.
    """
    made_up, rng = [*corpus.records()], np.random.default_rng([recipe.seed, 7])
    for label, name, bases in corpus.records():
        is_worn = label.target == VIRUS and label.group in recipe.decayed
        for k in range(_WORN_COPIES if is_worn else 0):
            rate, (hit, draw) = rng.uniform(0.08, 0.25), rng.random((2, len(bases)))
            other = (bases + rng.integers(1, 4, len(bases))) % 4
            worn = np.where((hit < rate) & (bases < 4), other, bases).astype(np.uint8)
            worn = worn.repeat(1 + (draw < rate / 15) - (draw > 1 - rate / 15))
            made_up.append((Label(OTHER, "insertion", label.group), f"{name} worn {k}", worn))
    length = max(b.longest for b in recipe.buckets)
    windows = draw_windows(corpus, "", length, _NULL_SOURCE_WINDOWS, rng).bases
    if recipe.null_share > 0 and len(windows):
        has_adapters = recipe.noise.adapter_share > 0
        bank = null_bank(rng, windows, recipe.null_bank_share, has_adapters)
        for kind, block in bank.items():
            null = Label(NULL, "null", kind)
            made_up += [(null, f"{kind}{i}", row) for i, row in enumerate(block)]
    return Corpus.of(made_up)
