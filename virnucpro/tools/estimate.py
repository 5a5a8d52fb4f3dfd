"""What a prediction will cost: short runs on a sample of the input, scaled to the whole.

The short runs are real predictions in a process of their own, so that start, loading of weights
and every stage count. Two of different size tell what each run costs from what each chunk does.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

from virnucpro.core.errors import VirNucProError
from virnucpro.core.files import read_json
from virnucpro.models.specs import ModelSpec
from virnucpro.sequences.fasta_files import fasta_text
from virnucpro.tools.survey import Survey

SMALLEST_CHUNKS = 100
ENOUGH_CHUNKS, ENOUGH_SECONDS = 2_000, 8.0
MOST_SECONDS = 40.0
GROWTH, LEAST_GROWTH = 5.0, 2.0
PATIENCE_SECONDS = 60.0


class PilotFailedError(VirNucProError):
    """A short run on a sample of the input failed, as the whole run would."""

    def __init__(self, command: str, reason: str) -> None:
        super().__init__(command, reason)
        self.command, self.reason = command, reason

    def __str__(self) -> str:
        return f"a short run on a sample failed: {self.reason} ({self.command})"


@dataclass(frozen=True, slots=True)
class Pilot:
    """What a short run took: bytes are the most that its largest process held."""

    chunks: int
    seconds: float
    memory: int
    gpu_memory: int = 0


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the whole run will take; `measured` where a short run was the whole run."""

    seconds: float
    memory: int
    gpu_memory: int
    measured: bool


RunPilot = Callable[[int], Pilot]


def estimate(found: Survey, per_file: int, smallest: int, run: RunPilot) -> Estimate:
    """Run ever larger pilots until one is long enough to tell, and scale.

    Args:
        found: the input.
        per_file: ORFs in one unit of work; memory does not grow beyond it.
        smallest: chunks of the first pilot.
        run: makes a pilot on so many chunks.
    """
    available = len(found.sample)
    first = before = last = run(min(smallest, available))
    while last.chunks < available:
        more = last.seconds - first.seconds  # must be above the noise of a busy machine
        if more >= (ENOUGH_SECONDS if last.chunks >= ENOUGH_CHUNKS else MOST_SECONDS):
            break
        growth = min(GROWTH, max(LEAST_GROWTH, PATIENCE_SECONDS / last.seconds))
        before, last = last, run(min(available, round(last.chunks * growth)))
    seconds = _line(first, last, [first.seconds, last.seconds], found.chunks)
    orfs_per_chunk = found.orfs / found.chunks if found.chunks else 0.0
    unit = min(found.chunks, round(per_file / orfs_per_chunk)) if orfs_per_chunk else found.chunks
    # the smallest pilot does not fill a batch: memory grows faster up to there
    memories = [float(before.memory), float(last.memory)]
    memory = _line(before, last, memories, max(unit, last.chunks))
    return Estimate(seconds, round(memory), last.gpu_memory, last.chunks == found.chunks)


def _line(first: Pilot, last: Pilot, values: list[float], chunks: int) -> float:
    """The straight line through two pilots, at `chunks`; a line that falls is taken as level."""
    if last.chunks in (chunks, first.chunks):
        return values[1]
    slope = max(0.0, (values[1] - values[0]) / (last.chunks - first.chunks))
    return values[1] + slope * (chunks - last.chunks)


def run_pilots(found: Survey, options: Sequence[str], settings: Path | None = None) -> RunPilot:
    """Pilots on the sample of an input, with these options of `virnucpro predict`."""
    general = ["--quiet", *(["--config", str(settings)] if settings else [])]

    def run(chunks: int) -> Pilot:
        with TemporaryDirectory(prefix="virnucpro-estimate-") as folder:
            fasta, out = Path(folder) / "sample.fa", Path(folder) / "out"
            with fasta.open("w", encoding="utf-8") as file:
                for number, chunk in enumerate(found.sample[:chunks]):
                    file.write(fasta_text(f"chunk_{number}", chunk))
            command = [
                sys.executable, "-m", "virnucpro", *general,
                "predict", str(fasta), "-o", str(out), *options,
            ]  # fmt: skip
            seconds, memory = _run(command)
            gpu_memory = int(read_json(out / "run.json").get("gpu_bytes", 0))
            return Pilot(chunks, seconds, memory, gpu_memory)

    return run


def smallest_pilot(model: ModelSpec, on_cpu: bool) -> int:
    """Chunks of the first pilot: few where a chunk takes seconds."""
    return 4 if on_cpu and model.is_large else SMALLEST_CHUNKS


def free_memory() -> int | None:
    """Bytes of memory that a new process may use; None where the system does not say."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return None
    for line in text.splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _run(command: list[str]) -> tuple[float, int]:
    """Seconds and peak memory (bytes) of a process and of the children that it waited for."""
    with TemporaryFile() as log:
        start = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            raise
        seconds = time.monotonic() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            log.seek(0)
            lines = log.read().decode("utf-8", "replace").strip().splitlines()
            reason = lines[-1] if lines else f"exit code {process.returncode}"
            raise PilotFailedError(" ".join(command), reason)
    unit = 1 if sys.platform == "darwin" else 1024
    return seconds, usage.ru_maxrss * unit
