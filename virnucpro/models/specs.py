"""What a model is made of: shapes of the published encoders, and what decides a score.

No torch here: specs travel to light worker processes.
"""

from __future__ import annotations

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
    """An ESM-2 network.

    Attributes:
        layers: transformer layers.
        dim: width of a hidden state.
        heads: attention heads; `dim / heads` is even.
        ffn: width inside the feed-forward block.
        eps: of the layer norms.
        token_dropout: embeddings are scaled as in training with masked tokens.
    """

    layers: int
    dim: int
    heads: int
    ffn: int
    eps: float = 1e-5
    token_dropout: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class DnabertShape:
    """A DNABERT-2 or DNABERT-S network.

    Attributes:
        layers: transformer layers.
        dim: width of a hidden state.
        heads: attention heads.
        ffn: width inside the gated feed-forward block.
        vocab: token ids that exist.
        token_types: rows of the token type table; only row 0 is used.
        eps: of the layer norms.
    """

    layers: int
    dim: int
    heads: int
    ffn: int
    vocab: int = 4096
    token_types: int = 2
    eps: float = 1e-12


ESM2_SIZES = {
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
"""The six published sizes, by their published names."""

DNABERT_S = DnabertShape(layers=12, dim=768, heads=12, ffn=3072)
"""The published DNABERT-S (and DNABERT-2) network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSpec:
    """One encoder: where its weights lie and what they must be.

    Attributes:
        kind: which network reads the weights.
        name: what a user calls it, for instance `esm2_t36_3B_UR50D`.
        path: a weight file, or a directory in one of the published layouts.
        sha256: of the weights, hexadecimal.
        dim: width of a vector.
    """

    kind: EncoderKind
    name: str
    path: Path
    sha256: str
    dim: int

    def identity(self) -> dict[str, Any]:
        """What decides a vector: all but the place where the weights lie."""
        said = {key: getattr(self, key) for key in ("kind", "name", "sha256", "dim")}
        return said | {"precision": "float32"}  # of the reference; published digests hold it


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Everything that decides a score; two runs with the same digest give the same scores.

    Attributes:
        name: `mini`, `300`, `500` or the name of a custom model.
        dna: encoder of the ORF's DNA; its vector comes first in a merged row.
        protein: encoder of the ORF's protein.
        classifier: weight file of the classifier.
        classifier_sha256: of that file, hexadecimal.
        orf_policy: which reading frames of a chunk are scored.
        chunk_nt: length of a chunk (nt).
        calibration: table from raw to calibrated probabilities, if the model has one.
        calibration_sha256: of that file, hexadecimal; empty without one.
        groups: what its classifier tells apart besides viruses, as `scores.kinds` reads it.
    """

    name: str
    dna: EncoderSpec
    protein: EncoderSpec
    classifier: Path
    classifier_sha256: str
    orf_policy: OrfPolicy
    chunk_nt: int
    calibration: Path | None = None
    calibration_sha256: str = ""
    groups: tuple[str, ...] = ()

    @property
    def dim(self) -> int:
        """Width of a merged row."""
        return self.dna.dim + self.protein.dim

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights of both encoders as they lie on disk."""
        files = [
            file
            for path in (self.dna.path, self.protein.path)
            for file in (path.iterdir() if path.is_dir() else [path])
            if file.suffix in (".safetensors", ".bin", ".pt")
        ]
        return sum(file.stat().st_size for file in files)

    @property
    def is_large(self) -> bool:
        """Whether a CPU takes seconds for one sequence."""
        return self.weight_bytes > _LARGE_BYTES

    @cached_property
    def digest(self) -> str:
        """Sha256 (hexadecimal) over everything that decides a score, and no path."""
        parts = {
            "name": self.name,
            "dna": self.dna.identity(),
            "protein": self.protein.identity(),
            "classifier": self.classifier_sha256,
            "orf_policy": asdict(self.orf_policy),
            "chunk_nt": self.chunk_nt,
            "calibration": self.calibration_sha256,
            "groups": self.groups,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
