"""The original program's two tables: scores of ORFs in input order, calls of chunks by their id."""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from virnucpro.core.records import HEADER_BYTES

RESULTS_HEADER = "Sequence_ID\tPrediction\tscore1\tscore2\n"
CONSENSUS_HEADER = "Modified_ID\tIs_Virus\n"
SORT_BLOCK_CHUNKS = 200_000
MERGE_FILES = 64


def format_rows(orf_ids: Sequence[str], scores: NDArray[np.float32]) -> str:
    """Rows of prediction_results.txt; a tie is `others`, as argmax takes the first.

    `scores` are P(other) and P(virus) of n ORFs, shape (n, 2) or more columns.

    Source: Li-Jing-1997/VirNucPro at 0f93f27, `prediction.py`: float32 in its shortest form.
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
        self._scratch, self._block, self._count = scratch, block, 0
        self._held, self._files = list[str](), list[Path]()

    def add(self, chunk_ids: Iterable[str], is_virus: Iterable[bool]) -> None:
        """Take chunks, each once, in any order."""
        for chunk_id, flag in zip(chunk_ids, is_virus, strict=True):
            self._held.append(f"{chunk_id}\0{bool(flag)}\n")  # NUL sorts before all that ids hold
            if len(self._held) == self._block:
                self._spill()

    def write(self, file: IO[bytes]) -> None:
        """Write the whole table as UTF-8 with LF."""
        file.write(CONSENSUS_HEADER.encode())
        for row in self._sorted():
            chunk_id, _, flag = row.rpartition("\0")
            # An id as the original's CSV writer gives it: quoted only where it holds a quote.
            shown = '"' + chunk_id.replace('"', '""') + '"' if '"' in chunk_id else chunk_id
            file.write(f"{shown}\t{flag}".encode(*HEADER_BYTES))
        for path in self._files:
            path.unlink()

    def _spill(self) -> None:
        is_full = len(self._files) == MERGE_FILES  # bounds the files that are open at once
        path = self._scratch / f".sort-{self._count}"
        with path.open("w", -1, *HEADER_BYTES, newline="\n") as file:
            file.writelines(self._sorted() if is_full else sorted(self._held))
        for old in self._files if is_full else ():
            old.unlink()
        self._files = [path] if is_full else [*self._files, path]
        self._held, self._count = [], self._count + 1

    def _sorted(self) -> Iterator[str]:
        """All rows so far; code points sort as their UTF-8 bytes do."""
        with ExitStack() as stack:
            blocks = (path.open("r", -1, *HEADER_BYTES, newline="\n") for path in self._files)
            yield from heapq.merge(*map(stack.enter_context, blocks), sorted(self._held))
