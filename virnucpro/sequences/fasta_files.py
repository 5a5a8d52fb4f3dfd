"""The FASTA files that lie between stages: written and read back here only.

Room 1 (FASTA -> chunks -> ORFs). These files are ours: plain, ids of one word, no surprises. What
users hand in goes through `fasta.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TextIO

from dnaio.exceptions import FastaFormatError
from dnaio.readers import FastaReader

from virnucpro.core.errors import InputError

WRAP_NT = 60


class FastaEntry(NamedTuple):
    """One sequence of a FASTA file: the header without `>`, and the letters."""

    header: str
    sequence: str
    qualities: None = None


def fasta_text(seq_id: str, sequence: str, *, wrapped: bool = False) -> str:
    r"""One FASTA record, on two lines or wrapped at 60 letters.

    >>> fasta_text("c_chunk_1", "ACGT")
    '>c_chunk_1\nACGT\n'
    """
    if not wrapped or len(sequence) <= WRAP_NT:
        return f">{seq_id}\n{sequence}\n"
    lines = [sequence[i : i + WRAP_NT] for i in range(0, len(sequence), WRAP_NT)]
    return "\n".join([f">{seq_id}", *lines, ""])


def write_fasta(
    handle: TextIO, entries: Iterable[tuple[str, str]], *, wrapped: bool = False
) -> int:
    """Write (id, sequence) pairs in their order; returns how many. Streams.

    Open `handle` with `newline="\\n"` and UTF-8: the files are the same on every system.
    """
    count = 0
    for seq_id, sequence in entries:
        handle.write(fasta_text(seq_id, sequence, wrapped=wrapped))
        count += 1
    return count


def read_fasta(path: Path | str) -> Iterator[tuple[str, str]]:
    """(id, sequence) of each record of a plain FASTA file of ours, in its order. Streams.

    Raises:
        InputError: the file cannot be read or is no FASTA.
    """
    try:
        with Path(path).open("rb") as file:
            for entry in FastaReader(file, sequence_class=FastaEntry):
                yield entry.header, entry.sequence
    except (OSError, FastaFormatError, UnicodeDecodeError) as error:
        raise InputError(path, f"no readable FASTA file: {error}") from error
