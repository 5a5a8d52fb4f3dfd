"""Contigs -> chunks of equal length, overlapping a little, and the FASTA files between stages.

Room 1 (FASTA -> chunks -> ORFs).
"""

from __future__ import annotations

from virnucpro.core.records import Chunk, Record


def chunk_windows(length: int, chunk_nt: int) -> list[tuple[int, int]]:
    """Cut a contig into windows that cover all of it.

    The bases that the windows have too many are spread as overlaps, the larger ones first. They
    are divided by the number of windows, not of gaps, so the last window may be short: the
    published models saw their data cut this way.

    Args:
        length: of the contig (nt).
        chunk_nt: of a window (nt).

    Returns:
        Half-open windows in ascending order; none for an empty contig.

    Raises:
        ValueError: `chunk_nt` is not positive.

    Source:
        VirNucPro units.py; equal to it for 70 pairs of length and chunk length.

    >>> chunk_windows(600, 500)
    [(0, 500), (299, 600)]
    """
    if chunk_nt < 1:
        raise ValueError(f"a chunk has at least 1 nt, got {chunk_nt}")
    count = -(-length // chunk_nt)
    if count == 0:
        return []
    surplus = count * chunk_nt - length
    overlap = surplus // count
    wider = surplus - overlap * (count - 1)
    starts = [k * (chunk_nt - overlap) - min(k, wider) for k in range(count)]
    return [(start, min(start + chunk_nt, length)) for start in starts]


def chunk_record(record: Record, chunk_nt: int) -> list[Chunk]:
    """The chunks of a record, `{joint id}_chunk_1` first; letters keep their case."""
    return [
        Chunk(f"{record.joint_id}_chunk_{k}", record.sequence[start:end])
        for k, (start, end) in enumerate(chunk_windows(len(record.sequence), chunk_nt), start=1)
    ]
