"""`--precision fp8`: what must hold before a run trusts float8 with its scores."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from virnucpro.core.errors import DeviceError, UsageError
from virnucpro.models.specs import ModelSpec
from virnucpro.pipeline.input_pass import Shard, Unit, input_pass
from virnucpro.pipeline.inputs import read_sources, sampler
from virnucpro.pipeline.run import Run
from virnucpro.pipeline.stream import ScoreJob
from virnucpro.pipeline.worker_loop import Done, Executor
from virnucpro.scores.scorer import LoadedModels, Scorer
from virnucpro.sequences.read_log import ReadLog

logger = logging.getLogger("virnucpro.pipeline")

SAMPLE = 2_048  # records, spread over the input, and of their ORFs as many, spread over those
LEAST_SEQUENCES = 512
LEAST_AGREEMENT = 0.999  # of the labels
LARGEST_DIFFERENCE = 0.02  # of a probability
_VIRUS = 1  # column of the scores


@dataclass(frozen=True, slots=True)
class TrialJob:
    """Score ORFs in float16 and as `job`, a run's own, does."""

    job: ScoreJob

    def task(self, models: LoadedModels) -> Trial:
        """Both protein encoders on the device of `models`."""
        trusted = replace(self.job, protein=replace(self.job.protein, dtype="float16"))
        return Trial(trusted.task(models), self.job.task(models))


class Trial:
    """A `Task` whose units are those of a `Scorer`; results are P(virus) of both, (2, n)."""

    def __init__(self, exact: Scorer, fast: Scorer) -> None:
        self._exact, self._fast = exact, fast
        self.prepare, self.stats = fast.prepare, fast.stats

    def load(self) -> None:
        """Load both; see `Scorer.load`."""
        self._exact.load()
        self._fast.load()

    def run(self, prepared: Any) -> Generator[int, None, NDArray[np.float32]]:
        """Score twice; yields signs of life, no rows: they are scored again in the run."""
        found = []
        for scorer in (self._exact, self._fast):
            steps = scorer.run(prepared)
            try:
                while True:
                    next(steps)
                    yield 0
            except StopIteration as end:
                found.append(end.value[:, _VIRUS])
        return np.stack(found)


def refuse_fp8(model: ModelSpec, device: str) -> None:
    """See that float8 can be tried at all; what only the device knows is seen when it loads.

    Raises:
        UsageError: no GPU, or a model without ESM-2.
    """
    if model.protein.kind != "esm2":
        problem = f"is for proteins by ESM-2, and {model.name} has another encoder"
        raise UsageError(f"--precision fp8 {problem}; leave it out, or use -m 300 or -m 500")
    if not device.startswith("cuda"):
        raise UsageError(f"--precision fp8 needs an H100 or later, not {device}; leave it out")


def try_fp8(run: Run, job: ScoreJob, executor: Executor) -> dict[str, Any]:
    """Score a sample of the run's own ORFs both ways; what came of it, for run.json.

    Raises:
        UsageError: float8 does not run there, or changes too much; says the figures.
    """
    wanted = min(run.settings.model.sample_n or SAMPLE, SAMPLE)
    rules = replace(run.rules, is_sampled=sampler(run.sources, wanted))
    records = read_sources(run.sources, ReadLog(is_silent=True))
    found = compare(job, executor, input_pass(records, rules, SAMPLE))
    logger.info(
        "--precision fp8 holds: of %(sequences)d ORFs scored both ways %(labels_agree).4f keep "
        "their label, and probabilities move by up to %(largest_difference).4f",
        found,
    )
    return found


def compare(job: ScoreJob, executor: Executor, events: Iterable[Unit | Shard]) -> dict[str, Any]:
    """As `try_fp8`, with ORFs from the first shard of `events`."""
    dna: list[bytes] = []
    protein: list[bytes] = []
    for event in events:
        if isinstance(event, Shard):
            break
        dna += event.dna
        protein += event.protein
    rows = np.unique(np.linspace(0, len(dna) - 1, min(len(dna), SAMPLE)).astype(int)).tolist()
    unit = [dna[row] for row in rows], [protein[row] for row in rows]
    (outcome,) = executor.run(TrialJob(job), [(0, unit)], lambda more: None)
    if not isinstance(outcome, Done):
        raise DeviceError(f"--precision fp8 could not be tried: {outcome.reason}; leave it out")
    exact, fast = outcome.result
    return agreement(exact, fast)


def agreement(exact: NDArray[np.floating[Any]], fast: NDArray[np.floating[Any]]) -> dict[str, Any]:
    """Compare P(virus) of the same sequences by trusted and by fast numbers, both (n,).

    A UsageError with the figures where they are too few, or do not agree well enough.
    """
    if len(exact) < LEAST_SEQUENCES:
        need = f"{LEAST_SEQUENCES} sequences scored both ways, and there are {len(exact)}"
        raise UsageError(f"--precision fp8 is trusted after {need}; leave it out")
    agree = float(np.mean((exact >= 0.5) == (fast >= 0.5)))
    largest = float(np.abs(exact - fast).max())
    if not (agree >= LEAST_AGREEMENT and largest <= LARGEST_DIFFERENCE):
        raise UsageError(
            f"--precision fp8 changes too much here: of {len(exact)} sequences {agree:.2%} keep "
            f"their label ({LEAST_AGREEMENT:.1%} must) and probabilities move by up to "
            f"{largest:.3f} ({LARGEST_DIFFERENCE} may); leave it out"
        )
    return {"sequences": len(exact), "labels_agree": agree, "largest_difference": largest}
