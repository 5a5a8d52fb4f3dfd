"""The nouns that travel between folders: frozen, and checked when made."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FRAMES = ("F1", "F2", "F3", "R1", "R2", "R3")


class Status(str, Enum):
    """What became of an input record; the `status` column of calls.tsv."""

    CALLED = "called"
    NO_ORF = "no_orf"
    TOO_SHORT = "too_short"
    AMBIGUOUS = "ambiguous"
    NOT_DNA = "not_dna"
    FILTERED = "filtered"
    FAILED = "failed"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class Record:
    """One input sequence.

    Attributes:
        seq_id: first word of the header, made unique within the run.
        header: the header as given, without `>` or `@`.
        sequence: the letters as given, without gaps and blanks.
        sample: name of the input it came from.
        gaps: gap letters (`-`, `.`, `*`) that were removed (nt).
    """

    seq_id: str
    header: str
    sequence: str
    sample: str = ""
    gaps: int = 0

    @property
    def fasta_header(self) -> str:
        """The header as given; where its first word is not the id, the id goes before it.

        >>> Record("a__2", "a of the second file", "ACGT").fasta_header
        'a__2 a of the second file'
        """
        is_named = self.header.split(maxsplit=1)[:1] == [self.seq_id]
        return self.header if is_named else f"{self.seq_id} {self.header}".rstrip()


# One sequence as token ids, special tokens included: shape (tokens,).
Tokens: TypeAlias = "NDArray[np.integer]"


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Vectors with their ids, row by row.

    Attributes:
        seq_ids: n ids, in the order of the rows.
        vectors: shape (n, d), float32.
    """

    seq_ids: tuple[str, ...]
    vectors: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or len(self.seq_ids) != len(self.vectors):
            raise ValueError(f"{len(self.seq_ids)} ids for vectors of shape {self.vectors.shape}")

    def __len__(self) -> int:
        return len(self.seq_ids)
