"""Proteins to ESM-2 token ids.

Room 2 (ORFs -> token ids). A table look-up; no state, no tensors.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BOS_ID, PAD_ID, EOS_ID, UNKNOWN_ID = 0, 1, 2, 3
RESIDUES = "LAGVSERTIDPKQNFYMHWCXBUZO.-"
"""The alphabet in the order of its ids, which start at 4."""
MAX_RESIDUES = 1022
"""The network was trained on windows of 1,024 tokens with BOS and EOS."""


def _table() -> NDArray[np.int64]:
    table = np.full(256, UNKNOWN_ID, dtype=np.int64)
    letters = np.frombuffer(RESIDUES.encode("ascii"), dtype=np.uint8)
    table[letters] = np.arange(4, 4 + len(letters))
    return table


_IDS = _table()


class ProteinTokenizer:
    """ESM-2 token ids of a protein: BOS, one id a residue, EOS.

    Letters outside the alphabet become the unknown token; what comes after the first
    `max_residues` residues is left out.
    """

    def __init__(self, max_residues: int = MAX_RESIDUES) -> None:
        self.max_residues = max_residues

    def encode(self, sequence: str) -> NDArray[np.int64]:
        """Token ids with BOS and EOS: shape (residues + 2,), int64.

        >>> ProteinTokenizer().encode("MX*").tolist()
        [0, 20, 24, 3, 2]
        """
        letters = sequence[: self.max_residues].encode("latin-1", errors="replace")
        ids = np.empty(len(letters) + 2, dtype=np.int64)
        ids[0], ids[-1] = BOS_ID, EOS_ID
        ids[1:-1] = _IDS[np.frombuffer(letters, dtype=np.uint8)]
        return ids
