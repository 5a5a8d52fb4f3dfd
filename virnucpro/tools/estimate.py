"""What a prediction will cost: what the first part of its input holds, at a rate known here."""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from virnucpro.core.processes import at_most_threads
from virnucpro.models.specs import ModelSpec
from virnucpro.pipeline.input_pass import Rules
from virnucpro.pipeline.inputs import Source, read_sources, sample_names
from virnucpro.pipeline.run import Pace, rate_keys, recall
from virnucpro.pipeline.settings import Compute
from virnucpro.pipeline.stream import score_job
from virnucpro.pipeline.worker_loop import InProcess
from virnucpro.sequences.alignments import alignment_format, open_alignments
from virnucpro.sequences.orfs import find_orfs
from virnucpro.sequences.read_log import ReadLog
from virnucpro.sequences.streams import UNPACK_ERRORS, open_unpacked

HEAD_BYTES, HEAD_READS = 1 << 22, 10_000
SAMPLE_CHUNKS = 1_000
PILOT_ORFS, PILOT_SECONDS = 128, 0.7  # fewer at a time are slower than a run is
# Python, its packages, the tables and the report, beside what a run takes to its first scores (s).
AROUND_S = 1.5


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
    is_whole: bool = True  # all was read; else counts are told from the first part
    sample: list[str] = field(repr=False)  # each chunk as likely as any other


def survey(
    paths: Sequence[Path], model: ModelSpec, min_length: int = 0, log: ReadLog | None = None,
    reference: Path | None = None,
) -> Survey:  # fmt: skip
    """Count what the model would work on; of large files the first part is read, and scaled."""
    from virnucpro.encoders.tokenizers import make_tokenizer

    rules, numbers = Rules(model.chunk_nt, model.orf_policy, min_length), random.Random(0)
    totals, seen, sample = np.zeros(4), 0, list[str]()  # records, scored, nt, chunks
    names = sample_names(paths)
    with TemporaryDirectory(prefix="virnucpro-estimate-") as folder:
        heads = [_head(path, Path(folder) / str(i), len(paths)) for i, path in enumerate(paths)]
        weights = {name: weight for name, (_, weight) in zip(names, heads, strict=True)}
        sources = [
            Source(sample=name, folder="", names=(str(path),), paths=(head,), reference=reference)
            for name, path, (head, _) in zip(names, paths, heads, strict=True)
        ]
        for number, record in enumerate(read_sources(sources, log)):
            is_scored = rules.status(record, number) is None
            windows = rules.chunks(record.sequence)[0] if is_scored else []
            counts = np.array([1, is_scored, len(record.sequence), len(windows)])
            totals += weights[record.sample] * counts
            for start, end in windows:  # each is as likely as any other to be in the sample
                seen += 1
                if len(sample) < SAMPLE_CHUNKS:
                    sample.append(record.sequence[start:end])
                elif (place := numbers.randrange(seen)) < SAMPLE_CHUNKS:
                    sample[place] = record.sequence[start:end]
    orfs = find_orfs(sample, model.orf_policy)
    count, scored, nt, chunks = np.rint(totals).astype(int).tolist()
    share = chunks / max(1, len(sample))
    dna, protein = (
        sum(map(len, make_tokenizer(slot).encode_batch([orf.decode("ascii") for orf in found])))
        for slot, found in ((model.dna, orfs.dna), (model.protein, orfs.protein))
    )  # fmt: skip
    return Survey(
        records=count, scored=scored, nt=nt, chunks=chunks,
        orfs=round(len(orfs) * share), dna_tokens=round(dna * share),
        protein_tokens=round(protein * share), is_whole={*weights.values()} <= {1.0},
        sample=sample,
    )  # fmt: skip


def estimate(
    found: Survey, model: ModelSpec, devices: Sequence[str], threads: int, home: Path
) -> dict[str, float] | None:
    """What predicting will take, by the last runs here or, `measured`, by scoring for a second.

    It has `seconds`, `memory` and `gpu_memory` (bytes); None where scoring would take too long.
    """
    chunk_nt = sum(map(len, found.sample)) / max(1, len(found.sample))
    own, of_other_lengths = rate_keys(model, devices, threads, chunk_nt)
    can_time = not model.is_large and tuple(devices) == ("cpu",)
    rate = known = recall(home, [own] if can_time else [own, of_other_lengths])
    if known is None and can_time:
        orfs = find_orfs(found.sample, model.orf_policy)
        deadline, pace = time.monotonic() + PILOT_SECONDS, Pace()
        units = (
            (first, (orfs.dna[first:end], orfs.protein[first:end]))
            for first, end in ((i, i + PILOT_ORFS) for i in range(0, len(orfs), PILOT_ORFS))
            if time.monotonic() < deadline or first <= PILOT_ORFS
        )
        executor = InProcess("cpu", threads)
        with at_most_threads(threads, not model.is_small):
            for _ in executor.run(score_job(model, Compute(device="cpu")), units, pace.tell):
                pass
        executor.close()
        rate = pace.rate(is_pilot=True)
    if rate is None:
        return None
    seconds = AROUND_S + rate.start_s + found.orfs / rate.orfs_per_s
    held = {"memory": rate.memory, "gpu_memory": rate.gpu_memory}
    return {"seconds": seconds, **held, "measured": known is None}


def _head(path: Path, target: Path, files: int) -> tuple[Path, float]:
    """A file with the first part of another, or that itself; by how much the whole is more."""
    if kind := alignment_format(path):
        return _head_of_bam(path, target) if kind == "BAM" else (path, 1.0)
    text, most = b"", HEAD_BYTES // files
    read, read_before, text_before = 0, 0, 0  # what was packed is read far ahead

    def note(count: int) -> None:
        nonlocal read, read_before, text_before
        read, read_before, text_before = read + count, read, len(text)

    try:
        with open_unpacked(path, note) as unpacked:
            is_packed = unpacked.packing is not None
            while len(text) < most or (is_packed and not text_before and len(text) < HEAD_BYTES):
                if not (block := next(unpacked.pieces, b"")):
                    return path, 1.0
                text += block
            if not next(unpacked.pieces, b""):
                return path, 1.0
    except UNPACK_ERRORS:
        return path, 1.0  # whoever reads it says what is wrong
    text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    kept = text
    if text.lstrip().startswith(b"@"):
        lines = text[: text.rfind(b"\n") + 1].lstrip().splitlines(keepends=True)
        kept = b"".join(lines[: len(lines) // 4 * 4])
    elif (last := text.rfind(b"\n>")) > 0:
        kept = text[: last + 1]
    target.write_bytes(kept)
    unpacks_to = text_before / read_before if text_before else len(text) / read
    unpacks_to = unpacks_to if is_packed else 1.0
    return target, max(1.0, path.stat().st_size * unpacks_to / max(1, len(kept)))


def _head_of_bam(path: Path, target: Path) -> tuple[Path, float]:
    import pysam

    with open_alignments(path) as file:
        reads = file.fetch(until_eof=True)
        with pysam.AlignmentFile(str(target), "wb", template=file) as head:
            for read in islice(reads, HEAD_READS):
                head.write(read)
        place = file.tell() >> 16  # of the block in the file
        if next(reads, None) is None:
            return path, 1.0
    return target, path.stat().st_size / max(1, place)
