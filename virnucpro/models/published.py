"""The published models: what they are made of and where they come from; a table only."""

import re
from collections.abc import Iterable
from typing import NamedTuple

from virnucpro.models.specs import EncoderKind

DNA_ENCODER = "DNABERT-S"
PROTEIN_ENCODER = "esm2_t36_3B_UR50D"


class PublishedEncoder(NamedTuple):
    """An encoder on the Hugging Face hub."""

    kind: EncoderKind
    repository: str
    licence: str


class PublishedClassifier(NamedTuple):
    """A classifier in the original's repository on GitHub."""

    chunk_nt: int  # length of the chunks it was trained on (nt)
    file: str  # its name in the repository
    blob: str  # git's name for its content (SHA-1 of a header and the bytes)


ENCODERS = {
    DNA_ENCODER: PublishedEncoder("dnabert", "zhihan1996/DNABERT-S", "see the model card"),
    PROTEIN_ENCODER: PublishedEncoder("esm2", "facebook/esm2_t36_3B_UR50D", "MIT"),
}
CLASSIFIER_REPOSITORY = "Li-Jing-1997/VirNucPro"
CLASSIFIER_REVISION = "0f93f2755a7ea1acd3ff1bcf182892f960ef3326"
CLASSIFIER_LICENCE = "MIT"
CLASSIFIERS = {
    "300": PublishedClassifier(300, "300_model.pth", "a0b5b85e7c1e44f00cde146d091beb82b2c8e855"),
    "500": PublishedClassifier(500, "500_model.pth", "fc35d5ef9f1f4564eea7036f34f4f8ec6000d33d"),
}
_CUSTOM_CHUNK_NT = 500

_TEXT_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt",
               "special_tokens_map.json")  # fmt: skip
_WEIGHTS = {  # and the index that must lie beside them
    r"model\.safetensors": "",
    r"model-\d{5}-of-\d{5}\.safetensors": "model.safetensors.index.json",
    r"pytorch_model\.bin": "",
    r"pytorch_model-\d{5}-of-\d{5}\.bin": "pytorch_model.bin.index.json",
}


def chunk_nt(name: str) -> int:
    """Chunk length of a classifier for the published encoders, of any name (nt)."""
    return CLASSIFIERS[name].chunk_nt if name in CLASSIFIERS else _CUSTOM_CHUNK_NT


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
