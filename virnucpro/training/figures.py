"""Scored sequences to a table of figures: by set, class, virus family and kind of null."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from virnucpro.training import metrics
from virnucpro.training.corpus import NULL, OTHER, VIRUS
from virnucpro.training.scoring import Scored

Mask = NDArray[np.bool_]
ALL_SETS = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Figures of one group of sequences; NaN where a figure has no meaning.

    A viral group is measured against all cellular sequences of its length, a cellular group
    against all viral ones; null sequences only have shares of calls. AUROC, AUPRC, recall at a
    false-positive rate and ECE are over sequences with a score, and `coverage` says how many
    those are; shares of calls and MCC are over all of them.

    Attributes:
        length_nt: length, or shortest length of the class (nt).
        level: `set`, `class`, `family` or `null`.
        set_name: set; `all` for all sets together.
        group: class, family or kind of null; empty for a whole set.
        count: sequences.
        coverage: share of them with a call.
        auroc: area under the receiver operating characteristic.
        auprc: average precision, viruses and others as they come.
        mcc: Matthews correlation of the call `virus`.
        recall_1: share of viruses above the score that 1% of the others exceed.
        recall_5: the same at 5%.
        virus: share called `virus`.
        uncertain: share called `uncertain`.
        non_virus: share called `non-virus`.
        mean_p: mean p_virus.
        ece: expected calibration error, viruses and others weighing the same.
    """

    length_nt: int
    level: str
    set_name: str
    group: str
    count: int
    coverage: float
    auroc: float = float("nan")
    auprc: float = float("nan")
    mcc: float = float("nan")
    recall_1: float = float("nan")
    recall_5: float = float("nan")
    virus: float
    uncertain: float
    non_virus: float
    mean_p: float
    ece: float = float("nan")

    def as_dict(self) -> dict[str, Any]:
        """Every field; NaN is None."""
        pairs = ((f.name, getattr(self, f.name)) for f in fields(self))
        return {k: None if isinstance(v, float) and np.isnan(v) else v for k, v in pairs}


@dataclass(frozen=True, slots=True)
class Curve:
    """Reliability of one length: mean p_virus, share of viruses and count of each bin."""

    length_nt: int
    ece: float
    bins: tuple[tuple[float, float, int], ...]


class _Length:
    """All sequences of one length, side by side."""

    def __init__(self, sets: Sequence[Scored]) -> None:
        self.length_nt = sets[0].length_nt
        labels = [label for s in sets for label in s.labels]
        self.set_name = np.repeat([s.name for s in sets], [len(s.labels) for s in sets])
        self.record = np.concatenate(
            [np.array(s.records or ("",) * len(s.labels), dtype=np.str_) for s in sets]
        )
        self.target = np.array([x.target for x in labels])
        self.kind = np.array([x.kind for x in labels])
        self.group = np.array([x.group for x in labels])
        self.p = np.concatenate([s.p for s in sets])
        self.calls = np.concatenate([s.calls for s in sets])
        self.scored: Mask = ~np.isnan(self.p)

    def row(self, names: tuple[str, str, str], inside: Mask, against: int | None) -> Row:
        """Figures of the group `inside`, measured against all of one target."""
        calls, n = self.calls[inside], int(inside.sum())
        p = self.p[inside & self.scored]
        level, set_name, group = names
        return Row(
            length_nt=self.length_nt, level=level, set_name=set_name, group=group, count=n,
            coverage=float((calls != "").mean()),
            virus=float((calls == "virus").mean()),
            uncertain=float((calls == "uncertain").mean()),
            non_virus=float((calls == "non-virus").mean()),
            mean_p=float(p.mean()) if len(p) else float("nan"),
            **(self._contrast(inside, self.target == against) if against is not None else {}),
        )  # fmt: skip

    def _contrast(self, inside: Mask, against: Mask) -> dict[str, float]:
        both = inside | against
        positive = self.target == VIRUS
        p, truth = self.p[both & self.scored], positive[both & self.scored]
        if truth.all() or not truth.any():
            return {}
        return {
            "auroc": metrics.auroc(p, truth),
            "auprc": metrics.auprc(p, truth),
            "mcc": metrics.mcc((self.calls == "virus")[both], positive[both]),
            "recall_1": metrics.recall_at(p, truth, 0.01),
            "recall_5": metrics.recall_at(p, truth, 0.05),
            "ece": metrics.ece(p, truth, weight=metrics.balanced(truth)),
        }


def rows_of(sets: Sequence[Scored], leave_out: frozenset[str] = frozenset()) -> list[Row]:
    """Figures of everything that was scored, length after length.

    Args:
        sets: scored sequences.
        leave_out: records without which each set that holds any is measured once more.
    """
    rows: list[Row] = []
    for at in _lengths(sets):
        rows += _set_rows(at, leave_out)
        for level, target, names in (
            ("class", OTHER, at.kind), ("family", VIRUS, at.group), ("null", NULL, at.group)
        ):  # fmt: skip
            rows += _group_rows(at, level, target, names)
    return rows


def curves_of(sets: Sequence[Scored]) -> list[Curve]:
    """Reliability at each length, viruses and others weighing the same, without nulls."""
    curves = []
    for at in _lengths(sets):
        kept = at.scored & (at.target != NULL)
        p, truth = at.p[kept], (at.target == VIRUS)[kept]
        if truth.any() and not truth.all():
            weight = metrics.balanced(truth)
            bins = metrics.reliability(p, truth, weight=weight)
            curves.append(Curve(at.length_nt, metrics.ece(p, truth, weight=weight), tuple(bins)))
    return curves


def _lengths(sets: Sequence[Scored]) -> list[_Length]:
    kept = [s for s in sets if len(s.labels)]
    return [
        _Length([s for s in kept if s.length_nt == length])
        for length in sorted({s.length_nt for s in kept})
    ]


def _set_rows(at: _Length, leave_out: frozenset[str]) -> list[Row]:
    viral, cellular = at.target == VIRUS, at.target == OTHER
    rows = []
    if viral.any():
        rows.append(at.row(("set", ALL_SETS, ""), viral, OTHER))
    for name in dict.fromkeys(at.set_name.tolist()):
        inside = (at.set_name == name) & viral
        if inside.any():
            rows.append(at.row(("set", name, ""), inside, OTHER))
        left = inside & np.isin(at.record, sorted(leave_out))
        if left.any() and (inside & ~left).any():
            rows.append(at.row(("set", f"{name} (less)", ""), inside & ~left, OTHER))
    if cellular.any():
        rows.append(at.row(("set", ALL_SETS, "cellular"), cellular, VIRUS))
    if (at.target == NULL).any():
        rows.append(at.row(("set", ALL_SETS, "null"), at.target == NULL, None))
    return rows


def _group_rows(at: _Length, level: str, target: int, names: NDArray[np.str_]) -> list[Row]:
    against = {OTHER: VIRUS, VIRUS: OTHER}.get(target)
    rows = []
    inside = at.target == target
    for set_name in dict.fromkeys(at.set_name[inside].tolist()):
        here = inside & (at.set_name == set_name)
        rows += [
            at.row((level, set_name, group), here & (names == group), against)
            for group in sorted(set(names[here].tolist()))
        ]
    return rows
