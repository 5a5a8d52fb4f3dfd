"""Units scored by tasks of a Ray cluster, which claim them as all workers of a shared run do.

One task a GPU, or per some CPUs, on every host that Ray has and that sees the output directory.
Hosts come and go: Ray starts lost tasks again, and the ledger says what they had done.
"""

import logging
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import Any

from virnucpro.core.checkpoint import Ledger
from virnucpro.core.errors import UsageError, VirNucProError
from virnucpro.core.storage import Folder
from virnucpro.core.text import clipped, one_line
from virnucpro.pipeline import worker_loop
from virnucpro.pipeline.output_dir import CLAIMS
from virnucpro.pipeline.settings import Compute
from virnucpro.pipeline.shared_run import SharedRun, score
from virnucpro.pipeline.stream import ScoreStore
from virnucpro.pipeline.worker_loop import Done, Failed, InProcess, Item, Job, OnRows, Outcome

logger = logging.getLogger("virnucpro.pipeline.workers")

_LOOK_S = 0.1  # between two looks at what is scored by now
_HIRE_S = 2.0  # between two looks at what the cluster has
_LEASE_S = 15.0
_CONNECT_S = 10.0
_LEAST_PATIENCE_S = 60.0
_OPEN, _LEAST_OPEN = 4, 16  # units that are not scored yet: of each task, and in all


class RayExecutor:
    """Leaves units where tasks claim them; see `Executor`. `store` is seen by all hosts."""

    def __init__(self, compute: Compute, store: ScoreStore) -> None:
        self._compute, own = compute, store.ledger
        ledger = Ledger(own.root.absolute(), own.folder.absolute(), repair=own.repair)
        notes = Folder(ledger.folder.with_name(CLAIMS))
        self._run = SharedRun(str(ledger.root), ScoreStore(ledger, store.key), notes)
        self._ray: Any = None
        self._tasks: list[Any] = []
        self._broken, self._hired = 0, 0.0

    def close(self) -> None:
        """End the tasks, and what Ray runs of this process."""
        for task in self._tasks:
            self._ray.cancel(task, force=True)
        self._tasks.clear()
        if self._ray is not None:
            self._ray.shutdown()
            self._ray = None

    def run(self, job: Job, items: Iterable[Item], on_rows: OnRows) -> Iterator[Outcome]:
        """See `Executor`; the first unit is 0, and none is left out."""
        store, notes = self._run.store, self._run.notes
        sizes: dict[int, int] = {}  # of units that are not scored yet
        source, has_more, looked, look_s = iter(items), True, 0.0, _LOOK_S
        try:
            while has_more or sizes:
                if has_more and len(sizes) < max(_LEAST_OPEN, _OPEN * len(self._tasks)):
                    if (item := next(source, None)) is None:
                        has_more = False
                    elif item[1] is not None:
                        self._hire(job)  # before anything is kept: there may be no cluster
                        store.commit_orfs(*item)
                        sizes[item[0]] = len(item[1][0])
                    elif item[0] != worker_loop.LOAD_ONLY:
                        yield Done(item[0])
                else:
                    time.sleep(look_s)
                if not sizes or time.monotonic() < looked + look_s:
                    continue
                self._hire(job)
                start = time.monotonic()
                entries, failures = store.ledger.storage.names(), notes.names()
                looked = time.monotonic()
                look_s = max(_LOOK_S, looked - start)  # of a large ledger it takes long
                for key, size in list(sizes.items()):
                    if store.name(key) in entries:
                        del sizes[key]
                        on_rows(size)
                        found = store.read(key, size)
                        yield Done(key, *found) if found else Failed(key, "damaged scores")
                    elif f"failed-{key}" in failures:
                        del sizes[key]
                        yield Failed(key, (notes.read(f"failed-{key}") or b"").decode())
        finally:
            self.close()

    def _hire(self, job: Job) -> None:
        """Have as many tasks as the cluster has room for by now; raises what ended the last one."""
        if self._ray is None:
            self._run.notes.remove(*self._run.notes.names())  # of an earlier run here
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told of a run
            address, on_term = self._compute.ray_address, signal.getsignal(signal.SIGTERM)
            if address and re.fullmatch(r"[^/]+:\d+", address):  # Ray would try for ever
                host, _, port = address.rpartition(":")
                try:
                    socket.create_connection((host, int(port)), _CONNECT_S).close()
                except OSError as error:
                    raise UsageError(
                        f"--ray-address {address}: no cluster there ({error})"
                    ) from error
            self._ray = import_module("ray")
            self._ray.init(address=address, log_to_driver=False, logging_level="warning")
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, on_term)  # Ray has its own, which ends without a word
        if time.monotonic() - self._hired < _HIRE_S:
            return
        ended, self._tasks = self._ray.wait(self._tasks, num_returns=len(self._tasks), timeout=0)
        for task in ended:
            try:
                self._ray.get(task)
            except Exception as error:
                cause = getattr(error, "cause", None) or error
                self._broken += 1
                if not self._tasks:
                    if isinstance(cause, VirNucProError):
                        raise cause from None
                    raise RuntimeError(clipped(one_line(cause), 1_000)) from error
                logger.warning("a worker has ended: %s", clipped(one_line(cause), 1_000))
        self._hired, has = time.monotonic(), self._ray.cluster_resources()
        cpus, kind = self._compute.ray_cpus, self._compute.devices[0].split(":")[0]
        on_gpu = kind == "cuda"
        room = max(1, int(has.get("GPU", 0)) if on_gpu else int(has.get("CPU", 0)) // cpus)
        options = {"num_gpus": 1} if on_gpu else {"num_cpus": cpus}
        # Ray does again what is lost with a process or a host, and never what raised an error.
        remote = self._ray.remote(score).options(**options, max_retries=-1, retry_exceptions=False)
        here = InProcess("cuda:0" if on_gpu else kind, None if on_gpu else cpus)
        patience = self._compute.worker_timeout, _LEAST_PATIENCE_S
        while len(self._tasks) + self._broken < room:
            self._tasks.append(remote.remote(self._run, job, here, _LEASE_S, *patience))
