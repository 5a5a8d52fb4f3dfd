"""From scores of frames to calls of chunks, in the original program's two tables.

Room 6 (merged rows -> calls). Everything streams: rows go out in the order they come in,
and the chunk table is sorted in blocks on disk, so memory does not grow with the input.
"""

from __future__ import annotations

import heapq
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from operator import itemgetter
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from virnucpro.core.errors import InputError
from virnucpro.core.text import clipped

RESULTS_HEADER = "Sequence_ID\tPrediction\tscore1\tscore2\n"
CONSENSUS_HEADER = "Modified_ID\tIs_Virus\n"
SORT_BLOCK_CHUNKS = 100_000
MERGE_FILES = 64
_FRAME_LETTERS = 2  # F1..R3 at the end of an ORF id


class FrameScore(NamedTuple):
    """One row of prediction_results.txt: an ORF with P(other) and P(virus)."""

    orf_id: str
    other: float
    virus: float


class ChunkScore(NamedTuple):
    """The highest P(other) and the highest P(virus) over the frames of one chunk."""

    chunk_id: str
    other: float
    virus: float

    @property
    def is_virus(self) -> bool:
        """Whether some frame looks at least as viral as any frame looks non-viral."""
        return self.virus >= self.other


def write_predictions(file: IO[bytes], blocks: Iterable[ScoredBlock]) -> int:
    """Write `prediction_results.txt`, rows in the order given.

    Args:
        file: binary stream; gets UTF-8 with LF.
        blocks: ORF ids with their scores, shape (n, 2) or more columns, of which the first
            two are printed.

    Returns:
        The number of rows.

    Source:
        Li-Jing-1997/VirNucPro at 0f93f27, `prediction.py`: float32 in its shortest form.
    """
    file.write(RESULTS_HEADER.encode())
    rows = 0
    for orf_ids, scores in blocks:
        file.write(format_rows(orf_ids, scores).encode("utf-8", "surrogateescape"))
        rows += len(orf_ids)
    return rows


ScoredBlock = tuple[Sequence[str], NDArray[np.float32]]


def format_rows(orf_ids: Sequence[str], scores: NDArray[np.float32]) -> str:
    r"""Rows of prediction_results.txt; a tie is `others`, as argmax takes the first.

    >>> format_rows(["c_chunk_1F1"], np.array([[1e-7, 0.9999999]], np.float32))
    'c_chunk_1F1\tvirus\t1e-07\t0.9999999\n'
    """
    if len(orf_ids) != len(scores):
        raise ValueError(f"{len(orf_ids)} ids for scores of shape {scores.shape}")
    single = np.asarray(scores[:, :2], dtype=np.float32)
    return "".join(
        f"{orf_id}\t{'virus' if virus > other else 'others'}\t{other!s}\t{virus!s}\n"
        for orf_id, other, virus in zip(orf_ids, single[:, 0], single[:, 1], strict=True)
    )


def read_predictions(path: Path) -> Iterator[FrameScore]:
    """Stream the rows of a prediction_results.txt.

    Raises:
        InputError: the header or a row is not of this format.
    """
    with path.open(encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        if file.readline() != RESULTS_HEADER:
            raise InputError(path, "not a table of predictions", 1)
        for line, row in enumerate(file, start=2):
            fields = row.rstrip("\n").split("\t")
            try:
                orf_id, _, other, virus = fields
                yield FrameScore(orf_id, float(other), float(virus))
            except ValueError as error:
                raise InputError(
                    path, f"not a row of predictions ({clipped(error)})", line
                ) from error


def chunk_scores(frames: Iterable[FrameScore]) -> Iterator[ChunkScore]:
    """Fold neighbouring frames of the same chunk into one score each, in order.

    >>> frames = [FrameScore("c_chunk_1F1", 0.25, 0.75), FrameScore("c_chunk_1R2", 0.75, 0.25)]
    >>> [(chunk.chunk_id, chunk.is_virus) for chunk in chunk_scores(frames)]
    [('c_chunk_1', True)]
    """
    return _join(ChunkScore(orf_id[:-_FRAME_LETTERS], *scores) for orf_id, *scores in frames)


def write_consensus(
    file: IO[bytes],
    chunks: Iterable[ChunkScore],
    scratch: Path | None = None,
    block: int = SORT_BLOCK_CHUNKS,
) -> int:
    """Write `prediction_results_highestscore.csv`, one row a chunk, sorted by id as text.

    Args:
        file: binary stream; gets UTF-8 with LF.
        chunks: in any order; scores of the same chunk id are joined.
        scratch: folder for the sort; the system's temporary folder by default.
        block: chunks that are sorted in memory at a time.

    Returns:
        The number of rows.

    Source:
        Li-Jing-1997/VirNucPro at 0f93f27, `prediction.py`: tab separated in spite of the name.
    """
    file.write(CONSENSUS_HEADER.encode())
    rows = 0
    with tempfile.TemporaryDirectory(prefix=".sort-", dir=scratch) as folder:
        for chunk in _join(_sorted(chunks, Path(folder), block)):
            row = f"{_quoted(chunk.chunk_id)}\t{chunk.is_virus}\n"
            file.write(row.encode("utf-8", "surrogateescape"))
            rows += 1
    return rows


def _quoted(chunk_id: str) -> str:
    """An id as the original's CSV writer gives it: quoted only where it holds a quote."""
    return '"' + chunk_id.replace('"', '""') + '"' if '"' in chunk_id else chunk_id


def _sorted(chunks: Iterable[ChunkScore], folder: Path, block: int) -> Iterator[ChunkScore]:
    """Sort by id: one block in memory, the others in files, merged as they are read."""
    files: list[Path] = []
    held: list[ChunkScore] = []
    for chunk in chunks:
        if len(held) == block:
            files.append(_spill(sorted(held, key=_BY_ID), folder / f"{len(files)}-0"))
            held = []
            if len(files) == MERGE_FILES:  # bounds the files that are open at once
                merged = _spill(_merge(files), folder / "merging")
                for path in files:
                    path.unlink()
                files = [merged.replace(folder / "0-0")]
        held.append(chunk)
    held.sort(key=_BY_ID)
    yield from heapq.merge(_merge(files), held, key=_BY_ID)


_BY_ID = itemgetter(0)  # code points sort as their UTF-8 bytes do


def _merge(files: Sequence[Path]) -> Iterator[ChunkScore]:
    with ExitStack() as stack:
        yield from heapq.merge(
            *(_unspill(stack.enter_context(path.open("rb"))) for path in files), key=_BY_ID
        )


def _spill(chunks: Iterable[ChunkScore], path: Path) -> Path:
    with path.open("wb") as file:
        for chunk in chunks:
            chunk_id = chunk.chunk_id.encode("utf-8", "surrogateescape")
            file.write(b"%r\t%r\t%s\n" % (chunk.other, chunk.virus, chunk_id))
    return path


def _unspill(file: IO[bytes]) -> Iterator[ChunkScore]:
    for line in file:
        other, virus, chunk_id = line[:-1].split(b"\t", 2)
        yield ChunkScore(chunk_id.decode("utf-8", "surrogateescape"), float(other), float(virus))


def _join(chunks: Iterable[ChunkScore]) -> Iterator[ChunkScore]:
    """Fold neighbours with the same id into one."""
    last: ChunkScore | None = None
    for chunk in chunks:
        if last is not None and chunk.chunk_id == last.chunk_id:
            last = ChunkScore(
                last.chunk_id, max(last.other, chunk.other), max(last.virus, chunk.virus)
            )
            continue
        if last is not None:
            yield last
        last = chunk
    if last is not None:
        yield last
