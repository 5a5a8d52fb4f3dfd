"""Stage 8: merged rows -> scores of every ORF, joined by id."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from virnucpro.core.files import atomic_write
from virnucpro.core.progress import ProgressReporter
from virnucpro.core.records import Embeddings
from virnucpro.pipeline.orf_stages import read_unique
from virnucpro.pipeline.paths import RunPaths
from virnucpro.scores.consensus import write_predictions
from virnucpro.sequences.fasta_files import read_fasta

if TYPE_CHECKING:
    from virnucpro.scores.classifier import Classifier

COLUMNS = 3
BLOCK_ROWS = 4_096


def score_files(
    paths: RunPaths, files: int, classifier: Classifier, batch: int, reader_threads: int,
    reporter: ProgressReporter,
) -> dict[str, int]:  # fmt: skip
    """Score the merged files in order; ORFs that no merged file holds stay without a score.

    Args:
        paths: reads split and merged files; writes `scores`.
        files: number of split files.
        classifier: scores rows.
        batch: rows at a time.
        reader_threads: threads that read merged files ahead.
        reporter: shows progress.

    Returns:
        Counts: scored, unscored.

    Raises:
        DamagedFeaturesError: a merged file is not what was written.
    """
    scored = unscored = 0
    with (
        atomic_write(paths.scores) as out,
        reporter.create_file_bar(files, "Scoring", "files") as bar,
    ):
        for number, merged in _read_ahead(paths, files, reader_threads):
            ids = [name for name, _ in read_fasta(paths.split(paths.nucleotide_dir, number))]
            table = np.full((len(ids), COLUMNS), np.nan, dtype=np.float32)
            if merged is not None and len(merged):
                row_of = {name: row for row, name in enumerate(ids)}
                rows = [row_of[name] for name in merged.seq_ids]
                scores = _scores(classifier, merged.vectors, batch)
                table[rows, : scores.shape[1]] = scores
            missing = int(np.isnan(table[:, 0]).sum())
            scored, unscored = scored + len(ids) - missing, unscored + missing
            out.write(table.tobytes())
            bar.update(1)
    return {"scored": scored, "unscored": unscored}


def write_prediction_table(paths: RunPaths) -> int:
    """Write prediction_results.txt: each scored ORF in input order; returns the rows."""
    with atomic_write(paths.predictions) as file:
        blocks = ((ids, scores) for ids, scores in scored_orfs(paths))
        return write_predictions(file, (_without_gaps(ids, scores) for ids, scores in blocks))


def scored_orfs(paths: RunPaths) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
    """Stream all ORFs in input order, copies included.

    Yields:
        ORF ids, and scores of shape (n, 3) float32: P(other), P(virus) and P(null); NaN where
        there is none.
    """
    scores = read_scores(paths.scores)
    names = (name for name, _ in read_fasta(paths.nucleotide))
    for numbers in read_unique(paths, BLOCK_ROWS):
        yield list(islice(names, len(numbers))), np.asarray(scores[numbers.astype(np.int64)])


def read_scores(path: Path) -> NDArray[np.float32]:
    """The scores of the embedded ORFs, mapped from disk: shape (n, 3), float32."""
    if path.stat().st_size == 0:
        return np.empty((0, COLUMNS), dtype=np.float32)
    flat = np.memmap(path, dtype=np.float32, mode="r")
    return flat.reshape(-1, COLUMNS)


def _scores(
    classifier: Classifier, vectors: NDArray[np.float32], batch: int
) -> NDArray[np.float32]:
    import torch

    starts = range(0, len(vectors), batch)
    parts = [classifier.scores(torch.from_numpy(vectors[i : i + batch])) for i in starts]
    return np.concatenate(parts)


def _read_ahead(
    paths: RunPaths, files: int, threads: int
) -> Iterator[tuple[int, Embeddings | None]]:
    numbers = range(1, files + 1)
    if threads < 1:
        for number in numbers:
            yield number, _merged(paths, number)
        return
    with ThreadPoolExecutor(max_workers=threads) as pool:
        waiting = [pool.submit(_merged, paths, number) for number in islice(numbers, threads)]
        for number, ahead in zip(numbers, chain(range(threads + 1, files + 1), [None] * threads),
                                 strict=False):  # fmt: skip
            merged = waiting.pop(0).result()
            if ahead is not None:
                waiting.append(pool.submit(_merged, paths, ahead))
            yield number, merged


def _merged(paths: RunPaths, number: int) -> Embeddings | None:
    from virnucpro.pipeline.feature_files import read_merged

    path = paths.merged(number)
    return read_merged(path) if path.exists() else None


def _without_gaps(
    ids: Sequence[str], scores: NDArray[np.float32]
) -> tuple[Sequence[str], NDArray[np.float32]]:
    present = ~np.isnan(scores[:, 0])
    if present.all():
        return ids, scores
    return [name for name, is_there in zip(ids, present, strict=True) if is_there], scores[present]
