"""The final files of a run, or of one of its samples: opened together, whole or not at all.

Source:
    GFF3 1.26 of the Sequence Ontology project; BED 1.0 of the GA4GH file formats group.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from virnucpro.core.files import atomic_write
from virnucpro.core.records import Record
from virnucpro.reports.tables import CALL_COLUMNS, REGION_COLUMNS, ChunkRow, RegionRow, header
from virnucpro.scores.thresholds import VIRAL, VIRUS
from virnucpro.sequences.fasta import write_fasta

TABLE_NAMES = ("calls.tsv", "regions.tsv", "viral_regions.bed", "viral_chunks.bed", "viral.gff3")
FASTA_NAMES = {
    False: ("viral.fasta", "regions.fasta"), True: ("viral.fasta.gz", "regions.fasta.gz"),
}  # fmt: skip

LENGTH, CALL = CALL_COLUMNS.index("length"), CALL_COLUMNS.index("call")
_RED, _BLUE = "204,51,51", "51,102,204"
_NOT_IN_ATTRIBUTES = {code: f"%{code:02X}" for code in (*range(32), 127, *b"%;=&,")}


@contextmanager
def table_files(folder: Path, gzip_fasta: bool) -> Iterator[TableFiles]:
    """Open the files; an OutputError if one cannot be written, and then none is left behind."""
    with ExitStack() as stack:
        files: list[Any] = []
        for name in (*TABLE_NAMES, *FASTA_NAMES[gzip_fasta]):
            mode = "wb" if name.endswith(".gz") else "w"
            file = stack.enter_context(atomic_write(folder / name, mode))
            if mode == "wb":
                # no name and no date inside: the same records give the same bytes
                packed = gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0)
                text = io.TextIOWrapper(packed, "utf-8", "surrogateescape", newline="\n")
                file = stack.enter_context(text)
            files.append(file)
        yield TableFiles(files)


class TableFiles:
    """Writes a record to every file that it belongs in."""

    def __init__(self, files: list[Any]) -> None:
        self._calls, self._regions, self._regions_bed, self._chunks_bed, self._gff = files[:5]
        self._fasta, self._regions_fasta = files[5:]
        self._calls.write(header(CALL_COLUMNS))
        self._regions.write(header(REGION_COLUMNS))
        self._gff.write("##gff-version 3\n")

    def add(
        self, name: str, fields: Sequence[str], regions: list[RegionRow], chunks: list[ChunkRow],
        record: Record | None,
    ) -> None:  # fmt: skip
        """Write one record: its rows in order, and its sequence, or that of its viral regions.

        `name` is its id in the files that have no column for the sample, `fields` its row of
        calls.tsv as text; `record` is needed where it, or a part of it, is viral. BED scores are
        1000 x p_virus, of a region the mean; in GFF3 a region has the ORFs of its viral chunks.
        """
        self._calls.write("\t".join(fields) + "\n")
        length = int(fields[LENGTH])
        bed = f"%23{name[1:]}" if name.startswith("#") else name  # else it were a comment
        viral = [c for c in chunks if c.orf_start is not None and (c.p_virus or 0.0) > VIRAL]
        # browsers know no place beyond a contig's end, where the junction of a circle goes on
        viral = [c for c in viral if c.end <= length]
        for chunk in viral:  # nine columns, the best ORF drawn thick
            self._chunks_bed.write(
                f"{bed}\t{chunk.start}\t{chunk.end}\tchunk_{chunk.number}{chunk.frame}"
                f"\t{1000 * (chunk.p_virus or 0.0):.0f}\t{chunk.strand}"
                f"\t{chunk.orf_start}\t{chunk.orf_end}\t{_BLUE if chunk.strand == '-' else _RED}\n"
            )
        seq_id = gff_seqid(name)
        if regions:
            self._gff.write(f"##sequence-region {seq_id} 1 {length}\n")
        for region in regions:
            title = f"viral_region_{region.number}"
            own_id = f"{gff_attribute(name)}:{title}"
            self._regions.write(region.line())
            self._regions_bed.write(
                f"{bed}\t{region.start}\t{region.end}\t{title}\t{1000 * region.mean_p:.0f}\t.\n"
            )
            self._gff.write(
                f"{seq_id}\tVirNucPro\tviral_sequence\t{region.start + 1}\t{region.end}"
                f"\t{region.mean_p:.6g}\t.\t.\tID={own_id};Name={title}"
                f";supporting={region.supporting};opposing={region.opposing}"
                f";contig_call={gff_attribute(region.call or 'none')}\n"
            )
            self._gff.writelines(
                f"{seq_id}\tVirNucPro\tORF\t{(chunk.orf_start or 0) + 1}\t{chunk.orf_end}"
                f"\t{chunk.p_virus:.6g}\t{chunk.strand}\t.\tParent={own_id}"
                f";chunk={chunk.number};frame={chunk.frame}\n"
                for chunk in viral
                if chunk.start >= region.start and chunk.end <= region.end
            )
        if record is not None and fields[CALL] == VIRUS:
            write_fasta(self._fasta, [(record.header_with(name), record.sequence)], wrapped=True)
        elif record is not None:
            cut = [
                (f"{name}|viral_region_{found.number} {found.start + 1}-{found.end}/{length}",
                 record.sequence[found.start : found.end])
                for found in regions
                if found.is_inside
            ]  # fmt: skip
            write_fasta(self._regions_fasta, cut, wrapped=True)


def gff_seqid(seq_id: str) -> str:
    """An id as a GFF3 seqid: letters that the format does not allow there are percent-encoded."""
    return quote(seq_id, safe=".:^*$@!+?|", errors="surrogateescape").replace("~", "%7E")


def gff_attribute(text: str) -> str:
    """A value of the ninth GFF3 column."""
    return text.translate(_NOT_IN_ATTRIBUTES)
