"""What a model is made of, and the published ones; without torch, for light worker processes."""

import hashlib
import json
import re
from collections.abc import Iterable
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

DNA_ENCODER, PROTEIN_ENCODER = "DNABERT-S", "esm2_t36_3B_UR50D"
ENCODERS = {  # their repositories on the Hugging Face hub, and licences
    DNA_ENCODER: ("zhihan1996/DNABERT-S", "see the model card"),
    PROTEIN_ENCODER: ("facebook/esm2_t36_3B_UR50D", "MIT"),
}
CLASSIFIER_REPOSITORY = "Li-Jing-1997/VirNucPro"  # the original's, on GitHub
CLASSIFIER_REVISION = "0f93f2755a7ea1acd3ff1bcf182892f960ef3326"
CLASSIFIER_LICENCE = "MIT"
CLASSIFIERS = {  # files there, and git's names for their content (SHA-1 of a header and the bytes)
    "300": ("300_model.pth", "a0b5b85e7c1e44f00cde146d091beb82b2c8e855"),
    "500": ("500_model.pth", "fc35d5ef9f1f4564eea7036f34f4f8ec6000d33d"),
}
CHUNK_NT = {"300": 300}  # of a classifier's chunks, if they have not 500 (nt)
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")
_TEXT_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt",
               "special_tokens_map.json")  # fmt: skip
_WEIGHTS = {  # and the index that must lie beside them
    r"model\.safetensors": "",
    r"model-\d{5}-of-\d{5}\.safetensors": "model.safetensors.index.json",
    r"pytorch_model\.bin": "",
    r"pytorch_model-\d{5}-of-\d{5}\.bin": "pytorch_model.bin.index.json",
}


def is_plain_name(name: str) -> bool:
    """Whether a name can only mean a file right inside a folder."""
    return _PLAIN_NAME.fullmatch(name) is not None


def needed_files(names: Iterable[str]) -> list[str]:
    """The files of an encoder that are used, safetensors before pickles, whole before sharded.

    Only names that are written in this module can come out, so none leads out of a folder.
    """
    available = set(names)
    for pattern, index in _WEIGHTS.items():
        weights = sorted(name for name in available if re.fullmatch(pattern, name))
        if weights and (not index or index in available):
            return [name for name in (*_TEXT_FILES, index) if name in available] + weights
    return []


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
