"""One rank of a packed stage: a process that turns shards into committed files.

Shards flow through without a pause: while one computes, the next is read and tokenised, and the
one before is written.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

import numpy as np

from virnucpro.core.errors import VirNucProError
from virnucpro.core.log import DATE_FORMAT, FORMAT
from virnucpro.core.processes import become_worker
from virnucpro.core.records import Embeddings, Tokens
from virnucpro.core.text import one_line
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
    shard_path,
)
from virnucpro.pipeline.shard_reader import Read, ShardReader

if TYPE_CHECKING:
    from virnucpro.engines.base import Engine, EngineKind
    from virnucpro.models.load import Tokenizer

log = logging.getLogger("virnucpro.pipeline.rank")

EXIT_TERMINATED = 143
_IDLE_S = 1.0
_SWITCH_S = 2e-4  # other threads must not keep the one that feeds the device waiting


def rank_main(rank: int, job: RankJob, connection: Connection) -> None:
    """Serve shards from `connection` until it brings None; ends when the parent does."""
    become_worker()
    _log_to_file(rank, job)
    try:
        server = RankServer(job, connection)
    except Exception as error:  # a worker's edge: the failure becomes data
        log.exception("Rank %d cannot start", rank)
        connection.send(CannotStart(one_line(error), _typed(error)))
        return
    signal.signal(signal.SIGTERM, lambda *_: server.stop())
    server.serve()
    if server.is_stopped:
        raise SystemExit(EXIT_TERMINATED)


class RankServer:
    """Loads an encoder and computes assignments.

    Raises:
        ModelError: the encoder cannot be loaded.
        DeviceError: the device cannot be used.
    """

    def __init__(self, job: RankJob, connection: Connection) -> None:
        self.job = job
        self._connection = connection
        self._sending = threading.Lock()
        self._inbox: queue.Queue[tuple[Assignment, Future[Read] | None] | None] = queue.Queue()
        self._outbox: queue.Queue[tuple[int, Embeddings] | None] = queue.Queue(2)
        self._taken: dict[int, list[Tokens]] = {}
        self._parts: dict[int, list[Embeddings]] = {}
        self._is_finished = False
        self.is_stopped = False
        self._reader = ShardReader(job.files, _tokenizer(job), job.readers)
        self.engine = _load(job)
        self._reader.wait()

    def serve(self) -> None:
        """Compute shards until told to finish or to stop."""
        threading.Thread(target=self._receive, daemon=True).start()
        writer = threading.Thread(target=self._write, name="writer")
        writer.start()
        self._send(Ready(self.engine.stats.as_dict()))
        while not (self._is_finished or self.is_stopped):
            self._stream()
        self._outbox.put(None)
        writer.join()
        self._reader.close()
        for shard in self._taken:
            self._send(Returned(shard))
        self._send(Bye(self.engine.stats.as_dict()))
        log.info("Done: %s", self.engine.stats.as_dict())

    def stop(self) -> None:
        """Finish the batch at hand and no more."""
        self.is_stopped = True

    def _stream(self) -> None:
        """Compute assignments one after the other; a failure ends the stream, not the rank."""
        try:
            for shard, embeddings in self.engine.embed_units(self._units()):
                self._gather(shard, embeddings)
                if self.is_stopped:
                    break
        except Exception as error:  # a worker's edge: the failure becomes data
            shards = list(self._taken)
            if not shards:
                raise
            self._fail(shards[0], error)
            for shard in shards[1:]:
                self._drop(shard)
                self._send(Returned(shard))

    def _units(self) -> Iterator[tuple[int, list[Tokens]]]:
        """Assignments as tokens; runs in the feeding thread. Ends when none has come lately."""
        while not self.is_stopped:
            try:
                received = self._inbox.get(timeout=_IDLE_S)
            except queue.Empty:
                return
            if received is None:
                self._is_finished = True
                return
            assignment, begun = received
            self._taken[assignment.shard] = []
            try:
                self._taken[assignment.shard] = self._reader.finish(assignment.places, begun)
            except Exception as error:  # noqa: BLE001 - a worker's edge, as above
                self._fail(assignment.shard, error)
                continue
            yield assignment.shard, self._taken[assignment.shard]

    def _gather(self, shard: int, embeddings: Embeddings) -> None:
        self._send(Beat(len(embeddings)))
        parts = self._parts.setdefault(shard, [])
        parts.append(embeddings)
        items = self._taken[shard]
        if sum(map(len, parts)) == len(items):
            self._outbox.put((shard, _in_order([item.seq_id for item in items], parts)))
            self._drop(shard)

    def _write(self) -> None:
        from virnucpro.engines.shards import write_shard

        while (finished := self._outbox.get()) is not None:
            shard, embeddings = finished
            try:
                path = shard_path(self.job.shard_dir, shard)
                write_shard(path, embeddings, {**self.job.attributes, "shard": shard})
                self._send(Done(shard))
            except Exception as error:  # noqa: BLE001 - a worker's edge, as above
                self._fail(shard, error)

    def _fail(self, shard: int, error: Exception) -> None:
        log.error("Shard %d failed", shard, exc_info=error)
        self._drop(shard)
        self._send(Failed(shard, one_line(error), _typed(error)))

    def _drop(self, shard: int) -> None:
        self._taken.pop(shard, None)
        self._parts.pop(shard, None)

    def _receive(self) -> None:
        with suppress(EOFError, OSError):
            while True:
                assignment: Assignment | None = self._connection.recv()
                if assignment is None:
                    self._inbox.put(None)
                    return
                self._inbox.put((assignment, self._reader.start(assignment.places)))

    def _send(self, message: object) -> None:
        with self._sending, suppress(OSError):  # a lost parent ends this process anyway
            self._connection.send(message)


def _typed(error: Exception) -> VirNucProError | None:
    return error if isinstance(error, VirNucProError) else None


def _in_order(seq_ids: list[str], parts: list[Embeddings]) -> Embeddings:
    """The parts' rows in the order of `seq_ids`, each of which occurs exactly once."""
    row_of = {seq_id: row for row, seq_id in enumerate(seq_ids)}
    vectors = np.empty((len(seq_ids), parts[0].vectors.shape[1]), dtype=np.float32)
    for part in parts:
        vectors[[row_of.pop(seq_id) for seq_id in part.seq_ids]] = part.vectors
    return Embeddings(tuple(seq_ids), vectors)


def _tokenizer(job: RankJob) -> Tokenizer:
    from virnucpro.models.load import make_tokenizer

    return make_tokenizer(job.encoder)


def _load(job: RankJob) -> Engine:
    import torch

    from virnucpro.engines.base import EngineOptions, choose_dtype, make_engine
    from virnucpro.models.attention import TransformerEncoder
    from virnucpro.models.load import load_encoder

    config = job.config
    device = torch.device(job.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        sys.setswitchinterval(_SWITCH_S)
    else:
        torch.set_num_threads(job.cpu_threads)
    dtype = choose_dtype(config.dtype, device, config.disable_fp16)
    encoder = load_encoder(job.encoder, device, dtype)
    if config.v1_attention and isinstance(encoder, TransformerEncoder):
        encoder.forced_backend = "sdpa"
    options = EngineOptions(
        token_budget=config.token_budget,
        feeding_threads=0 if config.dataloader_workers == 0 else 1,
        pin_memory=config.pin_memory,
        compile=config.compile,
        expected_tokens=job.expected_tokens,
        longest=job.longest,
        float32_encoder=lambda: load_encoder(job.encoder, device, torch.float32),
    )
    kind: EngineKind = "padded" if config.disable_packing else "packed"
    return make_engine(kind, encoder, device=device, options=options)


def _log_to_file(rank: int, job: RankJob) -> None:
    logger = logging.getLogger("virnucpro")
    handler = logging.FileHandler(job.log_dir / f"worker_{rank}.log", encoding="utf-8")
    handler.setFormatter(logging.Formatter(FORMAT, DATE_FORMAT))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    log.info("Rank %d on %s, pid %d", rank, job.device, os.getpid())
