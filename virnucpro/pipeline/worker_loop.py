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
from virnucpro.core.text import clipped, one_line
from virnucpro.scores.scorer import LoadedModels

logger = logging.getLogger("virnucpro.pipeline.workers")

LOAD_ONLY = -1  # the key of an item that asks for models, and no more
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
    """A worker has loaded what a job needs."""

    stats: dict[str, Any]  # what its engines say about themselves


@dataclass(frozen=True, slots=True)
class Beat:
    """A worker made progress: rows since its last word."""

    rows: int


@dataclass(frozen=True, slots=True)
class Done:
    """The result of a unit."""

    key: int
    result: Any
    stats: dict[str, Any]  # what the engines did so far
    loads: int  # encoders loaded so far


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
    """A unit that failed twice."""

    key: int
    reason: str
    worker: int = 0  # that held it last


OnRows = Callable[[int], object]
Outcome = Done | GivenUp
Item = tuple[int, Any]


class Executor(Protocol):
    """Does units of work, wherever."""

    def run(self, job: Job, items: Iterable[Item], on_rows: OnRows) -> Iterator[Outcome]:
        """Do every item; outcomes come as they are ready, each key once.

        Keys and units are read only as far as work is needed; a unit that is None is done
        already, and comes out again in its turn. `on_rows` is told how many more rows are done.
        The first key may be `LOAD_ONLY`: models are loaded while the first unit is being read.

        Raises:
            VirNucProError: no worker can start, or results cannot be written.
        """

    @property
    def loads(self) -> int:
        """Encoders loaded so far."""

    def close(self) -> None:
        """Give everything back; safe to call twice."""


def work(
    models: LoadedModels, items: Iterable[tuple[int, Job, Any]]
) -> Iterator[Ready | Beat | Done | Failed | CannotStart]:
    """Do units one after the other; while one computes, the next is prepared.

    Args:
        models: what is loaded on the device of this worker.
        items: key, job and unit; read in another thread. `LOAD_ONLY` loads its job, and any
            other key without a unit is passed on.
    """
    from virnucpro.engines.feeding import Ahead

    tasks: dict[Job, Task] = {}

    def prepared() -> Iterator[tuple[int, Task, Any, Exception | None]]:
        for key, job, unit in items:
            if job not in tasks:
                tasks[job] = job.task(models)
            task = tasks[job]
            try:
                yield key, task, None if unit is None else task.prepare(unit), None
            except Exception as error:  # noqa: BLE001 - a worker's edge: it becomes data
                yield key, task, None, error

    loaded: list[Task] = []
    with Ahead(prepared(), 0 if models.is_single_threaded else _PREPARED) as ahead:
        for key, task, ready, error in ahead:
            if key != LOAD_ONLY and ready is None and error is None:
                yield Done(key, None, {}, models.loads)
                continue
            if task not in loaded:
                try:
                    task.load()
                except Exception as caught:
                    logger.debug("cannot start", exc_info=True)
                    yield CannotStart(*_reason(caught))
                    return
                loaded.append(task)
                yield Ready(task.stats())
            if key == LOAD_ONLY:
                continue
            if error is None:
                steps = task.run(ready)
                try:
                    while True:
                        yield Beat(next(steps))
                except StopIteration as end:
                    yield Done(key, end.value, task.stats(), models.loads)
                except Exception as caught:  # noqa: BLE001 - a worker's edge: it becomes data
                    error = caught
                models.unit_finished()
            if error is not None:
                logger.debug("unit %d failed", key, exc_info=error)
                yield Failed(key, *_reason(error))


def _reason(error: Exception) -> tuple[str, VirNucProError | None]:
    """An error as text, and itself where it is one of ours, which survive pickling."""
    return clipped(one_line(error), 1_000), error if isinstance(error, VirNucProError) else None


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
        self._settings = device, threads, cache_clear_interval
        self.models = LoadedModels(*self._settings)

    def run(self, job: Job, items: Iterable[Item], on_rows: OnRows) -> Iterator[Outcome]:
        """See `Executor`."""
        held: dict[int, Any] = {}

        def taken() -> Iterator[tuple[int, Job, Any]]:
            is_greeted = False
            for key, unit in items:
                if not is_greeted and (unit is not None or key == LOAD_ONLY):
                    is_greeted = True
                    yield LOAD_ONLY, job, None  # so that it loads while a unit is prepared
                if key != LOAD_ONLY:
                    held[key] = unit
                    yield key, job, unit

        failed: list[Failed] = []
        for message in work(self.models, taken()):
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
            for message in work(self.models, [(failure.key, job, held.pop(failure.key))]):
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
        self.models = LoadedModels(*self._settings)


def start_error(message: CannotStart) -> Exception:
    """What to raise where no worker can start."""
    return message.error or RuntimeError(message.reason)


def raise_if_hopeless(message: Failed) -> None:
    """A full disk is no fault of a unit, and meets all of them."""
    if isinstance(message.error, OutputError):
        raise message.error
