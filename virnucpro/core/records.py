"""The nouns that travel between rooms: frozen, and checked when made.

Ids travel with rows: whoever holds a sequence, a token list or a vector holds its id too.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

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
        seq_id: first word of the header, made unique within its sample.
        header: the header as given, without `>` or `@`.
        sequence: the letters as given, without gaps and blanks.
        sample: name of the input it came from.
        gaps: gap letters (`-`, `.`, `*`) that were removed (nt).
        joint_id: `seq_id`, made unique among all samples of a run; for files that name no
            sample. Empty means `seq_id`.
    """

    seq_id: str
    header: str
    sequence: str
    sample: str = ""
    gaps: int = 0
    joint_id: str = ""

    def __post_init__(self) -> None:
        if not self.joint_id:
            object.__setattr__(self, "joint_id", self.seq_id)

    def header_with(self, name: str) -> str:
        """The header as given; where its first word is not `name`, that goes before it.

        >>> Record("a", "a of the second file", "ACGT").header_with("a__2")
        'a__2 a of the second file'
        """
        is_named = self.header.split(maxsplit=1)[:1] == [name]
        return self.header if is_named else f"{name} {self.header}".rstrip()


@dataclass(frozen=True, slots=True)
class Chunk:
    """A window of a contig.

    Attributes:
        chunk_id: `{contig id}_chunk_{k}`, k from 1.
        sequence: the letters as given.
    """

    chunk_id: str
    sequence: str


@dataclass(frozen=True, slots=True)
class Orf:
    """A reading frame, or a stretch of one, without a stop codon.

    Attributes:
        orf_id: chunk id followed by the frame, with no separator (`contig7_chunk_3R2`).
        protein: its translation; an ambiguous codon is `X` (aa).
        dna: the DNA on the ORF's strand that goes to the DNA encoder (nt).
        start: first base of the translated part on the chunk's forward strand, 0-based.
        end: one past its last base on the chunk's forward strand.
    """

    orf_id: str
    protein: str
    dna: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Tokens:
    """One sequence as token ids, special tokens included: shape (tokens,), integers."""

    seq_id: str
    ids: NDArray[np.integer]

    def __len__(self) -> int:
        return len(self.ids)


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
