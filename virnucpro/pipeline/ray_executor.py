"""Units scored by actors of a Ray cluster: only numbers move, ORFs and scores lie in the ledger.

One actor a GPU, or per some CPUs, on every host that Ray has and that sees the output directory.
Hosts come and go: Ray starts lost actors again, and the ledger says what they had done.
"""

import logging
import os
import queue
import statistics
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

from virnucpro.core.checkpoint import Ledger
from virnucpro.core.text import clipped, one_line
from virnucpro.pipeline import worker_loop
from virnucpro.pipeline.settings import Compute
from virnucpro.pipeline.stream import Orfs, ScoreStore
from virnucpro.pipeline.worker_loop import LOAD_ONLY, Done, Failed, Job, work
from virnucpro.pipeline.workers import AHEAD, MOST_HANDS, Crew, Member
from virnucpro.scores.scorer import LoadedModels

logger = logging.getLogger("virnucpro.pipeline.workers")

_LOOK_S = 2.0  # between two looks at what the cluster has
_LEAST_PATIENCE_S = 60.0
_TIMES_EXPECTED = 10


class Actor:
    """The worker loop on one device of some host; lives in a process of Ray's."""

    def __init__(self, job: Job, store: ScoreStore, kind: str, threads: int | None) -> None:
        self._job, self._store = job, store
        self._models = LoadedModels("cuda:0" if kind == "cuda" else kind, threads)
        self._inbox: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._answers: dict[int, Future[Done | Failed]] = {LOAD_ONLY: Future()}
        threading.Thread(target=self._serve, daemon=True).start()

    def start(self) -> Done | Failed:
        """Wait until models are loaded."""
        return self._answers[LOAD_ONLY].result()

    def score(self, number: int) -> Done | Failed:
        """Score a unit and commit it; several may be asked for at once, and wait in a row."""
        self._answers[number] = Future()
        self._inbox.put(number)
        answer = self._answers[number].result()
        del self._answers[number]
        return answer

    def _serve(self) -> None:
        def items() -> Iterator[tuple[int, Job, Any]]:
            yield LOAD_ONLY, self._job, None
            while True:
                number = self._inbox.get()
                yield number, self._job, self._store.read_orfs(number)

        try:
            for message in work(self._models, items()):
                if isinstance(message, int):
                    continue
                if isinstance(message, Done) and message.key != LOAD_ONLY:
                    self._store.commit(message.key, message.result)
                    message = replace(message, result=None)
                self._answers[message.key].set_result(message)
        except BaseException:
            logger.exception("the worker loop ended")
            os._exit(1)  # Ray starts another


@dataclass(eq=False, kw_only=True)
class _Hired(Member):
    """An actor as the driver sees it."""

    actor: Any


class RayExecutor(Crew[_Hired]):
    """Gives units to actors as they become free; see `Executor`. `store` is seen by all hosts."""

    def __init__(self, compute: Compute, store: ScoreStore) -> None:
        self._compute, self._kind = compute, compute.devices[0].split(":")[0]
        own = store.ledger
        ledger = Ledger(own.root.absolute(), own.folder.absolute(), repair=own.repair)
        self._store = ScoreStore(ledger, store.key)
        self._ray: Any = None
        self._hired: list[_Hired] = []
        self._broken, self._looked = 0, 0.0
        self._waiting: dict[Any, tuple[_Hired, int]] = {}  # by Ray's reference
        self._spans: deque[float] = deque(maxlen=100)  # of units (s)

    @property
    def loads(self) -> int:
        """Encoders loaded so far."""
        return sum(one.loads for one in self._hired)

    def close(self) -> None:
        """End the actors, and what Ray runs of this process."""
        for one in self._hired:
            self._ray.kill(one.actor)
        self._hired.clear()
        if self._ray is not None:
            self._ray.shutdown()
            self._ray = None

    def _begin(self, job: Job) -> list[_Hired]:
        self._job = job
        if self._ray is None:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told of a run
            self._ray, address = import_module("ray"), self._compute.ray_address
            self._ray.init(address=address, log_to_driver=False, logging_level="warning")
        self._hire()
        return self._hired

    def _hire(self) -> None:
        """Have as many actors as the cluster has room for by now."""
        if time.monotonic() - self._looked < _LOOK_S:
            return
        self._looked, has = time.monotonic(), self._ray.cluster_resources()
        on_gpu, cpus = self._kind == "cuda", self._compute.ray_cpus
        room = max(1, int(has.get("GPU", 0)) if on_gpu else int(has.get("CPU", 0)) // cpus)
        options = {"num_gpus": 1} if on_gpu else {"num_cpus": cpus}
        surplus = max(0, len(self._hired) - room)
        for one in [one for one in self._hired if not one.is_ready][:surplus]:
            self._end(one)  # its host is gone, and it would wait for another one
        while len(self._hired) + self._broken < room:
            # Not Ray's task retries: the ledger knows what is left, and a fault is told once.
            kind = self._ray.remote(Actor).options(
                **options, max_restarts=-1, max_task_retries=0, max_concurrency=AHEAD + 1
            )
            actor = kind.remote(self._job, self._store, self._kind, None if on_gpu else cpus)
            self._hired.append(_Hired(number=len(self._hired), actor=actor))
            self._start(self._hired[-1])

    def _start(self, one: _Hired) -> None:
        one.is_ready = False
        # Waits until Ray has started a lost actor again, on whichever host.
        self._waiting[one.actor.start.options(max_task_retries=-1).remote()] = one, LOAD_ONLY

    def _may_take(self, one: _Hired, depth: int) -> bool:
        # the last units are not for those who were here first
        return one.is_ready and (depth == 1 or all(other.is_ready for other in self._hired))

    def _kept(self, key: int, unit: Orfs) -> int:
        self._store.commit_orfs(key, unit)
        return len(unit[0])

    def _send(self, one: _Hired, key: int) -> None:
        self._waiting[one.actor.score.remote(key)] = one, key

    def _listen(self) -> Iterator[worker_loop.Outcome]:
        self._hire()
        ready, _ = self._ray.wait(list(self._waiting), timeout=self._wait_s)
        for reference in ready:
            if reference not in self._waiting:  # it was lost with one before
                continue
            one, number = self._waiting.pop(reference)
            try:
                answer = self._ray.get(reference)
            except self._ray.exceptions.RayActorError as error:
                if number != LOAD_ONLY:
                    yield from self._lose(one, "its actor was lost, or the host")
                    self._start(one)
                    continue
                answer = Failed(LOAD_ONLY, clipped(one_line(error), 1_000))
            if number == LOAD_ONLY and isinstance(answer, Failed):
                self._broken += 1
                self._kill(one)
            elif number != LOAD_ONLY and isinstance(answer, Done):
                self._spans.append(time.monotonic() - one.heard)
                self._on_rows(self._units[number])
                answer = replace(answer, result=self._store.read(number, self._units[number]))
            yield from self._hear(one, answer)
        patience = self._compute.worker_timeout
        if self._spans:
            expected = _TIMES_EXPECTED * statistics.median(self._spans)
            patience = max(_LEAST_PATIENCE_S, expected)
        for one in list(self._hired):
            if one.held and time.monotonic() - one.heard > patience:
                yield from self._lose(one, f"no answer for {patience:.0f} s")
                self._end(one)

    def _lose(self, one: _Hired, reason: str) -> Iterator[worker_loop.Outcome]:
        """Wait for nothing from an actor any more; the first unit that it held may be at fault."""
        held, one.held = one.held, []
        self._waiting = {ref: what for ref, what in self._waiting.items() if what[0] is not one}
        for place, number in enumerate(held):
            if (scores := self._store.read(number, self._units[number])) is not None:
                self._on_rows(self._units.pop(number))
                yield Done(number, scores)  # it had been committed
            elif place:
                self._returned.append(number)
            else:
                yield from self._blame(one, number, reason, is_loss=True, most=MOST_HANDS)

    def _end(self, one: _Hired) -> None:
        """Let an actor go for good; another is hired in its place."""
        self._hired.remove(one)
        self._waiting = {ref: what for ref, what in self._waiting.items() if what[0] is not one}
        self._kill(one)

    def _kill(self, one: _Hired) -> None:
        with suppress(Exception):
            self._ray.kill(one.actor)
