"""Labelled windows or records through a model, by the path that predictions take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from virnucpro.core.progress import ProgressReporter
from virnucpro.core.records import Record
from virnucpro.pipeline.direct import DirectScorer
from virnucpro.training.corpus import VIRUS, Corpus, Label
from virnucpro.training.windows import LabelledWindows

LENGTH_CLASSES = (60, 150, 300, 500, 1000, 3000, 10_000)
_LETTERS = np.frombuffer(b"ACGTN", dtype=np.uint8)


@dataclass(frozen=True, slots=True)
class Scored:
    """Sequences of one set and length, and what a model made of them.

    Attributes:
        name: set, such as `dev_known_virus`.
        length_nt: length of the windows, or the shortest length of this class of records (nt).
        labels: n labels.
        records: ids of the n records; empty for null sequences.
        p: p_virus, shape (n,); NaN where nothing was scored.
        calls: `virus`, `non-virus` or `uncertain`, shape (n,); empty where nothing was scored.
    """

    name: str
    length_nt: int
    labels: tuple[Label, ...]
    records: tuple[str, ...]
    p: NDArray[np.float64]
    calls: NDArray[np.str_]


def split_by_target(sets: dict[str, Corpus]) -> dict[str, Corpus]:
    """Sets that hold viruses and others become two, so that windows of both are drawn."""
    out: dict[str, Corpus] = {}
    for name, corpus in sets.items():
        viral = np.array([g.target == VIRUS for g in corpus.groups])
        if viral.all() or not viral.any():
            out[name] = corpus
            continue
        out[f"{name} virus"] = corpus.of_groups(viral)
        out[f"{name} other"] = corpus.of_groups(~viral)
    return out


def score_windows(
    scorer: DirectScorer, drawn: Sequence[LabelledWindows], progress: ProgressReporter
) -> list[Scored]:
    """Score drawn windows, set by set."""
    scored = []
    total = sum(len(w.labels) for w in drawn)
    with progress.create_file_bar(total, desc="Scoring", unit="windows") as bar:
        for windows in drawn:
            p, calls = _score(scorer, as_records(windows.bases))
            bar.update(len(p))
            scored.append(
                Scored(windows.name, windows.length_nt, windows.labels, windows.records, p, calls)
            )
    return scored


def score_records(
    scorer: DirectScorer, sets: dict[str, Corpus], progress: ProgressReporter
) -> list[Scored]:
    """Score whole records, set by set, and sort them into classes of length."""
    scored = []
    total = sum(len(corpus.ids) for corpus in sets.values())
    with progress.create_file_bar(total, desc="Scoring", unit="records") as bar:
        for name, corpus in sets.items():
            spans = zip(corpus.starts.tolist(), corpus.ends.tolist(), strict=True)
            p, calls = _score(scorer, as_records(corpus.bases[a:b] for a, b in spans))
            bar.update(len(p))
            lengths = corpus.ends - corpus.starts
            of = np.searchsorted(LENGTH_CLASSES, lengths, side="right") - 1
            for k in np.unique(of).tolist():
                at = np.flatnonzero(of == k)
                labels = tuple(corpus.groups[corpus.group_of[i]] for i in at)
                ids = tuple(corpus.ids[i] for i in at)
                scored.append(Scored(name, LENGTH_CLASSES[k], labels, ids, p[at], calls[at]))
    return scored


def _score(
    scorer: DirectScorer, records: Iterable[Record]
) -> tuple[NDArray[np.float64], NDArray[np.str_]]:
    rows = list(scorer.score(records))
    p = np.array([np.nan if r.p_virus is None else r.p_virus for r in rows], dtype=np.float64)
    return p, np.array([r.call or "" for r in rows], dtype="<U9")


def as_records(rows: Iterable[NDArray[np.uint8]]) -> Iterator[Record]:
    """Bases (0..3, 4 for N) as records named by their place."""
    for number, bases in enumerate(rows):
        letters = _LETTERS[bases].tobytes().decode("ascii")
        yield Record(f"r{number}", f"r{number}", letters)
