"""The FASTA files that lie between stages: written and read back here only.

Room 1 (FASTA -> chunks -> ORFs). These files are ours: plain, ids of one word, no surprises. What
users hand in goes through `fasta.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

from dnaio.exceptions import FastaFormatError
from dnaio.readers import FastaReader

from virnucpro.core.errors import InputError
from virnucpro.core.text import clipped

WRAP_NT = 60


class FastaEntry(NamedTuple):
    """What dnaio makes of a FASTA record; its own type refuses letters outside ASCII.

    Attributes:
        name: the header without `>`.
        sequence: the letters, line breaks removed.
        qualities: always None; dnaio passes it.
    """

    name: str
    sequence: str
    qualities: str | None = None


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
    handle: IO[str], entries: Iterable[tuple[str, str]], *, wrapped: bool = False
) -> int:
    """Write (id, sequence) pairs in their order; returns how many. Streams.

    Open `handle` as UTF-8 without newline translation: the files are the same on every system.
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
        with FastaReader(str(path), sequence_class=FastaEntry, opener=open) as reader:
            for entry in reader:
                yield entry.name, entry.sequence
    except (OSError, FastaFormatError, UnicodeDecodeError) as error:
        raise InputError(path, f"no readable FASTA file: {clipped(error)}") from error
