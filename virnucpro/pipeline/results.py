"""Stages 7 to 9: merge, score, call; then close the run."""

from __future__ import annotations

import logging
from pathlib import Path

from virnucpro.core.device import validate_and_get_device
from virnucpro.core.files import atomic_write
from virnucpro.pipeline import calls, final_tables, scoring
from virnucpro.pipeline.parallel_merge import parallel_merge_with_progress
from virnucpro.pipeline.run_record import read_run
from virnucpro.pipeline.run_setup import Run

logger = logging.getLogger("virnucpro.pipeline")

DONE, PARTIAL = 0, 6


def merge(run: Run, files: int) -> None:
    """Stage 7: join DNA and protein vectors by id, one file pair at a time."""
    paths = run.paths
    paths.merged_dir.mkdir(exist_ok=True)
    pairs = [
        (paths.dna_features(number), paths.protein_features(number))
        for number in range(1, files + 1)
        if paths.dna_features(number).exists() and paths.protein_features(number).exists()
    ]
    with run.record.stage("merging") as counts:
        merged_files, failed_pairs = parallel_merge_with_progress(
            [dna for dna, _ in pairs], [protein for _, protein in pairs],
            paths.merged_dir, run.settings.compute.threads, run.reporter,
        )  # fmt: skip
        _record_failed_pairs(paths.failed_files, failed_pairs)
        counts |= {"files": len(merged_files), "failed": len(failed_pairs)}


def score(run: Run, files: int) -> None:
    """Stage 8: the classifier's score of every ORF, in the original's table."""
    paths, compute = run.paths, run.settings.compute

    def make() -> dict[str, int]:
        from virnucpro.scores.classifier import load_classifier

        device = validate_and_get_device(
            f"cuda:{compute.gpus[0]}" if compute.gpus else compute.device, compute.fallback_to_cpu
        )
        classifier = load_classifier(run.model, device)
        counts = scoring.score_files(
            paths, files, classifier, compute.classifier_batch, compute.reader_threads, run.reporter
        )
        return {**counts, "rows": scoring.write_prediction_table(paths)}

    if paths.failed_files.exists():
        run.ledger.discard("prediction")  # what failed may succeed now
    run.stage("prediction", [paths.scores, paths.predictions], make)


def call(run: Run) -> None:
    """Stage 9: chunk consensus, chunk track, and the model's own call of each record."""
    paths = run.paths
    if paths.failed_files.exists():
        run.ledger.discard("consensus")
    outputs = [paths.consensus, paths.chunks, paths.contigs]
    run.stage("consensus", outputs, lambda: calls.write_model_calls(run))


def finish(run: Run) -> int:
    """Apply the thresholds, write the final tables, remove what is not kept, close run.json.

    Returns:
        Exit code: 0, or 6 where some split files failed.
    """
    paths, record = run.paths, run.record
    outputs = final_tables.table_paths(run)
    record.claim(*outputs)
    with record.stage("tables") as counts:
        found, record.data["sample_summary"] = final_tables.write_final_tables(run)
        counts |= found
    failed = paths.failed_files.exists()
    status, code = ("partial", PARTIAL) if failed else ("done", DONE)
    model_outputs = [paths.predictions, paths.consensus, paths.chunks, paths.contigs]
    if not failed and not run.settings.output.keep_intermediate:
        calls.remove_intermediates(run, keep=[*model_outputs, *outputs])
    record.finish(status, [*model_outputs, *outputs], [] if failed else model_outputs)
    _summary(run, counts)
    return code


def exit_code_of(output_dir: Path) -> int:
    """The exit code of the finished run in `output_dir`."""
    run = read_run(output_dir) or {}
    return DONE if run.get("status") == "done" else PARTIAL


def _record_failed_pairs(failed_log: Path, failed: list[tuple[Path, Path, str]]) -> None:
    if not failed:
        return
    known = failed_log.read_text(encoding="utf-8") if failed_log.exists() else ""
    with atomic_write(failed_log, "w") as file:
        file.write(known)
        file.writelines(f"{dna}|merge|{reason}\n" for dna, _, reason in failed)


def _summary(run: Run, counts: dict[str, int]) -> None:
    named = {name: counts.get(f"call:{name}", 0) for name in ("virus", "non-virus", "uncertain")}
    called = sum(named.values())
    logger.info(
        "%d records: %s; %d without a call. %s",
        counts["records"], ", ".join(f"{n} {name}" for name, n in named.items()),
        counts["records"] - called, run.paths.calls,
    )  # fmt: skip
