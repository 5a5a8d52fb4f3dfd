"""Which records cannot be scored, and why."""

from virnucpro.core.records import Record, Status
from virnucpro.sequences.entries import DNA_LETTERS

# A chunk with this many unambiguous bases in a row always gives an ORF (nt).
MIN_RUN_NT = 60
# More than this share of other letters, and a record is protein or text rather than DNA.
MAX_OTHER_SHARE = 0.1

_CLEAR = bytes(ord("+" if letter in b"ACGTUacgtu" else "-") for letter in range(256))


def screen_record(record: Record, min_nt: int = MIN_RUN_NT) -> Status | None:
    """Why a record is not scored, the first of NOT_DNA, TOO_SHORT, AMBIGUOUS; None if it is.

    Over 10% of the letters that are no IUPAC code of DNA are NOT_DNA. `min_nt` is the length of
    the shortest record, and of the shortest run of A, C, G, T, U in it (nt); 0 asks for neither.

    >>> str(screen_record(Record("p", "p", "MKVLATPLE" * 9)))
    'not_dna'
    """
    letters = record.sequence.encode("ascii", "replace")
    others = len(letters.translate(None, DNA_LETTERS))
    if others > MAX_OTHER_SHARE * len(letters):
        return Status.NOT_DNA
    if len(letters) < min_nt:
        return Status.TOO_SHORT
    return None if has_clear_run(letters, min_nt) else Status.AMBIGUOUS


def has_clear_run(letters: bytes, length: int) -> bool:
    """Whether `length` letters in a row are A, C, G, T or U, any case (nt)."""
    return letters.translate(_CLEAR).find(b"+" * length) >= 0
