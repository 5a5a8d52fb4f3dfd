"""Join committed shards into `embeddings.h5` while the ranks still compute.

A shard is read back, checked by its seal and by the ids that the plan gave it, and appended in
the order of the plan. One shard is in memory at a time.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from virnucpro.core.errors import OutputError
from virnucpro.engines.shards import (
    MergedWriter,
    ShardDamagedError,
    committed,
    is_whole,
    read_ids,
    read_shard,
)
from virnucpro.pipeline.rank_messages import shard_path
from virnucpro.pipeline.runtime_config import RuntimeConfig
from virnucpro.pipeline.sequence_index import SequenceIndex, hash_ids

log = logging.getLogger("virnucpro.pipeline.merge")

_Found = TypeVar("_Found")
Plan = Sequence[np.ndarray[Any, Any]]


class ShardMerge:
    """The shards of one stage and the file that they become.

    Args:
        merged: the file.
        shard_dir: where shards lie.
        key: what they must be made under.
        index: all sequences of the stage.
        plan: positions in `index` of each shard.

    Attributes:
        is_complete: every shard has been announced; set it before leaving `running`.
        ended: when the merged file was committed (s, monotonic).
    """

    def __init__(
        self, merged: Path, shard_dir: Path, key: str, index: SequenceIndex, plan: Plan
    ) -> None:
        self.merged, self.shard_dir, self.key = merged, shard_dir, key
        self.index, self.plan = index, plan
        self.is_complete = False
        self.ended = 0.0

    def is_finished(self, config: RuntimeConfig) -> bool:
        """Whether the merged file is there, made under the same key, and whole.

        Raises:
            ShardDamagedError: it is not whole any more and `config.force_restart` is not set.
        """
        return bool(_unless_damaged(is_whole, self.merged, self.key, config))

    def finished_shards(self, config: RuntimeConfig) -> set[int]:
        """Shards of an earlier run that can be used; others under their names are removed.

        Raises:
            ShardDamagedError: one is damaged and `config.force_restart` is not set.
        """
        found = set()
        for shard in range(len(self.plan)):
            path = shard_path(self.shard_dir, shard)
            seq_ids = _unless_damaged(read_ids, path, self.key, config)
            if seq_ids is not None and self.is_expected(shard, seq_ids):
                found.add(shard)
            else:
                path.unlink(missing_ok=True)
        log.info("%d of %d shards are finished", len(found), len(self.plan))
        return found

    def is_expected(self, shard: int, seq_ids: tuple[str, ...]) -> bool:
        """Whether these are exactly the sequences that the plan gave a shard, in order."""
        wanted = self.index.id_hashes[self.plan[shard]]
        return np.array_equal(hash_ids(seq_ids), wanted)

    @contextmanager
    def running(self, dim: int, attributes: Mapping[str, Any]) -> Iterator[Callable[[int], None]]:
        """Join shards in a thread; call what this yields with each finished shard's number.

        On leaving with `is_complete` set, waits for the rest and commits the merged file, then
        removes the shards.

        Raises:
            OutputError: the file cannot be written, or a shard is not what was committed.
        """
        arrived: queue.Queue[int | None] = queue.Queue()
        with ThreadPoolExecutor(1, "merge") as pool:
            joining = pool.submit(self._join_all, arrived, dim, attributes)
            try:
                yield arrived.put
            finally:
                arrived.put(None)
        joining.result()
        if self.is_complete:
            for shard in range(len(self.plan)):
                shard_path(self.shard_dir, shard).unlink(missing_ok=True)

    def _join_all(
        self, arrived: queue.Queue[int | None], dim: int, attributes: Mapping[str, Any]
    ) -> None:
        try:
            with committed(self.merged) as file:
                writer = MergedWriter(file, len(self.index), dim)
                self._append(arrived, writer)
                writer.finish({**attributes, "shards": len(self.plan)})
        except _NotAllArrived:
            log.info("%s is not written: shards are missing", self.merged)
        self.ended = time.monotonic()

    def _append(self, arrived: queue.Queue[int | None], writer: MergedWriter) -> None:
        """Append shards in the order of the plan, each as soon as those before it are there."""
        waiting: set[int] = set()
        for shard in range(len(self.plan)):
            while shard not in waiting:
                number = arrived.get()
                if number is None:
                    raise _NotAllArrived
                waiting.add(number)
            self._add(shard, writer)

    def _add(self, shard: int, writer: MergedWriter) -> None:
        path = shard_path(self.shard_dir, shard)
        embeddings = read_shard(path, self.key)
        if embeddings is None:
            raise OutputError(f"{path}: it was committed and is not there any more")
        writer.add(embeddings, partial(self.is_expected, shard))


def _unless_damaged(
    look: Callable[[Path, str], _Found], path: Path, key: str, config: RuntimeConfig
) -> _Found | None:
    """What `look` finds; None where a damaged file is to be made again.

    Raises:
        ShardDamagedError: the file is damaged and `config.force_restart` is not set.
    """
    try:
        return look(path, key)
    except ShardDamagedError as error:
        if not config.force_restart:
            raise
        log.warning("%s: %s; it is computed again", error.path, error.problem)
        return None


class _NotAllArrived(Exception):  # noqa: N818 - no error: work was given up, or the run ends
    """There will be no more shards."""
