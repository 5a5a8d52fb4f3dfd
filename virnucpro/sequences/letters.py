"""What the letters of a sequence are, and which records cannot be scored for them."""

from virnucpro.core.records import Record, Status

# A chunk with this many unambiguous bases in a row always gives an ORF (nt).
MIN_RUN_NT = 60
# More than this share of other letters, and a record is protein or text rather than DNA.
MAX_OTHER_SHARE = 0.1

DNA_LETTERS = b"ACGTUNRYKMSWBDHV" + b"acgtunrykmswbdhv"
_CLEAR = b"ACGTUacgtu"
_RUNS = bytes(ord("+" if letter in _CLEAR else "-") for letter in range(256))
_COMPLEMENT = bytes.maketrans(b"ACGTRYKMBVDH", b"TGCAYRMKVBHD")
# `N` for what is no letter of DNA; a line feed, which keeps chunks of a block apart, stays.
_PLAIN, _GIVEN = b"ACGTTNRYKMSWBDHV\n", b"ACGTUNRYKMSWBDHV\n"
_KNOWN = dict(zip(_GIVEN + _GIVEN.lower(), _PLAIN + _PLAIN, strict=True))
_NORMAL = bytes(_KNOWN.get(letter, ord("N")) for letter in range(256))


def normalise(sequence: str) -> bytes:
    """Upper-case letters of IUPAC, one byte each: U as T, `N` for what is none of them."""
    return sequence.encode("ascii", "replace").translate(_NORMAL)


def reverse_complement(letters: bytes) -> bytes:
    """The other strand of normalised letters, with the IUPAC codes complemented."""
    return letters.translate(_COMPLEMENT)[::-1]


def clear_letters(sequence: str) -> int:
    """How many letters are A, C, G, T or U, any case."""
    return len(sequence) - len(sequence.encode("ascii", "replace").translate(None, _CLEAR))


def screen_record(record: Record, min_nt: int = MIN_RUN_NT) -> Status | None:
    """Why a record is not scored, the first of NOT_DNA, TOO_SHORT, AMBIGUOUS; None if it is.

    Over 10% of the letters that are no IUPAC code of DNA are NOT_DNA. `min_nt` is the length of
    the shortest record, and of the shortest run of A, C, G, T, U in it (nt); 0 asks for neither.
    """
    letters = record.sequence.encode("ascii", "replace")
    others = len(letters.translate(None, DNA_LETTERS))
    if others > MAX_OTHER_SHARE * len(letters):
        return Status.NOT_DNA
    if len(letters) < min_nt:
        return Status.TOO_SHORT
    return None if b"+" * min_nt in letters.translate(_RUNS) else Status.AMBIGUOUS
