"""How fast predictions went on this machine, kept beside the models for `estimate`."""

import resource
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from virnucpro.core.errors import VirNucProError
from virnucpro.core.files import read_json, write_json
from virnucpro.models.specs import ModelSpec

FILE = "rates.json"
ENOUGH_ORFS, ENOUGH_S = 1_000, 20.0
SHORT_NT = 250  # mean chunk of reads, whose ORFs are shorter and take less time


@dataclass(frozen=True, slots=True)
class Rate:
    """Of one model on one set of devices: bytes are the most that a process held."""

    orfs_per_s: float
    start_s: float  # until the first ORFs were scored
    memory: int
    gpu_memory: int = 0


class Pace:
    """Counts the ORFs of a run under way; starting and loading are told from scoring."""

    def __init__(self) -> None:
        self._start = self._last = time.monotonic()
        self._first: tuple[float, int] | None = None
        self._orfs = 0

    def tell(self, orfs: int) -> None:
        """Count ORFs that have just been scored."""
        self._orfs, self._last = self._orfs + orfs, time.monotonic()
        self._first = self._first or (self._last, self._orfs)

    def rate(self, is_pilot: bool = False, gpu_memory: int = 0) -> Rate | None:
        """The rate so far; None before there were enough to tell, but of a pilot."""
        if self._first is None:
            return None
        first, orfs = self._first
        has_enough = self._orfs - orfs >= ENOUGH_ORFS or self._last - first >= ENOUGH_S
        if not has_enough and not is_pilot:
            return None
        if orfs == self._orfs:  # all at once: loading counts as scoring
            first, orfs = self._start, 0
        seconds = max(1e-6, self._last - first)
        unit = 1 if sys.platform == "darwin" else 1024
        who = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
        held = (resource.getrusage(each).ru_maxrss for each in who)
        rate = (self._orfs - orfs) / seconds
        return Rate(rate, first - self._start, max(held) * unit, gpu_memory)


def rate_keys(
    model: ModelSpec, devices: Sequence[str], threads: int, chunk_nt: float
) -> tuple[str, str]:
    """Under what a rate is kept, and what stands in for it: that of other lengths."""
    kinds = ("short", "long") if chunk_nt < SHORT_NT else ("long", "short")
    where = f"{model.digest[:24]} {','.join(devices)} {threads}"
    return f"{where} {kinds[0]}", f"{where} {kinds[1]}"


def remember(home: Path, key: str, rate: Rate) -> None:
    """Keep a rate; a folder that cannot be written keeps none."""
    with suppress(OSError, VirNucProError):
        home.mkdir(parents=True, exist_ok=True)
        write_json(home / FILE, {**read_json(home / FILE), key: asdict(rate)})


def recall(home: Path, keys: Sequence[str]) -> Rate | None:
    """The rate kept under the first of these keys that has one."""
    known = read_json(home / FILE)
    for key in keys:
        with suppress(KeyError, TypeError):
            return Rate(**known[key])
    return None
