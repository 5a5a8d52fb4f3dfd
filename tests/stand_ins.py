"""Processes in place of ranks and workers. All but one start at once, and compute nothing.

Spawned processes find these functions by name; importing this module must not import torch.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress

from virnucpro.pipeline.jobs import JobDone, JobFailed
from virnucpro.pipeline.rank_messages import Bye, CannotStart, Done, Failed, Ready, shard_path

from virnucpro.core.errors import DeviceError, OutputError

POISON_SHARD = 3


def rank_killed_by_one_shard(rank, job, connection):
    """A real rank, killed when it is about to commit one shard, as for want of memory.

    A rank writes one shard after the other, so the coordinator has heard of all before it.
    """
    from virnucpro.pipeline.rank_worker import rank_main

    from virnucpro.engines import shards

    write = shards.write_shard

    def kill(path, *rest):
        if path == shard_path(job.shard_dir, POISON_SHARD):
            os.kill(os.getpid(), signal.SIGKILL)
        write(path, *rest)

    shards.write_shard = kill
    rank_main(rank, job, connection)


def rank_that_names_its_device(rank, job, connection):
    """Writes down where it was to compute, and cannot."""
    (job.log_dir / f"device_{rank}").write_text(job.device)
    connection.send(CannotStart("no such GPU", DeviceError("no such GPU")))


def worker_that_names_its_device(connection, settings):
    """Its feature files hold the name of its device."""
    with suppress(EOFError, OSError):
        while True:
            job = connection.recv()
            job.output_file.write_text(settings.device)
            connection.send(JobDone(job.rows, (), 1, 0))


def rank_that_dies_with_work(rank, job, connection):
    """Killed by any shard, as for want of memory."""
    connection.send(Ready({}))
    connection.recv()
    os.kill(os.getpid(), signal.SIGKILL)


def rank_that_fails_every_shard(rank, job, connection):
    """Lives, and can compute nothing."""
    connection.send(Ready({}))
    while (assignment := connection.recv()) is not None:
        connection.send(Failed(assignment.shard, "RuntimeError: nothing fits"))
    connection.send(Bye({}))


def first_rank_that_dies_with_work(rank, job, connection):
    """Rank 0 is killed by its first shard; only then do the others begin, and do all they get."""
    dying = job.log_dir / "dying"
    if rank == 0:
        connection.send(Ready({}))
        connection.recv()
        dying.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    while not dying.exists():
        time.sleep(0.01)
    connection.send(Ready({}))
    while (assignment := connection.recv()) is not None:
        connection.send(Done(assignment.shard))
    connection.send(Bye({}))


def worker_without_a_disk(connection, settings):
    """Cannot write any feature file, and no other worker could."""
    with suppress(EOFError, OSError):
        while True:
            connection.recv()
            connection.send(JobFailed("no space left", OutputError("no space left")))


def worker_that_tells_its_threads(connection, settings):
    """A real worker that writes down, beside each feature file, how many threads it may use."""
    import torch
    from virnucpro.pipeline.embedding_worker import worker_main

    from virnucpro.pipeline import feature_files

    for name in ("write_dna_features", "write_protein_features"):
        _tell_before(feature_files, name, lambda: str(torch.get_num_threads()))
    worker_main(connection, settings)


def rank_that_tells_its_threads(rank, job, connection):
    """A real rank that writes down, beside each shard, how many threads it may use."""
    import torch
    from virnucpro.pipeline.rank_worker import rank_main

    from virnucpro.engines import shards

    _tell_before(shards, "write_shard", lambda: str(torch.get_num_threads()))
    rank_main(rank, job, connection)


def _tell_before(module, name, fact):
    write = getattr(module, name)

    def tell(path, *rest):
        path.with_name(f"{path.name}.threads").write_text(fact())
        return write(path, *rest)

    setattr(module, name, tell)
