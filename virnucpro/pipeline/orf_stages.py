"""Stages 2 to 4: chunks -> ORFs -> split files, each pair of sequences embedded once.

ORFs with the same DNA and the same protein get the same vectors, so only the first of them
goes into the split files; a table says for each ORF which one stands for it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from virnucpro.core.files import atomic_write
from virnucpro.core.progress import ProgressReporter
from virnucpro.core.records import Chunk, Orf
from virnucpro.core.seen import SeenTable
from virnucpro.pipeline.parallel_translate import translate_blocks
from virnucpro.pipeline.paths import RunPaths
from virnucpro.sequences.fasta_files import fasta_text, read_fasta, write_fasta
from virnucpro.sequences.orfs import OrfPolicy

logger = logging.getLogger("virnucpro.pipeline")

BLOCK_CHUNKS = 2_000
ORF_PLACE = np.dtype([("start", "<i4"), ("end", "<i4")])
UNIQUE = np.dtype("<u4")


def translate(
    paths: RunPaths, policy: OrfPolicy, threads: int, reporter: ProgressReporter, total: int
) -> dict[str, int]:
    """Stage 2: read all frames of all chunks; write DNA, protein and the place of each ORF.

    Args:
        paths: reads `chunked`; writes `nucleotide`, `protein` and `orf_table`.
        policy: which ORFs a chunk gives.
        threads: CPUs to use; fewer than 4 work in this process.
        reporter: shows progress.
        total: chunks to read.

    Returns:
        Counts: orfs, and chunks_with_orf.
    """
    orfs = with_orf = 0
    with (
        atomic_write(paths.nucleotide, "w") as dna,
        atomic_write(paths.protein, "w") as protein,
        atomic_write(paths.orf_table) as places,
        reporter.create_file_bar(total, "Translating chunks", "chunks") as bar,
    ):
        # this process reads and writes meanwhile, which takes a CPU as well
        workers = max(1, threads - 1)
        for block in translate_blocks(_chunk_blocks(paths.chunked), policy, workers):
            for found in block:
                with_orf += bool(found)
                orfs += len(found)
                _write_orfs(found, dna, protein, places)
            bar.update(len(block))
    return {"orfs": orfs, "chunks_with_orf": with_orf}


def split(paths: RunPaths, per_file: int) -> dict[str, int]:
    """Stages 3 and 4: write split files of `per_file` distinct ORFs, and the table of copies.

    Returns:
        Counts: embedded (distinct ORFs) with their nt and aa, duplicates, files, and what the
        duplicates saved: `duplicate_nt` of DNA not embedded again.
    """
    seen = SeenTable()
    total = nt = aa = saved_nt = 0
    writer = _SplitWriter(paths, per_file)
    with atomic_write(paths.unique_table) as table:
        pairs = zip(read_fasta(paths.nucleotide), read_fasta(paths.protein), strict=True)
        while block := list(islice(pairs, BLOCK_CHUNKS)):
            numbers = []
            for (orf_id, dna), (_, protein) in block:
                number, is_new = seen.add(f"{dna} {protein}")
                numbers.append(number)
                if is_new:
                    writer.add(orf_id, dna, protein)
                    nt, aa = nt + len(dna), aa + len(protein)
                else:
                    saved_nt += len(dna)
            table.write(np.array(numbers, dtype=UNIQUE).tobytes())
            total += len(block)
    writer.close()
    duplicates = total - len(seen)
    if duplicates:
        logger.info(
            "%d of %d ORFs (%.1f%%) are exact copies of others: embedded once, scored alike",
            duplicates, total, 100 * duplicates / total,
        )  # fmt: skip
    return {
        "embedded": len(seen),
        "embedded_nt": nt,
        "embedded_aa": aa,
        "duplicates": duplicates,
        "files": writer.files,
        "duplicate_nt": saved_nt,
    }


def split_files(paths: RunPaths, orfs: int, per_file: int) -> list[Path]:
    """Every file that stages 3 to 7 can make for `orfs` ORFs, features included."""
    numbers = range(1, -(-orfs // per_file) + 1)
    return [
        path
        for number in numbers
        for path in (
            paths.split(paths.nucleotide_dir, number),
            paths.split(paths.protein_dir, number),
            paths.dna_features(number),
            paths.protein_features(number),
            paths.merged(number),
        )
    ]


def split_pairs(paths: RunPaths, files: int) -> list[Path]:
    """The split files themselves, DNA and protein of each number."""
    folders = (paths.nucleotide_dir, paths.protein_dir)
    return [paths.split(folder, n) for n in range(1, files + 1) for folder in folders]


def read_orf_places(paths: RunPaths, block: int = 1 << 16) -> Iterator[NDArray[Any]]:
    """Stream the places of all ORFs, fields `start` and `end` (nt in the chunk)."""
    return _read_table(paths.orf_table, ORF_PLACE, block)


def read_unique(paths: RunPaths, block: int = 1 << 16) -> Iterator[NDArray[Any]]:
    """Stream, for all ORFs, the number of the embedded ORF that stands for each."""
    return _read_table(paths.unique_table, UNIQUE, block)


def _read_table(path: Path, dtype: np.dtype[Any], block: int) -> Iterator[NDArray[Any]]:
    with path.open("rb") as file:
        while data := file.read(block * dtype.itemsize):
            yield np.frombuffer(data, dtype=dtype)


def _chunk_blocks(chunked: Path) -> Iterator[list[Chunk]]:
    chunks = (Chunk(name, sequence) for name, sequence in read_fasta(chunked))
    while block := list(islice(chunks, BLOCK_CHUNKS)):
        yield block


def _write_orfs(orfs: list[Orf], dna: IO[str], protein: IO[str], places: IO[bytes]) -> None:
    for orf in orfs:
        dna.write(fasta_text(orf.orf_id, orf.dna))
        protein.write(fasta_text(orf.orf_id, orf.protein))
    places.write(np.array([(orf.start, orf.end) for orf in orfs], dtype=ORF_PLACE).tobytes())


class _SplitWriter:
    """Fills one pair of split files after the other."""

    def __init__(self, paths: RunPaths, per_file: int) -> None:
        self._paths, self._per_file = paths, per_file
        self._rows: list[tuple[str, str, str]] = []
        self.files = 0
        for folder in (paths.nucleotide_dir, paths.protein_dir):
            folder.mkdir(exist_ok=True)

    def add(self, orf_id: str, dna: str, protein: str) -> None:
        self._rows.append((orf_id, dna, protein))
        if len(self._rows) == self._per_file:
            self.close()

    def close(self) -> None:
        """Write what is waiting, if anything."""
        if not self._rows:
            return
        self.files += 1
        paths = self._paths
        with atomic_write(paths.split(paths.nucleotide_dir, self.files), "w") as file:
            write_fasta(file, ((orf_id, dna) for orf_id, dna, _ in self._rows), wrapped=True)
        with atomic_write(paths.split(paths.protein_dir, self.files), "w") as file:
            write_fasta(file, ((orf_id, pro) for orf_id, _, pro in self._rows), wrapped=True)
        self._rows.clear()
