"""The one loop of everything that holds a model, in this process (`InProcess`) or in others.

A unit whose worker is lost or fails is tried once more, alone, and then given up with its reason.
"""

import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

from virnucpro.core.errors import OutputError, VirNucProError
from virnucpro.core.text import clipped, one_line
from virnucpro.scores.scorer import LoadedModels

logger = logging.getLogger("virnucpro.pipeline.workers")

_PREPARED = 1  # units that wait for the device
LOAD_ONLY = -1  # the key of an item that asks for models, and no more


class Task(Protocol):
    """What a worker does with units."""

    def load(self) -> object:
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
class Done:
    """The result of a unit; None where it had been done, or was only a job to load."""

    key: int
    result: Any = None
    stats: Any = None  # what the engines did so far, by slot
    loads: int = 0  # encoders loaded so far


@dataclass(frozen=True, slots=True)
class Failed:
    """A unit, or the start of a job, that gave no result; `error` where it has a type of ours."""

    key: int
    reason: str
    error: VirNucProError | None = None
    worker: int = 0  # that held it last

    def raise_if_hopeless(self) -> None:
        """A job that cannot start, and a full disk, are no fault of a unit, and meet all."""
        if self.key == LOAD_ONLY:
            raise self.error or RuntimeError(self.reason)
        if isinstance(self.error, OutputError):
            raise self.error


OnRows = Callable[[int], object]
Outcome = Done | Failed
Item = tuple[int, Any]


class Executor(Protocol):
    """Does units of work, wherever."""

    def run(self, job: Job, items: Iterable[Item], on_rows: OnRows) -> Iterator[Outcome]:
        """Do every item; outcomes come as they are ready, each key once, failures after two tries.

        Keys and units are read only as far as work is needed; a unit that is None is done
        already, and comes out again in its turn. `on_rows` is told how many more rows are done.
        The first key may be `LOAD_ONLY`: models are loaded while the first unit is being read.

        Raises:
            VirNucProError: no worker can start, or results cannot be written.
        """

    def close(self) -> None:
        """Give everything back; safe to call twice."""


def work(
    models: LoadedModels, items: Iterable[tuple[int, Job, Any]]
) -> Iterator[int | Done | Failed]:
    """Do units one after the other on the device of `models`; meanwhile, the next is prepared.

    `items` are key, job and unit, read in another thread. `LOAD_ONLY` loads its job, and any other
    key without a unit is passed on.

    Yields:
        Rows as they are done, and one outcome of each unit and each start of a job.
    """
    from virnucpro.engines.base import ahead

    tasks: dict[Job, Task] = {}

    def prepared() -> Iterator[tuple[int, Task | None, Any]]:
        """Keys, with their task and what it made of the unit, or the error that it met."""
        for key, job, unit in items:
            if unit is None and key != LOAD_ONLY:
                yield key, None, None
                continue
            if job not in tasks:
                tasks[job] = job.task(models)
                yield LOAD_ONLY, tasks[job], None  # it loads while a unit is prepared
            if key != LOAD_ONLY:
                try:
                    yield key, tasks[job], tasks[job].prepare(unit)
                except Exception as error:  # noqa: BLE001 - a worker's edge: it becomes data
                    yield key, tasks[job], error

    depth = 0 if models.is_single_threaded else _PREPARED
    with closing(ahead(prepared(), depth)) as units:
        for key, task, ready in units:
            if task is None:
                yield Done(key)
                continue
            result = None
            try:
                if isinstance(ready, Exception):
                    raise ready
                if key == LOAD_ONLY:
                    task.load()
                else:
                    result = yield from task.run(ready)
            except Exception as caught:
                logger.debug("unit %d failed", key, exc_info=caught)
                own = caught if isinstance(caught, VirNucProError) else None  # these can be pickled
                yield Failed(key, clipped(one_line(caught), 1_000), own)
                if key == LOAD_ONLY:
                    return
            else:
                yield Done(key, result, task.stats(), models.loads)
            if key != LOAD_ONLY:
                models.unit_finished()


class InProcess:
    """The loop in this process, on one device; see `LoadedModels`, which stay until `close`."""

    def __init__(
        self, device: str, threads: int | None = None, cache_clear_interval: int = 0
    ) -> None:
        self._settings = device, threads, cache_clear_interval
        self.models = LoadedModels(*self._settings)

    def run(self, job: Job, items: Iterable[Item], on_rows: OnRows) -> Iterator[Outcome]:
        """See `Executor`."""
        held: dict[int, Any] = {}

        def taken() -> Iterator[tuple[int, Job, Any]]:
            for key, unit in items:
                held[key] = unit
                yield key, job, unit

        failed: list[Failed] = []
        for message in work(self.models, taken()):
            if isinstance(message, int):
                on_rows(message)
            elif isinstance(message, Failed):
                message.raise_if_hopeless()
                failed.append(message)
            elif message.key != LOAD_ONLY:
                del held[message.key]
                yield message
        for failure in failed:
            logger.warning("unit %d: %s; trying it again, alone", failure.key, failure.reason)
            for message in work(self.models, [(failure.key, job, held.pop(failure.key))]):
                if not isinstance(message, int) and message.key != LOAD_ONLY:
                    yield message

    def close(self) -> None:
        """Forget what is loaded."""
        self.models = LoadedModels(*self._settings)
