"""Letters, strands and codons: look-up tables over whole blocks of DNA.

Room 1 (FASTA -> chunks -> ORFs). A base is a code from 0 to 3 or, when ambiguous, 4; a codon is
one number, and one table look-up a strand turns it into an amino acid.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# NCBI translation table 1, first base slowest, bases in the order TCAG.
_TABLE_1 = "FFLLSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG"
_BASES = "TCAG"
_AMBIGUOUS = 4

STOP = ord("*")
UNKNOWN = ord("X")


def _letter_codes() -> bytes:
    codes = bytearray([_AMBIGUOUS] * 256)
    for code, base in enumerate(_BASES):
        codes[ord(base)] = codes[ord(base.lower())] = code
    codes[ord("U")] = codes[ord("u")] = codes[ord("T")]
    return bytes(codes)


def _amino_acid(first: int, second: int, third: int) -> int:
    if _AMBIGUOUS in (first, second, third):
        return UNKNOWN
    return ord(_TABLE_1[16 * first + 4 * second + third])


def _codon_table(reverse: bool) -> bytes:
    table = bytearray([UNKNOWN] * 256)
    for codon in range(125):
        first, second, third = codon // 25, codon // 5 % 5, codon % 5
        if reverse:
            # The complement of codes 0 to 3 (T C A G) is the code with bit 2 flipped.
            first, second, third = (
                code if code == _AMBIGUOUS else code ^ 2 for code in (third, second, first)
            )
        table[codon] = _amino_acid(first, second, third)
    return bytes(table)


_CLEAR = b"ACGTUacgtu"
_CODES = _letter_codes()
_FORWARD = _codon_table(reverse=False)
_REVERSE = _codon_table(reverse=True)
_STOPS = bytes((a == STOP) + 2 * (b == STOP) for a, b in zip(_FORWARD, _REVERSE, strict=True))
_COMPLEMENT = bytes.maketrans(b"ACGTRYKMBVDH", b"TGCAYRMKVBHD")


def _normal_letters() -> bytes:
    """`N` for what is no letter of DNA; a line feed, which keeps chunks of a block apart, stays."""
    plain, as_given = b"ACGTTNRYKMSWBDHV\n", b"ACGTUNRYKMSWBDHV\n"
    normal = bytes.maketrans(as_given + as_given.lower(), plain + plain)
    known = as_given + as_given.lower()
    return bytes(normal[byte] if byte in known else ord("N") for byte in range(256))


_NORMAL = _normal_letters()


def normalise(sequence: str) -> bytes:
    """Upper-case letters of IUPAC, one byte each: U as T, `N` for what is none of them.

    >>> normalise("acgunXé")
    b'ACGTNNN'
    """
    return sequence.encode("ascii", "replace").translate(_NORMAL)


def reverse_complement(letters: bytes) -> bytes:
    """The other strand of normalised letters, with the IUPAC codes complemented.

    >>> reverse_complement(b"ACGTRKBDN")
    b'NHVMYACGT'
    """
    return letters.translate(_COMPLEMENT)[::-1]


def clear_letters(sequence: str) -> int:
    """How many letters are A, C, G, T or U, any case.

    >>> clear_letters("acgunR")
    4
    """
    return len(sequence) - len(sequence.encode("ascii", "replace").translate(None, _CLEAR))


def is_unambiguous(letters: bytes) -> NDArray[np.bool_]:
    """Which letters are A, C, G, T or U, any case: shape (nt,)."""
    return np.frombuffer(letters.translate(_CODES), dtype=np.uint8) < _AMBIGUOUS


def codon_numbers(letters: bytes) -> bytes:
    """A number for the codon that begins at each base: one byte each, two fewer than bases.

    Codons with a letter other than A, C, G, T, U share the numbers that are read as `X`.
    """
    codes = np.frombuffer(letters.translate(_CODES), dtype=np.uint8)
    return (codes[:-2] * 25 + codes[1:-1] * 5 + codes[2:]).tobytes()


def amino_acids(numbers: bytes, *, reverse: bool) -> bytes:
    """Translate codon numbers, each as it stands or as read on the other strand.

    >>> amino_acids(codon_numbers(b"ATG"), reverse=False)
    b'M'
    >>> amino_acids(codon_numbers(b"ATG"), reverse=True)
    b'H'
    """
    return numbers.translate(_REVERSE if reverse else _FORWARD)


def stop_codons(numbers: bytes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the codons that are stops as they stand, and read on the other strand."""
    strands = np.frombuffer(numbers.translate(_STOPS), dtype=np.uint8)
    places = np.flatnonzero(strands)
    is_reverse = strands[places] == 2
    return places[~is_reverse], places[is_reverse]
