"""The final files of a run, or of one of its samples: opened together, whole or not at all."""

from __future__ import annotations

import gzip
import io
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, cast

from virnucpro.core.files import atomic_write
from virnucpro.core.records import Record
from virnucpro.reports import genome
from virnucpro.reports.tables import (
    CALL_COLUMNS,
    REGION_COLUMNS,
    CallRow,
    ChunkRow,
    RegionRow,
    header,
)
from virnucpro.scores.intervals import VIRAL
from virnucpro.sequences.fasta_files import write_fasta

TABLE_NAMES = ("calls.tsv", "regions.tsv", "viral_regions.bed", "viral_chunks.bed", "viral.gff3")
FASTA_NAMES = {False: "viral.fasta", True: "viral.fasta.gz"}


class TableFiles:
    """Writes a record to every file that it belongs in. A context manager.

    Raises:
        OutputError: a file could not be written; none that was not whole is left behind.
    """

    def __init__(self, folder: Path, gzip_fasta: bool) -> None:
        self._folder, self._gzip_fasta = folder, gzip_fasta
        self._stack = ExitStack()

    def __enter__(self) -> TableFiles:
        """Open all files and write their headers."""
        with ExitStack() as stack:
            files = [
                stack.enter_context(atomic_write(self._folder / name, "w")) for name in TABLE_NAMES
            ]
            self._calls, self._regions, self._regions_bed, self._chunks_bed, self._gff = files
            self._fasta = _open_fasta(self._folder, self._gzip_fasta, stack)
            self._stack = stack.pop_all()
        self._calls.write(header(CALL_COLUMNS))
        self._regions.write(header(REGION_COLUMNS))
        self._gff.write(genome.GFF3_HEADER)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:  # fmt: skip
        """Give the files their names, or remove them after an error."""
        return self._stack.__exit__(kind, error, traceback)

    def add(
        self, name: str, row: CallRow, regions: list[RegionRow], chunks: list[ChunkRow],
        record: Record | None,
    ) -> None:  # fmt: skip
        """Write one record.

        Args:
            name: its id in the files that have no column for the sample.
            row: its line in calls.tsv.
            regions: its viral regions, in order.
            chunks: all its chunks, in order.
            record: its sequence, where it is called viral.
        """
        self._calls.write(row.line())
        # browsers know no place beyond a contig's end, where the junction of a circle goes on
        viral = [
            chunk
            for chunk in chunks
            if chunk.p_virus is not None and chunk.p_virus > VIRAL and chunk.end <= row.length
        ]
        for chunk in viral:
            genome.write_chunk(self._chunks_bed, name, chunk)
        for region in regions:
            self._regions.write(region.line())
            inside = [c for c in viral if c.start >= region.start and c.end <= region.end]
            genome.write_region(self._regions_bed, self._gff, name, region, inside)
        if record is not None:
            write_fasta(self._fasta, [(record.header_with(name), record.sequence)], wrapped=True)


def _open_fasta(folder: Path, is_packed: bool, stack: ExitStack) -> IO[str]:
    if not is_packed:
        return cast("IO[str]", stack.enter_context(atomic_write(folder / FASTA_NAMES[False], "w")))
    file = stack.enter_context(atomic_write(folder / FASTA_NAMES[True]))
    # no name and no date inside: the same records give the same bytes
    packed = gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0)
    text = io.TextIOWrapper(packed, encoding="utf-8", errors="surrogateescape", newline="\n")
    return stack.enter_context(text)
