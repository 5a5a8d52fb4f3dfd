"""Chunk scores along a contig -> stretches that look viral.

Room 6 (merged rows -> calls). A virus inside a chromosome (a provirus) is a run of viral chunks
in a contig that is not viral as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

VIRAL = 0.5
# Opposing chunks in a row that viral chunks on both sides bridge.
BRIDGED_CHUNKS = 1
# Chance of one false stretch in a contig that is not viral as a whole, if scores are calibrated.
FALSE_STRETCHES = 0.05
_LEAST = 1e-6


@dataclass(frozen=True, slots=True)
class ScoredWindow:
    """A scored chunk: its place (nt in the contig, 0-based, end excluded) and P(virus)."""

    start: int
    end: int
    p_virus: float


@dataclass(frozen=True, slots=True)
class Stretch:
    """A stretch of a contig that looks viral.

    Attributes:
        start: first base in the contig, 0-based.
        end: one past the last.
        supporting: chunks with p_virus above one half.
        opposing: chunks below that were bridged.
        mean_p: mean p_virus of all of them.
        log_odds: sum of their log-odds, the evidence for the whole stretch.
    """

    start: int
    end: int
    supporting: int
    opposing: int
    mean_p: float
    log_odds: float


def viral_stretches(windows: Sequence[ScoredWindow], is_virus: bool) -> list[Stretch]:
    """Merge neighbouring viral chunks into stretches.

    Viral chunks (p_virus above one half) that follow each other among the scored chunks make
    one stretch; a single opposing chunk between two viral ones is bridged. In a contig that is
    called a virus every stretch counts. In any other the log-odds of a stretch must sum to at
    least ln(n / 0.05), n being the scored chunks of the contig: chance makes one such stretch in
    20 contigs.

    Args:
        windows: the scored chunks of one contig, in order.
        is_virus: whether the contig is called a virus.

    >>> track = [ScoredWindow(500 * i, 500 * i + 500, p) for i, p in enumerate([.1, .9, .4, .99])]
    >>> [(s.start, s.end, s.opposing) for s in viral_stretches(track, is_virus=True)]
    [(500, 2000, 1)]
    """
    needed = -math.inf if is_virus else math.log(max(len(windows), 1) / FALSE_STRETCHES)
    viral = [i for i, window in enumerate(windows) if window.p_virus > VIRAL]
    runs: list[tuple[int, int]] = []
    for i in viral:
        if runs and i - runs[-1][1] <= BRIDGED_CHUNKS + 1:
            runs[-1] = (runs[-1][0], i)
        else:
            runs.append((i, i))
    found = [_stretch(windows[first : last + 1]) for first, last in runs]
    return [stretch for stretch in found if stretch.log_odds >= needed]


def _stretch(windows: Sequence[ScoredWindow]) -> Stretch:
    scores = [window.p_virus for window in windows]
    supporting = sum(p > VIRAL for p in scores)
    clipped = [min(max(p, _LEAST), 1 - _LEAST) for p in scores]
    return Stretch(
        start=windows[0].start,
        end=max(window.end for window in windows),
        supporting=supporting,
        opposing=len(scores) - supporting,
        mean_p=sum(scores) / len(scores),
        log_odds=sum(math.log(p / (1 - p)) for p in clipped),
    )
