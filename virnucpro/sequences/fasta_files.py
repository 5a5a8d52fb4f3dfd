"""The FASTA files that lie between stages: ours, plain, written and read back here only."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from virnucpro.core.errors import InputError
from virnucpro.core.records import HEADER_BYTES
from virnucpro.core.text import clipped

WRAP_NT = 60
_PART_NT = WRAP_NT << 14


def fasta_text(seq_id: str, sequence: str, *, wrapped: bool = False) -> str:
    r"""One FASTA record, on two lines or wrapped at 60 letters.

    >>> fasta_text("c_chunk_1", "ACGT")
    '>c_chunk_1\nACGT\n'
    """
    letters = _wrapped(sequence) if wrapped and len(sequence) > WRAP_NT else f"{sequence}\n"
    return f">{seq_id}\n{letters}"


def write_fasta(
    handle: IO[str], entries: Iterable[tuple[str, str]], *, wrapped: bool = False
) -> None:
    """Write (id, sequence) pairs in their order. Streams.

    Open `handle` as UTF-8 without newline translation: the files are the same on every system.
    """
    for seq_id, sequence in entries:
        # a chromosome is wrapped part by part, so that it is not in memory in many forms
        first = sequence[:_PART_NT] if wrapped else sequence
        handle.write(fasta_text(seq_id, first, wrapped=wrapped))
        for start in range(len(first), len(sequence), _PART_NT):
            handle.write(_wrapped(sequence[start : start + _PART_NT]))


def _wrapped(sequence: str) -> str:
    return "\n".join([sequence[i : i + WRAP_NT] for i in range(0, len(sequence), WRAP_NT)] + [""])


def read_fasta(path: Path | str) -> Iterator[tuple[str, str]]:
    """(id, sequence) of each record of a plain FASTA file of ours, in its order. Streams."""
    encoding, errors = HEADER_BYTES
    try:
        with Path(path).open(encoding=encoding, errors=errors, newline="\n") as file:
            if (first := file.read(1)) not in ("", ">"):
                raise InputError(path, "no readable FASTA file: it does not begin with '>'", 1)
            seq_id, lines = file.readline().removesuffix("\n"), list[str]()
            for line in file:
                if line.startswith(">"):
                    yield seq_id, "".join(lines)
                    seq_id, lines = line[1:].removesuffix("\n"), []
                else:
                    lines.append(line.removesuffix("\n"))
            if first:
                yield seq_id, "".join(lines)
    except OSError as error:
        raise InputError(path, f"no readable FASTA file: {clipped(error)}") from error
