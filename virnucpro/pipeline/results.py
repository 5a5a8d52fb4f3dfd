"""Stages 7 to 9: merge, score, call; then close the run."""

from __future__ import annotations

import logging
from pathlib import Path

from virnucpro.core.device import validate_and_get_device
from virnucpro.core.text import one_line
from virnucpro.pipeline import calls, final_tables, scoring
from virnucpro.pipeline.failed_files import replace_lines
from virnucpro.pipeline.output_dir import remove_intermediates, remove_report
from virnucpro.pipeline.parallel_merge import parallel_merge_with_progress
from virnucpro.pipeline.paths import RunPaths
from virnucpro.pipeline.run_setup import Run
from virnucpro.pipeline.summary import summary_lines
from virnucpro.reports.html import REPORT_FILES, write_report

logger = logging.getLogger("virnucpro.pipeline")

DONE, PARTIAL = 0, 6


def merge(run: Run, files: int) -> list[int]:
    """Stage 7: join DNA and protein vectors by id, one file pair at a time.

    Returns:
        Numbers of the split files that have no merged vectors, because something failed.
    """
    paths = run.paths
    paths.merged_dir.mkdir(exist_ok=True)
    numbers = range(1, files + 1)
    with run.record.stage("merging") as counts:
        todo = [n for n in numbers if not run.is_done(_unit(paths.merged(n)), [paths.merged(n)])]
        pairs = {n: (paths.dna_features(n), paths.protein_features(n)) for n in todo}
        whole = {n: pair for n, pair in pairs.items() if all(path.exists() for path in pair)}
        for number in todo:
            was_committed = run.begin(_unit(paths.merged(number)), [])
            # A merged file that a killed run had no time to commit is checked by the merge itself.
            if was_committed or number not in whole:
                paths.merged(number).unlink(missing_ok=True)
        merged_files, failed_pairs = parallel_merge_with_progress(
            [dna for dna, _ in whole.values()], [protein for _, protein in whole.values()],
            paths.merged_dir, run.settings.compute.threads, run.reporter,
        )  # fmt: skip
        for merged in merged_files:
            run.commit(_unit(merged), [merged], {})
        missing = sorted(pairs.keys() - {n for n in whole if paths.merged(n) in set(merged_files)})
        for number in missing:
            paths.merged(number).unlink(missing_ok=True)
        _record_failed_pairs(paths.failed_files, failed_pairs)
        counts |= {"files": len(merged_files), "kept": files - len(todo), "failed": len(missing)}
    return missing


def score(run: Run, files: int, missing: list[int]) -> None:
    """Stage 8: the classifier's score of every ORF but those of the `missing` split files."""
    paths, compute = run.paths, run.settings.compute

    def make() -> dict[str, int]:
        from virnucpro.scores.classifier import load_classifier

        classifier = load_classifier(run.model, validate_and_get_device(compute.devices[0]))
        counts = scoring.score_files(
            paths, files, classifier, compute.classifier_batch, compute.reader_threads, run.reporter
        )
        return {**counts, "rows": scoring.write_prediction_table(paths)}

    outputs = [paths.scores, paths.predictions]
    run.stage("prediction", outputs, make, made_from=made_from(run, missing))


def call(run: Run, missing: list[int]) -> None:
    """Stage 9: chunk consensus, chunk track, and the model's own call of each record."""
    paths = run.paths
    outputs = [paths.consensus, paths.chunks, paths.contigs]
    run.stage(
        "consensus", outputs, lambda: calls.write_model_calls(run),
        made_from=made_from(run, missing),
    )  # fmt: skip


def made_from(run: Run, missing: list[int]) -> list[object]:
    """What a later attempt at failed work can change: files without vectors, and the reasons."""
    failed = run.paths.failed_files
    return [missing, failed.read_text(encoding="utf-8") if failed.exists() else ""]


def final_files(run: Run) -> list[Path]:
    """Every file that stays, the report included."""
    return [*_model_outputs(run.paths), *final_tables.table_paths(run), *_pages(run)]


def finish(run: Run) -> int:
    """Apply the thresholds, write the final tables, remove what is not kept, close run.json.

    Returns:
        Exit code: 0, or 6 where some split files failed.
    """
    paths, record = run.paths, run.record
    outputs = final_tables.table_paths(run)
    record.claim(*outputs, *_pages(run))
    remove_report(paths, record.data)
    with record.stage("tables") as counts:
        found, record.data["sample_summary"] = final_tables.write_final_tables(run)
        counts |= found
    failed = paths.failed_files.exists()
    status, code = ("partial", PARTIAL) if failed else ("done", DONE)
    model_outputs = _model_outputs(paths)
    record.finish(status, [*model_outputs, *outputs], [] if failed else model_outputs)
    # Only now: a run that is killed here is complete, and its next start finds nothing to do.
    if not failed and not run.settings.output.keep_intermediate:
        remove_intermediates(paths, record.data)
    if run.settings.output.report:
        write_report(paths.output_dir)
    for line in summary_lines(paths.output_dir, record.data):
        logger.info("%s", line)
    return code


def _model_outputs(paths: RunPaths) -> list[Path]:
    """What a run with other thresholds can start from."""
    return [paths.predictions, paths.consensus, paths.chunks, paths.contigs]


def _pages(run: Run) -> list[Path]:
    names = REPORT_FILES if run.settings.output.report else ()
    return [run.paths.output_dir / name for name in names]


def _unit(merged: Path) -> str:
    return f"merged {merged.name}"


def _record_failed_pairs(failed_log: Path, failed: list[tuple[Path, Path, str]]) -> None:
    """Replace what failed_files.txt says of merging."""
    replace_lines(
        failed_log,
        lambda line: "|merge|" in line,
        [f"{dna}|merge|{one_line(reason)}" for dna, _, reason in failed],
    )
