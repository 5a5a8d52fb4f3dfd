"""From labelled FASTA to a report on a model: the steps of `virnucpro evaluate`."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict
from typing import Any

from virnucpro.core.errors import InputError
from virnucpro.core.progress import ProgressReporter
from virnucpro.training.corpus import load_corpus, load_dev, read_labels, split_by_target
from virnucpro.training.evaluation_page import LENGTH_CLASSES, Report
from virnucpro.training.figures import Part, curves_of, decoys_of, rows_of, side_by_side
from virnucpro.training.jobs import Job
from virnucpro.training.scoring import ModelOnDevice
from virnucpro.training.windows import Drawing, dev_windows

logger = logging.getLogger("virnucpro.training")


def evaluate(
    scorer: ModelOnDevice, job: Job, drawing: Drawing | None, progress: ProgressReporter
) -> Report:
    """Score the dev sets, whole records or windows drawn from them, and measure the scores."""
    sets, decoys, panel = load_dev(job.data), list[Part](), job.evaluate
    if panel.decoys and panel.decoy_kinds:
        corpus = load_corpus([(panel.decoys, read_labels(panel.decoy_kinds).get)])
        labels, ids, rows = zip(*corpus.records(), strict=True)
        name = panel.decoys.name.split(".")[0]
        decoys.append((name, [0] * len(ids), labels, ids, *scorer.calls(rows)))
    start, parts, held = time.monotonic(), list[Part](), list[Any]()
    for w in dev_windows(split_by_target(sets), drawing) if drawing else ():
        n = len(w.labels)
        held.append((w.name, [w.length_nt] * n, w.labels, w.records or ("",) * n, w.bases))
    for name, corpus in () if drawing else sets.items():
        labels, ids, rows = zip(*corpus.records(), strict=True)
        lengths = [max(c for c in LENGTH_CLASSES if c <= len(row)) for row in rows]
        held.append((name, lengths, labels, ids, rows))
    count = sum(len(labels) for _, _, labels, _, _ in held)
    if not count:
        raise InputError(str(job.data.dev[0]), "no record is as long as the windows")
    unit = "windows" if drawing else "records"
    with progress.create_file_bar(count, desc="Scoring", unit=unit) as bar:
        for *said, rows in held:
            parts.append((*said, *scorer.calls(rows)))
            bar.update(len(rows))
    seconds = time.monotonic() - start
    logger.info("scored %d sequences in %.1f s", count, seconds)
    leave_out = frozenset(panel.leave_out)
    facts = {
        "model": scorer.model.name,
        "model_digest": scorer.model.digest,
        "chunk_nt": scorer.model.chunk_nt,
        "files": [path.name for path in job.data.dev],
        "windows": asdict(drawing) if drawing else None,
        "left_out": sorted(leave_out),
        "sequences": count,
        "seconds": round(seconds, 1),
    }
    scored = side_by_side(parts)
    found = rows_of(scored, leave_out) + (decoys_of(side_by_side(decoys)) if decoys else [])
    return Report(facts, found, curves_of(scored))
