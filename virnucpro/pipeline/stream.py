"""Units of the input pass -> scores -> shards whose every ORF has its scores, in input order."""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from virnucpro.core.checkpoint import Ledger, Outputs
from virnucpro.core.device import device_name, usable_cpus
from virnucpro.core.errors import DamagedError, DeviceError, InputError, UsageError
from virnucpro.core.files import atomic_write
from virnucpro.core.records import Record, Status
from virnucpro.core.text import counted, duration, one_line
from virnucpro.engines.base import EngineOptions
from virnucpro.models.specs import ModelSpec
from virnucpro.pipeline import worker_loop
from virnucpro.pipeline.calls import Caller, ModelTables, Scores
from virnucpro.pipeline.input_pass import Rules, Shard, Unit, input_pass, read_inputs
from virnucpro.pipeline.inputs import read_sources, sampler
from virnucpro.pipeline.parallel_translate import FEWEST_WORKERS
from virnucpro.pipeline.persistent_pool import PersistentWorkerPool
from virnucpro.pipeline.run import CALLS, OF_SCORING, TABLES, Pace, Run, rate_keys, remember
from virnucpro.pipeline.settings import Compute, default_home
from virnucpro.pipeline.worker_loop import Done, Executor, Failed, InProcess, Job, OnRows
from virnucpro.reports.tables import CallRow
from virnucpro.scores.scorer import COLUMNS, LoadedModels, Scorer
from virnucpro.sequences.read_log import ReadLog

logger = logging.getLogger("virnucpro.pipeline")

DIRECT_ORFS = 2_000  # of a unit without files
# of a trial of float8: records, spread over the input, and as many ORFs, spread over theirs
SAMPLE, LEAST_SEQUENCES = 2_048, 512
LEAST_AGREEMENT = 0.999  # of the labels
LARGEST_DIFFERENCE = 0.02  # of a probability
Orfs = tuple[list[bytes], list[bytes]]  # DNA and protein of each
_NO_SCORES: Scores = np.empty((0, COLUMNS), np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreJob:
    """Score the distinct ORFs of a unit: a `Job`, see `Scorer`."""

    model: ModelSpec
    dna: EngineOptions
    protein: EngineOptions
    classifier_batch: int = 256

    def task(self, models: LoadedModels) -> Scorer:
        """The model on the device of `models`."""
        return Scorer(self.model, models, self.dna, self.protein, self.classifier_batch)


def score_job(model: ModelSpec, compute: Compute) -> ScoreJob:
    """The job of a run, wherever it is done."""
    options = EngineOptions(
        engine=None if compute.packing else "padded", dtype=compute.dtype,
        pin_memory=compute.pin_memory, plain_attention=compute.v1_attention,
    )  # fmt: skip
    return ScoreJob(
        model=model,
        dna=replace(options, token_budget=compute.dna_tokens),
        protein=replace(options, token_budget=compute.protein_tokens),
        classifier_batch=compute.classifier_batch,
    )


def unit_name(number: int, what: str = "scores") -> str:
    """The name in the ledger of a unit's scores, or of its `orfs`, for whoever scores them."""
    return f"{what} {number}"


class ScoreStore:
    """Scores of units in the ledger; where other hosts score them, so are their ORFs."""

    def __init__(self, ledger: Ledger, key: str) -> None:
        self.ledger, self.key = ledger, key

    def name(self, number: int, what: str = "scores") -> str:
        """What the entry of a unit is called where entries lie."""
        return self.ledger.name(unit_name(number, what), self.key)

    def read(self, number: int, size: int) -> tuple[Scores, dict[str, Any]] | None:
        """Scores of a finished unit, (size, `COLUMNS`), and what engines did, or None.

        A DamagedError if they are not what was committed.
        """
        if (entry := self.ledger.read(unit_name(number), self.key)) is None:
            return None
        if len(entry.payload) != size * COLUMNS * np.dtype("<f4").itemsize:
            if not self.ledger.repair:
                raise DamagedError(self.ledger.folder, f"unit {number} has another number of ORFs")
            self.ledger.discard(unit_name(number))
            return None
        scores = np.frombuffer(entry.payload, dtype="<f4")
        return scores.reshape(size, COLUMNS).astype(np.float32), entry.facts

    def commit(self, number: int, scores: Scores, stats: dict[str, Any] | None = None) -> bool:
        """Record scores, (n, `COLUMNS`), and what engines did; False where it had been done."""
        payload = scores.astype("<f4").tobytes()
        return self.ledger.commit(unit_name(number), self.key, payload, facts=stats)

    def commit_orfs(self, number: int, unit: Orfs) -> None:
        """Record DNA and protein of a unit's ORFs."""
        lines = b"\n".join([part for parts in unit for part in parts])
        self.ledger.commit(unit_name(number, "orfs"), self.key, zstandard.compress(lines, 1))

    def read_orfs(self, number: int) -> Orfs:
        """DNA and protein of a unit's ORFs; a DamagedError if they are not there and whole."""
        if (entry := self.ledger.read(unit_name(number, "orfs"), self.key)) is None:
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
    on_stats: Callable[[Any], object] = lambda stats: None,
    loads_first: bool = False,
) -> Iterator[tuple[Shard, Scores]]:
    """Score what `store` does not have yet, commit it there, and join scores to ORFs by row.

    Yields each shard with the scores of its ORFs, (orfs, `COLUMNS`); NaN where there is none.
    `on_rows` is told how many more ORFs are done, `on_stats` what the engines did so far, and
    `given_up` gets the units that could not be scored, each with the reason. `loads_first` loads
    models at once, not once the first unit is known to need them.
    """
    shards: deque[Shard] = deque()
    scores: dict[int, Scores] = {}
    sizes: dict[int, int] = {}

    def units() -> Iterator[tuple[int, Orfs | None]]:
        """Units, None for those that are scored; read in another thread, which sees shards."""
        if loads_first:
            yield worker_loop.LOAD_ONLY, None
        for event in events:
            if isinstance(event, Shard):
                shards.append(event)
                continue
            sizes[event.number] = len(event)
            known = store.read(event.number, len(event)) if store else None
            if known is None:
                yield event.number, (event.dna, event.protein)
            else:
                scores[event.number] = known[0]
                yield event.number, None

    def joined(shard: Shard) -> tuple[Shard, Scores]:
        parts = [scores.pop(number) for number, _ in shard.units]
        return shard, np.concatenate([*parts, _NO_SCORES])[shard.orfs["distinct"]]

    for outcome in executor.run(job, units(), on_rows):
        if isinstance(outcome, Failed):
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


class NoExecutor(InProcess):
    """Stands where units were scored elsewhere: what is not by now was given up, with a reason."""

    def __init__(self, reasons: dict[int, str]) -> None:
        super().__init__("cpu")
        self._reasons = reasons

    def run(
        self, job: Job, items: Iterable[worker_loop.Item], on_rows: OnRows
    ) -> Iterator[worker_loop.Outcome]:
        """See `Executor`; a UsageError for a unit that is not accounted for."""
        for key, unit in items:
            if unit is not None and key not in self._reasons:
                problem = f"unit {key} is not scored: inputs are not those that were planned"
                raise UsageError(f"{problem}; put them back, or `virnucpro plan --resume`")
            if key != worker_loop.LOAD_ONLY:
                yield Done(key) if unit is None else Failed(key, self._reasons[key])


class DirectScorer:
    """A model, loaded once on one device, without files: for a few thousand records."""

    def __init__(
        self, model: ModelSpec, device: str = "cpu", options: EngineOptions | None = None
    ) -> None:
        options = options or EngineOptions()
        self.model, self._job = model, ScoreJob(model=model, dna=options, protein=options)
        self._here = InProcess(device_name(device))
        self.executor: Executor = self._here
        rules = Rules(model.chunk_nt, model.orf_policy)
        self._pass = partial(input_pass, rules=rules, per_unit=DIRECT_ORFS)

    def score(self, records: Iterable[Record]) -> Iterator[CallRow]:
        """One row for every record, in order. Streams."""
        caller = Caller(self.model)
        for shard, scores in self.shards(records):
            yield from caller.call(shard, scores).rows

    def shards(self, records: Iterable[Record]) -> Iterator[tuple[Shard, NDArray[np.float32]]]:
        """Records, chunks and ORFs with the scores of each ORF, (orfs, `COLUMNS`)."""
        yield from scored_shards(self._pass(records), None, self.executor, self._job)

    def vectors(self, records: Iterable[Record]) -> Iterator[tuple[Shard, NDArray[np.float32]]]:
        """Records, chunks and ORFs with the merged vector of each ORF, shape (orfs, d)."""
        if self._job.protein.dtype == "fp8":
            raise UsageError("--precision fp8 is for predictions, which try it first; leave it out")
        task = self._job.task(self._here.models)
        parts = [np.empty((0, self.model.dim), dtype=np.float32)]
        for event in self._pass(records):
            if isinstance(event, Unit):
                parts.append(np.empty((len(event.dna), self.model.dim), dtype=np.float32))
                for _ in task.vectors(task.prepare((event.dna, event.protein)), parts[-1]):
                    pass
            else:
                yield event, np.concatenate(parts)[event.orfs["distinct"]]
                parts = parts[:1]


def try_fp8(run: Run, job: ScoreJob, executor: Executor) -> dict[str, Any]:
    """Score a sample of the run's own ORFs both ways; a UsageError if float8 changes too much."""
    wanted = min(run.settings.model.sample_n or SAMPLE, SAMPLE)
    rules = replace(run.rules, is_sampled=sampler(run.sources, wanted))
    records = read_sources(run.sources, ReadLog(is_silent=True))
    orfs, scores, step = list[tuple[bytes, bytes]](), [], 1
    for event in input_pass(records, rules, SAMPLE):
        if isinstance(event, Unit):
            orfs += [*zip(event.dna, event.protein, strict=True)][::step]
        if len(orfs) > 2 * SAMPLE:  # of genomes there are too many to keep
            orfs, step = orfs[::2], 2 * step
    rows = np.unique(np.linspace(0, len(orfs) - 1, min(len(orfs), SAMPLE)).astype(int)).tolist()
    unit = [orfs[row][0] for row in rows], [orfs[row][1] for row in rows]
    for dtype in ("float16", job.protein.dtype):
        trial = replace(job, protein=replace(job.protein, dtype=dtype))
        (outcome,) = executor.run(trial, [(0, unit)], lambda more: None)
        if not isinstance(outcome, Done):
            raise DeviceError(f"--precision fp8 could not be tried: {outcome.reason}; leave it out")
        scores.append(outcome.result[:, 1])
    found = agreement(*scores)
    logger.info(
        "--precision fp8 holds: of %(sequences)d ORFs scored both ways %(labels_agree).4f keep "
        "their label, and probabilities move by up to %(largest_difference).4f",
        found,
    )
    return found


def agreement(exact: NDArray[np.floating[Any]], fast: NDArray[np.floating[Any]]) -> dict[str, Any]:
    """How P(virus), (n,), by fast numbers agrees; a UsageError with the figures if not enough."""
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


def score_and_call(run: Run, executor: Executor | None) -> Outputs:
    """Records -> units -> scores -> calls of the model; commits what depends on no threshold."""
    paths, compute = run.paths, run.settings.compute
    input_bytes = sum(path.stat().st_size for source in run.sources for path in source.paths)
    job = score_job(run.model, compute)
    given_up: dict[int, str] = {}
    store = ScoreStore(run.ledger, run.key)
    device = run.devices[0]
    run.ledger.discard(CALLS, TABLES)  # tables of other scores would look like those of these
    with ExitStack() as stack:
        if executor is None:
            executor = make_executor(compute, store)
            stack.callback(executor.close)
        counts = stack.enter_context(run.stage("scoring"))
        bar = stack.enter_context(run.reporter.create_file_bar(None, "Scoring", "ORFs"))
        tables = stack.enter_context(ModelTables(paths, run.model, run.mates))
        if compute.dtype == "fp8":
            run.data["agreement"] = try_fp8(run, job, executor)
        log, pace = ReadLog(), Pace()
        scores_here = device == "cpu" and not isinstance(executor, NoExecutor)
        workers = 1 if scores_here and run.threads < FEWEST_WORKERS else run.threads
        ahead = [0]  # ORFs read so far, with which share of the input's bytes

        def read_ahead() -> Iterator[Unit | Shard]:
            for event in read_inputs(run.sources, run.rules, run.per_unit, workers, log):
                ahead[0] += len(event) if isinstance(event, Unit) else 0
                yield event

        def tell(rows: int) -> None:
            expected = ahead[0] * input_bytes // log.bytes_read if log.bytes_read else None
            bar.update(rows, expected)
            pace.tell(rows)

        loads_first = device != "cpu" and compute.executor == "local"
        scored = scored_shards(
            read_ahead(), store, executor, job, tell, given_up, run.note_engines,
            loads_first=loads_first and not run.settings.output.resume,
        )  # fmt: skip
        # This thread drives a GPU while another writes: one shard waits for it at most.
        with ThreadPoolExecutor(1, thread_name_prefix="tables") as writer:
            written: Future[None] = writer.submit(lambda: None)
            for shard, scores in scored:
                if device == "cpu":
                    tables.add(shard, scores)
                    continue
                written.result()
                written = writer.submit(tables.add, shard, scores)
            written.result()
        tables.finish()
        counts |= {**tables.counts, "gaps": log.gaps, "digits": log.digits, "blanks": log.blanks}
        names = ", ".join(name for source in run.sources for name in source.names)
        if not counts["records"]:
            logger.warning("no records in %s", names)
        elif counts.get(f"status:{Status.NOT_DNA}", 0) == counts["records"]:
            problem = "no record is DNA: over 10% of the letters are outside its alphabet"
            raise InputError(names, f"{problem}; give nucleotide sequences, not proteins")
    seconds = run.data["stages"]["scoring"]["seconds"]
    logger.info("Scored %s distinct ORFs in %s", f"{counts['embedded']:,}", duration(seconds))
    if rate := pace.rate(gpu_memory=run.data.get("gpu_bytes", 0)):
        chunk_nt = counts["nt"] / max(1, counts["chunks"])
        key, _ = rate_keys(run.model, run.devices, run.threads, chunk_nt)
        remember(run.settings.model.home or default_home(), key, rate)
    outputs = run.ledger.describe(paths.model_outputs)
    if not given_up:
        paths.failed_files.unlink(missing_ok=True)
        facts = {name: run.data[name] for name in OF_SCORING if name in run.data}
        run.ledger.commit(CALLS, run.calls_key, outputs=outputs, facts=facts)
        return outputs
    with atomic_write(paths.failed_files, "w") as file:  # lines `path|encoder or stage|reason`
        for unit, reason in sorted(given_up.items()):
            is_line = reason.count("|") >= 2
            *where, why = reason.split("|", 2) if is_line else (f"unit {unit}", "scoring", reason)
            file.write("|".join((*where, one_line(why))) + "\n")
        lost, orfs = len(tables.missing), sum(tables.missing.values())
        text = f"{counted(lost, 'record')} failed: {counted(orfs, 'ORF')} without a score"
        file.write(f"{paths.calls}|calls|{text}\n")
    return outputs


def make_executor(compute: Compute, store: ScoreStore | None = None) -> Executor:
    """Where units are scored: in this process, one a device, or in Ray, which shares `store`."""
    if compute.executor == "ray" and store is not None:
        from virnucpro.pipeline.ray_executor import RayExecutor

        return RayExecutor(compute, store)
    devices, threads = compute.devices, compute.threads or usable_cpus()
    if len(devices) == 1:
        return InProcess(devices[0], threads)
    unclear = replace(compute, cache_clear_interval=0)
    return PersistentWorkerPool(len(devices), "stream", compute=unclear)
