"""One rank in this process: what it says, what it commits, and the processes that read for it."""

from __future__ import annotations

import multiprocessing
import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from virnucpro.models.specs import EncoderSpec
from virnucpro.pipeline.multi_gpu_inference import _Stage
from virnucpro.pipeline.rank_messages import Assignment, Bye, RankJob
from virnucpro.pipeline.rank_worker import RankServer
from virnucpro.pipeline.runtime_config import RuntimeConfig
from virnucpro.pipeline.sequence_index import build_index
from virnucpro.pipeline.shard_plan import plan_shards


@dataclass(frozen=True)
class Served:
    """What a rank did.

    Attributes:
        said: its messages.
        readers: pids of the processes that read for it.
        seconds: from the first shard to the end, loading left out.
    """

    said: list[Any]
    readers: list[int]
    seconds: float


def rank_job(
    folder: Path, spec: EncoderSpec, files: list[Path], device: str = "cpu", strides: int = 0,
    **settings: Any,
) -> tuple[RankJob, list[Assignment]]:  # fmt: skip
    """The job of the one rank of a stage, and all shards of it.

    Args:
        strides: shards; 0 means as many as the stage plans.
        settings: of `RuntimeConfig`.
    """
    stage = _Stage(folder, RuntimeConfig(**settings), spec, {})
    stage.prepare(keep_shards=False)
    index = build_index(files)
    plan = [np.arange(k, len(index), strides) for k in range(strides)]
    plan = plan or plan_shards(index, stage.unit)
    [job] = stage.jobs(index, [device])
    return job, [Assignment(k, index.places.take(chosen)) for k, chosen in enumerate(plan)]


def serve(job: RankJob, shards: list[Assignment]) -> Served:
    """Be the coordinator of one rank until it has done all it was given."""
    before = set(multiprocessing.active_children())
    ours, theirs = multiprocessing.Pipe()
    server = RankServer(job, theirs)
    readers = [child.pid or 0 for child in set(multiprocessing.active_children()) - before]
    said: list[Any] = []
    listener = threading.Thread(target=_listen, args=(ours, said), daemon=True)
    listener.start()
    start = time.perf_counter()
    sender = threading.Thread(target=_send, args=(ours, [*shards, None]), daemon=True)
    sender.start()
    server.serve()
    seconds = time.perf_counter() - start
    sender.join()
    listener.join()
    return Served(said, readers, seconds)


def rows(job: RankJob) -> dict[str, Any]:
    """Vector of each sequence; an error if one was committed twice."""
    found: dict[str, Any] = {}
    for path in sorted(job.shard_dir.glob("shard_*.h5")):
        with h5py.File(path) as file:
            for seq_id, row in zip(
                file["sequence_ids"].asstr()[:], file["embeddings"][:], strict=True
            ):
                assert seq_id not in found, f"{seq_id} was committed twice"
                found[seq_id] = row
    return found


def _send(connection: Connection, messages: list[Assignment | None]) -> None:
    for message in messages:
        connection.send(message)


def _listen(connection: Connection, said: list[Any]) -> None:
    while not said or not isinstance(said[-1], Bye):
        said.append(connection.recv())
