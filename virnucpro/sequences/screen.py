"""Which records cannot be scored, and why.

Room 1 (FASTA -> chunks -> ORFs).
"""

from __future__ import annotations

import numpy as np

from virnucpro.core.records import Record, Status
from virnucpro.sequences.codons import is_unambiguous

# A chunk with this many unambiguous bases in a row always gives an ORF (nt).
MIN_RUN_NT = 60
# More than this share of other letters, and a record is protein or text rather than DNA.
MAX_OTHER_SHARE = 0.1

_BASES = b"ACGTUacgtu"
_DNA_LETTERS = b"ACGTUNRYKMSWBDHV" + b"acgtunrykmswbdhv"


def screen_record(record: Record, min_nt: int = MIN_RUN_NT) -> Status | None:
    """Why a record is not scored; None if it is.

    Args:
        record: gaps removed, letters of any case.
        min_nt: shortest record, and shortest run of A, C, G, T, U in it (nt); 0 asks for
            neither, so that only what is no DNA is held back.

    Returns:
        The first that holds of `NOT_DNA` (over 10% of the letters are no IUPAC code of DNA),
        `TOO_SHORT`, `AMBIGUOUS`.

    >>> str(screen_record(Record("p", "p", "MKVLATPLE" * 9)))
    'not_dna'
    >>> str(screen_record(Record("n", "n", "N" * 80)))
    'ambiguous'
    """
    letters = record.sequence.encode("ascii", "replace")
    others = len(letters.translate(None, _DNA_LETTERS))
    if others > MAX_OTHER_SHARE * len(letters):
        return Status.NOT_DNA
    if len(letters) < min_nt:
        return Status.TOO_SHORT
    if longest_unambiguous_run(letters) < min_nt:
        return Status.AMBIGUOUS
    return None


def longest_unambiguous_run(letters: bytes) -> int:
    """Length of the longest run of A, C, G, T, U (nt).

    >>> longest_unambiguous_run(b"ACNNGTUAN")
    4
    """
    if not letters.translate(None, _BASES):
        return len(letters)
    breaks = np.flatnonzero(~is_unambiguous(letters))
    borders = np.concatenate([[-1], breaks, [len(letters)]])
    return int(np.diff(borders).max()) - 1
