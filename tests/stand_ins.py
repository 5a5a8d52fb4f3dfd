"""Processes in place of ranks and workers: they start at once, and compute nothing.

Spawned processes find these functions by name; nothing here may import torch.
"""

from __future__ import annotations

from contextlib import suppress

from virnucpro.core.errors import DeviceError
from virnucpro.pipeline.jobs import JobDone
from virnucpro.pipeline.rank_messages import CannotStart


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
