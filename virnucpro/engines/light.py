"""The engine of the bundled model on a CPU: pieces that fit the caches, one thread each.

Pieces follow from the sequences and the BLAS has one thread: any number of threads, same bytes.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from virnucpro.core.records import Tokens
from virnucpro.encoders.small_cpu import SmallEncoder
from virnucpro.encoders.tokenizers import rows_of
from virnucpro.engines.base import Embedded, EngineStats
from virnucpro.engines.feeding import rectangles, spread

_POSITIONS = 1024  # of a piece: its widest array takes about 3 MB


class LightEngine:
    """Vectors of the bundled encoder, `threads` pieces side by side; see `runner.BatchEngine`."""

    def __init__(self, encoder: SmallEncoder, threads: int) -> None:
        self._encoder, self._threads = encoder, threads
        self.stats = EngineStats(
            layout="padded", device="cpu", dtype="float32", backend="numpy",
            token_budget=int(_POSITIONS / encoder.per_letter),
        )  # fmt: skip

    def embed(self, items: Sequence[Tokens]) -> Iterator[Embedded]:
        """Yield the vectors of piece after piece, long sequences first, each item once."""
        lengths = np.array([len(item) for item in items], dtype=np.int64)

        def vectors(rows: NDArray[np.int64]) -> Embedded:
            some, width = [items[row] for row in rows], max(1, lengths[rows[0]])
            letters = rows_of(some, self._encoder.pad_id, width)
            return rows, self._encoder.embed(letters, lengths[rows])

        pieces = rectangles(lengths, self.stats.token_budget)
        with threadpool_limits(1, "blas"):
            for rows, found in spread(vectors, pieces, self._threads):
                own = lengths[rows].tolist()
                self.stats.count(own, len(rows) * max(1, own[0]))
                yield rows, found
