"""What a model is made of, without torch: specs travel to light worker processes."""

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from virnucpro.sequences.orfs import OrfPolicy

_LARGE_BYTES = 2 << 30
EncoderKind = Literal["esm2", "dnabert", "mini-dna", "mini-protein"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Esm2Shape:
    """An ESM-2 network."""

    layers: int
    dim: int  # width of a hidden state
    heads: int  # `dim / heads` is even
    ffn: int  # width inside the feed-forward block
    eps: float = 1e-5  # of the layer norms
    token_dropout: bool = True  # embeddings are scaled as in training with masked tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class DnabertShape:
    """A DNABERT-2 or DNABERT-S network."""

    layers: int
    dim: int  # width of a hidden state
    heads: int
    ffn: int  # width inside the gated feed-forward block
    vocab: int = 4096  # token ids that exist
    token_types: int = 2  # rows of the token type table; only row 0 is used
    eps: float = 1e-12  # of the layer norms


ESM2_SIZES = {  # the published ones, by their published names
    name: Esm2Shape(layers=layers, dim=dim, heads=heads, ffn=4 * dim)
    for name, layers, dim, heads in (
        ("esm2_t6_8M_UR50D", 6, 320, 20),
        ("esm2_t12_35M_UR50D", 12, 480, 20),
        ("esm2_t30_150M_UR50D", 30, 640, 20),
        ("esm2_t33_650M_UR50D", 33, 1280, 20),
        ("esm2_t36_3B_UR50D", 36, 2560, 40),
        ("esm2_t48_15B_UR50D", 48, 5120, 40),
    )
}
DNABERT_S = DnabertShape(layers=12, dim=768, heads=12, ffn=3072)  # and DNABERT-2


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSpec:
    """One encoder: where its weights lie and what they must be."""

    kind: EncoderKind  # which network reads the weights
    name: str  # what a user calls it, for instance `esm2_t36_3B_UR50D`
    path: Path  # a weight file, or a directory in one of the published layouts
    sha256: str  # of the weights, hexadecimal
    dim: int  # width of a vector

    @property
    def is_small(self) -> bool:
        """Whether it is an encoder of the bundled kind, which a CPU runs without torch."""
        return self.kind in ("mini-dna", "mini-protein")

    def identity(self) -> dict[str, Any]:
        """What decides a vector: all but the place where the weights lie."""
        said = {key: getattr(self, key) for key in ("kind", "name", "sha256", "dim")}
        return said | {"precision": "float32"}  # of the reference; published digests hold it


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Everything that decides a score; two runs with the same digest give the same scores."""

    name: str  # `mini`, `300`, `500` or the name of a custom model
    dna: EncoderSpec  # its vector comes first in a merged row
    protein: EncoderSpec
    classifier: Path  # weight file
    classifier_sha256: str
    orf_policy: OrfPolicy  # which reading frames of a chunk are scored
    chunk_nt: int  # length of a chunk (nt)
    calibration: Path | None = None  # table from raw to calibrated probabilities, if there is one
    calibration_sha256: str = ""
    groups: tuple[str, ...] = ()  # what its classifier tells apart, as `scores.kinds` reads it

    @property
    def dim(self) -> int:
        """Width of a merged row."""
        return self.dna.dim + self.protein.dim

    @property
    def is_small(self) -> bool:
        """Whether both encoders are of the bundled kind."""
        return self.dna.is_small and self.protein.is_small

    @property
    def is_large(self) -> bool:
        """Whether a CPU takes seconds for one sequence."""
        paths = (self.dna.path, self.protein.path)
        files = [file for path in paths for file in (path.iterdir() if path.is_dir() else [path])]
        return sum(file.stat().st_size for file in files) > _LARGE_BYTES

    @cached_property
    def digest(self) -> str:
        """Sha256 (hexadecimal) over everything that decides a score, and no path."""
        parts = {
            "name": self.name, "dna": self.dna.identity(), "protein": self.protein.identity(),
            "classifier": self.classifier_sha256, "orf_policy": asdict(self.orf_policy),
            "chunk_nt": self.chunk_nt, "calibration": self.calibration_sha256,
            "groups": self.groups,
        }  # fmt: skip
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
