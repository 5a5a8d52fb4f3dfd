"""All that happens in one prediction.

Records are read, cut and translated, distinct ORFs are scored in units, and tables are written of
their rows. The staged path scores the same units through files, into the same ledger.
"""

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Literal

from virnucpro.core.checkpoint import Outputs
from virnucpro.core.device import detect_cuda_devices, usable_cpus
from virnucpro.core.errors import InputError, WorkersFailedError
from virnucpro.core.files import digest_of, read_json
from virnucpro.core.processes import at_most_threads
from virnucpro.core.records import Status
from virnucpro.core.text import clipped, duration
from virnucpro.pipeline.calls import Called, ModelTables
from virnucpro.pipeline.features import (
    EmbedJob,
    SplitFile,
    read_dna_features,
    vectors_by_file,
    write_dna_features,
    write_protein_features,
)
from virnucpro.pipeline.final_tables import write_final_tables
from virnucpro.pipeline.input_pass import Shard, Unit
from virnucpro.pipeline.inputs import check_inputs, shown_name
from virnucpro.pipeline.multi_gpu_inference import run_multi_gpu_inference
from virnucpro.pipeline.output_dir import (
    check_free,
    default_output_dir,
    remove_intermediates,
    working_in,
)
from virnucpro.pipeline.parallel_translate import FEWEST_WORKERS
from virnucpro.pipeline.persistent_pool import BatchQueueManager, PersistentWorkerPool
from virnucpro.pipeline.rates import Pace, rate_keys, remember
from virnucpro.pipeline.run import (
    CALLS,
    INPUTS,
    OF_SCORING,
    REPORT,
    TABLES,
    Run,
    choose_model,
    prepare,
    record_failures,
    summary_lines,
)
from virnucpro.pipeline.runtime_config import RuntimeConfig
from virnucpro.pipeline.settings import Compute, PredictionSettings, default_home
from virnucpro.pipeline.side_by_side import read_inputs
from virnucpro.pipeline.staged import classify, merge, staged_files, written_units
from virnucpro.pipeline.stream import (
    NoExecutor,
    ScoreStore,
    refuse_fp8,
    score_job,
    scored_shards,
    try_fp8,
)
from virnucpro.pipeline.worker_loop import Executor, InProcess
from virnucpro.reports.explain import advice
from virnucpro.reports.html import write_report
from virnucpro.scores.scorer import EmbeddingOptions
from virnucpro.sequences.fasta import read_fasta
from virnucpro.sequences.read_log import ReadLog

logger = logging.getLogger("virnucpro.pipeline")

Slot = Literal["dna", "protein"]
TITLES: dict[Slot, str] = {"dna": "Embedding DNA", "protein": "Embedding proteins"}
LABELS: dict[Slot, str] = {"dna": "DNABERT-S", "protein": "ESM-2"}
DONE, PARTIAL = 0, 6


def run_prediction(
    input_files: Sequence[Path],
    output_dir: Path | None = None,
    settings: PredictionSettings | None = None,
    persistent_models: bool = False,
    use_v2_architecture: bool = False,
    runtime_config: RuntimeConfig | None = None,
    executor: Executor | None = None,
) -> int:
    """Call every record of `input_files`; results lie in `output_dir`.

    Args:
        input_files: FASTA or FASTQ, plain or compressed; `-` is standard input.
        output_dir: None means `{stem}_predictions` in the current directory.
        settings: model, computing and output; None means the defaults.
        persistent_models: keep encoders loaded in worker processes between stages.
        use_v2_architecture: embed proteins with the packed engine, one process per GPU.
        runtime_config: how the packed engine runs; None means the defaults.
        executor: scores units, and stays as it is; None makes one for this run.

    Returns:
        Exit code: 0 done, 6 done but for the records named in failed_files.txt.
    """
    settings = settings or PredictionSettings()
    compute = settings.compute
    out = Path(output_dir) if output_dir is not None else default_output_dir(input_files)
    is_staged = compute.staged or use_v2_architecture or persistent_models
    read = [*input_files, *filter(None, [settings.inputs.reference])]
    check_inputs(read)
    logger.info("Input: %s", clipped(", ".join(shown_name(str(path)) for path in input_files)))
    model = choose_model(settings.model)
    if compute.dtype == "fp8":
        refuse_fp8(model, compute.devices[0])
    keeps_light = model.is_small and not use_v2_architecture and not persistent_models
    needs_torch = not keeps_light or compute.devices != ("cpu",)
    if needs_torch:
        import torch  # noqa: F401 - where it is missing, say so before anything is touched
    with working_in(out, settings.output.resume, settings.output.force, read):
        run = prepare(input_files, out, model, settings)
        calls = run.ledger.read(CALLS, run.calls_key)
        tables = run.ledger.read(TABLES, run.tables_key)
        if calls and tables:
            run.report.data = tables.facts["run"]
            if read_json(run.paths.run_json) != run.report.data:
                run.report.save()
            logger.info("Already complete: %s", out)
            claim_outputs(run)
            _leave_whole(run)
            return DONE
        claim_outputs(run, is_staged)
        run.report.save()
        if calls:
            run.report.data |= calls.facts
            _write_tables(run, calls.outputs)
        else:
            with at_most_threads(run.threads, needs_torch):
                if is_staged:
                    executor = NoExecutor(
                        _score_staged(run, use_v2_architecture, persistent_models, runtime_config)
                    )
                _write_tables(run, _score_and_call(run, executor))
        is_partial = run.paths.failed_files.exists()
        _leave_whole(run, is_partial)
        for line in summary_lines(out, run.report.data):
            logger.info("%s", line)
        return PARTIAL if is_partial else DONE


def _score_and_call(run: Run, executor: Executor | None) -> Outputs:
    """Records -> units -> scores -> calls of the model; commits what depends on no threshold."""
    paths, compute = run.paths, run.settings.compute
    input_bytes = run.input_bytes
    job = score_job(run.model, compute)
    given_up: dict[int, str] = {}
    missing: dict[str, int] = {}
    store = ScoreStore(run.ledger, run.key)
    device = run.devices[0]
    run.ledger.discard(CALLS)
    with ExitStack() as stack:
        if executor is None:
            executor = make_executor(compute, store)
            stack.callback(executor.close)
        counts = stack.enter_context(run.report.stage("scoring"))
        bar = stack.enter_context(run.reporter.create_file_bar(None, "Scoring", "ORFs"))
        tables = stack.enter_context(ModelTables(paths, run.model, run.mates))
        if compute.dtype == "fp8":
            run.report.data["agreement"] = try_fp8(run, job, executor)
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
            read_ahead(), store, executor, job, tell, given_up, run.report.note_engines,
            loads_first=loads_first and not run.settings.output.resume,
        )  # fmt: skip
        # This thread drives a GPU while another writes: one shard waits for it at most.
        with ThreadPoolExecutor(1, thread_name_prefix="tables") as writer:
            written: Future[Called] | None = None
            for shard, scores in scored:
                if device == "cpu":
                    missing |= tables.add(shard, scores).missing
                    continue
                if written is not None:
                    missing |= written.result().missing
                written = writer.submit(tables.add, shard, scores)
        if written is not None:
            missing |= written.result().missing
        tables.finish()
        counts |= {**tables.counts, "gaps": log.gaps, "digits": log.digits, "blanks": log.blanks}
        names = ", ".join(name for source in run.sources for name in source.names)
        if not counts["records"]:
            logger.warning("no records in %s", names)
        elif counts.get(f"status:{Status.NOT_DNA}", 0) == counts["records"]:
            raise InputError(
                names,
                "no record is DNA: over 10% of the letters are outside its alphabet; "
                "give nucleotide sequences, not proteins",
            )
    seconds = run.report.data["stages"]["scoring"]["seconds"]
    logger.info("Scored %s distinct ORFs in %s", f"{counts['embedded']:,}", duration(seconds))
    if rate := pace.rate(gpu_memory=run.report.data.get("gpu_bytes", 0)):
        chunk_nt = counts["nt"] / max(1, counts["chunks"])
        key, _ = rate_keys(run.model, run.devices, run.threads, chunk_nt)
        remember(run.settings.model.home or default_home(), key, rate)
    record_failures(paths, given_up, missing)
    outputs = run.ledger.describe(paths.model_outputs)
    if not given_up:
        data = run.report.data
        facts = {name: data[name] for name in OF_SCORING if name in data}
        run.ledger.commit(CALLS, run.calls_key, outputs=outputs, facts=facts)
    return outputs


def make_executor(compute: Compute, store: ScoreStore | None = None) -> Executor:
    """Where units are scored: in this process, one a device, or in Ray, which shares `store`."""
    if compute.executor == "ray" and store is not None:
        from virnucpro.pipeline.ray_executor import RayExecutor

        return RayExecutor(compute, store)
    devices, threads = compute.devices, compute.threads or usable_cpus()
    if len(devices) == 1:
        return InProcess(devices[0], threads)
    return _workers(replace(compute, cache_clear_interval=0), threads, "stream")


def _write_tables(run: Run, model_outputs: Outputs) -> None:
    """Apply the thresholds, write the final tables, and close the run."""
    run.ledger.discard(TABLES, REPORT)
    with run.report.stage("tables") as counts:
        try:
            found, run.report.data["sample_summary"] = write_final_tables(run)
        except InputError:  # an input changed: what was made of it stays only in a finished run
            if not run.paths.calls.exists():
                run.ledger.discard(CALLS)
                for path in run.paths.model_outputs:
                    path.unlink(missing_ok=True)
            raise
        counts |= found
    if any(sample["note"] for sample in run.report.data["sample_summary"]):
        run.report.data["advice"] = advice(run.report.data["command"])
    outputs = run.ledger.describe(run.tables)
    run.report.finish(run.paths.failed_files.exists(), model_outputs | outputs)
    run.ledger.commit(TABLES, run.tables_key, outputs=outputs, facts={"run": run.report.data})


def _leave_whole(run: Run, is_partial: bool = False) -> None:
    """Remove what only the stages needed; make the report, where it is missing and asked for."""
    if not is_partial and not run.settings.output.keep_intermediate:
        remove_intermediates(run.ledger, [*run.results, *run.pages])
        run.ledger.keep_only(INPUTS, CALLS, TABLES, REPORT)
    is_asked = run.settings.output.report
    if is_asked and run.ledger.read(REPORT, run.tables_key, repair=True) is None:
        run.ledger.discard(REPORT)
        write_report(run.paths.output_dir)
        run.ledger.commit(REPORT, run.tables_key, outputs=run.pages)


def claim_outputs(run: Run, is_staged: bool = False) -> None:
    """Say which files are ours now, not after hours of work."""
    if is_staged:
        check_free(run.ledger, staged_files(run))
    pages = run.pages if run.settings.output.report else []
    run.claim(run.paths.failed_files, *run.results, *pages)


def _score_staged(
    run: Run, use_v2: bool, persistent_models: bool, config: RuntimeConfig | None
) -> dict[int, str]:
    """Score every unit through feature and merged files; the reasons of those that it could not.

    A WorkersFailedError if the packed engine gave work up, a DamagedError for a changed file.
    """
    store, failures = ScoreStore(run.ledger, run.key), dict[int, str]()
    sizes = written_units(run)
    todo = [n for n, size in enumerate(sizes, 1) if store.read(n - 1, size) is None]
    if not todo:
        return {}
    with ExitStack() as stack:
        pool = None
        if persistent_models:
            pool = _workers(run.settings.compute, run.threads, run.model.name)
            stack.enter_context(pool).create_pool()
        # Stage 5: DNA vectors (DNABERT-S, or the small model's DNA encoder)
        with run.report.stage("dna_features") as counts:
            if use_v2 and run.settings.compute.dnabert_v2:
                counts |= _packed(run, "dna", todo, sizes, config)
            else:
                counts |= _file_wise(run, "dna", todo, sizes, pool, failures)
        # Stage 6: protein vectors (ESM-2, or the small model's protein encoder)
        with run.report.stage("protein_features") as counts:
            if use_v2:
                logger.info("ESM-2: Using v2.0 async architecture")
                counts |= _packed(run, "protein", todo, sizes, config)
                logger.info("v2.0 ESM-2 complete: %d feature files created", counts["files"])
            else:
                counts |= _file_wise(run, "protein", todo, sizes, pool, failures)
    with run.report.stage("merging") as counts:
        counts |= merge(run, todo, failures)
    with run.report.stage("prediction") as counts:
        counts |= classify(run, store, [n for n in todo if n - 1 not in failures], sizes)
    return failures


def _file_wise(
    run: Run, slot: Slot, todo: Sequence[int], sizes: Sequence[int],
    pool: PersistentWorkerPool | None, failures: dict[int, str],
) -> dict[str, int]:  # fmt: skip
    """v1: one split file after another goes to a worker on each device, in padded batches."""
    paths, compute = run.paths, run.settings.compute
    budget, spec = compute.token_budget(slot), getattr(run.model, slot)
    options = EmbeddingOptions(engine="padded", dtype=compute.dtype, token_budget=budget)
    units = _to_make(run, slot, todo, "file-wise")
    split, out = paths.split_of, paths.features_of
    files = {
        SplitFile(input_file=split(slot, n), output_file=out(slot, n), layout=slot): n
        for n in units
    }
    own: Executor = InProcess("cpu", run.threads, compute.cache_clear_interval)
    if run.devices != ("cpu",):
        own = _workers(compute, run.threads, run.model.name)
    queue = BatchQueueManager(own, use_persistent_pool=pool, progress=run.reporter)
    result = queue.process(
        EmbedJob(spec, options), list(files), sum(sizes[n - 1] for n in units),
        lambda file: _commit(run, slot, files[file], units), TITLES[slot],
    )  # fmt: skip
    for file, reason in result.failed.items():
        failures[files[file] - 1] = f"{file.input_file}|{LABELS[slot]}|{reason}"
    if result.engine:
        run.report.note_engines({slot: result.engine})
    counts = {"files": len(files) - len(result.failed), "kept": len(todo) - len(files)}
    return {**counts, "failed": len(result.failed), "tokens": result.tokens}


def _packed(
    run: Run, slot: Slot, todo: Sequence[int], sizes: Sequence[int], config: RuntimeConfig | None
) -> dict[str, int]:
    """v2: all files at once, packed, one process per GPU; then vectors back to their files."""
    paths, compute = run.paths, run.settings.compute
    config, spec = config or RuntimeConfig(), getattr(run.model, slot)
    shards = config.checkpoint_dir or paths.checkpoints
    units = _to_make(run, slot, todo, "packed")
    if not units:
        return {"files": 0, "kept": len(todo)}
    folder = paths.output_dir / ("esm_v2" if slot == "protein" else "dnabert_v2")
    num_gpus = compute.ranks or len(config.devices) or len(detect_cuda_devices()) or 1
    logger.info("%s: %d ranks", spec.name, num_gpus)
    check_free(run.ledger, [shards / f"{folder.name}_shards"])
    logs = [folder / "logs" / f"worker_{rank}.log" for rank in range(num_gpus)]
    run.claim(folder / "embeddings.h5", folder / "stage.json", *logs)
    folder.mkdir(exist_ok=True)
    model_config = {
        "model_type": "esm2" if slot == "protein" else "dnabert",
        "model_name": spec.name,
        "enable_fp16": compute.dtype in ("auto", "float16"),
        "encoder_spec": spec,
    }
    files = [paths.split_of(slot, n) for n in units]
    with run.reporter.create_file_bar(sum(sizes), TITLES[slot], "ORFs") as bar:
        h5_path, failed_ranks = run_multi_gpu_inference(
            fasta_files=files,
            output_dir=folder,
            model_config=model_config,
            world_size=num_gpus,
            runtime_config=replace(config, checkpoint_dir=shards),
            on_sequences=bar.update,
        )
    stats = [one for one in read_json(folder / "stage.json").get("ranks", []) if one]
    for one in stats:
        run.report.note_engines({slot: one})
    if failed_ranks:
        where = f"Check logs: {folder / 'logs'}/worker_*.log"
        share = f"{len(failed_ranks)}/{num_gpus} workers: ranks {failed_ranks}. {where}"
        raise WorkersFailedError(f"v2.0 {LABELS[slot]} inference failed on {share}")
    if slot == "protein":
        dna_files = [paths.features_of("dna", n) for n in units]
        _stream_h5_to_pt_files(h5_path, paths.protein_dir, dna_files)
    else:
        ids = ([name for name, _ in read_fasta(file)] for file in files)
        found = vectors_by_file(h5_path, "v2.0 DNABERT-S output", ids)
        for n, vectors in zip(units, found, strict=True):
            write_dna_features(paths.features_of(slot, n), vectors)
    for n in units:
        _commit(run, slot, n, units)
    tokens = sum(int(one.get("tokens", 0)) for one in stats)
    return {"files": len(units), "kept": len(todo) - len(units), "tokens": tokens}


def _to_make(run: Run, slot: Slot, todo: Sequence[int], how: str) -> dict[int, tuple[str, str]]:
    """The feature files that are not made `how` yet, claimed, with names and keys in the ledger."""
    key = digest_of(run.key, how, run.settings.compute.token_budget(slot))
    units = {n: (f"{slot} features {n}", key) for n in todo}
    units = {n: unit for n, unit in units.items() if run.ledger.read(*unit) is None}
    run.claim(*(run.paths.features_of(slot, n) for n in units))
    return units


def _commit(run: Run, slot: Slot, number: int, units: dict[int, tuple[str, str]]) -> None:
    run.ledger.discard(units[number][0])
    run.ledger.commit(*units[number], outputs=[run.paths.features_of(slot, number)])


def _workers(compute: Compute, threads: int, name: str) -> PersistentWorkerPool:
    return PersistentWorkerPool(
        len(compute.devices),
        name,
        devices=compute.devices,
        threads=threads,
        cache_clear_interval=compute.cache_clear_interval,
        worker_timeout=compute.worker_timeout,
    )


def _stream_h5_to_pt_files(
    h5_path: Path, output_dir: Path, nucleotide_feature_files: Sequence[Path]
) -> list[Path]:
    """Vectors of the packed engine -> one protein feature file beside each nucleotide one.

    Streams: the vectors of one file are in memory. Rows of ours lie in the order of the files;
    others are found by id. `h5_path` has `sequence_ids` (n,) and `embeddings` (n, d) float32.
    `output_dir` gets `output_k_ESM.pt` for each `output_k_DNABERT_S.pt`, which are returned.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    ids = (read_dna_features(file).seq_ids for file in nucleotide_feature_files)
    found = vectors_by_file(h5_path, "v2.0 ESM-2 output", ids)
    written = []
    for nucleotide_file, vectors in zip(nucleotide_feature_files, found, strict=True):
        name = nucleotide_file.stem.removesuffix("_S").removesuffix("_DNABERT")
        written.append(output_dir / f"{name}_ESM.pt")
        write_protein_features(written[-1], vectors)
    return written
