"""A model's scores on labelled FASTA as TSV, as JSON, and as one HTML page without a script."""

import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from virnucpro.core.errors import InputError
from virnucpro.core.files import atomic_write
from virnucpro.core.log import ProgressReporter
from virnucpro.core.text import percent
from virnucpro.pipeline.stream import DirectScorer
from virnucpro.reports import pages
from virnucpro.training import corpus as corpora
from virnucpro.training.corpus import NULL, OTHER, VIRUS, Drawing, Labelled
from virnucpro.training.jobs import Job, LabelledFiles

logger = logging.getLogger("virnucpro.training")

FILES = ("evaluation.tsv", "evaluation.json", "evaluation.html")
TEMPLATES = Path(__file__).parent / "templates"
LENGTH_CLASSES = (60, 150, 300, 500, 1000, 3000, 10_000)  # of whole records, from so many nt on
FEW, BINS = 20, 15
NONE = "\N{EN DASH}"

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


def evaluate(
    scorer: DirectScorer, job: Job, drawing: Drawing | None, progress: ProgressReporter,
    folder: Path,
) -> list[Row]:  # fmt: skip
    """Score the dev sets, whole records or windows drawn from them; write and give the figures."""
    sets, decoys, panel = corpora.load_dev(job.data), list[Row](), job.evaluate
    if panel.decoys and panel.decoy_kinds:
        files = LabelledFiles(dev=(panel.decoys,), table=panel.decoy_kinds)
        ((name, corpus),) = corpora.load_dev(files).items()
        found = scored(scorer, [(name, [*corpus.records()])], (0,))
        kinds = np.unique(found.kind).tolist()
        decoys = [_row(found, "decoy", name, kind, found.kind == kind) for kind in kinds]
        decoys.sort(key=lambda row: -row.virus)
    start = time.monotonic()
    held = [(name, [*corpus.records()]) for name, corpus in sets.items()]
    classes: Sequence[int] = LENGTH_CLASSES
    if drawing:
        drawn, classes = corpora.dev_windows(sets, drawing), drawing.lengths
        held = [(w.name, [*zip(w.labels, w.records, w.bases, strict=True)]) for w in drawn]
    count = sum(len(sequences) for _, sequences in held)
    if not count:
        raise InputError(str(job.data.dev[0]), "no record is as long as the windows")
    unit = "windows" if drawing else "records"
    with progress.create_file_bar(count, desc="Scoring", unit=unit) as bar:
        found = scored(scorer, held, classes, bar.update)
    seconds = time.monotonic() - start
    logger.info("scored %d sequences in %.1f s", count, seconds)
    facts = {
        "model": scorer.model.name,
        "model_digest": scorer.model.digest,
        "chunk_nt": scorer.model.chunk_nt,
        "files": [path.name for path in job.data.dev],
        "windows": asdict(drawing) if drawing else None,
        "left_out": sorted({*panel.leave_out}),
        "sequences": count,
        "seconds": round(seconds, 1),
    }
    rows, curves = measured(found, panel.leave_out)
    write(folder, facts, rows + decoys, curves)
    return rows + decoys


def scored(
    scorer: DirectScorer, sets: Sequence[tuple[str, Sequence[Labelled]]], classes: Sequence[int],
    on_scored: Callable[[int], object] = lambda more: None,
) -> Any:  # fmt: skip
    """Scored sequences of sets, with the `COLUMNS`; classes by their shortest length."""
    rows = []
    for name, sequences in sets:
        found = scorer.score(corpora.as_records(bases for _, _, bases in sequences))
        for (label, seq_id, bases), row in zip(sequences, found, strict=True):
            length_nt = max(shortest for shortest in classes if shortest <= len(bases))
            p = NAN if row.p_virus is None else row.p_virus
            rows.append((name, length_nt, *label, seq_id, p, row.call or ""))
        on_scored(len(sequences))
    return np.rec.fromrecords(rows, names=COLUMNS)  # type: ignore[call-overload]


def write(
    folder: Path, facts: dict[str, Any], rows: Sequence[Row], curves: Sequence[dict[str, Any]]
) -> None:
    """Write all three files: of model, input and draws, and of what `measured` gives."""
    names = [field.name for field in fields(Row)]
    given = {**facts, "columns": names, "rows": [*map(astuple, rows)], "reliability": curves}
    whole = json.loads(  # numbers to five digits, None for NaN
        json.dumps(given),
        parse_float=lambda number: round(float(number), 5),
        parse_constant=lambda _: None,
    )
    shown = [["" if value is None else str(value) for value in row] for row in whole["rows"]]
    table = "".join("\t".join(line) + "\n" for line in [names, *shown])
    lines = []
    for key, value in whole.items():
        text = json.dumps(value)
        if value and isinstance(value, list) and isinstance(value[0], list | dict):
            text = "[\n" + ",\n".join(map(json.dumps, value)) + "\n]"
        lines.append(f"{json.dumps(key)}: {text}")
    page = render(facts, rows, curves)
    for name, text in zip(FILES, (table, "{\n" + ",\n".join(lines) + "\n}\n", page), strict=True):
        with atomic_write(folder / name, "w") as file:
            file.write(text)


def render(facts: dict[str, Any], rows: Sequence[Row], curves: Sequence[dict[str, Any]]) -> str:
    """The page of an evaluation with these facts, rows and curves."""
    # families and classes by what is called virus; those of few sequences stand last
    order = {"family": 1, "class": -1}
    rows = sorted(
        rows, key=lambda row: (row.level in order and row.count < FEW,
                               order.get(row.level, 0) * row.virus),
    )  # fmt: skip
    scored = {  # sequences with a score, by length and side
        (row.length_nt, row.group): round(row.count * row.coverage)
        for row in rows
        if row.level == "set" and row.set_name == ALL_SETS
    }

    def is_thin(row: Row) -> bool:
        """Whether AUROC and its like rest on few sequences, on either side."""
        is_viral = row.level == "family" or (row.level == "set" and not row.group)
        others = scored.get((row.length_nt, "cellular" if is_viral else ""), 0)
        return min(others, round(row.count * row.coverage)) < FEW

    style = f"{pages.asset('report.css')}\n{pages.asset('evaluation.css', TEMPLATES)}"
    environment = pages.environment(TEMPLATES)
    environment.filters |= {
        "share": lambda value: NONE if math.isnan(value) else percent(value),
        "figure": lambda value: NONE if math.isnan(value) else f"{value:.3f}",
    }
    return environment.get_template("evaluation.html").render(
        facts=facts, rows=rows, curves=curves, scored=scored, is_thin=is_thin, few=FEW,
        length_classes=LENGTH_CLASSES,
        has_few=any(row.count < FEW or (row.level != "decoy" and is_thin(row)) for row in rows),
        less=len(facts["left_out"]) if any("(less)" in row.set_name for row in rows) else 0,
        style=Markup(style), policy=pages.policy(style),
    )  # fmt: skip


def measured(scored: Any, leave_out: Sequence[str] = ()) -> tuple[list[Row], list[dict[str, Any]]]:
    """Figures of all lengths; sets that hold records of `leave_out` once more without them.

    Beside them `reliability` at each length, viruses and others weighing the same, without nulls.
    """
    rows, curves = list[Row](), []
    for length_nt in np.unique(scored.length_nt).tolist():
        at = scored[scored.length_nt == length_nt]
        real = at[~np.isnan(at.p) & (at.target != NULL)]
        truth = real.target == VIRUS
        if truth.any() and not truth.all():
            ece, bins = reliability(real.p, truth)
            curves.append({"length_nt": length_nt, "ece": ece, "bins": bins})
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
            for name, group in product(names, np.unique(own[of_target]).tolist()):
                inside = of_target & (at.set_name == name) & (own == group)
                groups.append((level, name, group, inside))
        rows += [_row(at, *one) for one in groups if one[3].any()]
    return rows, curves


def _row(at: Any, level: str, set_name: str, group: str, inside: Mask) -> Row:
    """Figures of the members, measured against all of the other target."""
    own, scored = at[inside], ~np.isnan(at.p)
    p = at.p[inside & scored]
    calls = ("virus", "uncertain", "non-virus")
    shares = {call.replace("-", "_"): float((own.call == call).mean()) for call in calls}
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
        **shares, mean_p=float(p.mean()) if len(p) else NAN, **contrast,
    )  # fmt: skip


def auroc(scores: Floats, positive: Mask) -> float:
    """Chance that a positive scores above a negative, of which there are; ties count half."""
    hits, misses = int(positive.sum()), int((~positive).sum())
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


def reliability(p: Floats, positive: Mask) -> tuple[float, list[tuple[float, float, int]]]:
    """Expected calibration error; mean probability, share of positives and count of each bin."""
    weight = np.where(positive, 0.5 / positive.mean(), 0.5 / (1 - positive.mean()))
    which = np.minimum((p * BINS).astype(np.int64), BINS - 1)
    _, which, counts = np.unique(which, return_inverse=True, return_counts=True)
    whole = np.bincount(which, weight)
    mean, observed = (np.bincount(which, weight * x) / whole for x in (p, positive))
    error = np.abs(whole * (mean - observed)).sum() / weight.sum()
    bins = zip(mean.tolist(), observed.tolist(), counts.tolist(), strict=True)
    return float(error), [*bins]
