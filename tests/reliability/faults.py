"""What goes wrong in a forked run: each function is called in its process before the command."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import stand_ins

POISON_FILES = {"output_2.fa", "output_3.fa"}  # some records lie wholly in them


def translate_in_processes() -> None:
    """Start the translation pool for any input."""
    from virnucpro.pipeline import orf_stages, parallel_translate

    parallel_translate.BLOCKS_BEFORE_POOL = 0
    orf_stages.BLOCK_CHUNKS = 1


def fail_on_some_files() -> None:
    """The DNA of some split files cannot be embedded."""
    from virnucpro.pipeline import features

    extract = features.extract_dnabert_features

    def fail(nucleotide_file, *rest):
        if nucleotide_file.name in POISON_FILES:
            raise RuntimeError("poison | in\nthis file")
        return extract(nucleotide_file, *rest)

    features.extract_dnabert_features = fail


def kill_workers_with_some_files() -> None:
    """Whichever worker gets one of some protein files is killed, as for want of memory."""
    from virnucpro.pipeline.persistent_pool import PersistentWorkerPool

    assign = PersistentWorkerPool.assign

    def kill(self, worker, job):
        assign(self, worker, job)
        if job.is_protein and job.input_file.name in POISON_FILES:
            os.kill(worker.process.pid, signal.SIGKILL)

    PersistentWorkerPool.assign = kill


def kill_ranks_with_one_shard() -> None:
    """Whichever rank is about to commit one shard is killed."""
    from virnucpro.pipeline import rank_scheduler

    rank_scheduler.rank_main = stand_ins.rank_killed_by_one_shard


def write_down_events(log: Path) -> None:
    """Write down what the interpreter tells of opening, importing, connecting and running."""
    file = log.open("a")
    told = ("open", "exec", "pickle.", "socket.", "subprocess.", "os.system", "os.exec", "os.fork")

    def hook(event: str, given: tuple[object, ...]) -> None:
        if event.startswith((*told, "os.posix_spawn")) and not file.closed:
            what = getattr(given[0], "co_filename", given[0]) if given else ""
            file.write(json.dumps([event, str(what)]) + "\n")
            file.flush()

    sys.addaudithook(hook)
