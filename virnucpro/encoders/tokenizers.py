"""DNA and proteins to token ids, as each encoder was trained; no tensors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from virnucpro.core.errors import ModelError
from virnucpro.core.records import Tokens

if TYPE_CHECKING:
    from tokenizers import Tokenizer as ByteTokenizer

    from virnucpro.models.specs import EncoderSpec

BASES = "ACGT"
BASE_N, BASE_PAD = 4, 5
RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
RESIDUE_X, RESIDUE_PAD = 20, 21

BOS_ID, EOS_ID, UNKNOWN_ID = 0, 2, 3
ESM_RESIDUES = "LAGVSERTIDPKQNFYMHWCXBUZO.-"  # in the order of their ids, from 4
MAX_RESIDUES = 1022  # ESM-2 was trained on windows of 1,024 tokens with BOS and EOS


def make_tokenizer(spec: EncoderSpec) -> Tokenizer:
    """The tokenizer that the encoder was trained with; picklable, and light until first used."""
    if spec.kind == "dnabert":
        folder = spec.path if spec.path.is_dir() else spec.path.parent
        return BpeTokenizer(folder / "tokenizer.json")
    return LetterTokenizer(spec.kind)


def _bytes(sequence: str) -> NDArray[np.uint8]:
    return np.frombuffer(sequence.encode("latin-1", "replace"), dtype=np.uint8)


def _table(letters: str, first: int, other: int) -> NDArray[np.int64]:
    table = np.full(256, other, dtype=np.int64)
    table[_bytes(letters)] = np.arange(len(letters)) + first
    return table


_IDS = {
    "esm2": _table(ESM_RESIDUES, 4, UNKNOWN_ID),
    "mini-dna": _table(BASES, 0, BASE_N),
    "mini-protein": _table(RESIDUES, 0, RESIDUE_X),
}
_IDS["mini-dna"][ord("U")] = BASES.index("T")
for _kind in ("mini-dna", "mini-protein"):  # in either case
    _IDS[_kind][ord("a") : ord("z") + 1] = _IDS[_kind][ord("A") : ord("Z") + 1]


class LetterTokenizer:
    """An id for each letter, by kind of encoder; any other letter is N, X or the unknown token.

    ESM-2 gets BOS and EOS around at most `MAX_RESIDUES`.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def encode(self, sequence: str) -> NDArray[np.int64]:
        """Token ids with special tokens: shape (tokens,), int64."""
        if self.kind != "esm2":
            return _IDS[self.kind][_bytes(sequence)]
        return np.concatenate(([BOS_ID], _IDS["esm2"][_bytes(sequence[:MAX_RESIDUES])], [EOS_ID]))

    def encode_batch(self, sequences: Sequence[str]) -> list[NDArray[np.int64]]:
        """As `encode` for each of `sequences`."""
        return list(map(self.encode, sequences))


class BpeTokenizer:
    """Ids as `tokenizer.json`, read at first use, defines them, with CLS and SEP."""

    def __init__(self, tokenizer_json: Path) -> None:
        self.path = Path(tokenizer_json)

    def encode_batch(self, sequences: Sequence[str]) -> list[NDArray[np.int64]]:
        """Token ids with CLS and SEP, (tokens,) each; other threads run meanwhile."""
        encodings = self._tokenizer.encode_batch_fast(list(sequences))  # fast: without offsets
        return [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]

    @cached_property
    def _tokenizer(self) -> ByteTokenizer:
        from tokenizers import Tokenizer as ByteTokenizer

        if not self.path.is_file():
            raise ModelError(f"{self.path}: no tokenizer here; fetch the model again")
        try:
            loaded = ByteTokenizer.from_file(str(self.path))
        except Exception as error:  # the library raises no subclass of it
            raise ModelError(f"{self.path}: not a tokenizer.json: {error}") from error
        # A published file may ask for truncation or padding; both would change the vectors.
        loaded.no_truncation()
        loaded.no_padding()
        return loaded

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}  # not what was loaded: it travels to workers as a path


Tokenizer = LetterTokenizer | BpeTokenizer  # both survive pickling


def rows_of(items: Sequence[Tokens], pad_id: int, width: int) -> NDArray[np.int64]:
    """Token ids of each sequence in a row, padded on the right: shape (n, width)."""
    rows = np.full((len(items), width), pad_id, dtype=np.int64)
    for row, item in zip(rows, items, strict=True):
        row[: len(item)] = item
    return rows
