"""Write a trained model as a model directory."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from virnucpro.core.files import sha256_file, write_json
from virnucpro.models.model_json import FORMAT, MODEL_FILE
from virnucpro.models.tower import save_tower
from virnucpro.scores.calibration import Calibration
from virnucpro.scores.mini_classifier import MINI_KIND, save_mini_classifier
from virnucpro.training.model import MiniModel
from virnucpro.training.sampler import orient


def export_model(
    folder: Path, name: str, model: MiniModel, kinds: list[str], chunk_nt: int, source: str
) -> None:
    """Write weights and `model.json`; `calibration.json` is listed if it is there already."""
    folder.mkdir(parents=True, exist_ok=True)
    dna = save_tower("mini-dna", model.dna, folder / "dna.safetensors")
    protein = save_tower("mini-protein", model.protein, folder / "protein.safetensors")
    save_mini_classifier(model.classifier, folder / "classifier.safetensors")
    names = ["dna.safetensors", "protein.safetensors", "classifier.safetensors"]
    calibration = "calibration.json" if (folder / "calibration.json").exists() else None
    names += [calibration] if calibration else []
    description = {
        "format": FORMAT, "name": name, "licence": "MIT", "source": source,
        "dna": {"kind": "mini-dna", "file": "dna.safetensors", "config": dna},
        "protein": {"kind": "mini-protein", "file": "protein.safetensors", "config": protein},
        "classifier": {"kind": MINI_KIND, "file": "classifier.safetensors", "groups": kinds},
        "orf_policy": {"name": "longest", "keep": 1}, "chunk_nt": chunk_nt,
        "calibration": calibration,
        "files": {file: sha256_file(folder / file) for file in names},
    }  # fmt: skip
    write_json(folder / MODEL_FILE, json.loads(json.dumps(description)))


def save_calibration(folder: Path, calibration: Calibration, fitted_on: str) -> None:
    """Write the calibration where `export_model` looks for it."""
    folder.mkdir(parents=True, exist_ok=True)
    calibration.save(folder / "calibration.json", fitted_on)


@torch.no_grad()
def probabilities(
    model: MiniModel, bases: NDArray[np.uint8], rows: int = 256
) -> NDArray[np.float32]:
    """P(other), P(virus), P(null) of windows (n, length): shape (n, 3)."""
    device = next(model.parameters()).device
    parts: list[Tensor] = []
    model.eval()
    with torch.compiler.set_stance("force_eager"):
        for first in range(0, len(bases), rows):
            block = torch.from_numpy(bases[first : first + rows].astype(np.int64)).to(device)
            lengths = torch.full((len(block),), block.shape[1], device=device)
            logits = model(orient(block, lengths))[0]
            parts.append(logits.float().softmax(dim=1).cpu())
    return torch.cat(parts).numpy() if parts else np.zeros((0, 3), np.float32)
