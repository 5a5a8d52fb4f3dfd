"""The published models in small: their file formats, with random weights."""

from pathlib import Path

import numpy as np
import torch
from checkpoints import (
    dnabert_config,
    dnabert_tensors,
    esm2_config,
    esm2_tensors,
    write_bin,
    write_sharded,
)
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from virnucpro.models.specs import DnabertShape, Esm2Shape
from virnucpro.models.store import install_local

DNA = DnabertShape(layers=2, dim=32, heads=8, ffn=64, vocab=12)
PROTEIN = Esm2Shape(layers=2, dim=40, heads=4, ffn=80)
WIDTH, HIDDEN = DNA.dim + PROTEIN.dim, 6
SPECIAL = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]


def write_dna(folder: Path) -> Path:
    """DNABERT-S: `pytorch_model.bin`, `config.json` and `tokenizer.json`."""
    write_bin(folder, dnabert_tensors(DNA, 1), dnabert_config(DNA))
    words = [*SPECIAL, "A", "C", "G", "T", "AC", "GT", "ACGT"]
    merges = [("A", "C"), ("G", "T"), ("AC", "GT")]
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="[UNK]"))
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "bert_layers.py").write_text("raise SystemExit('remote code ran')\n")
    return folder


def write_protein(folder: Path) -> Path:
    """ESM-2: two safetensors shards with their index, and `config.json`."""
    return write_sharded(folder, esm2_tensors(PROTEIN, 2), esm2_config(PROTEIN))


def classifier_state(width=WIDTH, hidden=HIDDEN, bias=None) -> dict[str, torch.Tensor]:
    """Weights of a classifier that fits both encoders; its scores are well spread."""
    numbers = np.random.RandomState(3)

    def draw(*shape: int) -> torch.Tensor:
        return torch.from_numpy(numbers.randn(*shape).astype(np.float32))

    return {
        "hidden_layer.weight": draw(hidden, width) / width**0.5,
        "hidden_layer.bias": draw(hidden),
        "bn1.weight": draw(hidden),
        "bn1.bias": draw(hidden),
        "bn1.running_mean": draw(hidden),
        "bn1.running_var": draw(hidden).abs() + 0.5,
        "bn1.num_batches_tracked": torch.tensor(7),
        "output_layer.weight": draw(2, hidden),
        "output_layer.bias": draw(2) if bias is None else torch.tensor(bias),
    }


def write_classifier(path: Path, **form) -> Path:
    torch.save(classifier_state(**form), path)
    return path


def install_published(home: Path, sources: Path) -> Path:
    install_local(write_dna(sources / "dna"), "DNABERT-S", home)
    install_local(write_protein(sources / "protein"), "esm2_t36_3B_UR50D", home)
    install_local(write_classifier(sources / "500_model.pth"), "500", home)
    return home


def make_tiny_home(home: Path) -> Path:
    sources = home.parent / f"{home.name}-sources"
    install_published(home, sources)
    install_local(sources / "500_model.pth", "300", home)
    return home
