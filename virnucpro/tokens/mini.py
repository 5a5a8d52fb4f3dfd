"""Letters of the bundled model: bases for its DNA encoder, residues for its protein encoder.

Room 2 (ORFs -> token ids). One token a letter, no special tokens.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BASES = "ACGT"
BASE_N = 4
BASE_PAD = 5
RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
RESIDUE_X = 20
RESIDUE_PAD = 21


def _table(letters: str, other: int) -> NDArray[np.int64]:
    table = np.full(256, other, dtype=np.int64)
    for token, letter in enumerate(letters):
        table[ord(letter)] = token
        table[ord(letter.lower())] = token
    return table


_BASE_TABLE = _table(BASES, BASE_N)
_BASE_TABLE[[ord("U"), ord("u")]] = BASES.index("T")
_RESIDUE_TABLE = _table(RESIDUES, RESIDUE_X)


class BaseTokenizer:
    """DNA letters to 0..3 (A, C, G, T; U is T); any other letter is 4.

    >>> BaseTokenizer().encode("ACGTN").tolist()
    [0, 1, 2, 3, 4]
    """

    def encode(self, sequence: str) -> NDArray[np.int64]:
        """Token ids, shape (nt,)."""
        return _BASE_TABLE[np.frombuffer(sequence.encode("latin-1", "replace"), dtype=np.uint8)]


class ResidueTokenizer:
    """Protein letters to 0..19 in alphabetical order; any other letter is 20.

    >>> ResidueTokenizer().encode("ACYX").tolist()
    [0, 1, 19, 20]
    """

    def encode(self, sequence: str) -> NDArray[np.int64]:
        """Token ids, shape (aa,)."""
        return _RESIDUE_TABLE[np.frombuffer(sequence.encode("latin-1", "replace"), dtype=np.uint8)]
