"""All that happens in one prediction: records are cut and translated, ORFs scored, tables written.

The staged path scores the same units of ORFs through the original's stages and files, into the
same ledger.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Literal

from virnucpro.core.checkpoint import Outputs
from virnucpro.core.device import detect_cuda_devices
from virnucpro.core.errors import DamagedError, InputError, UsageError, WorkersFailedError
from virnucpro.core.files import atomic_write, digest_of, read_json
from virnucpro.core.processes import at_most_threads
from virnucpro.core.text import clipped
from virnucpro.engines.base import EngineOptions, spread
from virnucpro.pipeline import features, stream
from virnucpro.pipeline import output_dir as directory
from virnucpro.pipeline import run as runs
from virnucpro.pipeline.features import EmbedJob, SplitFile
from virnucpro.pipeline.final_tables import write_final_tables
from virnucpro.pipeline.input_pass import Unit, input_pass
from virnucpro.pipeline.inputs import check_inputs, read_sources, shown_name
from virnucpro.pipeline.multi_gpu_inference import run_multi_gpu_inference
from virnucpro.pipeline.parallel_merge import parallel_merge_with_progress
from virnucpro.pipeline.persistent_pool import BatchQueueManager, PersistentWorkerPool
from virnucpro.pipeline.run import CALLS, INPUTS, REPORT, TABLES, Run, choose_model, prepare
from virnucpro.pipeline.runtime_config import RuntimeConfig
from virnucpro.pipeline.settings import PredictionSettings
from virnucpro.pipeline.worker_loop import Executor, Failed, InProcess, OnRows
from virnucpro.reports.explain import advice
from virnucpro.reports.html import write_report
from virnucpro.scores.scorer import LoadedModels, Scorer
from virnucpro.sequences.fasta import read_fasta, write_fasta

logger = logging.getLogger("virnucpro.pipeline")

Slot = Literal["dna", "protein"]
Units = Mapping[int, tuple[str, str]]  # names and keys in the ledger, by number of the split file
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
    command: Sequence[str] | None = None,
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
        command: the words that asked for the run; None means those of this process.

    Returns:
        Exit code: 0 done, 6 done but for the records named in failed_files.txt.
    """
    settings = settings or PredictionSettings()
    compute, started = settings.compute, time.monotonic()
    out = Path(output_dir) if output_dir is not None else directory.default_output_dir(input_files)
    is_staged = compute.staged or use_v2_architecture or persistent_models
    read = [*input_files, *filter(None, [settings.inputs.reference])]
    check_inputs(read)
    logger.info("Input: %s", clipped(", ".join(shown_name(str(path)) for path in input_files)))
    model = choose_model(settings.model)
    if compute.dtype == "fp8" and model.protein.kind != "esm2":
        problem = f"is for proteins by ESM-2, and {model.name} has another encoder"
        raise UsageError(f"--precision fp8 {problem}; leave it out, or use -m 300 or -m 500")
    if compute.dtype == "fp8" and not (device := compute.devices[0]).startswith("cuda"):
        raise UsageError(f"--precision fp8 needs an H100 or later, not {device}; leave it out")
    is_light = model.is_small and compute.devices == ("cpu",)
    needs_torch = not is_light or use_v2_architecture or persistent_models
    if needs_torch:
        import torch  # noqa: F401 - where it is missing, say so before anything is touched
    if compute.executor == "ray":
        import_module("ray")
    with directory.working_in(out, settings.output.resume, settings.output.force, read):
        run = prepare(input_files, out, model, settings, command)
        calls = run.ledger.read(CALLS, run.calls_key)
        tables = run.ledger.read(TABLES, run.tables_key)
        claim_outputs(run, is_staged and not calls)
        if calls and tables:
            run.data = tables.facts["run"]
            if read_json(run.paths.run_json) != run.data:
                run.save()
            logger.info("Already complete: %s", out)
        else:
            run.save()
            with at_most_threads(run.threads, needs_torch):
                if calls:
                    run.data |= calls.facts
                elif is_staged:
                    how = use_v2_architecture, persistent_models, runtime_config
                    executor = stream.NoExecutor(_score_staged(run, *how))
                outputs = calls.outputs if calls else stream.score_and_call(run, executor)
                _write_tables(run, outputs, started)
        is_partial = run.data["status"] == "partial"
        if not is_partial and not settings.output.keep_intermediate:
            directory.remove_intermediates(run.ledger, [*run.results, *run.paths.pages])
            run.ledger.keep_only(INPUTS, CALLS, TABLES, REPORT)
        if settings.output.report and run.ledger.read(REPORT, run.tables_key, repair=True) is None:
            run.ledger.discard(REPORT)
            write_report(run.paths.output_dir)
            run.ledger.commit(REPORT, run.tables_key, outputs=run.paths.pages)
        for line in () if calls and tables else runs.summary_lines(out, run.data):
            logger.info("%s", line)
        return PARTIAL if is_partial else DONE


def _write_tables(run: Run, model_outputs: Outputs, started: float) -> None:
    """Apply the thresholds, write the final tables, and close the run."""
    run.ledger.discard(TABLES, REPORT)
    with run.stage("tables") as counts:
        try:
            found, run.data["sample_summary"] = write_final_tables(run)
        except InputError:  # an input changed: what was made of it stays only in a finished run
            if not run.paths.calls.exists():
                run.ledger.discard(CALLS)
                for path in run.paths.model_outputs:
                    path.unlink(missing_ok=True)
            raise
        counts |= found
    if any(one["note"] and one["sure"] < one["virus"] for one in run.data["sample_summary"]):
        run.data["advice"] = advice(run.data["command"])
    outputs = run.ledger.describe(run.tables)
    hashes = {name: sha256 for name, (_, sha256) in (model_outputs | outputs).items()}
    status = "partial" if run.paths.failed_files.exists() else "done"
    seconds = round(time.monotonic() - started, 3)
    run.data |= {"status": status, "outputs": hashes, "seconds": seconds}
    run.save()
    run.ledger.commit(TABLES, run.tables_key, outputs=outputs, facts={"run": run.data})


def claim_outputs(run: Run, is_staged: bool = False) -> None:
    """Say which files are ours now, not after hours of work."""
    if is_staged:  # files of known names, and numbered ones that exist
        paths = run.paths
        folders = (paths.nucleotide_dir, paths.protein_dir, paths.merged_dir)
        numbered = sorted(path for folder in folders for path in folder.glob("output_*"))
        whole = (paths.chunked, paths.nucleotide, paths.protein)
        directory.check_free(run.ledger, [*whole, *folders, *numbered])
    pages = run.paths.pages if run.settings.output.report else []
    run.claim(run.paths.failed_files, *run.results, *pages)


def _score_staged(
    run: Run, use_v2: bool, persistent_models: bool, config: RuntimeConfig | None
) -> dict[int, str]:
    """Score every unit through feature and merged files; the reasons of those that it could not."""
    store, failures = stream.ScoreStore(run.ledger, run.key), dict[int, str]()
    paths, compute = run.paths, run.settings.compute
    sizes = enumerate(_written_units(run), 1)
    todo = {n: size for n, size in sizes if store.read(n - 1, size) is None}
    if not todo:
        return {}
    here = InProcess("cpu", run.threads, compute.cache_clear_interval)
    workers = PersistentWorkerPool(len(run.devices), run.model.name, compute)
    own = here if run.devices == ("cpu",) else workers
    queue = BatchQueueManager(own, use_persistent_pool=workers if persistent_models else None)
    with closing(workers):
        if persistent_models:
            workers.create_pool()
        # Stage 5: DNA vectors (DNABERT-S, or the small model's DNA encoder)
        # Stage 6: protein vectors (ESM-2, or the small model's protein encoder)
        packs: dict[Slot, bool] = {"dna": use_v2 and compute.dnabert_v2, "protein": use_v2}
        for slot, is_packed in packs.items():
            with run.stage(f"{slot}_features") as counts:
                how = "packed" if is_packed else "file-wise"
                key = digest_of(run.key, how, getattr(compute, f"{slot}_tokens"))
                units = {n: (f"{slot} features {n}", key) for n in todo}
                units = {n: unit for n, unit in units.items() if run.ledger.read(*unit) is None}
                run.ledger.discard(*(name for name, _ in units.values()))
                run.claim(*(paths.features_of(slot, n) for n in units))
                rows, lost = sum(todo[n] for n in units), dict[int, str]()
                with run.reporter.create_file_bar(rows, TITLES[slot], "ORFs") as bar:
                    if not is_packed:
                        tokens = _file_wise(run, slot, units, queue, bar.update, lost)
                    else:
                        tokens = _packed(run, slot, units, config, bar.update) if units else 0
                failures |= lost
                counts |= {"files": len(units) - len(lost), "kept": len(todo) - len(units)}
                counts |= {"failed": len(lost), "tokens": tokens}
    # Stage 7: join the vectors of each ORF, file by file
    numbers = {paths.features_of("dna", n): n for n in todo if n - 1 not in failures}
    for unit in failures:
        paths.merged(unit + 1).unlink(missing_ok=True)  # of an earlier model, perhaps
    run.claim(*map(paths.merged, numbers.values()))
    with run.stage("merging") as counts:
        merged, failed_pairs = parallel_merge_with_progress(
            list(numbers), [paths.features_of("protein", n) for n in numbers.values()],
            paths.merged_dir, compute.merge_workers, run.reporter, run.threads,
        )  # fmt: skip
        for dna, protein, reason in failed_pairs:
            for path in filter(Path.exists, (dna, protein)):
                features.read_records(path)  # what is not as it was written ends the run
            n = numbers.pop(dna)
            failures[n - 1] = f"{dna}|merge|{reason}"
            paths.merged(n).unlink(missing_ok=True)
        counts |= {"files": len(merged), "failed": len(failed_pairs)}
    # Stage 8: merged files -> scores of units, row by row
    with run.stage("prediction") as counts:
        models = LoadedModels(run.devices[0], run.threads)
        scorer = Scorer(run.model, models, classifier_batch=compute.classifier_batch)
        readers = min(compute.reader_threads, run.threads - 1)  # this thread scores
        read_ahead = spread(features.read_merged, map(paths.merged, numbers.values()), readers)
        with run.reporter.create_file_bar(len(numbers), "Scoring", "files") as bar:
            for n, found in zip(numbers.values(), read_ahead, strict=True):
                if len(found) != todo[n]:
                    problem = f"{len(found)} rows where the split file has {todo[n]}"
                    raise DamagedError(paths.merged(n), problem)
                store.commit(n - 1, scorer.classify(found.vectors))
                bar.update(1)
        scored = sum(todo[n] for n in numbers.values())
        counts |= {"scored": scored, "files": len(numbers)}
    return failures


def _file_wise(
    run: Run, slot: Slot, units: Units, queue: BatchQueueManager, on_rows: OnRows,
    failures: dict[int, str],
) -> int:  # fmt: skip
    """v1: one split file after another goes to a worker on each device; returns tokens."""
    paths, compute = run.paths, run.settings.compute
    budget, spec = getattr(compute, f"{slot}_tokens"), getattr(run.model, slot)
    options = EngineOptions(engine="padded", dtype=compute.dtype, token_budget=budget)
    files = {SplitFile(paths.split_of(slot, n), paths.features_of(slot, n), slot): n for n in units}
    tokens = 0
    for file, outcome in queue.process(EmbedJob(spec, options), list(files), on_rows):
        if isinstance(outcome, Failed):
            failures[files[file] - 1] = f"{file.input_file}|{LABELS[slot]}|{outcome.reason}"
            continue
        run.ledger.commit(*units[files[file]], outputs=[file.output_file])
        run.note_engines({slot: outcome.stats[spec.kind]})
        tokens += outcome.result[1]
    return tokens


def _packed(
    run: Run, slot: Slot, units: Units, config: RuntimeConfig | None, on_rows: OnRows
) -> int:
    """v2: all files at once, packed, one process per GPU, then vectors to files; returns tokens."""
    paths, compute = run.paths, run.settings.compute
    config, spec = config or RuntimeConfig(), getattr(run.model, slot)
    shards = config.checkpoint_dir or paths.checkpoints
    folder = paths.output_dir / ("esm_v2" if slot == "protein" else "dnabert_v2")
    num_gpus = compute.ranks or len(config.devices) or len(detect_cuda_devices()) or 1
    logger.info("%s: Using v2.0 async architecture", LABELS[slot])
    logger.info("%s: %d ranks", spec.name, num_gpus)
    directory.check_free(run.ledger, [shards / f"{folder.name}_shards"])
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
    h5_path, failed_ranks = run_multi_gpu_inference(
        fasta_files=files,
        output_dir=folder,
        model_config=model_config,
        world_size=num_gpus,
        runtime_config=replace(config, checkpoint_dir=shards, compute=compute),
        on_sequences=on_rows,
    )
    stats = [one for one in read_json(folder / "stage.json").get("ranks", []) if one]
    for one in stats:
        run.note_engines({slot: one})
    if failed_ranks:
        where = f"Check logs: {folder / 'logs'}/worker_*.log"
        share = f"{len(failed_ranks)}/{num_gpus} workers: ranks {failed_ranks}. {where}"
        raise WorkersFailedError(f"v2.0 {LABELS[slot]} inference failed on {share}")
    if slot == "protein":
        dna_files = [paths.features_of("dna", n) for n in units]
        _stream_h5_to_pt_files(h5_path, paths.protein_dir, dna_files)
    else:
        ids = ([name for name, _ in read_fasta(file)] for file in files)
        found = features.vectors_by_file(h5_path, "v2.0 DNABERT-S output", ids)
        for n, vectors in zip(units, found, strict=True):
            features.write_dna_features(paths.features_of(slot, n), vectors)
    for n, unit in units.items():
        run.ledger.commit(*unit, outputs=[paths.features_of(slot, n)])
    logger.info("v2.0 %s complete: %d feature files created", LABELS[slot], len(units))
    return sum(int(one.get("tokens", 0)) for one in stats)


def _written_units(run: Run) -> list[int]:
    """Stages 1 to 4, in one pass; returns the distinct ORFs of each split file, from 1 on."""
    paths, ledger = run.paths, run.ledger
    name, key = "reading", digest_of(run.key, run.per_unit)
    if (entry := ledger.read(name, key)) is not None:
        logger.info("reading: done earlier, kept")
        return [int(size) for size in entry.facts["sizes"]]
    ledger.discard(name)
    sizes: list[int] = []
    outputs = [paths.chunked, paths.nucleotide, paths.protein]
    run.claim(*outputs)
    units: list[Unit] = []
    chunks: list[str] = []
    with run.stage("reading") as counts, ExitStack() as stack:
        chunked, *whole = (stack.enter_context(atomic_write(path, "w")) for path in outputs)
        records = read_sources(run.sources)
        for event in input_pass(records, run.rules, run.per_unit, run.threads, chunks.extend):
            if isinstance(event, Unit):
                units.append(event)
                continue
            write_fasta(chunked, zip(event.chunk_ids(), chunks, strict=True), wrapped=True)
            ids, distinct = event.orf_ids(), event.orfs["distinct"].tolist()
            for slot, of_all in zip(("dna", "protein"), whole, strict=True):
                letters = [orf.decode("ascii") for unit in units for orf in getattr(unit, slot)]
                write_fasta(of_all, zip(ids, map(letters.__getitem__, distinct), strict=True))
                for unit in units:
                    outputs.append(path := paths.split_of(slot, unit.number + 1))
                    path.parent.mkdir(exist_ok=True)
                    run.claim(path)
                    orfs = ((ids[row], letters[distinct[row]]) for row in unit.rows)
                    with atomic_write(path, "w") as file:
                        write_fasta(file, orfs, wrapped=True)
            sizes += map(len, units)
            counts["orfs"] = counts.get("orfs", 0) + len(ids)
            units.clear()
            chunks.clear()
        counts |= {"embedded": sum(sizes), "files": len(sizes)}
    ledger.commit(name, key, outputs=outputs, facts={"sizes": sizes})
    return sizes


def _stream_h5_to_pt_files(
    h5_path: Path, output_dir: Path, nucleotide_feature_files: Sequence[Path]
) -> list[Path]:
    """Vectors by id -> `output_k_ESM.pt` for each `output_k_DNABERT_S.pt`, returned; streams."""
    output_dir.mkdir(parents=True, exist_ok=True)
    ids = (features.read_dna_features(file).seq_ids for file in nucleotide_feature_files)
    found = features.vectors_by_file(h5_path, "v2.0 ESM-2 output", ids)
    written = []
    for nucleotide_file, vectors in zip(nucleotide_feature_files, found, strict=True):
        name = nucleotide_file.stem.removesuffix("_S").removesuffix("_DNABERT")
        written.append(output_dir / f"{name}_ESM.pt")
        features.write_protein_features(written[-1], vectors)
    return written
