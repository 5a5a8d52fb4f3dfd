"""The one loop of everything that holds a model, and who hands it units of work.

A worker takes units from its inbox, prepares one ahead of the device, computes, and answers with
signs of life and one outcome a unit. The loop runs in this process (`InProcess`) or in processes
of its own (`Workers`); where it runs is the whole difference. A unit whose worker is lost or
fails is tried once more, alone; a unit that fails again is given up with its reason.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from virnucpro.core.errors import OutputError, VirNucProError
from virnucpro.core.text import clipped
from virnucpro.scores.scorer import LoadedModels

logger = logging.getLogger("virnucpro.pipeline.workers")

_PREPARED = 1  # units that wait for the device


class Task(Protocol):
    """What a worker does with units."""

    def load(self) -> None:
        """Load what is needed; errors here would meet every unit alike."""

    def prepare(self, unit: Any) -> Any:
        """Everything that needs no device; runs in another thread, ahead of `run`."""

    def run(self, prepared: Any) -> Generator[int, None, Any]:
        """Compute one unit; yields rows as they are done, returns the result."""

    def stats(self) -> dict[str, Any]:
        """What the engines did so far, by slot."""


class Job(Protocol):
    """What to do: hashable, picklable, and light until its task is made."""

    def task(self, models: LoadedModels) -> Task:
        """The task, on the device of `models`."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker has loaded what a job needs; what its engines say about themselves."""

    stats: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Beat:
    """A worker made progress: rows since its last word."""

    rows: int


@dataclass(frozen=True, slots=True)
class Done:
    """The result of a unit; what the engines did so far, and the encoders loaded so far."""

    key: int
    result: Any
    stats: dict[str, Any]
    loads: int


@dataclass(frozen=True, slots=True)
class Failed:
    """A unit that gave no result; `error` is set where the cause has a type of ours."""

    key: int
    reason: str
    error: VirNucProError | None = None


@dataclass(frozen=True, slots=True)
class CannotStart:
    """A job that no unit can be done for: no weights, or no device."""

    reason: str
    error: VirNucProError | None = None


@dataclass(frozen=True, slots=True)
class GivenUp:
    """A unit that failed twice, why, and the number of the worker that held it last."""

    key: int
    reason: str
    worker: int = 0


OnRows = Callable[[int], object]
Outcome = Done | GivenUp
Item = tuple[int, Any]


class Executor(Protocol):
    """Does units of work, wherever."""

    def run(self, job: Job, items: Iterable[Item], on_rows: OnRows) -> Iterator[Outcome]:
        """Do every item; outcomes come as they are ready, each key once.

        Args:
            job: what to do.
            items: keys and units, read only as far as work is needed; a unit that is None is
                done already, and comes out again in its turn.
            on_rows: told how many more rows are done.

        Raises:
            VirNucProError: no worker can start, or results cannot be written.
        """

    @property
    def loads(self) -> int:
        """Encoders loaded so far."""

    def close(self) -> None:
        """Give everything back; safe to call twice."""


class Tasks:
    """Tasks of one worker, each made when first asked for and then kept."""

    def __init__(self, models: LoadedModels, cache_clear_interval: int = 0) -> None:
        self.models, self._interval = models, cache_clear_interval
        self._tasks: dict[Job, Task] = {}
        self._units = 0

    def of(self, job: Job) -> Task:
        """The task of a job."""
        if job not in self._tasks:
            self._tasks[job] = job.task(self.models)
        return self._tasks[job]

    def unit_finished(self) -> None:
        """Count; every few units give cached GPU memory back, against fragmentation."""
        self._units += 1
        if self._interval and self._units % self._interval == 0:
            self.models.empty_cache()


def work(
    tasks: Tasks, items: Iterable[tuple[int, Job, Any]]
) -> Iterator[Ready | Beat | Done | Failed | CannotStart]:
    """Do units one after the other; while one computes, the next is prepared.

    Args:
        tasks: of this worker.
        items: key, job and unit; read in another thread. A negative key only loads its job, and
            any other key without a unit is passed on.
    """
    from virnucpro.engines.feeding import Ahead

    def prepared() -> Iterator[tuple[int, Job, Any, Exception | None]]:
        for key, job, unit in items:
            try:
                yield key, job, None if unit is None else tasks.of(job).prepare(unit), None
            except Exception as error:  # noqa: BLE001 - a worker's edge: it becomes data
                yield key, job, None, error

    loaded: set[Job] = set()
    with Ahead(prepared(), 0 if tasks.models.is_single_threaded else _PREPARED) as ahead:
        for key, job, ready, error in ahead:
            if key >= 0 and ready is None and error is None:
                yield Done(key, None, {}, tasks.models.loads)
                continue
            task = tasks.of(job)
            if job not in loaded:
                try:
                    task.load()
                except Exception as caught:
                    logger.debug("cannot start", exc_info=True)
                    yield CannotStart(one_line(caught), typed(caught))
                    return
                loaded.add(job)
                yield Ready(task.stats())
            if key < 0:
                continue
            if error is None:
                steps = task.run(ready)
                try:
                    while True:
                        yield Beat(next(steps))
                except StopIteration as end:
                    yield Done(key, end.value, task.stats(), tasks.models.loads)
                except Exception as caught:  # noqa: BLE001 - a worker's edge: it becomes data
                    error = caught
                tasks.unit_finished()
            if error is not None:
                logger.debug("unit %d failed", key, exc_info=error)
                yield Failed(key, one_line(error), typed(error))


class InProcess:
    """The loop in this process, on one device; what it has loaded stays until `close`.

    Args:
        device: `cpu` or `cuda:N`.
        threads: CPU threads of arithmetic; None leaves torch's choice.
        cache_clear_interval: units between two clearings of the GPU cache; 0 never.
    """

    def __init__(
        self, device: str, threads: int | None = None, cache_clear_interval: int = 0
    ) -> None:
        self.models = LoadedModels(device, threads)
        self._tasks = Tasks(self.models, cache_clear_interval)

    def run(self, job: Job, items: Iterable[Item], on_rows: OnRows) -> Iterator[Outcome]:
        """See `Executor`."""
        held: dict[int, Any] = {}

        def taken() -> Iterator[tuple[int, Job, Any]]:
            is_greeted = False
            for key, unit in items:
                if unit is not None and not is_greeted:
                    is_greeted = True
                    yield -1, job, None  # so that it loads while the first unit is prepared
                held[key] = unit
                yield key, job, unit

        failed: list[Failed] = []
        for message in work(self._tasks, taken()):
            if isinstance(message, Done):
                del held[message.key]
                yield message
            elif isinstance(message, Failed):
                raise_if_hopeless(message)
                failed.append(message)
            elif isinstance(message, Beat):
                on_rows(message.rows)
            elif isinstance(message, CannotStart):
                raise start_error(message)
        for failure in failed:
            logger.warning("unit %d: %s; trying it again, alone", failure.key, failure.reason)
            for message in work(self._tasks, [(failure.key, job, held.pop(failure.key))]):
                if isinstance(message, Done):
                    yield message
                elif isinstance(message, Failed):
                    yield GivenUp(message.key, message.reason)

    @property
    def loads(self) -> int:
        """Encoders loaded so far."""
        return self.models.loads

    def close(self) -> None:
        """Forget what is loaded."""
        self.models = LoadedModels(self.models.device, self.models.threads)
        self._tasks = Tasks(self.models)


def one_line(error: BaseException) -> str:
    """Type and text of an error."""
    return f"{type(error).__name__}: {clipped(error, 1_000)}"


def typed(error: Exception) -> VirNucProError | None:
    """The error, where it is one of ours, which survive pickling."""
    return error if isinstance(error, VirNucProError) else None


def start_error(message: CannotStart) -> Exception:
    """What to raise where no worker can start."""
    return message.error or RuntimeError(message.reason)


def raise_if_hopeless(message: Failed) -> None:
    """A full disk is no fault of a unit, and meets all of them."""
    if isinstance(message.error, OutputError):
        raise message.error
