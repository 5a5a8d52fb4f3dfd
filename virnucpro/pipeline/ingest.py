"""Stage 1: input files -> chunks, and one table row for every input record."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from virnucpro.core.errors import InputError
from virnucpro.core.files import BLOCK_BYTES, atomic_write, sha256_file
from virnucpro.core.records import Record, Status
from virnucpro.pipeline.inputs import Source, read_sources
from virnucpro.pipeline.paths import RunPaths
from virnucpro.pipeline.record_table import RecordRow
from virnucpro.pipeline.settings import ModelChoice
from virnucpro.sequences.chunks import chunk_record
from virnucpro.sequences.fasta_files import fasta_text
from virnucpro.sequences.orfs import OrfPolicy
from virnucpro.sequences.screen import screen_record
from virnucpro.sequences.unpack import STDIN, standard_input

logger = logging.getLogger("virnucpro.pipeline")

SHORTEST_NT = {"longest": 60, "open-frame": 3}
_OF_A_PROCESS = ("/dev/stdin", "/dev/fd/", "/proc/")  # files, where a file was redirected to them


def spool(paths: Sequence[Path], folder: Path) -> dict[str, Path]:
    """Copy what can be read only once (standard input, pipes), so that it can be read again.

    Args:
        paths: inputs, in argument order.
        folder: gets the copies.

    Returns:
        The copy of each such input, by its name.

    Raises:
        InputError: a pipe cannot be read.
    """
    copies: dict[str, Path] = {}
    for number, path in enumerate(paths, start=1):
        if str(path) in copies or not (str(path) == STDIN or _is_pipe(path)):
            continue
        copies[str(path)] = target = folder / f"input_{number}"
        with ExitStack() as stack:
            try:
                pipe = stack.enter_context(path.open("rb")) if _is_pipe(path) else standard_input()
            except OSError as error:
                raise InputError(path, f"cannot be read ({error.strerror})") from error
            file = stack.enter_context(atomic_write(target))
            while block := _read(pipe, path):
                file.write(block)
    return copies


def _read(pipe: IO[bytes], path: Path) -> bytes:
    try:
        return pipe.read(BLOCK_BYTES)
    except OSError as error:
        name = "standard input" if str(path) == STDIN else path
        raise InputError(name, f"cannot be read ({error.strerror})") from error


def _is_pipe(path: Path) -> bool:
    return path.exists() and not path.is_file() and not path.is_dir()


def check_inputs(paths: Sequence[Path]) -> None:
    """See that every input can be opened, before anything is made for it.

    Raises:
        InputError: an input is missing, a directory, or cannot be read.
    """
    for path in paths:
        if str(path) == STDIN or _is_pipe(path):  # opening a pipe could end who writes to it
            continue
        if path.is_dir():
            raise InputError(path, "is a directory; give a FASTA or FASTQ file")
        try:
            path.open("rb").close()
        except OSError as error:
            raise InputError(path, f"cannot be read ({error.strerror})") from error


def describe_inputs(paths: Sequence[Path], spooled: dict[str, Path]) -> list[dict[str, object]]:
    """Name, size and SHA-256 of every input, in argument order, and where it lies.

    The place is None where another run finds something else in it: a pipe, standard input.

    Raises:
        InputError: an input cannot be read.
    """
    described: list[dict[str, object]] = []
    for path in paths:
        real = spooled.get(str(path), path)
        try:
            size, sha256 = real.stat().st_size, sha256_file(real)
        except OSError as error:
            raise InputError(path, f"cannot be read ({error.strerror})") from error
        place = None if str(path) in spooled else str(path.absolute())
        if place is not None and place.startswith(_OF_A_PROCESS):
            place = None
        described.append({"path": str(path), "place": place, "bytes": size, "sha256": sha256})
    return described


def check_content(sources: Sequence[Source]) -> None:
    """Read inputs through, and see that each has something that a run can be made of.

    Raises:
        InputError: a file is not sequences, or holds no records, or none that is DNA.
    """
    for source in sources:
        found = {
            screen_record(record) is Status.NOT_DNA
            for record in read_sources([source], is_first_time=False)
        }
        if False not in found:
            names = (name if name != STDIN else "standard input" for name in source.names)
            problem = "no record is DNA" if found else "holds no records"
            raise InputError(", ".join(names), problem)


def ingest(
    sources: Sequence[Source], paths: RunPaths, choice: ModelChoice, policy: OrfPolicy
) -> Counter[str]:
    """Read, screen and chunk all inputs; write the chunk file and the record table.

    Args:
        sources: the samples to read, in order.
        paths: where `chunked` and `records` go.
        choice: `min_length` and `sample_n` decide what is passed over.
        policy: decides the shortest record that is worth scoring.

    Returns:
        Counts: records, chunks, nt, gaps, and `status:{name}` for those not scored.

    Raises:
        InputError: a file is not sequences, or every record is not DNA.
    """
    counts: Counter[str] = Counter(records=0, chunks=0, nt=0, gaps=0)
    sampled = _sampler(sources, choice.sample_n)
    with atomic_write(paths.chunked, "w") as chunked, atomic_write(paths.records, "w") as table:
        for number, record in enumerate(read_sources(sources)):
            status = screen(record, choice.min_length, policy)
            if status is None and not sampled(number):
                status = Status.FILTERED
            chunks = 0 if status else _write_chunks(record, paths.chunk_nt, chunked)
            length = len(record.sequence)
            table.write(
                RecordRow(
                    record.seq_id, record.sample, length, record.gaps, status, chunks, record.header
                ).line()
            )
            counts.update(records=1, chunks=chunks, nt=length, gaps=record.gaps)
            if status:
                counts[f"status:{status}"] += 1
    if not counts["records"]:
        logger.warning("no records in %s", ", ".join(name for x in sources for name in x.names))
    if counts["records"] and counts[f"status:{Status.NOT_DNA}"] == counts["records"]:
        raise InputError(
            ", ".join(name for source in sources for name in source.names),
            "no record is DNA: over 10% of the letters are outside its alphabet; "
            "give nucleotide sequences, not proteins",
        )
    return counts


def screen(record: Record, min_length: int, policy: OrfPolicy) -> Status | None:
    """Why a record is not scored; None if it is. `min_length` is in nt."""
    status = screen_record(record, min_nt=SHORTEST_NT[policy.name])
    if status is None and len(record.sequence) < min_length:
        return Status.FILTERED
    return status


def _write_chunks(record: Record, chunk_nt: int, file: IO[str]) -> int:
    chunks = chunk_record(record, chunk_nt)
    for chunk in chunks:
        file.write(fasta_text(chunk.chunk_id, chunk.sequence, wrapped=True))
    return len(chunks)


def _sampler(sources: Sequence[Source], wanted: int | None) -> Callable[[int], bool]:
    """Whether record `i` belongs to an even spread of `wanted` records."""
    if wanted is None:
        return lambda number: True
    total = sum(1 for _ in read_sources(sources))
    if total <= wanted:
        return lambda number: True
    return lambda number: (number + 1) * wanted // total > number * wanted // total
