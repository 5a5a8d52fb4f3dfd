"""Chunk scores along a contig -> stretches that look viral.

A virus inside a chromosome (a provirus) is a run of viral chunks in a contig that is not viral
as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

VIRAL = 0.5
BRIDGED_CHUNKS = 1  # opposing chunks in a row that viral chunks on both sides bridge
# Chance of one false stretch in a contig that is not viral as a whole, if scores are calibrated.
FALSE_STRETCHES = 0.05
_LEAST = 1e-6

Window = tuple[int, int, float | None]  # of a chunk: start, end (nt), p_virus


@dataclass(frozen=True, slots=True)
class Stretch:
    """A stretch of a contig that looks viral; nt, 0-based, end excluded."""

    start: int
    end: int
    supporting: int  # chunks with p_virus above one half
    opposing: int  # chunks below that were bridged
    mean_p: float  # of all of them
    log_odds: float  # sum over all of them, the evidence for the whole stretch


def viral_stretches(windows: Sequence[Window], is_virus: bool) -> list[Stretch]:
    """Merge neighbouring viral chunks into stretches.

    Viral chunks (p_virus above one half) that follow each other among the scored chunks make
    one stretch; a single opposing chunk between two viral ones is bridged. In a contig that is
    called a virus every stretch counts. In any other the log-odds of a stretch must sum to at
    least ln(n / 0.05), n being the scored chunks of the contig: chance makes one such stretch in
    20 contigs.

    Args:
        windows: the chunks of one contig, in order; those without a score are passed over.
        is_virus: whether the contig is called a virus.

    >>> track = [(500 * i, 500 * i + 500, p) for i, p in enumerate([.1, .9, .4, .99])]
    >>> [(s.start, s.end, s.opposing) for s in viral_stretches(track, is_virus=True)]
    [(500, 2000, 1)]
    """
    scored = [(start, end, p) for start, end, p in windows if p is not None]
    needed = -math.inf if is_virus else math.log(max(len(scored), 1) / FALSE_STRETCHES)
    runs: list[tuple[int, int]] = []
    for i, (_, _, p) in enumerate(scored):
        if p <= VIRAL:
            continue
        if runs and i - runs[-1][1] <= BRIDGED_CHUNKS + 1:
            runs[-1] = (runs[-1][0], i)
        else:
            runs.append((i, i))
    found = []
    for first, last in runs:
        inside = scored[first : last + 1]
        scores = [p for _, _, p in inside]
        bounded = [min(max(p, _LEAST), 1 - _LEAST) for p in scores]
        log_odds = sum(math.log(p / (1 - p)) for p in bounded)
        if log_odds >= needed:
            supporting = sum(p > VIRAL for p in scores)
            found.append(
                Stretch(
                    inside[0][0], max(end for _, end, _ in inside), supporting,
                    len(scores) - supporting, sum(scores) / len(scores), log_odds,
                )
            )  # fmt: skip
    return found
