"""Contigs -> chunks of equal length, overlapping a little."""

from __future__ import annotations


def chunk_windows(length: int, chunk_nt: int) -> list[tuple[int, int]]:
    """Cut a contig into windows that cover all of it.

    The bases that the windows have too many are spread as overlaps, the larger ones first. They
    are divided by the number of windows, not of gaps, so the last window may be short: the
    published models saw their data cut this way.

    Returns:
        Half-open windows in ascending order (nt); none for an empty contig.

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
