"""What a prediction will cost: what the input holds, and short runs on a sample, scaled.

The short runs are real predictions in a process of their own, start and loading included; two of
different size tell what each run costs from what each chunk does.
"""

import os
import random
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

from virnucpro.core.errors import UsageError, VirNucProError
from virnucpro.core.files import read_json
from virnucpro.core.records import Record
from virnucpro.models.specs import EncoderSpec, ModelSpec
from virnucpro.pipeline.input_pass import Rules
from virnucpro.sequences.fasta_files import fasta_text
from virnucpro.sequences.orfs import find_orfs
from virnucpro.sequences.unpack import STDIN

SAMPLE_CHUNKS = 20_000
TOKEN_CHUNKS = 2_000
SMALLEST_CHUNKS = 100
ENOUGH_CHUNKS, ENOUGH_SECONDS = 2_000, 8.0
MOST_SECONDS = 40.0
GROWTH, LEAST_GROWTH = 5.0, 2.0
PATIENCE_SECONDS = 60.0


class EvenSample:
    """A random sample of a stream in which every item is equally likely."""

    def __init__(self, size: int, seed: int = 0) -> None:
        self._size, self._random = size, random.Random(seed)
        self.seen, self.items = 0, list[str]()

    def offer(self, record: Record, windows: list[tuple[int, int]]) -> None:
        """Let the chunks of a record take part."""
        for start, end in windows:
            self.seen += 1
            if len(self.items) < self._size:
                self.items.append(record.sequence[start:end])
            elif (place := self._random.randrange(self.seen)) < self._size:
                self.items[place] = record.sequence[start:end]


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What a model would find in an input; ORFs and tokens are told from a sample."""

    records: int
    scored: int  # long and clear enough
    nt: int  # of all records
    chunks: int  # of the scored records
    orfs: int  # exact duplicates, which are computed once, count
    dna_tokens: int
    protein_tokens: int
    sample: list[str] = field(repr=False)  # each chunk as likely as any other


def refuse_pipes(paths: Iterable[Path]) -> None:
    """See that inputs can be read again and again, once for every model."""
    for path in paths:
        try:
            mode = path.stat().st_mode if str(path) != STDIN else stat.S_IFIFO
        except OSError:
            continue  # whoever reads it says what is wrong
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            name = "standard input" if str(path) == STDIN else str(path)
            raise UsageError(
                f"{name} can be read once only, and estimate reads its input for every model: "
                "store it in a file and give files"
            )


def survey(records: Iterable[Record], model: ModelSpec, min_length: int = 0) -> Survey:
    """Read all records once and count what the model would work on; holds a sample of chunks."""
    sample, rules = EvenSample(SAMPLE_CHUNKS), Rules(model.chunk_nt, model.orf_policy, min_length)
    count = scored = nt = 0
    for number, record in enumerate(records):
        count += 1
        nt += len(record.sequence)
        if rules.status(record, number) is None:
            scored += 1
            sample.offer(record, rules.chunks(record.sequence)[0])
    random.Random(0).shuffle(sample.items)  # so that any first part of it is even too
    chunks = sample.items[:TOKEN_CHUNKS]
    orfs = find_orfs(chunks, model.orf_policy)
    share = sample.seen / max(1, len(chunks))
    return Survey(
        records=count, scored=scored, nt=nt, chunks=sample.seen, orfs=round(len(orfs) * share),
        dna_tokens=round(_tokens(model.dna, orfs.dna) * share),
        protein_tokens=round(_tokens(model.protein, orfs.protein) * share), sample=sample.items,
    )  # fmt: skip


def _tokens(spec: EncoderSpec, sequences: list[bytes]) -> int:
    from virnucpro.encoders.tokenizers import make_tokenizer

    tokenizer = make_tokenizer(spec)
    return sum(len(tokenizer.encode(sequence.decode("ascii"))) for sequence in sequences)


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
    """Run ever larger pilots, from `smallest` chunks on, until one is long enough, and scale.

    `per_file` are the ORFs in one unit of work; memory does not grow beyond it.
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
