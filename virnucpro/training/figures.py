"""Scored sequences to a table of figures: by set, class, virus family and kind of null."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from virnucpro.training.corpus import NULL, OTHER, VIRUS

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

# Columns of scored sequences, a record array of n rows: set, length (nt) or shortest length of its
# class, target, kind and group of its label, id of the record (empty for null ones), p_virus (NaN
# where nothing was scored), call (empty there).
COLUMNS = ("set_name", "length_nt", "target", "kind", "group", "record", "p", "call")
ALL_SETS, NAN = "all", float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Figures of one group of sequences; NaN where a figure has no meaning.

    A viral group is measured against all cellular sequences of its length, a cellular group
    against all viral ones; null sequences only have shares of calls. Shares and MCC are over all
    sequences, the other figures over those with a score.
    """

    length_nt: int  # length, or shortest length of the class (nt); 0 for decoys of any length
    level: str  # `set`, `class`, `family`, `null`, or `decoy` for a kind of the decoy panel
    set_name: str  # set; `all` for all sets together
    group: str  # class, family or kind of null; empty for a whole set
    count: int  # sequences
    coverage: float  # share of them with a call
    auroc: float = NAN  # area under the receiver operating characteristic
    auprc: float = NAN  # average precision, viruses and others as they come
    mcc: float = NAN  # Matthews correlation of the call `virus`
    recall_1: float = NAN  # share of viruses above the score that 1% of others exceed
    recall_5: float = NAN  # the same at 5%
    virus: float  # share called `virus`
    uncertain: float
    non_virus: float
    mean_p: float  # mean p_virus
    ece: float = NAN  # expected calibration error, both targets weighing the same


def rows_of(scored: Any, leave_out: Sequence[str] = ()) -> list[Row]:
    """Figures of all lengths; sets that hold records of `leave_out` once more without them."""
    rows = []
    for length_nt in np.unique(scored.length_nt):
        at = scored[scored.length_nt == length_nt]
        viral, cellular, null = (at.target == target for target in (VIRUS, OTHER, NULL))
        names = list(dict.fromkeys(at.set_name.tolist()))
        groups: list[tuple[str, str, str, Mask]] = [("set", ALL_SETS, "", viral)]
        for name in names:
            inside = viral & (at.set_name == name)
            left = inside & np.isin(at.record, leave_out)
            groups.append(("set", name, "", inside))
            if left.any():
                groups.append(("set", f"{name} (less)", "", inside & ~left))
        groups += [("set", ALL_SETS, "cellular", cellular), ("set", ALL_SETS, "null", null)]
        for level, of_target, own in (
            ("class", cellular, at.kind), ("family", viral, at.group), ("null", null, at.group)
        ):  # fmt: skip
            for name in names:
                here = of_target & (at.set_name == name)
                for group in np.unique(own[here]).tolist():
                    groups.append((level, name, group, here & (own == group)))
        rows += [_row(at, *one) for one in groups if one[3].any()]
    return rows


def decoys_of(scored: Any) -> list[Row]:
    """Shares of calls of each kind of decoy, the most often called virus first."""
    kinds = np.unique(scored.kind).tolist()
    rows = [_row(scored, "decoy", scored.set_name[0], kind, scored.kind == kind) for kind in kinds]
    return sorted(rows, key=lambda row: -row.virus)


def curves_of(scored: Any) -> list[dict[str, Any]]:
    """`reliability` at each length, viruses and others weighing the same, without nulls."""
    curves = []
    for length_nt in np.unique(scored.length_nt).tolist():
        is_real = ~np.isnan(scored.p) & (scored.target != NULL)
        kept = scored[is_real & (scored.length_nt == length_nt)]
        truth = kept.target == VIRUS
        if truth.any() and not truth.all():
            ece, bins = reliability(kept.p, truth)
            curves.append({"length_nt": length_nt, "ece": ece, "bins": bins})
    return curves


def _row(at: Any, level: str, set_name: str, group: str, inside: Mask) -> Row:
    """Figures of the members, measured against all of the other target."""
    own, scored = at[inside], ~np.isnan(at.p)
    p = at.p[inside & scored]
    shares = {call: float((own.call == call).mean()) for call in ("virus", "uncertain")}
    against = {OTHER: VIRUS, VIRUS: OTHER}.get(own.target[0], -1)
    both = inside | (at.target == against)
    compared = at[both & scored]
    truth = compared.target == VIRUS
    contrast = {}
    if against >= 0 and truth.any() and not truth.all():
        contrast = {
            "auroc": auroc(compared.p, truth),
            "auprc": auprc(compared.p, truth),
            "mcc": mcc(at.call[both] == "virus", at.target[both] == VIRUS),
            "recall_1": recall_at(compared.p, truth, 0.01),
            "recall_5": recall_at(compared.p, truth, 0.05),
            "ece": reliability(compared.p, truth)[0],
        }
    return Row(
        length_nt=at.length_nt[0].item(), level=level, set_name=set_name, group=group,
        count=len(own), coverage=float((own.call != "").mean()),
        **shares, non_virus=float((own.call == "non-virus").mean()),
        mean_p=float(p.mean()) if len(p) else NAN, **contrast,
    )  # fmt: skip


def auroc(scores: Floats, positive: Mask) -> float:
    """Chance that a positive scores above a negative; ties count half. NaN without both."""
    hits, misses = int(positive.sum()), int((~positive).sum())
    if not hits or not misses:
        return NAN
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return float((ranks[positive].sum() - hits * (hits + 1) / 2) / (hits * misses))


def auprc(scores: Floats, positive: Mask) -> float:
    """Average precision: precision at each positive, tied scores taken together."""
    _, inverse = np.unique(-scores, return_inverse=True)
    found = np.bincount(inverse, positive)
    precision = found.cumsum() / np.bincount(inverse).cumsum()
    return float((precision * found).sum() / positive.sum())


def mcc(called: Mask, positive: Mask) -> float:
    """Matthews correlation coefficient of calls; 0 where it is not defined."""
    is_defined = all(0 < one.mean() < 1 for one in (called, positive))
    return float(np.corrcoef(called, positive)[0, 1]) if is_defined else 0.0


def recall_at(scores: Floats, positive: Mask, false_positive_rate: float) -> float:
    """Share of positives above the score that `false_positive_rate` of negatives exceed."""
    negatives = np.sort(scores[~positive])
    limit = negatives[len(negatives) - 1 - int(false_positive_rate * len(negatives))]
    return float((scores[positive] > limit).mean())


def reliability(
    p: Floats, positive: Mask, bins: int = 15
) -> tuple[float, tuple[tuple[float, float, int], ...]]:
    """Expected calibration error; mean probability, share of positives and count of each bin."""
    share = positive.mean()
    weight = np.where(positive, 0.5 / share, 0.5 / (1 - share))
    which = np.minimum((p * bins).astype(np.int64), bins - 1)
    error = np.abs(np.bincount(which, weight / weight.sum() * (p - positive))).sum()
    rows = []
    for index in np.unique(which):
        inside = which == index
        w = weight[inside] / weight[inside].sum()
        mean, observed = (w * p[inside]).sum(), (w * positive[inside]).sum()
        rows.append((float(mean), float(observed), int(inside.sum())))
    return float(error), tuple(rows)
