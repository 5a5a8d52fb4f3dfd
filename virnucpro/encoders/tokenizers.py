"""DNA and proteins to token ids, as each encoder was trained; no tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from virnucpro.core.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer as ByteTokenizer

    from virnucpro.models.specs import EncoderSpec

BASES = "ACGT"
BASE_N, BASE_PAD = 4, 5
RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
RESIDUE_X, RESIDUE_PAD = 20, 21

BOS_ID, PAD_ID, EOS_ID, UNKNOWN_ID = 0, 1, 2, 3
ESM_RESIDUES = "LAGVSERTIDPKQNFYMHWCXBUZO.-"  # in the order of their ids, from 4
MAX_RESIDUES = 1022  # ESM-2 was trained on windows of 1,024 tokens with BOS and EOS


class Tokenizer(Protocol):
    """Turns a sequence into token ids; survives pickling."""

    def encode(self, sequence: str) -> NDArray[np.int64]:
        """Token ids with special tokens: shape (tokens,), int64."""


def make_tokenizer(spec: EncoderSpec) -> Tokenizer:
    """The tokenizer that the encoder was trained with; picklable, and light until first used."""
    if spec.kind == "dnabert":
        folder = spec.path if spec.path.is_dir() else spec.path.parent
        return BpeTokenizer(folder / "tokenizer.json")
    if spec.kind not in _LETTERS:
        raise ModelError(f"encoder kind {spec.kind!r} is unknown")
    return _LETTERS[spec.kind]()


def _bytes(sequence: str) -> NDArray[np.uint8]:
    return np.frombuffer(sequence.encode("latin-1", "replace"), dtype=np.uint8)


def _table(letters: str, first: int, other: int) -> NDArray[np.int64]:
    table = np.full(256, other, dtype=np.int64)
    table[_bytes(letters)] = np.arange(len(letters)) + first
    return table


def _either_case(table: NDArray[np.int64]) -> NDArray[np.int64]:
    table[ord("a") : ord("z") + 1] = table[ord("A") : ord("Z") + 1]
    return table


_BASE_IDS = _table(BASES, 0, BASE_N)
_BASE_IDS[ord("U")] = BASES.index("T")
_BASE_IDS = _either_case(_BASE_IDS)
_RESIDUE_IDS = _either_case(_table(RESIDUES, 0, RESIDUE_X))
_ESM_IDS = _table(ESM_RESIDUES, 4, UNKNOWN_ID)


class BaseTokenizer:
    """DNA letters in either case to 0..3 (A, C, G, T; U is T); any other letter is 4.

    >>> BaseTokenizer().encode("ACGTN").tolist()
    [0, 1, 2, 3, 4]
    """

    def encode(self, sequence: str) -> NDArray[np.int64]:
        """See `Tokenizer`."""
        return _BASE_IDS[_bytes(sequence)]


class ResidueTokenizer:
    """Protein letters in either case to 0..19 in alphabetical order; any other letter is 20.

    >>> ResidueTokenizer().encode("ACYX").tolist()
    [0, 1, 19, 20]
    """

    def encode(self, sequence: str) -> NDArray[np.int64]:
        """See `Tokenizer`."""
        return _RESIDUE_IDS[_bytes(sequence)]


class ProteinTokenizer:
    """ESM-2 ids: BOS, one a residue (3 if unknown) up to `max_residues`, EOS."""

    def __init__(self, max_residues: int = MAX_RESIDUES) -> None:
        self.max_residues = max_residues

    def encode(self, sequence: str) -> NDArray[np.int64]:
        """See `Tokenizer`.

        >>> ProteinTokenizer().encode("MX*").tolist()
        [0, 20, 24, 3, 2]
        """
        residues = _ESM_IDS[_bytes(sequence[: self.max_residues])]
        return np.concatenate(([BOS_ID], residues, [EOS_ID]))


class BpeTokenizer:
    """Ids as `tokenizer.json`, read at first use, defines them, with CLS and SEP."""

    def __init__(self, tokenizer_json: Path) -> None:
        self.path = Path(tokenizer_json)
        self._loaded: ByteTokenizer | None = None

    def encode(self, sequence: str) -> NDArray[np.int64]:
        """Token ids with CLS and SEP: shape (tokens,), int64."""
        return np.array(self._tokenizer.encode(sequence).ids, dtype=np.int64)

    def encode_batch(self, sequences: Sequence[str]) -> list[NDArray[np.int64]]:
        """As `encode` for each of `sequences`; other threads run meanwhile."""
        encodings = self._tokenizer.encode_batch_fast(list(sequences))  # fast: without offsets
        return [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]

    @property
    def _tokenizer(self) -> ByteTokenizer:
        if self._loaded is None:
            from tokenizers import Tokenizer as ByteTokenizer

            if not self.path.is_file():
                raise ModelError(f"{self.path}: no tokenizer here; fetch the model again")
            try:
                self._loaded = ByteTokenizer.from_file(str(self.path))
            except Exception as error:  # the library raises no subclass of it
                raise ModelError(f"{self.path}: not a tokenizer.json: {error}") from error
            # A published file may ask for truncation or padding; both would change the vectors.
            self._loaded.no_truncation()
            self._loaded.no_padding()
        return self._loaded

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_loaded": None}


_LETTERS: dict[str, type[BaseTokenizer] | type[ResidueTokenizer] | type[ProteinTokenizer]] = {
    "esm2": ProteinTokenizer,
    "mini-dna": BaseTokenizer,
    "mini-protein": ResidueTokenizer,
}
