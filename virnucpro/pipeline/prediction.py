"""All that happens in one prediction.

The default is one stream: records are read, cut and translated, distinct ORFs are scored in
units, and tables are written from their rows. The staged path scores the same units through the
original's files and leaves their scores in the same ledger, so that the stream finds them done.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from virnucpro.core.checkpoint import Outputs
from virnucpro.core.device import detect_cuda_devices, usable_cpus
from virnucpro.core.errors import InputError, WorkersFailedError
from virnucpro.core.files import digest_of, read_json
from virnucpro.core.processes import at_most_threads
from virnucpro.core.records import Status
from virnucpro.core.text import clipped, duration
from virnucpro.pipeline.calls import Called, ModelTables
from virnucpro.pipeline.feature_files import (
    read_dna_features,
    vectors_by_file,
    write_dna_features,
    write_protein_features,
)
from virnucpro.pipeline.features import EmbedJob, SplitFile
from virnucpro.pipeline.final_tables import table_paths, write_final_tables
from virnucpro.pipeline.input_pass import Shard, Unit, input_pass
from virnucpro.pipeline.inputs import check_inputs, read_sources, shown_name
from virnucpro.pipeline.multi_gpu_inference import run_multi_gpu_inference
from virnucpro.pipeline.output_dir import (
    check_free,
    default_output_dir,
    remove_intermediates,
    working_in,
)
from virnucpro.pipeline.persistent_pool import BatchQueueManager, PersistentWorkerPool
from virnucpro.pipeline.precision import refuse_fp8, try_fp8
from virnucpro.pipeline.rates import Pace, rate_keys, remember
from virnucpro.pipeline.run import (
    CALLS,
    INPUTS,
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
from virnucpro.pipeline.staged import classify, merge, staged_files, written_units
from virnucpro.pipeline.stream import NoExecutor, ScoreStore, score_job, scored_shards
from virnucpro.pipeline.worker_loop import Executor, InProcess
from virnucpro.pipeline.workers import Workers, WorkerSettings
from virnucpro.reports.explain import advice
from virnucpro.reports.html import REPORT_FILES, write_report
from virnucpro.scores.scorer import EmbeddingOptions
from virnucpro.sequences.fasta import read_fasta
from virnucpro.sequences.read_log import ReadLog

if TYPE_CHECKING:
    from virnucpro.models.specs import EncoderSpec

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

    Raises:
        VirNucProError: what a user can act on; its `exit_code` says which kind.
    """
    settings = settings or PredictionSettings()
    out = Path(output_dir) if output_dir is not None else default_output_dir(input_files)
    is_staged = settings.compute.staged or use_v2_architecture or persistent_models
    read = [*input_files, *filter(None, [settings.inputs.reference])]
    check_inputs(read)
    logger.info("Input: %s", clipped(", ".join(shown_name(str(path)) for path in input_files)))
    model = choose_model(settings.model)
    if settings.compute.dtype == "fp8":
        refuse_fp8(model, settings.compute.devices[0])
    needs_torch = not (
        model.is_small and settings.compute.devices == ("cpu",)
        and not use_v2_architecture and not persistent_models
    )  # fmt: skip
    if needs_torch:
        import torch  # noqa: F401 - where it is missing, say so before anything is touched
    with working_in(out, settings.output.resume, settings.output.force, read):
        run = prepare(input_files, out, model, settings)
        calls = run.ledger.read(CALLS, run.calls_key)
        tables = run.ledger.read(TABLES, run.tables_key)
        if calls and tables:
            run.report.restore(tables.facts["run"])
            logger.info("Already complete: %s", out)
            _tidy(run)
            _report(run)
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
        if not is_partial:
            _tidy(run)
        _report(run)
        for line in summary_lines(out, run.report.data):
            logger.info("%s", line)
        return PARTIAL if is_partial else DONE


def _score_and_call(run: Run, executor: Executor | None) -> Outputs:
    """Records -> units -> scores -> calls of the model; commits what depends on no threshold."""
    paths, compute = run.paths, run.settings.compute
    job = score_job(run.model, compute)
    given_up: dict[int, str] = {}
    missing: dict[str, int] = {}
    store = ScoreStore(run.ledger, run.key)
    device = compute.devices[0]
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
        log = ReadLog()
        records = read_sources(run.sources, log)
        pace = Pace()
        ahead = [0]  # ORFs read so far, with which share of the input's bytes

        def read_ahead() -> Iterator[Unit | Shard]:
            for event in input_pass(records, run.rules, run.per_unit, run.threads):
                ahead[0] += len(event) if isinstance(event, Unit) else 0
                yield event

        def tell(rows: int) -> None:
            expected = ahead[0] * run.input_bytes // log.bytes_read if log.bytes_read else None
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
        _refuse_no_dna(run, counts)
    seconds = run.report.data["stages"]["scoring"]["seconds"]
    logger.info("Scored %s distinct ORFs in %s", f"{counts['embedded']:,}", duration(seconds))
    if rate := pace.rate(gpu_memory=run.report.data.get("gpu_bytes", 0)):
        chunk_nt = counts["nt"] / max(1, counts["chunks"])
        key, _ = rate_keys(run.model, compute.devices, run.threads, chunk_nt)
        remember(run.settings.model.home or default_home(), key, rate)
    record_failures(paths, given_up, missing)
    outputs = run.ledger.describe(paths.model_outputs)
    if not given_up:
        facts = run.report.of_scoring()
        run.ledger.commit(CALLS, run.calls_key, outputs=outputs, facts=facts)
    return outputs


def _refuse_no_dna(run: Run, counts: dict[str, int]) -> None:
    """See that not every record is something else.

    Raises:
        InputError: no record is DNA.
    """
    names = ", ".join(name for source in run.sources for name in source.names)
    if not counts["records"]:
        logger.warning("no records in %s", names)
    elif counts.get(f"status:{Status.NOT_DNA}", 0) == counts["records"]:
        raise InputError(
            names,
            "no record is DNA: over 10% of the letters are outside its alphabet; "
            "give nucleotide sequences, not proteins",
        )


def make_executor(compute: Compute, store: ScoreStore | None = None) -> Executor:
    """Where units are scored: in this process, in one a device where there are several, or in Ray.

    `store` is where actors of Ray find units and leave scores.
    """
    if compute.executor == "ray" and store is not None:
        from virnucpro.pipeline.ray_executor import RayExecutor

        return RayExecutor(compute, store)
    devices, threads = compute.devices, compute.threads or usable_cpus()
    if len(devices) == 1:
        return InProcess(devices[0], threads)
    threads = max(1, threads // len(devices))
    level = logging.getLogger("virnucpro").getEffectiveLevel()
    settings = [WorkerSettings(device=d, threads=threads, log_level=level) for d in devices]
    return Workers(settings, compute.worker_timeout)


def _write_tables(run: Run, model_outputs: Outputs) -> None:
    """Apply the thresholds, write the final tables, and close the run."""
    run.ledger.discard(TABLES)
    run.ledger.discard(REPORT)
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
    outputs = run.ledger.describe(table_paths(run))
    run.report.finish(run.paths.failed_files.exists(), model_outputs | outputs)
    run.ledger.commit(TABLES, run.tables_key, outputs=outputs, facts={"run": run.report.data})


def _report(run: Run) -> None:
    """Make the report where it was asked for, unless it is there and whole."""
    asked = run.settings.output.report
    if asked and run.ledger.read(REPORT, run.tables_key, repair=True) is None:
        run.ledger.discard(REPORT)
        run.claim(*_pages(run))
        write_report(run.paths.output_dir)
        run.ledger.commit(REPORT, run.tables_key, outputs=_pages(run))


def claim_outputs(run: Run, is_staged: bool = False) -> None:
    """Say which files are ours now, not after hours of work."""
    if is_staged:
        check_free(run.paths.output_dir, staged_files(run))
    pages = _pages(run) if run.settings.output.report else []
    run.claim(run.paths.failed_files, *_tables(run), *pages)


def _tidy(run: Run) -> None:
    """Remove what only the stages needed."""
    if not run.settings.output.keep_intermediate:
        remove_intermediates(run.paths.output_dir, [*_tables(run), *_pages(run)])
        run.ledger.keep_only(INPUTS, CALLS, TABLES, REPORT)


def _tables(run: Run) -> list[Path]:
    return [run.paths.run_json, *run.paths.model_outputs, *table_paths(run)]


def _pages(run: Run) -> list[Path]:
    return [run.paths.output_dir / name for name in REPORT_FILES]


def _score_staged(
    run: Run, use_v2: bool, persistent_models: bool, config: RuntimeConfig | None
) -> dict[int, str]:
    """Score every unit through feature and merged files; scores go to the ledger.

    Returns:
        The units that could not be scored, each with the reason.

    Raises:
        WorkersFailedError: the packed engine gave work up; finished shards are kept.
        DamagedError: a feature file is not what was written.
    """
    compute, store = run.settings.compute, ScoreStore(run.ledger, run.key)
    sizes = written_units(run)
    failures: dict[int, str] = {}
    todo = [n for n, size in enumerate(sizes, 1) if store.read(n - 1, size) is None]
    if not todo:
        return {}
    with ExitStack() as stack:
        pool = stack.enter_context(_workers(run)) if persistent_models else None
        if pool is not None:
            pool.create_pool()
        # Stage 5: DNA vectors (DNABERT-S, or the small model's DNA encoder)
        with run.report.stage("dna_features") as counts:
            if use_v2 and compute.dnabert_v2:
                counts |= _packed(run, "dna", run.model.dna, todo, sizes, config)
            else:
                counts |= _file_wise(run, "dna", run.model.dna, todo, sizes, pool, failures)
        # Stage 6: protein vectors (ESM-2, or the small model's protein encoder)
        with run.report.stage("protein_features") as counts:
            if use_v2:
                logger.info("ESM-2: Using v2.0 async architecture")
                counts |= _packed(run, "protein", run.model.protein, todo, sizes, config)
                logger.info("v2.0 ESM-2 complete: %d feature files created", counts["files"])
            else:
                counts |= _file_wise(run, "protein", run.model.protein, todo, sizes, pool, failures)
    with run.report.stage("merging") as counts:
        counts |= merge(run, todo, failures)
    with run.report.stage("prediction") as counts:
        counts |= classify(run, store, [n for n in todo if n - 1 not in failures], sizes)
    return failures


def _file_wise(
    run: Run, slot: Slot, spec: EncoderSpec, todo: Sequence[int], sizes: Sequence[int],
    pool: PersistentWorkerPool | None, failures: dict[int, str],
) -> dict[str, int]:  # fmt: skip
    """v1: one split file after another goes to a worker on each device, in padded batches."""
    paths, compute = run.paths, run.settings.compute
    options = EmbeddingOptions(
        engine="padded", dtype=compute.dtype, token_budget=_budget(run, slot)
    )
    job = EmbedJob(spec, options)
    files = {
        SplitFile(
            input_file=paths.split_of(slot, n), output_file=paths.features_of(slot, n), layout=slot
        ): n
        for n in todo
        if not _is_done(run, slot, n, "file-wise")
    }
    run.claim(*(file.output_file for file in files))
    own: Executor
    if compute.devices == ("cpu",):
        own = InProcess("cpu", run.threads, compute.cache_clear_interval)
    else:
        own = _workers(run)
    queue = BatchQueueManager(own, use_persistent_pool=pool, progress=run.reporter)
    result = queue.process(
        job, list(files), sum(sizes[n - 1] for n in files.values()),
        lambda file: _commit(run, slot, files[file], "file-wise"), TITLES[slot],
    )  # fmt: skip
    for file, reason in result.failed.items():
        failures[files[file] - 1] = f"{file.input_file}|{LABELS[slot]}|{reason}"
    if result.engine:
        run.report.note_engines({slot: result.engine})
    counts = {"files": len(files) - len(result.failed), "kept": len(todo) - len(files)}
    return {**counts, "failed": len(result.failed), "tokens": result.tokens}


def _packed(
    run: Run, slot: Slot, spec: EncoderSpec, todo: Sequence[int], sizes: Sequence[int],
    config: RuntimeConfig | None,
) -> dict[str, int]:  # fmt: skip
    """v2: all files at once, packed, one process per GPU; then vectors back to their files."""
    paths, compute = run.paths, run.settings.compute
    config = config or RuntimeConfig()
    config = replace(config, checkpoint_dir=config.checkpoint_dir or paths.checkpoints)
    numbers = [n for n in todo if not _is_done(run, slot, n, "packed")]
    if not numbers:
        return {"files": 0, "kept": len(todo)}
    folder = paths.esm_v2 if slot == "protein" else paths.dnabert_v2
    shards = config.checkpoint_dir or paths.checkpoints
    check_free(paths.output_dir, [shards / f"{folder.name}_shards"])
    run.claim(folder / "embeddings.h5", folder / "stage.json")
    folder.mkdir(exist_ok=True)
    model_config = {
        "model_type": "esm2" if slot == "protein" else "dnabert",
        "model_name": spec.name,
        "enable_fp16": compute.dtype in ("auto", "float16"),
        "encoder_spec": spec,
    }
    num_gpus = compute.ranks or len(config.devices) or len(detect_cuda_devices()) or 1
    logger.info("%s: %d ranks", spec.name, num_gpus)
    run.claim(*(folder / "logs" / f"worker_{rank}.log" for rank in range(num_gpus)))
    files = [paths.split_of(slot, n) for n in numbers]
    with run.reporter.create_file_bar(sum(sizes), TITLES[slot], "ORFs") as bar:
        h5_path, failed_ranks = run_multi_gpu_inference(
            fasta_files=files,
            output_dir=folder,
            model_config=model_config,
            world_size=num_gpus,
            runtime_config=config,
            on_sequences=bar.update,
        )
    stats = [one for one in read_json(folder / "stage.json").get("ranks", []) if one]
    for one in stats:
        run.report.note_engines({slot: one})
    if failed_ranks:
        raise WorkersFailedError(failed_ranks, num_gpus, folder / "logs", LABELS[slot])
    outputs = [paths.features_of(slot, n) for n in numbers]
    run.claim(*outputs)
    if slot == "protein":
        _stream_h5_to_pt_files(h5_path, paths.protein_dir, [paths.dna_features(n) for n in numbers])
    else:
        ids = ([name for name, _ in read_fasta(file)] for file in files)
        found = vectors_by_file(h5_path, "v2.0 DNABERT-S output", ids)
        for output, vectors in zip(outputs, found, strict=True):
            write_dna_features(output, vectors)
    for n in numbers:
        _commit(run, slot, n, "packed")
    tokens = sum(int(one.get("tokens", 0)) for one in stats)
    return {"files": len(numbers), "kept": len(todo) - len(numbers), "tokens": tokens}


def _stream_h5_to_pt_files(
    h5_path: Path, output_dir: Path, nucleotide_feature_files: Sequence[Path]
) -> list[Path]:
    """Vectors of the packed engine -> one protein feature file beside each nucleotide one.

    Streams: the vectors of one file are in memory. Rows of ours lie in the order of the files;
    others are found by id.

    Args:
        h5_path: datasets `sequence_ids` (n,) and `embeddings` (n, d) float32, in any order.
        output_dir: gets `output_k_ESM.pt`, which are returned; made if missing.
        nucleotide_feature_files: `output_k_DNABERT_S.pt`; they give ids and their order.

    Raises:
        DamagedFeaturesError: a nucleotide file cannot be read.
        OutputError: a file could not be written; nothing half-written is left behind.
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


def _workers(run: Run) -> PersistentWorkerPool:
    compute = run.settings.compute
    return PersistentWorkerPool(
        len(compute.devices), run.model.name, devices=compute.devices, threads=run.threads,
        cache_clear_interval=compute.cache_clear_interval, worker_timeout=compute.worker_timeout,
    )  # fmt: skip


def _is_done(run: Run, slot: Slot, number: int, how: str) -> bool:
    """Whether a feature file was made, and `how`: vectors of the engines differ in last bits."""
    unit, key = _feature_unit(run, slot, number, how)
    return run.ledger.read(unit, key) is not None


def _commit(run: Run, slot: Slot, number: int, how: str) -> None:
    unit, key = _feature_unit(run, slot, number, how)
    run.ledger.discard(unit)
    run.ledger.commit(unit, key, outputs=[run.paths.features_of(slot, number)])


def _feature_unit(run: Run, slot: Slot, number: int, how: str) -> tuple[str, str]:
    return f"{slot} features {number}", digest_of(run.key, how, _budget(run, slot))


def _budget(run: Run, slot: Slot) -> int | None:
    compute = run.settings.compute
    return compute.dna_tokens if slot == "dna" else compute.protein_tokens
