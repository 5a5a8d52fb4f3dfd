"""The original program's two tables: scores of ORFs in input order, calls of chunks by their id."""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

RESULTS_HEADER = "Sequence_ID\tPrediction\tscore1\tscore2\n"
CONSENSUS_HEADER = "Modified_ID\tIs_Virus\n"
SORT_BLOCK_CHUNKS = 200_000
MERGE_FILES = 64


def format_rows(orf_ids: Sequence[str], scores: NDArray[np.float32]) -> str:
    r"""Rows of prediction_results.txt of n ORFs; a tie is `others`, as argmax takes the first.

    `scores` are P(other) and P(virus), shape (n, 2) or more columns.

    Source:
        Li-Jing-1997/VirNucPro at 0f93f27, `prediction.py`: float32 in its shortest form.

    >>> format_rows(["c_chunk_1F1"], np.array([[1e-7, 0.9999999]], np.float32))
    'c_chunk_1F1\tvirus\t1e-07\t0.9999999\n'
    """
    single = np.asarray(scores[:, :2], dtype=np.float32)
    return "".join(
        f"{orf_id}\t{'virus' if virus > other else 'others'}\t{other!s}\t{virus!s}\n"
        for orf_id, other, virus in zip(orf_ids, single[:, 0], single[:, 1], strict=True)
    )


class ConsensusTable:
    """`prediction_results_highestscore.csv`: one row a chunk, sorted by id as text.

    A chunk is a virus if some frame looks at least as viral as any frame looks non-viral. Blocks
    of the sort lie in `scratch` until `write`, so memory does not grow with the input.

    Source: Li-Jing-1997/VirNucPro at 0f93f27, `prediction.py`: tab separated in spite of the name.
    """

    def __init__(self, scratch: Path, block: int = SORT_BLOCK_CHUNKS) -> None:
        self._scratch, self._block = scratch, block
        self._held: list[tuple[str, str]] = []
        self._files, self._count = list[Path](), 0

    def add(self, chunk_ids: Iterable[str], is_virus: Iterable[bool]) -> None:
        """Take chunks, each once, in any order."""
        for chunk_id, flag in zip(chunk_ids, is_virus, strict=True):
            self._held.append((chunk_id, str(bool(flag))))
            if len(self._held) == self._block:
                self._spill(sorted(self._held))
                self._held = []

    def write(self, file: IO[bytes]) -> None:
        """Write the whole table as UTF-8 with LF."""
        file.write(CONSENSUS_HEADER.encode())
        for chunk_id, flag in heapq.merge(self._spilled(), sorted(self._held)):
            # An id as the original's CSV writer gives it: quoted only where it holds a quote.
            shown = '"' + chunk_id.replace('"', '""') + '"' if '"' in chunk_id else chunk_id
            file.write(f"{shown}\t{flag}\n".encode("utf-8", "surrogateescape"))
        for path in self._files:
            path.unlink()

    def _spill(self, rows: Iterable[tuple[str, str]]) -> None:
        merged: list[Path] = []
        if len(self._files) == MERGE_FILES:  # bounds the files that are open at once
            merged, rows = self._files, heapq.merge(self._spilled(), rows)
        path = self._scratch / f".sort-{self._count}"
        with path.open("w", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            file.writelines(f"{chunk_id}\t{flag}\n" for chunk_id, flag in rows)
        self._count += 1
        self._files = [*self._files[len(merged) :], path]
        for old in merged:
            old.unlink()

    def _spilled(self) -> Iterator[tuple[str, str]]:
        """The rows of all blocks on disk, sorted; code points sort as their UTF-8 bytes do."""
        with ExitStack() as stack:
            options = {"encoding": "utf-8", "errors": "surrogateescape", "newline": "\n"}
            files = [stack.enter_context(path.open(**options)) for path in self._files]  # type: ignore[call-overload]
            yield from heapq.merge(*(map(_row, file) for file in files))


def _row(line: str) -> tuple[str, str]:
    chunk_id, _, flag = line[:-1].rpartition("\t")
    return chunk_id, flag
