"""Light jobs and disturbed workers; spawned processes find them by name, and need no torch."""

import logging
import multiprocessing
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from virnucpro.core.errors import DeviceError, OutputError
from virnucpro.pipeline.worker_loop import Done, Failed

POISON_UNIT = 2


@dataclass(frozen=True)
class Squares:
    """Squares numbers; a unit is (number, what goes wrong); it cannot start on `broken`."""

    folder: Path
    broken: str = ""

    def task(self, models):
        return SquareTask(self, models.device)

    def tries(self, number: int) -> list[int]:
        """Pids of the processes that began a unit, in order."""
        log = self.folder / str(number)
        return [int(pid) for pid in log.read_text().split()] if log.exists() else []


class SquareTask:
    """Results are (square, pid of who computed it)."""

    def __init__(self, job: Squares, device: str) -> None:
        self.job, self.device = job, device

    def load(self):
        if self.device == self.job.broken:
            raise DeviceError(f"{self.device} is broken")

    def prepare(self, unit):
        if unit[1] == "unreadable":
            raise ValueError("cannot be\nread")
        if unit[1] == "SIGKILL while it is prepared":
            assert multiprocessing.parent_process(), "not in a worker"
            os.kill(os.getpid(), signal.SIGKILL)
        return unit

    def run(self, unit):
        number, trouble = unit
        with (self.job.folder / str(number)).open("a") as log:
            log.write(f"{os.getpid()}\n")
        logging.getLogger("virnucpro.toy").info("unit %d", number)
        yield 1
        if trouble.endswith("once"):
            trouble = trouble.removesuffix(" once") if len(self.job.tries(number)) == 1 else ""
        if trouble in ("SIGKILL", "SIGSTOP"):
            assert multiprocessing.parent_process(), "not in a worker"
            os.kill(os.getpid(), getattr(signal, trouble))
        if trouble == "error":
            raise RuntimeError("it would not")
        if trouble == "full disk":
            raise OutputError("no space left")
        return number * number, os.getpid()

    def stats(self):
        return {}


def _answering(before_answer, keys=(POISON_UNIT,)):
    """A worker that does something when it is about to answer one of these units."""

    def main(connection, settings, number):
        from virnucpro.pipeline import workers

        work = workers.work

        def disturbed(tasks, items):
            for message in work(tasks, items):
                if isinstance(message, Done) and message.key in keys:
                    before_answer()
                yield message

        workers.work = disturbed
        workers.worker_main(connection, settings, number)

    return main


def worker_killed_by_one_unit(connection, settings, number):
    """Stands for `workers.worker_main`: one unit takes more memory than there is."""
    _answering(lambda: os.kill(os.getpid(), signal.SIGKILL))(connection, settings, number)


def worker_that_tells_its_threads(connection, settings, number):
    def tell():
        import torch

        text = "%d threads on %s"
        logging.getLogger("virnucpro.toy").info(text, torch.get_num_threads(), settings.device)

    _answering(tell, range(1000))(connection, settings, number)


def worker_that_names_its_device(connection, settings, number):
    """Stands for `workers.worker_main`: computes nothing, and says where it would have."""
    while (item := connection.recv()) is not None:
        key, job, unit = item
        if unit is None:
            continue
        scores = None if hasattr(unit, "layout") else unit
        what = "scores" if scores else unit.layout
        text = f"{what} on {settings.device}"
        line = {"name": "virnucpro.toy", "levelno": logging.INFO, "levelname": "INFO", "msg": text}
        connection.send(logging.makeLogRecord(line))
        if what == "shard":
            connection.send(Failed(key, "no such GPU"))
        elif scores:
            from virnucpro.scores.scorer import COLUMNS

            connection.send(Done(key, np.full((len(scores[0]), COLUMNS), 0.5, np.float32), {}, 0))
        else:
            unit.output_file.write_text("")
            connection.send(Done(key, (1, 1), {job.encoder.kind: {}}, 0))


def worker_that_fails_every_unit(connection, settings, number):
    """Stands for `workers.worker_main`: no unit is at fault more than another."""
    from virnucpro.pipeline import features, workers

    def prepare(task, unit):
        raise RuntimeError("it would not")

    features.EmbedTask.prepare = prepare
    workers.worker_main(connection, settings, number)


@dataclass(frozen=True)
class Gated:
    """Another job, whose units wait for a file `go` once three of them have been done."""

    job: object
    folder: Path

    def task(self, models):
        task = self.job.task(models)
        run = task.run

        def gated(prepared):
            done = len(list(self.folder.glob("done-*")))
            while done >= 3 and not (self.folder / "go").exists():
                time.sleep(0.02)
            scores = yield from run(prepared)
            (self.folder / f"done-{os.getpid()}-{time.monotonic_ns()}").touch()
            return scores

        task.run = gated
        return task


@dataclass(frozen=True)
class Troubled:
    """A job and its task: every score is 0.5; the first DNA of a unit says what goes wrong."""

    folder: Path

    def task(self, models):
        return self

    def load(self):
        pass

    def prepare(self, unit):
        return unit

    def run(self, unit):
        from virnucpro.scores.scorer import COLUMNS

        trouble = unit[0][0].decode()
        with (self.folder / trouble).open("a") as log:
            log.write(f"{os.getpid()}\n")
        yield 1
        if trouble == "hangs once" and len((self.folder / trouble).read_text().split()) == 1:
            time.sleep(1_000)
        if trouble == "fails":
            raise RuntimeError("it would not")
        if trouble == "kills":
            os._exit(9)
        return np.full((len(unit[0]), COLUMNS), 0.5, np.float32)

    def stats(self):
        return {}
