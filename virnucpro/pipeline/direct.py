"""The same calls without files, for a few thousand records: training, `virnucpro.embed`, tests."""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from virnucpro.core.device import device_name
from virnucpro.core.records import Record
from virnucpro.engines.base import EngineOptions
from virnucpro.models.specs import ModelSpec
from virnucpro.pipeline.calls import Caller
from virnucpro.pipeline.input_pass import Rules, Shard, Unit, input_pass
from virnucpro.pipeline.stream import ScoreJob, compare, refuse_fp8, scored_shards
from virnucpro.pipeline.worker_loop import Executor, InProcess
from virnucpro.reports.tables import CallRow
from virnucpro.scores.scorer import finished

PER_UNIT = 2_000


class DirectScorer:
    """A model, loaded once on one device; DeviceError and ModelError tell what is missing."""

    def __init__(
        self,
        model: ModelSpec,
        device: str = "cpu",
        options: EngineOptions | None = None,
        executor: Executor | None = None,
    ) -> None:
        self.model = model
        options = options or EngineOptions()
        self._job = ScoreJob(model=model, dna=options, protein=options)
        self._device = device_name(device)
        self._executor = executor or InProcess(self._device)

    def score(self, records: Iterable[Record]) -> Iterator[CallRow]:
        """One row for every record, in order. Streams."""
        caller = Caller(self.model)
        for shard, scores in self.shards(records):
            yield from caller.call(shard, scores).rows

    def shards(self, records: Iterable[Record]) -> Iterator[tuple[Shard, NDArray[np.float32]]]:
        """Records, chunks and ORFs with the scores of each ORF, (orfs, `COLUMNS`)."""
        yield from scored_shards(self._events(records), None, self._executor, self._job)

    def vectors(self, records: Iterable[Record]) -> Iterator[tuple[Shard, NDArray[np.float32]]]:
        """Records, chunks and ORFs with the merged vector of each ORF, shape (orfs, d)."""
        executor = InProcess(self._device)
        if self._job.protein.dtype == "fp8":
            refuse_fp8(self.model, self._device)
            records = list(records)
            compare(self._job, executor, self._events(records))
        task = self._job.task(executor.models)
        parts = [np.empty((0, self.model.dim), dtype=np.float32)]
        for event in self._events(records):
            if isinstance(event, Unit):
                parts.append(finished(task.vectors(task.prepare((event.dna, event.protein)))))
            else:
                yield event, np.concatenate(parts)[event.orfs["distinct"]]
                parts = parts[:1]

    def _events(self, records: Iterable[Record]) -> Iterator[Unit | Shard]:
        rules = Rules(self.model.chunk_nt, self.model.orf_policy)
        return input_pass(records, rules, PER_UNIT)
