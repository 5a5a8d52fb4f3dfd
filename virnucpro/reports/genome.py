"""Viral chunks and regions for genome browsers: BED and GFF3.

Source:
    GFF3 1.26 of the Sequence Ontology project; BED 1.0 of the GA4GH file formats group.
"""

from __future__ import annotations

import re
from typing import IO

from virnucpro.reports.tables import ChunkRow, RegionRow

GFF3_HEADER = "##gff-version 3\n"
SOURCE = "VirNucPro"

_RED, _BLUE = "204,51,51", "51,102,204"
_SEQID = re.compile(r"[^a-zA-Z0-9.:^*$@!+_?|-]")
_ATTRIBUTE = re.compile(r"[\x00-\x1f\x7f%;=&,]")


def write_region(
    bed: IO[str], gff: IO[str], name: str, region: RegionRow, chunks: list[ChunkRow]
) -> None:
    """Write one region and the best ORFs of its viral chunks.

    BED gets one line of six columns, score 1000 x mean p_virus. GFF3 gets a `viral_sequence`
    with the same mean as score, and an `ORF` of each viral chunk as its part.

    Args:
        bed: `viral_regions.bed`.
        gff: `viral.gff3`; write `GFF3_HEADER` first.
        name: the contig's id in these files.
        region: nt, 0-based, end excluded.
        chunks: chunks of the region with p_virus above one half.
    """
    place = f"{bed_name(name)}\t{region.start}\t{region.end}"
    bed.write(f"{place}\tviral_region_{region.number}\t{_score(region.mean_p)}\t.\n")
    seq_id = gff_seqid(name)
    own_id = f"{gff_attribute(name)}:viral_region_{region.number}"
    if region.number == 1:
        gff.write(f"##sequence-region {seq_id} 1 {region.contig_length}\n")
    gff.write(
        f"{seq_id}\t{SOURCE}\tviral_sequence\t{region.start + 1}\t{region.end}"
        f"\t{region.mean_p:.6g}\t.\t.\tID={own_id};Name=viral_region_{region.number}"
        f";supporting={region.supporting};opposing={region.opposing}"
        f";contig_call={gff_attribute(region.call or 'none')}\n"
    )
    for chunk in chunks:
        if chunk.orf_start is None or chunk.p_virus is None:
            continue
        gff.write(
            f"{seq_id}\t{SOURCE}\tORF\t{chunk.orf_start + 1}\t{chunk.orf_end}"
            f"\t{chunk.p_virus:.6g}\t{chunk.strand}\t.\tParent={own_id}"
            f";chunk={chunk.number};frame={chunk.frame}\n"
        )


def write_chunk(bed: IO[str], name: str, chunk: ChunkRow) -> None:
    """Write a viral chunk of the contig `name` to `viral_chunks.bed`.

    Nine columns, the best ORF drawn thick.
    """
    if chunk.orf_start is None or chunk.p_virus is None:
        return
    colour = _BLUE if chunk.strand == "-" else _RED
    bed.write(
        f"{bed_name(name)}\t{chunk.start}\t{chunk.end}\tchunk_{chunk.number}{chunk.frame}"
        f"\t{_score(chunk.p_virus)}\t{chunk.strand}\t{chunk.orf_start}\t{chunk.orf_end}"
        f"\t{colour}\n"
    )


def bed_name(seq_id: str) -> str:
    """An id as a BED chromosome: as it is, but for a `#` in front, which would start a comment.

    >>> bed_name("#1")
    '%231'
    """
    return f"%23{seq_id[1:]}" if seq_id.startswith("#") else seq_id


def gff_seqid(seq_id: str) -> str:
    """An id as a GFF3 seqid: letters that the format does not allow there are percent-encoded.

    >>> gff_seqid(">a/b=1")
    '%3Ea%2Fb%3D1'
    """
    return _SEQID.sub(_percent, seq_id)


def gff_attribute(text: str) -> str:
    """A value of the ninth GFF3 column.

    >>> gff_attribute("a;b=c")
    'a%3Bb%3Dc'
    """
    return _ATTRIBUTE.sub(_percent, text)


def _percent(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogateescape"))


def _score(p_virus: float) -> int:
    return round(1000 * p_virus)
