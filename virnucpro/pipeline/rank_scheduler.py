"""Hand shards to ranks as they become free, and give a lost rank's shards to the others.

A rank is lost when its process ends, or when it holds work and has been silent too long. A
shard that fails on several ranks is given up, so that one bad shard cannot end them all.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from virnucpro.core.errors import OutputError, VirNucProError
from virnucpro.core.processes import children_ignore_interrupts
from virnucpro.pipeline.rank_messages import (
    Assignment,
    Beat,
    Bye,
    CannotStart,
    Done,
    Failed,
    RankJob,
    Ready,
    Returned,
)
from virnucpro.pipeline.rank_worker import rank_main

log = logging.getLogger("virnucpro.pipeline.ranks")

AHEAD = 3  # shards a rank holds: one computes, one is ready, one is being read
_TICK_S = 1.0
_GRACE_S = 5.0
_END_S = 3.0  # for the batch at hand; a stopped run ends within 5 s
_START_S = 900.0  # weights may come from a slow disk, with nothing to say meanwhile
_MOST_RESTARTS = 3  # in a row, without a shard finished between them
_NO_RANK = "no rank is left"


@dataclass(slots=True)
class Rank:
    """A rank as the coordinator sees it.

    Attributes:
        number: from 0.
        process: its process.
        connection: the coordinator's end of its pipe.
        held: shards it was given and has not finished, oldest first.
        heard: when it last said something (s, monotonic).
        is_ready: its encoder is loaded.
        is_lost: its process is gone or given up.
        stats: what its engine said last.
    """

    number: int
    process: SpawnProcess
    connection: Connection
    held: list[int] = field(default_factory=list)
    heard: float = field(default_factory=time.monotonic)
    is_ready: bool = False
    is_lost: bool = False
    stats: dict[str, Any] = field(default_factory=dict)


class RankScheduler:
    """Runs ranks until every shard is done or given up.

    Args:
        jobs: one per rank.
        assignments: all shards that are to be computed.
        on_done: called with the number of each shard once it is committed.
        on_sequences: called with the number of sequences of each finished batch.
    """

    def __init__(
        self,
        jobs: Sequence[RankJob],
        assignments: Sequence[Assignment],
        on_done: Callable[[int], object],
        on_sequences: Callable[[int], object],
    ) -> None:
        self.jobs = jobs
        self.ranks: list[Rank] = []
        self.given_up: dict[int, tuple[int, str]] = {}
        self.first_ready: float | None = None
        self._on_done, self._on_sequences = on_done, on_sequences
        self._assignments = {assignment.shard: assignment for assignment in assignments}
        self._todo = deque(assignment.shard for assignment in assignments)
        self._attempts: Counter[int] = Counter()
        self._restarts = 0
        self._start_error: VirNucProError | None = None
        self._config = jobs[0].config

    @property
    def failed_ranks(self) -> list[int]:
        """Ranks that held work which no living rank could finish."""
        return sorted({rank for rank, _ in self.given_up.values()})

    def run(self) -> None:
        """Return once every shard is done or given up.

        Raises:
            VirNucProError: no rank can start, or results cannot be written.
        """
        try:
            self.ranks += [
                self._start(number) for number in range(len(self.jobs) if self._todo else 0)
            ]
            while self._open_shards():
                self._listen()
                self._look_for_lost()
                if not self._living() and not self._restart_one():
                    self._give_up_rest()
                self._hand_out()
            self._dismiss()
        finally:
            self._end_all()

    def _start(self, number: int) -> Rank:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(
            target=rank_main, args=(number, self.jobs[number], theirs), name=f"rank-{number}"
        )
        with children_ignore_interrupts():
            process.start()
        theirs.close()
        return Rank(number, process, ours)

    def _open_shards(self) -> bool:
        return bool(self._todo) or any(rank.held for rank in self._living())

    def _living(self) -> list[Rank]:
        return [rank for rank in self.ranks if not rank.is_lost]

    def _listen(self) -> None:
        living = self._living()
        sources: list[Any] = [rank.connection for rank in living]
        sources += [rank.process.sentinel for rank in living]
        wait(sources, timeout=min(_TICK_S, self._config.worker_timeout / 4))
        for rank in living:
            self._read(rank)

    def _read(self, rank: Rank) -> None:
        """Take in everything that a rank has said."""
        try:
            while rank.connection.poll():
                self._take(rank, rank.connection.recv())
        except (EOFError, OSError):
            rank.process.join(_GRACE_S)

    def _take(self, rank: Rank, message: object) -> None:
        rank.heard = time.monotonic()
        if isinstance(message, Beat):
            self._on_sequences(message.sequences)
        elif isinstance(message, Done):
            rank.held.remove(message.shard)
            self._restarts = 0
            self._on_done(message.shard)
        elif isinstance(message, Failed):
            self._shard_failed(rank, message)
        elif isinstance(message, Returned):
            rank.held.remove(message.shard)
            self._todo.appendleft(message.shard)
        elif isinstance(message, CannotStart):
            self._start_error = self._start_error or message.error
            self._lose(rank, message.reason)
        elif isinstance(message, Ready | Bye):
            rank.stats, rank.is_ready = message.stats, True
            self.first_ready = self.first_ready or rank.heard

    def _shard_failed(self, rank: Rank, message: Failed) -> None:
        if isinstance(message.error, OutputError):
            raise message.error  # a full disk is no fault of the shard or the rank
        rank.held.remove(message.shard)
        self._retry(rank, message.shard, message.reason)

    def _retry(self, rank: Rank, shard: int, reason: str) -> None:
        self._attempts[shard] += 1
        if self._attempts[shard] >= self._config.max_attempts:
            log.error("Shard %d given up, last on rank %d: %s", shard, rank.number, reason)
            self.given_up[shard] = rank.number, reason
        else:
            log.warning("Shard %d failed on rank %d, tried again: %s", shard, rank.number, reason)
            self._todo.append(shard)  # last, so that it holds nothing up

    def _look_for_lost(self) -> None:
        now, timeout = time.monotonic(), self._config.worker_timeout
        for rank in self._living():
            allowed = timeout if rank.is_ready else max(timeout, _START_S)
            if not rank.process.is_alive():
                self._read(rank)
                if not rank.is_lost:
                    self._lose(rank, f"process ended with exit code {rank.process.exitcode}")
            elif now - rank.heard > allowed and (rank.held or not rank.is_ready):
                rank.process.kill()
                self._lose(rank, f"silent for {allowed:g} s")

    def _lose(self, rank: Rank, reason: str) -> None:
        """Give a rank's shards to the others; only the one at work may be to blame."""
        log.warning("Rank %d is lost: %s", rank.number, reason)
        rank.is_lost = True
        held, rank.held = rank.held, []
        self._todo.extendleft(reversed(held[1:]))
        if held:
            self._retry(rank, held[0], reason)

    def _restart_one(self) -> bool:
        """Start a rank anew where none is left; False if none had started, or it does not help."""
        for rank in self.ranks:
            if rank.is_ready and self._todo and self._restarts < _MOST_RESTARTS:
                self._restarts += 1
                rank.connection.close()
                self.ranks[rank.number] = self._start(rank.number)
                log.warning("Rank %d is started anew: no other is left", rank.number)
                return True
        return False

    def _give_up_rest(self) -> None:
        if self._start_error is not None and not any(rank.is_ready for rank in self.ranks):
            raise self._start_error
        for position, shard in enumerate(self._todo):
            self.given_up[shard] = self.ranks[position % len(self.ranks)].number, _NO_RANK
        self._todo.clear()

    def _hand_out(self) -> None:
        """Keep ranks supplied; near the end only idle ones, so that all end together."""
        ready = [rank for rank in self._living() if rank.is_ready]
        for depth in range(1, AHEAD + 1):
            for rank in ready:
                plenty = depth == 1 or len(self._todo) > len(ready)
                if self._todo and len(rank.held) < depth and plenty:
                    self._assign(rank, self._todo.popleft())

    def _assign(self, rank: Rank, shard: int) -> None:
        rank.held.append(shard)
        if len(rank.held) == 1:
            rank.heard = time.monotonic()
        try:
            rank.connection.send(self._assignments[shard])
        except OSError:
            log.debug("Rank %d is gone", rank.number)  # its process is looked at next

    def _dismiss(self) -> None:
        """Let ranks end in good order."""
        for rank in self._living():
            try:
                rank.connection.send(None)
            except OSError:
                continue
        deadline = time.monotonic() + _GRACE_S
        for rank in self._living():
            while rank.process.is_alive() and time.monotonic() < deadline:
                self._read(rank)
                rank.process.join(0.02)
            self._read(rank)

    def _end_all(self) -> None:
        """No process of ours outlives this: asked first, then killed."""
        alive = [rank.process for rank in self.ranks if rank.process.is_alive()]
        for process in alive:
            if process.pid is not None:
                os.kill(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + _END_S
        for process in alive:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
        for rank in self.ranks:
            rank.connection.close()
