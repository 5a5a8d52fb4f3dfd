"""FASTA and FASTQ -> records with ids that are unique within the run; our own plain FASTA files."""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import zip_longest
from pathlib import Path, PurePath
from typing import IO

from virnucpro.core.errors import InputError
from virnucpro.core.records import HEADER_BYTES, Record, as_utf8
from virnucpro.core.text import clipped, shown
from virnucpro.sequences.entries import Entry, Stretch, read_entries
from virnucpro.sequences.read_log import ReadLog
from virnucpro.sequences.streams import STDIN, TextStream, open_unpacked

_PACKED_SUFFIXES = {".gz", ".bgz", ".bz2", ".xz", ".zst"}
WRAP_NT = 60
MATE_ENDINGS = ("/1", "/2")
_WORD = re.compile(r"[^ \t\n\v\f\r]+")


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
    return as_utf8(name.stem)


def read_records(paths: Iterable[Path | str], log: ReadLog | None = None) -> Iterator[Record]:
    """The records of all inputs, in order; `-` is standard input. Streams.

    The id is the header up to the first ASCII blank, else `record_{n}`, n counting all records of
    the run from 1; a second record with an id becomes `{id}__2`. An InputError tells of what is no
    FASTA or FASTQ, or a record over 1 Gnt, with its line, after the records before it.
    """
    log = ReadLog() if log is None else log
    for path in paths:
        log.sample = sample_name(path)
        yield from records_of(path, log)
    log.warn()


def records_of(path: Path | str | Stretch, log: ReadLog) -> Iterator[Record]:
    """The records of one input, of the sample in the log; warnings wait there."""
    for entry in _entries(path, log):
        seq_id, joint_id = log.ids_of(log.wished_id(first_word(entry.header)))
        yield Record(seq_id, entry.header, entry.sequence, log.sample, entry.gaps, joint_id)


def pairs_of(paths: Sequence[Path | str | Stretch], log: ReadLog) -> Iterator[Record]:
    """The mates of two files, or of one that holds them in turn, as `{id}/1` and `{id}/2`.

    They follow each other, whose headers have the same first word, or one that ends in `/1` and
    `/2`, `.1` and `.2`, or `_1` and `_2`. Sample and warnings are in the log.
    """
    entries = [_entries(path, log) for path in paths]
    both = zip_longest(entries[0], entries[-1])
    for number, (first, second) in enumerate(both, start=1):
        if first is None or second is None:
            if len(paths) == 1:
                raise InputError(paths[0], f"holds {2 * number - 1} records: the last has no mate")
            short = paths[0] if first is None else paths[1]
            raise InputError(short, f"ends after {number - 1} records, its mate file does not")
        one, two = first_word(first.header), first_word(second.header)
        name, is_pair = log.wished_id(one), one == two
        log.records += 1
        if one[:-1] == two[:-1] and one[-2:] in ("/1", ".1", "_1") and two[-1] == "2":
            name, is_pair = name[:-2], len(name) > 2
        if not is_pair:
            names = [shown(as_utf8(entry.header)) for entry in (second, first)]
            problem = f"record {number}: {names[0]} is no mate of {names[1]}"
            raise InputError(paths[-1], problem, second.line)
        ids = log.ids_of(name, MATE_ENDINGS)
        for entry, end in zip((first, second), MATE_ENDINGS, strict=True):
            seq_id, joint_id = (name + end for name in ids)
            yield Record(seq_id, entry.header, entry.sequence, log.sample, entry.gaps, joint_id)


def first_word(header: str) -> str:
    r"""A header up to the first ASCII blank, fit to be an id; empty if it has no word.

    >>> first_word("caf\xe9\xa0au lait")
    'café\xa0au'
    """
    found = _WORD.search(header)
    return as_utf8(found[0]) if found else ""


def _entries(path: Path | str | Stretch, log: ReadLog) -> Iterator[Entry]:
    with nullcontext(path) if isinstance(path, Stretch) else open_text(path, log) as text:
        yield from read_entries(text, log)


@contextmanager
def open_text(path: Path | str, log: ReadLog) -> Iterator[TextStream]:
    """The text of one input; once it has been read to its end, the log knows of the whole file."""
    with open_unpacked(path, log.count_bytes) as unpacked:
        yield TextStream(unpacked)
        log.digests[str(path)] = unpacked.finish()
        if unpacked.is_cut_short:
            log.cut_short.append(str(unpacked.path))


def write_fasta(
    handle: IO[str], entries: Iterable[tuple[str, str]], *, wrapped: bool = False
) -> None:
    """Write (id, sequence) pairs, each on two lines or wrapped at 60 letters. Streams."""
    for seq_id, sequence in entries:
        size = len(sequence) or 1
        width = WRAP_NT if wrapped else size
        handle.write(f">{seq_id}\n")
        handle.writelines(f"{sequence[i : i + width]}\n" for i in range(0, size, width))


def read_fasta(path: Path | str) -> Iterator[tuple[str, str]]:
    """(id, sequence) of each record of a plain FASTA file of ours, in its order; held whole."""
    try:
        with Path(path).open("r", -1, *HEADER_BYTES, newline="\n") as file:
            text = file.read()
    except OSError as error:
        raise InputError(path, f"no readable FASTA file: {clipped(error)}") from error
    if text and text[0] != ">":
        raise InputError(path, "no readable FASTA file: it does not begin with '>'", 1)
    for entry in text[1:].split("\n>") if text else ():
        seq_id, _, lines = entry.partition("\n")
        yield seq_id, lines.replace("\n", "")
