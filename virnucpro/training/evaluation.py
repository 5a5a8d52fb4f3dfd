"""From labelled FASTA to a report on a model: the steps of `virnucpro evaluate`."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, dataclass

from virnucpro.core.errors import InputError
from virnucpro.core.progress import ProgressReporter
from virnucpro.pipeline.direct import DirectScorer
from virnucpro.training.evaluation_report import Report
from virnucpro.training.figures import curves_of, rows_of
from virnucpro.training.jobs import Job
from virnucpro.training.labelled import load_dev
from virnucpro.training.scoring import score_records, score_windows, split_by_target
from virnucpro.training.windows import dev_windows

logger = logging.getLogger("virnucpro.training")


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """How windows are drawn.

    Attributes:
        lengths: of the windows (nt).
        count: windows of each set and length.
        null_count: random, shuffled and low-complexity windows of each length, as many of each.
        seed: everything follows from it.
    """

    lengths: tuple[int, ...]
    count: int
    null_count: int
    seed: int


def evaluate(
    scorer: DirectScorer, job: Job, drawing: Drawing | None, progress: ProgressReporter
) -> Report:
    """Score labelled sequences and measure the scores.

    Args:
        scorer: the model.
        job: labelled sequences, and what is left out of them.
        drawing: how windows are drawn from them; None scores whole records.
        progress: shows how far it is.

    Raises:
        InputError: unreadable input, or no set has a sequence that is long enough.
        ConfigError: no table, and not one class a file.
    """
    sets = load_dev(job.data)
    start = time.monotonic()
    if drawing is None:
        scored = score_records(scorer, sets, progress)
    else:
        drawn = dev_windows(split_by_target(sets), **asdict(drawing))
        scored = score_windows(scorer, drawn, progress)
    count = sum(len(s.labels) for s in scored)
    if not count:
        raise InputError(str(job.data.dev[0]), "no record is as long as the windows")
    seconds = time.monotonic() - start
    logger.info("scored %d sequences in %.1f s", count, seconds)
    leave_out = frozenset(job.evaluate.leave_out)
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
    return Report(facts, rows_of(scored, leave_out), curves_of(scored))
