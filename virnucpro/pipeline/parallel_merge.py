"""Merge many file pairs on all cores: one pair, one task; one that fails becomes an entry."""

import logging
import multiprocessing
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from virnucpro.core.device import usable_cpus
from virnucpro.core.errors import OutputError
from virnucpro.core.log import ProgressReporter, relay_logs, replay
from virnucpro.core.processes import children_ignore_interrupts, map_in_order

logger = logging.getLogger("virnucpro.pipeline.merge")

FilePair = tuple[Path, Path, Path]  # nucleotide features, protein features, merged output
FailedPair = tuple[Path, Path, str]  # nucleotide features, protein features, reason
Merged = Path | str  # the merged file, or why there is none

WORTH_PROCESSES_BYTES = 128 << 20  # below this, merging takes less time than starting processes
_FEATURE_SUFFIX = re.compile(r"_(DNABERT_S|DNABERT|ESM)$")


def merge_file_pair_worker(file_pair: FilePair) -> Path | None:
    """Merge one pair (nucleotide, protein, output); None if that failed, with a log line."""
    try:
        merged = _merge(file_pair)
    except OutputError as error:
        logger.error("Unexpected error in merge: %s", error)
        return None
    return merged if isinstance(merged, Path) else None


def merge_batch_worker(
    file_pair_batch: Sequence[FilePair],
) -> tuple[list[Merged], list[logging.LogRecord]]:
    """Merge a few pairs in a worker process; its log lines are written by the parent."""
    log, lines = logging.getLogger("virnucpro"), list[logging.LogRecord]()
    before = log.level, log.propagate
    handler = relay_logs(lines.append, logging.INFO)
    try:
        return [_merge(file_pair) for file_pair in file_pair_batch], lines
    finally:
        log.removeHandler(handler)
        log.level, log.propagate = before


def _merge(file_pair: FilePair) -> Merged:
    """Merge one pair; an `OutputError`, such as a full disk, is no fault of the pair."""
    # once per process, and never in a parent that only hands out work
    from virnucpro.pipeline.features import merge_features

    try:
        return merge_features(*file_pair)
    except FileNotFoundError as error:
        reason = f"File not found: {error.filename}"
    except RuntimeError as error:
        reason = f"Failed to load tensors: {error}"
    except OutputError:
        raise
    except Exception as error:  # noqa: BLE001 - a worker's edge: the failure becomes data
        reason = f"Unexpected error in merge: {error}"
    logger.error("%s", reason)
    return reason


def get_optimal_settings(
    file_pairs: Sequence[FilePair], num_workers: int | None = None
) -> tuple[int, int, int]:
    """Workers (None means the usable CPUs), pairs per batch, and pairs handed over at a time."""
    if num_workers is None:
        num_workers = usable_cpus()
        logger.info("Auto-detected %d CPU cores for merging", num_workers)
    return num_workers, 1, max(1, len(file_pairs) // (num_workers * 4))


def parallel_merge_with_progress(
    nucleotide_files: Sequence[Path],
    protein_files: Sequence[Path],
    output_dir: Path,
    num_workers: int | None = None,
    progress: ProgressReporter | None = None,
    threads: int | None = None,
) -> tuple[list[Path], list[FailedPair]]:
    """Merge every nucleotide file (`output_1_DNABERT_S.pt`) with the protein file of its number.

    `num_workers` processes; by default one where the files are small, else the usable CPUs, or at
    most `threads`.

    Returns:
        Merged files in the order of `nucleotide_files`, and (nucleotide, protein, reason) of
        each pair that failed; a reason begins `Merge failed for {nucleotide file name}`.

    Raises:
        ValueError: num_workers is below 1, or two files would merge into the same output.
        OutputError: merged files cannot be written.
    """
    file_pairs, failed_pairs = pair_files(nucleotide_files, protein_files, output_dir)
    is_free = num_workers is None
    num_workers, _, chunksize = get_optimal_settings(file_pairs, num_workers)
    if num_workers < 1:
        raise ValueError(f"num_workers must be at least 1, got {num_workers}")
    most = (threads if is_free else None) or num_workers
    num_workers = min(num_workers, most, len(file_pairs))
    files = [file for pair in file_pairs for file in pair[:2] if file.exists()]
    are_small = sum(file.stat().st_size for file in files) < WORTH_PROCESSES_BYTES
    if num_workers < 2 or (is_free and are_small):
        why = "single file" if num_workers < 2 else "small files"
        logger.info("Using sequential merge (%s or single core system)", why)
        outcomes: Iterator[Merged] = map(_merge, file_pairs)
    else:
        outcomes = _in_processes(file_pairs, num_workers, chunksize)
    output_dir.mkdir(parents=True, exist_ok=True)
    merged_files: list[Path] = []
    progress = progress or ProgressReporter()
    with progress.create_file_bar(len(file_pairs), desc="Merging features") as bar:
        for (nuc, pro, _), outcome in zip(file_pairs, outcomes, strict=True):
            if isinstance(outcome, str):
                failed_pairs.append(_failure(nuc, pro, outcome))
            else:
                merged_files.append(outcome)
            bar.update(1, merged=len(merged_files), failed=len(failed_pairs))
    if failed_pairs:
        logger.warning("Failed to merge %d file pairs", len(failed_pairs))
    total = len(merged_files) + len(failed_pairs)
    logger.info("Merge complete: %d/%d files successful", len(merged_files), total)
    return merged_files, failed_pairs


# the same without a bar
parallel_merge_features = partial(
    parallel_merge_with_progress, progress=ProgressReporter(enabled=False)
)


def pair_files(
    nucleotide_files: Sequence[Path], protein_files: Sequence[Path], output_dir: Path
) -> tuple[list[FilePair], list[FailedPair]]:
    """Join files by their names without suffix; a failure for each alone, ValueError for two."""
    nucleotides, proteins = _by_key(nucleotide_files), _by_key(protein_files)
    pairs, alone = [], []
    for key in nucleotides | proteins:
        nuc, pro = nucleotides.get(key), proteins.get(key)
        if nuc and pro:
            pairs.append((nuc, pro, output_dir / f"{key}_merged.pt"))
        elif nuc:
            alone.append(_failure(nuc, nuc.with_name(f"{key}_ESM.pt"), "no protein feature file"))
        elif pro:
            missing = pro.with_name(f"{key}_DNABERT_S.pt")
            alone.append(_failure(missing, pro, "no DNA feature file"))
    return pairs, alone


def _by_key(files: Sequence[Path]) -> dict[str, Path]:
    keyed: dict[str, Path] = {}
    for file in files:
        if (key := _FEATURE_SUFFIX.sub("", file.stem)) in keyed:
            raise ValueError(f"{file} and {keyed[key]} would be merged into the same output")
        keyed[key] = file
    return keyed


def _failure(nuc: Path, pro: Path, reason: str) -> FailedPair:
    return nuc, pro, f"Merge failed for {nuc.name}: {reason}"


def _in_processes(
    file_pairs: Sequence[FilePair], num_workers: int, chunksize: int
) -> Iterator[Merged]:
    told = "Using parallel merge with %d workers (%d files to merge)"
    logger.info(told, num_workers, len(file_pairs))
    starts = range(0, len(file_pairs), chunksize)
    batches = [file_pairs[start : start + chunksize] for start in starts]
    ctx = multiprocessing.get_context("spawn")
    with children_ignore_interrupts():
        pool = ctx.Pool(num_workers)
    for outcomes, lines in map_in_order(pool, merge_batch_worker, batches, len(batches)):
        for line in lines:
            replay(line)
        yield from outcomes
