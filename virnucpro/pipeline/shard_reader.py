"""Read and tokenise shards ahead of the device, in processes that know nothing of it.

Byte pair encoding and reading are Python's work per sequence; in the rank's own process they
would hold up the thread that feeds the device. A shard comes back as three arrays, so little is
pickled. Nothing can be lost: a shard is one call with one result.
"""

from __future__ import annotations

import logging
import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from virnucpro.core.processes import become_worker
from virnucpro.core.records import Tokens
from virnucpro.pipeline.sequence_index import Places, read_sequences

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from virnucpro.encoders.tokenizers import Tokenizer

log = logging.getLogger("virnucpro.pipeline.rank")

_WARM_S = 0.05
Read = tuple[list[str], "NDArray[np.int32]", "NDArray[np.int64]"]  # ids, tokens, bounds


class ShardReader:
    """Turns places into tokens.

    Args:
        files: FASTA files that places number.
        tokenizer: picklable, and light until first used.
        processes: that read ahead; 0 reads when the tokens are asked for.
    """

    def __init__(self, files: Sequence[Path], tokenizer: Tokenizer, processes: int) -> None:
        self._work = (tuple(files), tokenizer)
        self._pool: ProcessPoolExecutor | None = None
        if processes:
            context = multiprocessing.get_context("spawn")
            # SIGTERM must end them: with it a pool that lost one ends the others, and waits.
            self._pool = ProcessPoolExecutor(processes, context, initializer=become_worker)
        # Begun here, so that the processes start while the rank loads its encoder.
        self._warm = (
            [self._pool.submit(_warm_up, tokenizer) for _ in range(processes)] if self._pool else []
        )

    def wait(self) -> None:
        """Return once every process can read."""
        for begun in self._warm:
            with suppress(BrokenProcessPool):
                begun.result()

    def start(self, places: Places) -> Future[Read] | None:
        """Begin to read; give the result to `finish`."""
        pool = self._pool  # `finish` runs in another thread, and may give it up meanwhile
        try:
            return pool.submit(read_tokens, *self._work, places) if pool else None
        except BrokenProcessPool:
            self._go_on_alone()
        except RuntimeError:  # closed
            pass
        return None

    def finish(self, places: Places, begun: Future[Read] | None) -> list[Tokens]:
        """Tokens of the sequences at `places`, in their order."""
        try:
            found = read_tokens(*self._work, places) if begun is None else begun.result()
        except BrokenProcessPool:
            self._go_on_alone()
            found = read_tokens(*self._work, places)
        ids, tokens, bounds = found
        edges = bounds.tolist()
        spans = zip(ids, edges[:-1], edges[1:], strict=True)
        return [Tokens(seq_id, tokens[start:stop]) for seq_id, start, stop in spans]

    def _go_on_alone(self) -> None:
        if self._pool is not None:
            log.warning("A reading process ended; this rank reads for itself from now on")
        self.close()

    def close(self) -> None:
        """End the processes; shards that were begun are dropped."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)


def read_tokens(files: Sequence[Path], tokenizer: Tokenizer, places: Places) -> Read:
    """Ids, all token ids end to end, and where each sequence starts in them (n + 1)."""
    from virnucpro.engines.feeding import tokenize

    ids, sequences = read_sequences(files, places)
    items = tokenize(tokenizer, ids, sequences)
    bounds = np.zeros(len(items) + 1, dtype=np.int64)
    np.cumsum([len(item) for item in items], out=bounds[1:])
    parts: list[Any] = [item.ids for item in items] or [np.empty(0)]
    return ids, np.concatenate(parts).astype(np.int32), bounds


def _warm_up(tokenizer: Tokenizer) -> None:
    from virnucpro.engines.feeding import tokenize

    tokenize(tokenizer, ["warm"], ["ACGT"])
    time.sleep(_WARM_S)  # or the first process might take the others' share of these calls
