"""Where each sequence of some FASTA files lies, longest first; 32 bytes a sequence.

Arrays and not objects, so that tens of millions of sequences fit. Files are the pipeline's own
(plain text, any line width); the ids stay in the files.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from virnucpro.core.errors import InputError
from virnucpro.core.text import shown

_BLOCK_BYTES = 32 << 20
_NEWLINE, _RETURN, _START = 10, 13, 62
Integers = NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class Places:
    """Where sequences lie; element i of each array is one sequence.

    Attributes:
        file: number of the FASTA file, int32.
        offset: first byte of the header, int64.
        span: bytes from there to the end of the record, int64.
    """

    file: Integers
    offset: Integers
    span: Integers

    def __len__(self) -> int:
        return len(self.offset)

    def take(self, chosen: Integers | slice) -> Places:
        """The chosen ones, in that order."""
        return Places(self.file[chosen], self.offset[chosen], self.span[chosen])


@dataclass(frozen=True, slots=True)
class SequenceIndex:
    """All sequences of a stage, longest first; equal lengths in file order.

    Attributes:
        files: the FASTA files.
        places: where each sequence lies.
        lengths: letters of each, int32.
        id_hashes: of each id, int64; holds within this process only.
        digest: hex SHA-256 over the content of the files.
    """

    files: tuple[Path, ...]
    places: Places
    lengths: Integers
    id_hashes: Integers
    digest: str

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def letters(self) -> int:
        """Letters of all sequences."""
        return int(self.lengths.sum(dtype=np.int64))


def build_index(files: Sequence[Path]) -> SequenceIndex:
    """Scan FASTA files.

    Raises:
        InputError: not FASTA, a record without id or letters, or an id that occurs twice.
    """
    digest = hashlib.sha256()
    file, offset, span, lengths, hashes = _longest_first(
        [_scan(Path(path), number, digest) for number, path in enumerate(files)]
    )
    places = Places(file, offset, span)
    named = tuple(Path(path) for path in files)
    index = SequenceIndex(named, places, lengths, hashes, digest.hexdigest())
    _refuse_duplicates(index)
    return index


def _longest_first(parts: list[tuple[Integers, ...]]) -> list[Integers]:
    """The columns of all files joined and sorted by length, falling; `parts` is emptied.

    One column at a time, so that tens of millions of sequences are in memory not quite twice.
    """
    if not parts:
        return [np.empty(0, dtype=np.int64)] * 5
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    parts.clear()
    order = np.argsort(-columns[3], kind="stable")
    for number, column in enumerate(columns):
        columns[number] = column[order]
    return columns


def read_sequences(files: Sequence[Path], places: Places) -> tuple[list[str], list[str]]:
    """Ids and sequences at `places`, in their order.

    Raises:
        InputError: a file is not what it was when it was indexed.
    """
    ids: list[str] = [""] * len(places)
    sequences: list[str] = [""] * len(places)
    for number in np.unique(places.file).tolist():
        with _Mapped(files[number]) as data:
            for i in np.flatnonzero(places.file == number).tolist():
                start = int(places.offset[i])
                record = data[start : start + int(places.span[i])]
                header, _, letters = record.partition(b"\n")
                if header[:1] != b">" or len(record) != int(places.span[i]):
                    raise InputError(files[number], f"changed during the run, at byte {start}")
                ids[i] = header[1:].split(None, 1)[0].decode()
                sequences[i] = letters.translate(None, b"\r\n").decode("latin-1")
    return ids, sequences


def hash_ids(seq_ids: Sequence[str]) -> NDArray[np.int64]:
    """Hashes as in `SequenceIndex.id_hashes`, shape (n,)."""
    values = (hash(seq_id.encode()) for seq_id in seq_ids)
    return np.fromiter(values, dtype=np.int64, count=len(seq_ids))


class _Mapped:
    """A file's bytes without reading them; empty files too."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        size = path.stat().st_size
        self.data = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""

    def __enter__(self) -> bytes | mmap.mmap:
        return self.data

    def __exit__(self, *error: object) -> None:
        if isinstance(self.data, mmap.mmap):
            self.data.close()
        self._file.close()


def _scan(path: Path, number: int, digest: hashlib._Hash) -> tuple[Integers, ...]:
    """Columns file, offset, span, length and id hash of one file's records."""
    columns: list[tuple[Integers, ...]] = []
    with _Mapped(path) as data:
        digest.update(f"{len(data)}\n".encode())
        if len(data) and data[0] != _START:
            raise InputError(path, "not FASTA: the first character is not '>'", 1)
        for start, block in _whole_records(data):
            digest.update(block)
            columns.append(_records(path, start, block))
    offset, span, length, hashes = (
        (np.concatenate(column) for column in zip(*columns, strict=True))
        if columns
        else [np.empty(0, dtype=np.int64)] * 4
    )
    file = np.full(len(offset), number, dtype=np.int32)
    return file, offset, span, length.astype(np.int32), hashes


def _whole_records(data: bytes | mmap.mmap) -> Iterator[tuple[int, bytes]]:
    """Blocks that end where a record ends, each with the offset of its first byte."""
    start = 0
    while start < len(data):
        size = _BLOCK_BYTES
        while True:
            stop = min(start + size, len(data))
            block = data[start:stop]
            cut = len(block) if stop == len(data) else block.rfind(b"\n>") + 1
            if cut > 0:
                break
            size *= 2
        yield start, block[:cut]
        start += cut


def _records(path: Path, start: int, block: bytes) -> tuple[Integers, ...]:
    """Columns offset, span, length and id hash of the records in `block`."""
    letters = np.frombuffer(block, dtype=np.uint8)
    newlines = np.flatnonzero(letters == _NEWLINE)
    begins = np.flatnonzero(letters == _START)
    begins = begins[(begins == 0) | (letters[begins - 1] == _NEWLINE)]
    ends = np.append(begins[1:], len(block))
    breaks = np.append(newlines, len(block))
    header_ends = np.minimum(breaks[np.searchsorted(newlines, begins)], ends)
    blank = np.searchsorted(newlines, ends) - np.searchsorted(newlines, header_ends)
    returns = np.flatnonzero(letters == _RETURN)
    blank += np.searchsorted(returns, ends) - np.searchsorted(returns, header_ends)
    length = ends - header_ends - blank
    hashes = np.empty(len(begins), dtype=np.int64)
    for i, (a, b) in enumerate(zip(begins.tolist(), header_ends.tolist(), strict=True)):
        words = block[a + 1 : b].split(None, 1)
        if not words or length[i] < 1:
            line = f"record at byte {start + a} has no {'letters' if words else 'id'}"
            raise InputError(path, line)
        hashes[i] = hash(words[0])
    return begins + start, ends - begins, length, hashes


def _refuse_duplicates(index: SequenceIndex) -> None:
    order = np.argsort(index.id_hashes, kind="stable")
    same = np.flatnonzero(np.diff(index.id_hashes[order]) == 0)
    suspects = np.unique(np.concatenate([order[same], order[same + 1]]))
    seen: set[str] = set()
    places = index.places.take(suspects)
    for seq_id, file in zip(read_sequences(index.files, places)[0], places.file, strict=True):
        if seq_id in seen:
            raise InputError(index.files[int(file)], f"id {shown(seq_id)} occurs more than once")
        seen.add(seq_id)
