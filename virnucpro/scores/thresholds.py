"""From probabilities to words: the user's thresholds, and the stretches that look viral."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

VIRUS, UNCERTAIN = "virus", "uncertain"
PresetName = Literal["conservative", "relaxed"]

VIRAL = 0.5
BRIDGED_CHUNKS = 1  # opposing chunks in a row that viral chunks on both sides bridge
# Chance of one false stretch in a contig that is not viral as a whole, if scores are calibrated.
FALSE_STRETCHES = 0.05
_LEAST = 1e-6
Window = tuple[int, int, float | None]  # of a chunk: start, end (nt), p_virus


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What a record must reach to be called a virus; without any, the model's own call stands."""

    min_score: float | None = None  # least `p_virus` of a virus; None leaves it to the model
    max_fdr: float | None = None  # greatest `fdr` of a virus
    # nothing becomes a virus that the model does not call one, such as a sequence unlike any in
    # training, however it scores
    only_stricter: bool = False

    def __post_init__(self) -> None:
        for name in ("min_score", "max_fdr"):
            value = getattr(self, name)
            if value is not None and not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} must lie between 0 and 1, got {value}")

    def call(self, model_call: str, p_virus: float, fdr: float) -> str:
        """The call of a scored record.

        What reaches `min_score` is a virus (unless `only_stricter`), and what the model calls
        one but does not reach it is uncertain. A virus above `max_fdr` becomes uncertain.
        """
        is_virus, is_low = model_call == VIRUS, False
        if self.min_score is not None:
            is_low = p_virus < self.min_score
            is_virus = is_virus or not (is_low or self.only_stricter)
        if not is_virus:
            return model_call
        return UNCERTAIN if is_low or (self.max_fdr is not None and fdr > self.max_fdr) else VIRUS


PRESETS: dict[PresetName, Thresholds] = {
    "conservative": Thresholds(min_score=0.9, max_fdr=0.05, only_stricter=True),
    "relaxed": Thresholds(min_score=0.5),
}


class Stretch(NamedTuple):
    """A stretch of a contig that looks viral; nt, 0-based, end excluded."""

    start: int
    end: int
    supporting: int  # chunks with p_virus above one half
    opposing: int  # chunks below that were bridged
    mean_p: float  # of all of them
    log_odds: float  # sum over all of them, the evidence for the whole stretch


def viral_stretches(windows: Sequence[Window], is_virus: bool) -> list[Stretch]:
    """Merge neighbouring viral chunks of a contig, which is called a virus or not, into stretches.

    Viral chunks (p_virus above one half) that follow each other among the scored chunks make
    one stretch; a single opposing chunk between two viral ones is bridged. In a contig that is
    called a virus every stretch counts. In any other the log-odds of a stretch must sum to at
    least ln(n / 0.05), n being the scored chunks of the contig: chance makes one such stretch in
    20 contigs.

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
        starts, ends, scores = zip(*scored[first : last + 1], strict=True)
        bounded = [min(max(p, _LEAST), 1 - _LEAST) for p in scores]
        log_odds = sum(math.log(p / (1 - p)) for p in bounded)
        if log_odds >= needed:
            supporting, n = sum(p > VIRAL for p in scores), len(scores)
            mean = sum(scores) / n
            found.append(Stretch(starts[0], max(ends), supporting, n - supporting, mean, log_odds))
    return found
