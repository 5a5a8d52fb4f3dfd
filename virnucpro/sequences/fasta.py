"""FASTA and FASTQ -> records with ids that are unique within the run.

Room 1 (FASTA -> chunks -> ORFs). Streams: one record is in memory at a time, and 8 to 9 bytes for
each id seen. Parsing is dnaio's; `streams.py` feeds it checked bytes.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path, PurePath
from typing import NamedTuple

from dnaio.exceptions import FileFormatError
from dnaio.readers import FastaReader, FastqReader

from virnucpro.core.errors import InputError
from virnucpro.core.records import Record
from virnucpro.core.text import shown
from virnucpro.sequences.fasta_files import FastaEntry
from virnucpro.sequences.ids import IdRegistry
from virnucpro.sequences.streams import MAX_RECORD_NT, CheckedStream
from virnucpro.sequences.unpack import STDIN, open_unpacked

logger = logging.getLogger("virnucpro.sequences")

_PACKED_SUFFIXES = {".gz", ".bgz", ".bz2", ".xz", ".zst"}
_GAPS = "-.*"
_BLANKS = " \t\v\f\r"
_WITHOUT_BLANKS = str.maketrans("", "", _BLANKS)
_WITHOUT_BOTH = str.maketrans("", "", _GAPS + _BLANKS)
_MATE_ENDINGS = ("/1", "/2")


@dataclass(slots=True)
class ReadLog:
    """What was met while reading; hand the same one to several calls of a run.

    Attributes:
        records: records read.
        duplicates: records that were renamed because their id had been seen.
        unnamed: records without an id, called `record_{n}`.
        gaps: gap letters removed (nt).
        ids: the ids given out.
        max_record_nt: a longer record ends the run.
        is_silent: do not warn of renamed duplicates; for inputs that are read again.
    """

    records: int = 0
    duplicates: int = 0
    unnamed: int = 0
    gaps: int = 0
    ids: IdRegistry = field(default_factory=IdRegistry)
    max_record_nt: int = MAX_RECORD_NT
    is_silent: bool = False


class _Entry(NamedTuple):
    header: str
    sequence: str
    line: int | None


def sample_name(path: Path | str) -> str:
    """The name of an input: without a compression suffix, then without one more.

    >>> [sample_name(name) for name in ("a/reads.fastq.gz", "b/contigs.v2.fa", "-")]
    ['reads', 'contigs.v2', 'stdin']
    """
    if str(path) == STDIN:
        return "stdin"
    name = PurePath(path)
    if name.suffix.lower() in _PACKED_SUFFIXES:
        name = name.with_suffix("")
    return name.stem


def read_records(paths: Iterable[Path | str], log: ReadLog | None = None) -> Iterator[Record]:
    """The records of all inputs, in order; `-` is standard input. Streams.

    Plain text or packed with gzip, bzip2, xz or zstandard, by content. The id is the header's
    first word; without one it is `record_{n}`, n counting all records of the run from 1. A
    second record with an id becomes `{id}__2`. Blanks within lines are removed, gap letters
    (`-`, `.`, `*`) are removed and counted. An empty input has no records.

    Raises:
        InputError: no header, NUL byte, UTF-16, truncated packing, broken FASTQ, a directory, a
            missing or unreadable file, a record over 1 Gnt. Records before the fault have been
            yielded.
    """
    log = ReadLog() if log is None else log
    duplicates = log.duplicates
    for path in _each_once(paths):
        sample = sample_name(path)
        for entry in _entries(path, log):
            name = first_word(entry.header, log)
            seq_id = log.ids.unique(name)
            log.duplicates += seq_id != name
            yield _record(seq_id, entry, sample, log)
    warn_of_duplicates(log, log.duplicates - duplicates)


def read_pairs(
    pairs: Iterable[tuple[Path | str, Path | str]], log: ReadLog | None = None
) -> Iterator[tuple[Record, Record]]:
    """Mates from pairs of files, in order, as `{id}/1` and `{id}/2`. Streams.

    Mates have the same first word in their headers, or one that differs in its ending only:
    `/1` and `/2`, `.1` and `.2`, `_1` and `_2`. A second pair with an id becomes `{id}__2/1` and
    `{id}__2/2`. The sample is the first file's.

    Raises:
        InputError: as `read_records`; mates whose names differ; one file has more records.
    """
    log = ReadLog() if log is None else log
    duplicates = log.duplicates
    for first_path, second_path in pairs:
        sample = sample_name(first_path)
        both = zip_longest(_entries(first_path, log), _entries(second_path, log))
        for number, (first, second) in enumerate(both, start=1):
            if first is None or second is None:
                short = first_path if first is None else second_path
                raise InputError(short, f"ends after {number - 1} records, its mate file does not")
            name = _mates_name(first, second, log)
            if name is None:
                problem = (
                    f"record {number}: {shown(second.header)} is no mate of {shown(first.header)}"
                )
                raise InputError(second_path, problem, second.line)
            seq_id = log.ids.unique(name, _MATE_ENDINGS)
            log.duplicates += seq_id != name
            yield (
                _record(f"{seq_id}/1", first, sample, log),
                _record(f"{seq_id}/2", second, sample, log),
            )
    warn_of_duplicates(log, log.duplicates - duplicates)


def _each_once(paths: Iterable[Path | str]) -> Iterator[Path | str]:
    stdin_seen = False
    for path in paths:
        if str(path) == STDIN:
            if stdin_seen:
                raise InputError("standard input", "given twice; it can be read once")
            stdin_seen = True
        yield path


def _entries(path: Path | str, log: ReadLog) -> Iterator[_Entry]:
    """Header and letters of each record of one input, and its line in FASTQ."""
    with open_unpacked(path) as unpacked:
        stream = CheckedStream(unpacked, log.max_record_nt)
        if stream.kind is None:
            return

        def opener(*_: object) -> io.BufferedReader:
            return io.BufferedReader(stream, 1 << 17)

        try:
            if stream.kind == "fasta":
                with FastaReader(str(path), sequence_class=FastaEntry, opener=opener) as fasta:
                    for read in fasta:
                        yield _Entry(read.name, read.sequence, None)
            else:
                with FastqReader(str(path), opener=opener) as fastq:
                    for number, read in enumerate(fastq):
                        line = stream.skipped_lines + 4 * number + 1
                        yield _Entry(read.name, read.sequence, line)
        except FileFormatError as error:
            place = None if error.line is None else stream.skipped_lines + error.line + 1
            raise stream.error(f"broken {error.format}: {error.message}", place) from error
        except UnicodeDecodeError as error:
            raise stream.error(f"letters that this locale cannot read: {error}") from error


def first_word(header: str, log: ReadLog) -> str:
    """The wished id of the next record; it is counted."""
    log.records += 1
    words = header.split(maxsplit=1)
    if words:
        return words[0]
    log.unnamed += 1
    return f"record_{log.records}"


def _mates_name(first: _Entry, second: _Entry, log: ReadLog) -> str | None:
    """What two mates are both called; None if they are no mates."""
    one, two = first.header.split(maxsplit=1)[:1], second.header.split(maxsplit=1)[:1]
    name = first_word(first.header, log)
    log.records += 1
    if one == two:
        return name
    if not one or not two or one[0][:-1] != two[0][:-1]:
        return None
    is_numbered = one[0][-2:] in ("/1", ".1", "_1") and two[0][-1] == "2"
    return name[:-2] if is_numbered and len(name) > 2 else None


def _record(seq_id: str, entry: _Entry, sample: str, log: ReadLog) -> Record:
    letters = entry.sequence.translate(_WITHOUT_BOTH)
    gaps = 0
    if len(letters) < len(entry.sequence):
        gaps = len(entry.sequence.translate(_WITHOUT_BLANKS)) - len(letters)
        log.gaps += gaps
    return Record(seq_id, entry.header, letters, sample, gaps)


def warn_of_duplicates(log: ReadLog, count: int) -> None:
    """Say once how many records of an input were renamed."""
    if count and not log.is_silent:
        logger.warning("%d records had an id that was taken; renamed to {id}__2 and on", count)
