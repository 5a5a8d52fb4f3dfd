"""A model home with tiny encoders and a tiny classifier in the published formats."""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from staged_files import tiny_dna_encoder, tiny_protein_encoder

from virnucpro.models.store import install_local

TINY_DIM = 16


def write_tiny_classifier(path: Path, width=2 * TINY_DIM, hidden=8, bias=None) -> Path:
    """A published-form MLP of `width` columns on a frozen stream of numbers."""
    draw = np.random.RandomState(3)

    def values(*shape: int) -> torch.Tensor:
        return torch.from_numpy(draw.standard_normal(shape).astype(np.float32))

    save_file(
        {
            "hidden_layer.weight": values(hidden, width) / width**0.5,
            "hidden_layer.bias": values(hidden),
            "bn1.weight": 1 + 0.1 * values(hidden),
            "bn1.bias": 0.1 * values(hidden),
            "bn1.running_mean": 0.1 * values(hidden),
            "bn1.running_var": 1 + 0.1 * values(hidden).abs(),
            "output_layer.weight": values(2, hidden),
            "output_layer.bias": values(2) if bias is None else torch.tensor(bias),
        },
        path,
    )
    return path


def make_tiny_home(home: Path) -> Path:
    """Install tiny DNABERT-S and ESM-2 weights and classifiers `300` and `500` in `home`."""
    sources = home.parent / f"{home.name}-sources"
    tiny_dna_encoder(sources / "dna")
    tiny_protein_encoder(sources / "protein")
    install_local(sources / "dna", "DNABERT-S", home)
    install_local(sources / "protein", "esm2_t36_3B_UR50D", home)
    classifier = write_tiny_classifier(sources / "classifier.safetensors")
    for name in ("300", "500"):
        install_local(classifier, name, home)
    return home
