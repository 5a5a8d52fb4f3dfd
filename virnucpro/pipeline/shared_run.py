"""One run, many hosts, no daemon: plan it once, let any number of workers score it, finish it.

A claim on a block of units is created, never changed: `claim-{block}-{n}`, where n counts how often
it changed hands, names its worker, which keeps writing `beat-{worker}`. No clock of another host is
believed: a claim has expired when whoever looks at it has seen the same beat for the time of a
lease, by its own clock. Two workers on one block cost time and no more: of two commits of a unit
the later one changes nothing.
"""

import json
import logging
import os
import random
import re
import secrets
import socket
import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from virnucpro.core.checkpoint import Ledger
from virnucpro.core.config import build
from virnucpro.core.device import usable_cpus
from virnucpro.core.errors import OutputError, UsageError
from virnucpro.core.processes import at_most_threads
from virnucpro.core.storage import Storage, open_storage, send, url_of
from virnucpro.pipeline.input_pass import Unit, read_inputs
from virnucpro.pipeline.inputs import check_inputs
from virnucpro.pipeline.output_dir import CHECKPOINTS, CLAIMS, LEDGER, LOCK, working_in
from virnucpro.pipeline.prediction import claim_outputs, run_prediction
from virnucpro.pipeline.run import choose_model, prepare
from virnucpro.pipeline.settings import Compute, PredictionSettings
from virnucpro.pipeline.stream import NoExecutor, Orfs, ScoreStore, make_executor, score_job
from virnucpro.pipeline.worker_loop import Executor, Failed, Job
from virnucpro.sequences.read_log import ReadLog

logger = logging.getLogger("virnucpro.pipeline")

PLAN, PLANNED = "plan", "planned"
MOST_HANDS = 5  # units that were lost with so many workers kill them
_FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 10.0  # between two looks; twice as long after each in vain
_LOADING_S = 900.0  # a model may come from a slow disk, with nothing to say meanwhile
BEATS_A_LEASE = 10
_TIMES_EXPECTED = 10
_MISSES = 8  # claims in a row that others were quicker at, before looking anew
_WATCHED = 8  # claims of others that one worker keeps an eye on
_CLAIM = re.compile(r"claim-(\d+)-(\d+)")
_CLOCK = time.monotonic


class SharedRun:
    """A run whose units lie in `store`, and claims on them in `notes`, as its workers see it.

    `facts` are those of its plan; a run that was not planned has none, and ends by other means.
    """

    def __init__(
        self, place: str, store: ScoreStore, notes: Storage, facts: dict[str, Any] | None = None
    ) -> None:
        self.place, self.store, self.notes, self.facts = place, store, notes, facts or {}
        self.per_claim = int(self.facts.get("per_claim", 1))
        self.units, self.is_planned = 0, False
        self.names: set[str] = set()  # of claims, beats and failures
        self.left: list[int] = []  # units that are neither scored nor given up

    @property
    def settings(self) -> PredictionSettings:
        """What was planned."""
        return build(PredictionSettings, self.facts["settings"], f"{self.place}: settings")

    def is_there(self) -> bool:
        """Whether anybody still waits for scores: nobody does after `finish`."""
        return not self.facts or self.store.ledger.read(PLAN, "") is not None

    def look(self) -> bool:
        """See how far the run is; whether all is done."""
        store, name = self.store, self.store.name
        self.names, entries = self.notes.names(), store.ledger.storage.names()
        planned = store.ledger.read(PLANNED, store.key)
        self.is_planned = planned is not None
        if planned is not None:
            self.units = int(planned.facts["units"])
        while not planned and entries & {name(self.units, "orfs"), name(self.units)}:
            self.units += 1
        done = (name(k) in entries or f"failed-{k}" in self.names for k in range(self.units))
        self.left = [number for number, is_done in enumerate(done) if not is_done]
        return self.is_planned and not self.left

    def open_blocks(self) -> dict[int, list[int]]:
        """Units that are left, by block; while units are still being made, of whole blocks."""
        found = defaultdict[int, list[int]](list)
        for number in self.left:
            block = number // self.per_claim
            if self.is_planned or (block + 1) * self.per_claim <= self.units:
                found[block].append(number)
        return found

    def reasons(self) -> dict[int, str]:
        """Why units were given up, by unit."""
        numbers = [int(n.removeprefix("failed-")) for n in self.names if n.startswith("failed-")]
        return {k: (self.notes.read(f"failed-{k}") or b"").decode() for k in numbers}

    def status(self) -> dict[str, Any]:
        """Units in all, done and given up; units a second, seconds left; who holds which block."""
        held, holders = latest_claims(self.names), defaultdict[str, list[int]](list)
        for block in set(self.open_blocks()).intersection(held):
            worker = (self.notes.read(f"claim-{block}-{held[block]}") or b"?").decode()
            holders[worker].append(block)
        workers = []
        for worker, blocks in sorted(holders.items()):
            about: dict[str, Any] = {}
            with suppress(ValueError):  # it is being written
                about = json.loads(self.notes.read(f"beat-{worker}") or b"{}")
            workers.append({"worker": worker, **about, "blocks": sorted(blocks)})
        left = len(self.left)
        rate = sum(one.get("units", 0) / max(one.get("seconds", 0), 1e-3) for one in workers)
        return {
            "run": self.place, "planned": self.is_planned, "units": self.units,
            "done": self.units - left,
            "failed": len(self.reasons()), "units_per_s": round(rate, 4),
            "left_s": round(left / rate) if rate else None, "workers": workers,
        }  # fmt: skip


def open_run(place: str) -> SharedRun:
    """A planned run, at a folder or an s3://, gs:// or file:// URL; a UsageError if none is."""
    folder = Path(place) / CHECKPOINTS / LEDGER
    ledger = Ledger(Path(place), folder, storage=_storage(place, LEDGER))
    if (entry := ledger.read(PLAN, "")) is None:
        problem = f"{place} holds no run that waits for workers"
        if open_storage(place).read("run.json") is not None:
            raise UsageError(f"{problem}: it is finished, or was begun by `predict`")
        raise UsageError(f"{problem}; `virnucpro plan` makes one")
    store = ScoreStore(ledger, str(entry.facts["key"]))
    run = SharedRun(url_of(place) or place, store, _storage(place, CLAIMS), entry.facts)
    run.look()
    return run


def plan(
    input_files: Sequence[Path], place: str, settings: PredictionSettings, per_claim: int = 1
) -> int:
    """Read the inputs once, and leave their units for workers, who may begin meanwhile; how many.

    No input may be one that can be read only once. All workers have `compute.device`, cpu or cuda,
    and claim `per_claim` units at a time. Errors as for `run_prediction`.
    """
    if settings.compute.dtype == "fp8":
        raise UsageError("--precision fp8 is tried first, by `predict` on one host; leave it out")
    check_inputs(input_files)
    model = choose_model(settings.model)
    if url_of(place) and not (settings.output.resume or settings.output.force):
        remote = Ledger(Path(), Path(place), storage=_storage(place, LEDGER))
        if remote.read(PLAN, "") or open_storage(place).read("run.json") is not None:
            problem = "holds an earlier run; --resume goes on with it, --force starts over"
            raise UsageError(f"{place} {problem}")
    with ExitStack() as stack:
        out = _folder(place, stack)
        stack.enter_context(
            working_in(out, settings.output.resume, settings.output.force, input_files)
        )
        run = prepare(input_files, out, model, settings)
        claim_outputs(run)
        run.save()
        places = [entry["place"] for entry in run.data["inputs"]]
        if None in places:
            problem = "pipes and standard input cannot be read again by `finish`"
            raise UsageError(f"{problem}; give files")
        notes = _storage(place, CLAIMS)
        ledger = Ledger(out, run.paths.ledger, storage=_storage(place, LEDGER))
        notes.remove(*notes.names())
        ledger.discard(PLAN, PLANNED)
        facts = {
            "key": run.key, "model": model.digest, "per_claim": per_claim, "inputs": places,
            "settings": asdict(settings), "command": sys.argv,
        }  # fmt: skip
        ledger.commit(PLAN, "", facts=facts)
        store, units = ScoreStore(ledger, run.key), 0
        events = read_inputs(run.sources, run.rules, run.per_unit, run.threads, ReadLog())
        for event in events:
            if isinstance(event, Unit):
                store.commit_orfs(event.number, (event.dna, event.protein))
                units += 1
        ledger.commit(PLANNED, run.key, facts={"units": units})
    return units


def work(place: str, compute: Compute, home: Path, lease_s: float = 120.0) -> int:
    """Score units of a planned run until all are done; how many this worker was the first at.

    `compute` has its devices, `home` its models. After `lease_s` without a sign of life units are
    given to others. A UsageError if model or device are not those of the plan.
    """
    run = open_run(place)
    settings = run.settings
    model = choose_model(replace(settings.model, home=home))
    if model.digest != run.facts["model"]:
        raise UsageError(f"{place} was planned with another {model.name}; install that one here")
    kind, planned = compute.devices[0].split(":")[0], settings.compute.device
    if kind != planned:
        raise UsageError(
            f"{place} was planned for {planned}, this worker has {kind}, whose scores differ in "
            f"the last digits; --device {planned}, or plan with --device {kind}"
        )
    own = replace(
        settings.compute, device=compute.device, gpus=compute.gpus, threads=compute.threads,
        worker_timeout=compute.worker_timeout, elsewhere=False,
    )  # fmt: skip
    needs_torch = kind != "cpu" or not model.is_small
    with at_most_threads(compute.threads or usable_cpus(), needs_torch):
        patience = max(compute.worker_timeout, _LOADING_S)
        return score(run, score_job(model, own), make_executor(own), lease_s, patience)


def score(
    run: SharedRun, job: Job, executor: Executor, lease_s: float, patience_s: float,
    least_s: float | None = None,
) -> int:  # fmt: skip
    """Score units of a run, and close the executor; as for `work` and for `Claims`."""
    first, wait_s = 0, _FIRST_WAIT_S
    with closing(executor), Claims(run.notes, lease_s, patience_s, least_s) as claims:

        def units() -> Iterator[tuple[int, Orfs]]:
            blocks = run.open_blocks()
            for block, hands in claims.take(blocks, run.names):
                for number in blocks[block]:
                    if hands == MOST_HANDS:
                        reason = f"lost with {hands} workers in a row"
                        run.notes.create(f"failed-{number}", reason.encode())
                        continue
                    yield number, run.store.read_orfs(number)

        while run.is_there() and not run.look():
            outcome = None
            for outcome in executor.run(job, units(), claims.progress):
                if not run.is_there():
                    return first
                claims.unit_done()
                if isinstance(outcome, Failed):
                    run.notes.create(f"failed-{outcome.key}", outcome.reason.encode())
                elif run.store.commit(outcome.key, outcome.result, outcome.stats):
                    first += 1
                else:
                    logger.info("unit %d: another worker was first", outcome.key)
            if outcome is None:
                claims.progress()
                time.sleep(min(wait_s, LONGEST_WAIT_S, lease_s / BEATS_A_LEASE))
            wait_s = _FIRST_WAIT_S if outcome else 2 * wait_s
    return first


def finish(place: str) -> int:
    """Make the tables of a run whose units are all done; exit code as `run_prediction`.

    A UsageError if units are left, or the inputs are others by now.
    """
    run = open_run(place)
    if run.left or not run.is_planned:
        raise UsageError(
            f"{place}: {len(run.left)} of {run.units} units are left"
            f"{'' if run.is_planned else ' so far'}; `virnucpro worker {place}` scores them"
        )
    settings = replace(run.settings, output=replace(run.settings.output, resume=True, force=False))
    inputs, scored = [Path(name) for name in run.facts["inputs"]], NoExecutor(run.reasons())
    asked = run.facts["command"]
    with ExitStack() as stack:
        out = _folder(place, stack)
        if not url_of(place):
            return run_prediction(inputs, out, settings, executor=scored, command=asked)
        for name in map(run.store.name, range(run.units)):
            if (content := run.store.ledger.storage.read(name)) is not None:
                _storage(str(out), LEDGER).create(name, content)
        code = run_prediction(inputs, out, settings, executor=scored, command=asked)
        for path in out.rglob("*"):
            if path.is_file() and CHECKPOINTS not in path.parts and path.name != LOCK:
                with path.open("rb") as file:
                    send(file, run.place, path.relative_to(out).as_posix())
        if not code:
            run.store.ledger.keep_only()
            run.notes.remove(*run.notes.names())
        return code


def _folder(place: str, stack: ExitStack) -> Path:
    """The output directory: the place itself, or a temporary one beside object storage."""
    if not url_of(place):
        return Path(place)
    out = Path(stack.enter_context(TemporaryDirectory(prefix="virnucpro-")))
    (out / LOCK).touch()  # so that it counts as ours
    return out


def _storage(place: str, name: str) -> Storage:
    return open_storage(str(Path(place) / CHECKPOINTS / name))


def latest_claims(names: Collection[str]) -> dict[int, int]:
    """The claim in force of each block that has any: how often the block had changed hands."""
    found: dict[int, int] = {}
    for name in names:
        if match := _CLAIM.fullmatch(name):
            block, hands = int(match[1]), int(match[2])
            found[block] = max(hands, found.get(block, 0))
    return found


class Claims:
    """The claims of one worker, which lie in `notes`. A context manager: it beats in its block.

    `lease_s` without a beat lets others take over; `patience_s` without progress ends the beats.
    With `least_s` only whole units are progress, and without any for ten times what those before
    took, and `least_s` at least, this process ends: whoever started it starts another.
    """

    def __init__(
        self, notes: Storage, lease_s: float, patience_s: float, least_s: float | None = None
    ) -> None:
        self._notes, self._lease_s = notes, lease_s
        self._patience_s, self._least_s = patience_s, least_s
        self._spans: deque[float] = deque(maxlen=100)  # of units (s)
        self.worker = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self.units = self.rows = 0  # done so far
        self._seen: dict[tuple[int, int], tuple[bytes | None, float]] = {}
        self._start = self._progress = _CLOCK()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._keep_beating, daemon=True, name="lease")

    def __enter__(self) -> "Claims":
        self._notes.create(f"beat-{self.worker}", self._beat(0))
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._thread.join()

    def progress(self, rows: int | None = None) -> None:
        """Say that this worker is not hung."""
        self.rows += rows or 0
        if rows is None or self._least_s is None:
            self._progress = _CLOCK()

    def unit_done(self) -> None:
        """Say that a unit is scored, or given up."""
        self.units += 1
        self._spans.append(_CLOCK() - self._progress)
        self.progress()

    def take(
        self, open_blocks: Collection[int], names: Collection[str]
    ) -> Iterator[tuple[int, int]]:
        """Claim open blocks, free ones or of a silent holder; yields how often each had been lost.

        Ends where nothing is free, or others are quicker: look again. `names` are of that time.
        """
        held, misses = latest_claims(names), 0
        free = [block for block in open_blocks if block not in held]
        random.shuffle(free)
        for block in free:
            if self._claim(block, 0):
                misses = 0
                yield block, 0
            elif (misses := misses + 1) == _MISSES:
                return
        if not free:
            for block, hands in self._expired({b: held[b] for b in open_blocks}):
                if self._claim(block, hands + 1):
                    yield block, hands + 1

    def _claim(self, block: int, hands: int) -> bool:
        self.progress()
        return self._notes.create(f"claim-{block}-{hands}", self.worker.encode())

    def _expired(self, held: dict[int, int]) -> Iterator[tuple[int, int]]:
        """Claims of others whose beat has stood still for a lease, of the few that are watched."""
        self._seen = {claim: seen for claim, seen in self._seen.items() if claim in held.items()}
        others = [claim for claim in held.items() if claim not in self._seen]
        watched = [*self._seen, *random.sample(others, min(_WATCHED, len(others)))][:_WATCHED]
        for block, hands in watched:
            now = _CLOCK()  # before the look: a process that is stopped in between sees a new beat
            holder = self._notes.read(f"claim-{block}-{hands}") or b""
            beat = self._notes.read(f"beat-{holder.decode()}")
            before, since = self._seen.setdefault((block, hands), (beat, now))
            if beat != before or holder.decode() == self.worker:
                self._seen[block, hands] = beat, now
            elif now - since > self._lease_s:
                yield block, hands

    def _keep_beating(self) -> None:
        number = 0
        while not self._end.wait(self._lease_s / BEATS_A_LEASE):
            patience = self._patience_s
            if self._least_s is not None and self._spans:
                patience = max(self._least_s, _TIMES_EXPECTED * median(self._spans))
            if _CLOCK() - self._progress < patience:
                number += 1
                with suppress(OutputError, OSError):  # the next one may come through
                    self._notes.write(f"beat-{self.worker}", self._beat(number))
            elif self._least_s is not None:
                logger.warning("no unit done for %.0f s: this worker ends", patience)
                os._exit(1)

    def _beat(self, number: int) -> bytes:
        about: dict[str, Any] = {
            "beat": number, "worker": self.worker, "units": self.units, "orfs": self.rows,
            "seconds": round(_CLOCK() - self._start, 1),
        }  # fmt: skip
        return json.dumps(about).encode()
