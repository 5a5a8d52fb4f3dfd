"""Units of the input pass -> scores -> shards whose every ORF has its scores, in input order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from virnucpro.core.checkpoint import Ledger
from virnucpro.core.errors import DamagedError, UsageError
from virnucpro.models.specs import ModelSpec
from virnucpro.pipeline.input_pass import Shard, Unit
from virnucpro.pipeline.settings import Compute
from virnucpro.pipeline.worker_loop import (
    LOAD_ONLY,
    Done,
    Executor,
    GivenUp,
    Item,
    Job,
    OnRows,
    Outcome,
)
from virnucpro.scores.scorer import COLUMNS, EmbeddingOptions, LoadedModels, Scorer

Scores = NDArray[np.float32]
Orfs = tuple[list[bytes], list[bytes]]  # DNA and protein of each
_NO_SCORES: Scores = np.empty((0, COLUMNS), np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreJob:
    """Score the distinct ORFs of a unit; see `Scorer`."""

    model: ModelSpec
    dna: EmbeddingOptions
    protein: EmbeddingOptions
    classifier_batch: int = 256

    def task(self, models: LoadedModels) -> Scorer:
        """See `Job`."""
        return Scorer(self.model, models, self.dna, self.protein, self.classifier_batch)


def score_job(model: ModelSpec, compute: Compute) -> ScoreJob:
    """The job of a run, wherever it is done."""
    options = EmbeddingOptions(
        engine=None if compute.packing else "padded", dtype=compute.dtype,
        pin_memory=compute.pin_memory, plain_attention=compute.v1_attention,
    )  # fmt: skip
    return ScoreJob(
        model=model,
        dna=replace(options, token_budget=compute.dna_tokens),
        protein=replace(options, token_budget=compute.protein_tokens),
        classifier_batch=compute.classifier_batch,
    )


def unit_name(number: int) -> str:
    """The name of a unit of scores in the ledger."""
    return f"scores {number}"


def orfs_name(number: int) -> str:
    """The name in the ledger of a unit's ORFs, for whoever scores it elsewhere."""
    return f"orfs {number}"


class ScoreStore:
    """Scores of units in the ledger, as `Scorer.run` gives them: float32, row by row.

    Where other hosts score them, so are their ORFs.
    """

    def __init__(self, ledger: Ledger, key: str) -> None:
        self.ledger, self.key = ledger, key

    def read(self, number: int, size: int) -> Scores | None:
        """The scores of a finished unit, shape (size, `COLUMNS`); None where it is not finished.

        Raises:
            DamagedError: they are not what was committed, and repair was not asked for.
        """
        entry = self.ledger.read(unit_name(number), self.key)
        if entry is None:
            return None
        if len(entry.payload) != size * COLUMNS * np.dtype("<f4").itemsize:
            if not self.ledger.repair:
                raise DamagedError(self.ledger.folder, f"unit {number} has another number of ORFs")
            self.ledger.discard(unit_name(number))
            return None
        scores = np.frombuffer(entry.payload, dtype="<f4")
        return scores.reshape(size, COLUMNS).astype(np.float32)

    def commit(self, number: int, scores: Scores) -> bool:
        """Record the scores of a unit, shape (n, `COLUMNS`); False where somebody had done it."""
        return self.ledger.commit(unit_name(number), self.key, scores.astype("<f4").tobytes())

    def commit_orfs(self, number: int, unit: Orfs) -> None:
        """Record DNA and protein of a unit's ORFs, for whoever scores it."""
        lines = b"\n".join([part for parts in unit for part in parts])
        self.ledger.commit(orfs_name(number), self.key, zstandard.compress(lines, 1))

    def read_orfs(self, number: int) -> Orfs:
        """DNA and protein of a unit's ORFs.

        Raises:
            DamagedError: they are not there, or not what was committed.
        """
        entry = self.ledger.read(orfs_name(number), self.key)
        if entry is None:
            raise DamagedError(self.ledger.folder, f"unit {number} has no ORFs")
        lines = zstandard.decompress(entry.payload).split(b"\n")
        return lines[: len(lines) // 2], lines[len(lines) // 2 :]


def scored_shards(
    events: Iterable[Unit | Shard],
    store: ScoreStore | None,
    executor: Executor,
    job: ScoreJob,
    on_rows: OnRows = lambda rows: None,
    given_up: dict[int, str] | None = None,
    on_stats: Callable[[Mapping[str, Any]], object] = lambda stats: None,
    loads_first: bool = False,
) -> Iterator[tuple[Shard, Scores]]:
    """Score what is not scored yet, and join scores to ORFs by their rows.

    Args:
        events: of the input pass.
        store: finished units; new ones are committed as they come. None keeps nothing.
        executor: does the work.
        job: what it does.
        on_rows: told how many more ORFs are done.
        given_up: gets the units that could not be scored, each with the reason.
        on_stats: told what the engines did so far, by slot, after each unit.
        loads_first: load models at once, not once the first unit is known to need them.

    Yields:
        Each shard with the scores of its ORFs, shape (orfs, `COLUMNS`); NaN where there is none.
    """
    shards: deque[Shard] = deque()
    scores: dict[int, Scores] = {}
    sizes: dict[int, int] = {}

    def units() -> Iterator[tuple[int, Orfs | None]]:
        """Units, None for those that are scored; read in another thread, which sees shards."""
        if loads_first:
            yield LOAD_ONLY, None
        for event in events:
            if isinstance(event, Shard):
                shards.append(event)
                continue
            sizes[event.number] = len(event)
            known = store.read(event.number, len(event)) if store else None
            if known is not None:
                scores[event.number] = known
            yield event.number, None if known is not None else (event.dna, event.protein)

    def joined(shard: Shard) -> tuple[Shard, Scores]:
        parts = [scores.pop(number) for number, _ in shard.units]
        return shard, np.concatenate([*parts, _NO_SCORES])[shard.orfs["distinct"]]

    for outcome in executor.run(job, units(), on_rows):
        if isinstance(outcome, GivenUp):
            if given_up is not None:
                given_up[outcome.key] = outcome.reason
            scores[outcome.key] = np.full((sizes[outcome.key], COLUMNS), np.nan, np.float32)
        elif outcome.result is None:  # known before; its shard may be gone already
            on_rows(sizes[outcome.key])
        else:
            scores[outcome.key] = outcome.result
            on_stats(outcome.stats)
            if store:
                store.commit(outcome.key, outcome.result)
        while shards and all(number in scores for number, _ in shards[0].units):
            yield joined(shards.popleft())
    while shards:
        yield joined(shards.popleft())


class NoExecutor:
    """Stands where units were scored elsewhere: what is not scored by now was given up.

    Args:
        reasons: why, by unit; those that are in no other way accounted for raise a UsageError.
    """

    loads = 0

    def __init__(self, reasons: dict[int, str]) -> None:
        self._reasons = reasons

    def run(self, job: Job, items: Iterable[Item], on_rows: OnRows) -> Iterator[Outcome]:
        """See `Executor`."""
        for key, unit in items:
            if unit is None:
                yield Done(key, None, {}, 0)
            elif key in self._reasons:
                yield GivenUp(key, self._reasons[key])
            else:
                problem = f"unit {key} is not scored: inputs or settings are others by now"
                raise UsageError(f"{problem}; plan again")

    def close(self) -> None:
        """Nothing to give back."""
