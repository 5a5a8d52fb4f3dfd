"""A model's scores on labelled FASTA as TSV, as JSON, and as one HTML page without a script."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from virnucpro.core.errors import InputError
from virnucpro.core.files import atomic_write, make_writable
from virnucpro.core.progress import ProgressReporter
from virnucpro.core.text import percent
from virnucpro.pipeline.direct import DirectScorer
from virnucpro.reports import pages
from virnucpro.training import corpus as corpora
from virnucpro.training import figures
from virnucpro.training.corpus import Bases, Label
from virnucpro.training.figures import Row
from virnucpro.training.jobs import Job
from virnucpro.training.windows import Drawing, dev_windows

logger = logging.getLogger("virnucpro.training")

FILES = ("evaluation.tsv", "evaluation.json", "evaluation.html")
TEMPLATES = Path(__file__).parent / "templates"
LENGTH_CLASSES = (60, 150, 300, 500, 1000, 3000, 10_000)  # of whole records, from so many nt on
FEW = 20
NONE = "\N{EN DASH}"


def evaluate(
    scorer: DirectScorer, job: Job, drawing: Drawing | None, progress: ProgressReporter
) -> Report:
    """Score the dev sets, whole records or windows drawn from them, and measure the scores."""
    sets, decoys, panel = corpora.load_dev(job.data), list[Row](), job.evaluate
    if panel.decoys and panel.decoy_kinds:
        kind_of = corpora.read_labels(panel.decoy_kinds).get
        corpus = corpora.load_corpus([(panel.decoys, kind_of)])
        labels, ids, bases = zip(*corpus.records(), strict=True)
        name = panel.decoys.name.split(".")[0]
        found = scored(scorer, name, labels, ids, bases, [0] * len(ids))
        decoys = figures.decoys_of(np.rec.fromrecords([*found], names=figures.COLUMNS))  # type: ignore[call-overload]
    start, parts, held = time.monotonic(), list[Any](), list[Any]()
    for w in dev_windows(sets, drawing) if drawing else ():
        held.append((*w, [w.bases.shape[1]] * len(w.labels)))
    for name, corpus in () if drawing else sets.items():
        labels, ids, bases = zip(*corpus.records(), strict=True)
        lengths = [max(c for c in LENGTH_CLASSES if c <= len(one)) for one in bases]
        held.append((name, labels, ids, bases, lengths))
    count = sum(len(lengths) for *_, lengths in held)
    if not count:
        raise InputError(str(job.data.dev[0]), "no record is as long as the windows")
    unit = "windows" if drawing else "records"
    with progress.create_file_bar(count, desc="Scoring", unit=unit) as bar:
        for one in held:
            parts += scored(scorer, *one)
            bar.update(len(one[-1]))
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
    whole = np.rec.fromrecords(parts, names=figures.COLUMNS)  # type: ignore[call-overload]
    return Report(facts, figures.rows_of(whole, panel.leave_out) + decoys, figures.curves_of(whole))


def scored(
    scorer: DirectScorer, name: str, labels: Sequence[Label], ids: Sequence[str],
    rows: Iterable[Bases], lengths: Sequence[int],
) -> Iterator[tuple[Any, ...]]:  # fmt: skip
    """Scored sequences of one set, each with the `figures.COLUMNS` of figures."""
    found = scorer.score(corpora.as_records(rows))
    for label, seq_id, length_nt, row in zip(labels, ids, lengths, found, strict=True):
        p = figures.NAN if row.p_virus is None else row.p_virus
        yield name, length_nt, *label, seq_id, p, row.call or ""


@dataclass(frozen=True, slots=True)
class Report:
    """What an evaluation found."""

    facts: dict[str, Any]  # model, input and draws
    rows: list[Row]
    curves: list[dict[str, Any]]  # as `curves_of` gives them

    def write(self, folder: Path) -> list[Path]:
        """Write all three files into `folder`, which is made if need be; returns their paths."""
        make_writable(folder)
        names = [field.name for field in fields(Row)]
        rows = _plain([astuple(row) for row in self.rows])
        shown = [["" if value is None else str(value) for value in row] for row in rows]
        whole = {**self.facts, "columns": names, "rows": rows, "reliability": _plain(self.curves)}
        texts = (
            "".join("\t".join(line) + "\n" for line in [names, *shown]),
            "{\n" + ",\n".join(f"{json.dumps(k)}: {_json(v)}" for k, v in whole.items()) + "\n}\n",
            render(self.facts, self.rows, self.curves),
        )
        paths = [folder / name for name in FILES]
        for path, text in zip(paths, texts, strict=True):
            with atomic_write(path, "w") as file:
                file.write(text)
        return paths


def _plain(value: Any) -> Any:
    """What JSON takes: numbers to five digits, None for NaN."""
    return json.loads(
        json.dumps(value),
        parse_float=lambda number: round(float(number), 5),
        parse_constant=lambda _: None,
    )


def _json(value: Any) -> str:
    """JSON on one line, or with a line for each entry of a list of lists or mappings."""
    if isinstance(value, list) and value and isinstance(value[0], list | dict):
        return "[\n" + ",\n".join(map(json.dumps, value)) + "\n]"
    return json.dumps(value)


def render(facts: dict[str, Any], rows: Sequence[Row], curves: Sequence[dict[str, Any]]) -> str:
    """The page of a report with these facts, rows and curves."""
    # families and classes by what is called virus; those of few sequences stand last
    order = {"family": 1, "class": -1}
    rows = sorted(
        rows, key=lambda row: (row.level in order and row.count < FEW,
                               order.get(row.level, 0) * row.virus),
    )  # fmt: skip
    scored = {  # sequences with a score, by length and side
        (row.length_nt, row.group): round(row.count * row.coverage)
        for row in rows
        if row.level == "set" and row.set_name == figures.ALL_SETS
    }

    def by_length(level: str) -> list[tuple[int, list[Row]]]:
        found = [row for row in rows if row.level == level]
        lengths = sorted({row.length_nt for row in found})
        return [(nt, [row for row in found if row.length_nt == nt]) for nt in lengths]

    def is_thin(row: Row) -> bool:
        """Whether AUROC and its like rest on few sequences, on either side."""
        is_viral = row.level == "family" or (row.level == "set" and not row.group)
        others = scored.get((row.length_nt, "cellular" if is_viral else ""), 0)
        return min(others, round(row.count * row.coverage)) < FEW

    def span(length_nt: int) -> str:
        """A length in words: of windows, or of a class of whole records."""
        if facts["windows"] is not None:
            return f"{length_nt:,} nt"
        longer = min((n for n in LENGTH_CLASSES if n > length_nt), default=None)
        return f"from {length_nt:,} nt" if longer is None else f"{length_nt:,} to {longer - 1:,} nt"

    style = f"{pages.asset('report.css')}\n{pages.asset('evaluation.css', TEMPLATES)}"
    environment = pages.environment(TEMPLATES)
    environment.filters |= {
        "share": lambda value: NONE if math.isnan(value) else percent(value),
        "figure": lambda value: NONE if math.isnan(value) else f"{value:.3f}",
        "span": span,
    }
    return environment.get_template("evaluation.html").render(
        facts=facts, by_length=by_length, curves=curves, scored=scored, is_thin=is_thin, few=FEW,
        has_few=any(row.count < FEW or (row.level != "decoy" and is_thin(row)) for row in rows),
        less=len(facts["left_out"]) if any("(less)" in row.set_name for row in rows) else 0,
        style=Markup(style), policy=pages.policy(style),
    )  # fmt: skip
