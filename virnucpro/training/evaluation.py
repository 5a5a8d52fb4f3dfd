"""From labelled FASTA to a report on a model: the steps of `virnucpro evaluate`."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from virnucpro.core.errors import ConfigError, InputError
from virnucpro.core.progress import ProgressReporter
from virnucpro.pipeline.direct import DirectScorer
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
from virnucpro.training.evaluation_report import Report
from virnucpro.training.figures import curves_of, rows_of
from virnucpro.training.jobs import EvaluateJob
from virnucpro.training.labelled import LabelledFiles, set_names
from virnucpro.training.scoring import score_records, score_windows, split_by_target
from virnucpro.training.windows import dev_windows

logger = logging.getLogger("virnucpro.training")

DEFAULT_LENGTHS = (150, 300, 500, 1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """How windows are drawn.

    Attributes:
        lengths: of the windows (nt).
        count: windows of each set and length.
        null_count: random, shuffled and low-complexity windows of each length, as many of each.
        seed: everything follows from it.
    """

    lengths: tuple[int, ...] = DEFAULT_LENGTHS
    count: int = 2_000
    null_count: int = 500
    seed: int = 0


def load_inputs(files: LabelledFiles) -> dict[str, Corpus]:
    """Sets by name.

    Raises:
        InputError: unreadable sequences or labels, or records without a label.
        ConfigError: no table, and not one class a file.
    """
    if files.table is None and len(files.classes) != len(files.dev):
        raise ConfigError("give a table of labels, or a class for each file")
    labels = read_labels(files.table) if files.table else {}
    sets: dict[str, Corpus] = {}
    for number, (name, path) in enumerate(zip(set_names(files.dev), files.dev, strict=True)):
        own = labels if files.table else _labels_of_class(path, files.classes[number])
        sets[name] = load_corpus([path], own)
    return sets


def _labels_of_class(path: Path, kind: str) -> dict[str, Label]:
    label = Label({"virus": VIRUS, "null": NULL}.get(kind, OTHER), kind, kind)
    return {seq_id: label for seq_id, _ in read_sequences(path)}


def evaluate(
    scorer: DirectScorer, job: EvaluateJob, drawing: Drawing | None, progress: ProgressReporter
) -> Report:
    """Score labelled sequences and measure the scores.

    Args:
        scorer: the model.
        job: labelled sequences.
        drawing: how windows are drawn from them; None scores whole records.
        progress: shows how far it is.

    Raises:
        InputError: unreadable input, or no set has a sequence that is long enough.
        ConfigError: no labels.
    """
    sets = load_inputs(job.files)
    start = time.monotonic()
    if drawing is None:
        scored = score_records(scorer, sets, progress)
    else:
        drawn = dev_windows(
            split_by_target(sets), drawing.lengths, drawing.count, drawing.null_count, drawing.seed
        )
        scored = score_windows(scorer, drawn, progress)
    if not sum(len(s.labels) for s in scored):
        raise InputError(str(job.files.dev[0]), "no record is as long as the windows")
    seconds = time.monotonic() - start
    count = sum(len(s.labels) for s in scored)
    logger.info("scored %d sequences in %.1f s", count, seconds)
    return Report(
        facts=_facts(scorer, job, drawing, count, seconds),
        rows=rows_of(scored, job.leave_out),
        curves=curves_of(scored),
    )


def _facts(
    scorer: DirectScorer, job: EvaluateJob, drawing: Drawing | None, count: int, seconds: float
) -> dict[str, Any]:
    model = scorer.model
    return {
        "model": model.name,
        "model_digest": model.digest,
        "chunk_nt": model.chunk_nt,
        "files": [path.name for path in job.files.dev],
        "windows": None
        if drawing is None
        else {
            "lengths": list(drawing.lengths),
            "count": drawing.count,
            "null_count": drawing.null_count,
            "seed": drawing.seed,
        },
        "left_out": sorted(job.leave_out),
        "sequences": count,
        "seconds": round(seconds, 1),
    }
