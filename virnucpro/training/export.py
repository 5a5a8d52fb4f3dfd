"""Write a trained model as a model directory."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from virnucpro.core.files import atomic_write
from virnucpro.encoders.small import save_tower
from virnucpro.models.classifier_file import PUBLISHED_KIND
from virnucpro.models.manifest import write_manifest
from virnucpro.models.specs import EncoderSpec, ModelSpec
from virnucpro.scores.calibration import Calibration
from virnucpro.scores.classifier import PublishedMlp, save_mini_classifier
from virnucpro.training.model import MiniModel
from virnucpro.training.sampler import orient

CLASSIFIER_FILE = "classifier.safetensors"
CALIBRATION_FILE = "calibration.json"


def export_model(
    folder: Path, name: str, model: MiniModel, kinds: list[str], chunk_nt: int, source: str
) -> None:
    """Write weights and `model.json`; `calibration.json` is listed if it is there already."""
    folder.mkdir(parents=True, exist_ok=True)
    save_tower("mini-dna", model.dna, folder / "dna.safetensors")
    save_tower("mini-protein", model.protein, folder / "protein.safetensors")
    save_mini_classifier(model.classifier, folder / CLASSIFIER_FILE)
    calibration = CALIBRATION_FILE if (folder / CALIBRATION_FILE).exists() else ""
    names = ["dna.safetensors", "protein.safetensors", CLASSIFIER_FILE]
    write_manifest(
        folder, [*names, *filter(None, [calibration])],
        name=name, source=source, revision="", licence="MIT",
        model={
            "dna": {"kind": "mini-dna", "dim": model.dna.dim, "file": names[0]},
            "protein": {"kind": "mini-protein", "dim": model.protein.dim, "file": names[1]},
            "classifier": CLASSIFIER_FILE, "calibration": calibration,
            "orf_policy": {"name": "longest", "keep": 1}, "chunk_nt": chunk_nt, "groups": kinds,
        },
    )  # fmt: skip


def export_mlp(
    folder: Path, name: str, base: ModelSpec, network: PublishedMlp, source: str
) -> None:
    """Write the classifier and `model.json`; encoders that are files of `base` are copied."""
    folder.mkdir(parents=True, exist_ok=True)
    state = network.state_dict()
    state.pop("bn1.num_batches_tracked")
    tensors = {key: value.float().cpu().contiguous() for key, value in state.items()}
    with atomic_write(folder / CLASSIFIER_FILE) as file:
        file.write(save(tensors, metadata={"kind": PUBLISHED_KIND}))
    dna = _encoder_entry(folder, "dna", base.dna)
    protein = _encoder_entry(folder, "protein", base.protein)
    write_manifest(
        folder, [CLASSIFIER_FILE, *(part["file"] for part in (dna, protein) if "file" in part)],
        name=name, source=source, revision="", licence="not stated",
        model={
            "dna": dna, "protein": protein, "classifier": CLASSIFIER_FILE, "calibration": "",
            "orf_policy": {"name": base.orf_policy.name, "keep": base.orf_policy.keep},
            "chunk_nt": base.chunk_nt, "groups": [],
        },
    )  # fmt: skip


def _encoder_entry(folder: Path, slot: str, spec: EncoderSpec) -> dict[str, Any]:
    if not spec.kind.startswith("mini"):
        return {"installed": spec.name}
    target = folder / f"{slot}.safetensors"
    if target.resolve() != spec.path.resolve():
        shutil.copyfile(spec.path, target)
    return {"kind": spec.kind, "dim": spec.dim, "file": target.name}


def save_calibration(folder: Path, calibration: Calibration, fitted_on: str) -> None:
    """Write the calibration where `export_model` looks for it."""
    folder.mkdir(parents=True, exist_ok=True)
    calibration.save(folder / CALIBRATION_FILE, fitted_on)


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
