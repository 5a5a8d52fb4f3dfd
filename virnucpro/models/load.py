"""From a spec to a network ready to run, and to the tokenizer that goes with it.

Room 4 (batch -> one vector per ORF). The one place that knows which class reads which kind.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from virnucpro.core.errors import ModelError
from virnucpro.models.base import Encoder
from virnucpro.models.specs import EncoderSpec
from virnucpro.tokens.dna import BpeTokenizer
from virnucpro.tokens.protein import ProteinTokenizer


class Tokenizer(Protocol):
    """Turns a sequence into token ids; survives pickling."""

    def encode(self, sequence: str) -> NDArray[np.int64]:
        """Token ids with special tokens: shape (tokens,), int64."""


def load_encoder(spec: EncoderSpec, device: torch.device, dtype: torch.dtype) -> Encoder:
    """Load an encoder for inference.

    Args:
        spec: what to load; its hash is checked where the file was installed.
        device: where the weights go.
        dtype: number format of the weights.

    Raises:
        ModelError: if the weights are missing, damaged, or not what the spec says.
    """
    if spec.kind not in _LOADERS:
        raise ModelError(f"encoder kind {spec.kind!r} is unknown; known: {', '.join(_LOADERS)}")
    encoder = _LOADERS[spec.kind](spec, device, dtype)
    if encoder.dim != spec.dim:
        raise ModelError(f"{spec.path}: vectors have {encoder.dim} dimensions, not {spec.dim}")
    return encoder.to(device).eval().requires_grad_(False)


def make_tokenizer(spec: EncoderSpec) -> Tokenizer:
    """The tokenizer that the encoder was trained with; picklable, and light until first used.

    Raises:
        ModelError: if the kind is unknown.
    """
    if spec.kind not in _TOKENIZERS:
        raise ModelError(f"encoder kind {spec.kind!r} is unknown; known: {', '.join(_TOKENIZERS)}")
    return _TOKENIZERS[spec.kind](spec)


def _load_transformer(spec: EncoderSpec, device: torch.device, dtype: torch.dtype) -> Encoder:
    from virnucpro.models import naming
    from virnucpro.models.dnabert import Dnabert
    from virnucpro.models.esm2 import Esm2
    from virnucpro.models.weights import open_checkpoint

    is_esm2 = spec.kind == "esm2"
    checkpoint = open_checkpoint(spec.path)
    names = naming.translate(checkpoint, naming.ESM2_NAMES if is_esm2 else naming.DNABERT_NAMES)
    encoder: Encoder
    with torch.device("meta"):
        if is_esm2:
            encoder = Esm2(naming.esm2_shape(checkpoint, names))
        else:
            encoder = Dnabert(naming.dnabert_shape(checkpoint, names))
    naming.fill(encoder, checkpoint, names, dtype, device)
    return encoder


def _load_mini(spec: EncoderSpec, device: torch.device, dtype: torch.dtype) -> Encoder:
    from virnucpro.models.tower import load_mini

    return load_mini(spec, device, dtype)


def _residue_tokens(spec: EncoderSpec) -> Tokenizer:
    return ProteinTokenizer()


def _bpe_tokens(spec: EncoderSpec) -> Tokenizer:
    folder: Path = spec.path if spec.path.is_dir() else spec.path.parent
    return BpeTokenizer(folder / "tokenizer.json")


def _mini_tokens(spec: EncoderSpec) -> Tokenizer:
    from virnucpro.tokens.mini import BaseTokenizer, ResidueTokenizer

    return BaseTokenizer() if spec.kind == "mini-dna" else ResidueTokenizer()


_LOADERS: dict[str, Callable[[EncoderSpec, torch.device, torch.dtype], Encoder]] = {
    "esm2": _load_transformer,
    "dnabert": _load_transformer,
    "mini-dna": _load_mini,
    "mini-protein": _load_mini,
}
_TOKENIZERS: dict[str, Callable[[EncoderSpec], Tokenizer]] = {
    "esm2": _residue_tokens,
    "dnabert": _bpe_tokens,
    "mini-dna": _mini_tokens,
    "mini-protein": _mini_tokens,
}
