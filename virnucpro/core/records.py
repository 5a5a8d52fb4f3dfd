"""The nouns that travel between folders: frozen, and checked when made."""

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FRAMES = ("F1", "F2", "F3", "R1", "R2", "R3")
# How a header's bytes become text and come back unchanged, whatever they are.
HEADER_BYTES = ("utf-8", "surrogateescape")
_AS_LATIN_1 = {0xDC00 + byte: chr(byte) for byte in range(0x80, 0x100)}


def as_utf8(text: str) -> str:
    r"""Text for files that are UTF-8: bytes that are not are read as Latin-1.

    >>> as_utf8(b"pr\xf8ve".decode(*HEADER_BYTES))
    'prøve'
    """
    return text if text.isascii() else text.translate(_AS_LATIN_1)


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
    """One input sequence."""

    seq_id: str  # first word of the header, made unique within its sample
    header: str  # as given, without `>` or `@`; bytes that are not UTF-8 see `HEADER_BYTES`
    sequence: str  # the letters as given, without gaps, blanks and digits
    sample: str = ""  # name of the input it came from
    gaps: int = 0  # gap letters (`-`, `.`, `*`) that were removed (nt)
    joint_id: str = ""  # `seq_id`, made unique among all samples of a run

    def __post_init__(self) -> None:
        if not self.joint_id:
            object.__setattr__(self, "joint_id", self.seq_id)

    def header_with(self, name: str) -> str:
        """The header as given; where its first word is not `name`, that goes before it."""
        words = self.header.encode(*HEADER_BYTES).split(maxsplit=1)
        if words and as_utf8(words[0].decode(*HEADER_BYTES)) == name:
            return self.header
        return f"{name} {self.header}" if words else name


# One sequence as token ids, special tokens included: shape (tokens,).
Tokens: TypeAlias = "NDArray[np.integer]"


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Vectors with their ids, row by row."""

    seq_ids: tuple[str, ...]
    vectors: "NDArray[np.float32]"  # shape (n, d)

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or len(self.seq_ids) != len(self.vectors):
            raise ValueError(f"{len(self.seq_ids)} ids for vectors of shape {self.vectors.shape}")

    def __len__(self) -> int:
        return len(self.seq_ids)
