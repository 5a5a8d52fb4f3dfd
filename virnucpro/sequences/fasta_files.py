"""The FASTA files that lie between stages: ours, plain, written and read back here only."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from virnucpro.core.errors import InputError
from virnucpro.core.records import HEADER_BYTES
from virnucpro.core.text import clipped

WRAP_NT = 60


def write_fasta(
    handle: IO[str], entries: Iterable[tuple[str, str]], *, wrapped: bool = False
) -> None:
    """Write (id, sequence) pairs in their order, on two lines or wrapped at 60 letters. Streams.

    Open `handle` as UTF-8 without newline translation: the files are the same on every system.
    """
    for seq_id, sequence in entries:
        size = len(sequence) or 1
        width = WRAP_NT if wrapped else size
        handle.write(f">{seq_id}\n")
        handle.writelines(f"{sequence[i : i + width]}\n" for i in range(0, size, width))


def read_fasta(path: Path | str) -> Iterator[tuple[str, str]]:
    """(id, sequence) of each record of a plain FASTA file of ours, in its order. Streams."""
    try:
        with Path(path).open("r", -1, *HEADER_BYTES, newline="\n") as file:
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
