"""What goes wrong in a forked run: each function is called in its process before the command."""

import itertools
import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path

import stand_ins

POISON_FILES = {"output_2.fa", "output_3.fa"}  # some records lie wholly in them


def translate_in_processes() -> None:
    from virnucpro.pipeline import input_pass, parallel_translate

    parallel_translate.BLOCKS_BEFORE_POOL = 0
    input_pass.BLOCK_CHUNKS = 1


def fail_on_some_files() -> None:
    from virnucpro.pipeline.features import EmbedTask

    prepare = EmbedTask.prepare

    def fail(self, file):
        if file.layout == "dna" and file.input_file.name in POISON_FILES:
            raise RuntimeError("poison | in\nthis file")
        return prepare(self, file)

    EmbedTask.prepare = fail


def kill_ranks_with_one_shard() -> None:
    from virnucpro.pipeline import workers

    workers.worker_main = stand_ins.worker_killed_by_one_unit


def write_down_events(log: Path) -> None:
    file = log.open("a")
    told = ("open", "exec", "pickle.", "socket.", "subprocess.", "os.system", "os.exec", "os.fork")

    def hook(event: str, given: tuple[object, ...]) -> None:
        if event.startswith((*told, "os.posix_spawn")) and not file.closed:
            what = getattr(given[0], "co_filename", given[0]) if given else ""
            file.write(json.dumps([event, str(what)]) + "\n")
            file.flush()

    sys.addaudithook(hook)


def be_deaf(deadline: float) -> None:
    from virnucpro.cli import main
    from virnucpro.pipeline import prediction

    def deaf(**kwargs):
        while True:
            with suppress(BaseException):
                print("begun", flush=True)
                time.sleep(60)
            print("swallowed", flush=True)

    main.STOP_WITHIN_S = deadline
    prediction.run_prediction = deaf


def signal_before_commit(number, signal_number):
    """This process sends itself a signal before it commits the scores of its `number`-th unit."""
    from virnucpro.pipeline.stream import ScoreStore

    commit, calls = ScoreStore.commit, itertools.count(1)

    def disturbed(self, *unit):
        if next(calls) == number:
            os.kill(os.getpid(), signal_number)
        return commit(self, *unit)

    ScoreStore.commit = disturbed
