"""The classifier: merged rows in, P(other) and P(virus) out.

Room 6 (merged rows -> calls). One interface for every model: the published network lives
here, the bundled model's in `mini_classifier`; which one runs is written in the weights file.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from virnucpro.core.errors import ModelError
from virnucpro.core.files import sha256_file

if TYPE_CHECKING:
    from virnucpro.models.specs import ModelSpec

PUBLISHED_KIND = "mlp"


class Classifier(Protocol):
    """Scores merged vectors; a row's scores never depend on the other rows' values."""

    def scores(self, vectors: Tensor) -> NDArray[np.float32]:
        """Score rows.

        Args:
            vectors: DNA vector then protein vector, shape (n, d), float32, on any device.

        Returns:
            Shape (n, 2), float32: P(other), P(virus); (n, 3) with P(null) last when the
            model has an out-of-distribution class.
        """


class PublishedMlp(nn.Module):
    """Linear, batch norm, ReLU, linear, softmax; dropout is idle outside training.

    Attribute names are those of the published weights.

    Source:
        Li-Jing-1997/VirNucPro at 0f93f27, `prediction.py`.
    """

    def __init__(self, width: int, hidden: int, classes: int = 2) -> None:
        super().__init__()
        self.hidden_layer = nn.Linear(width, hidden)
        self.bn1 = nn.BatchNorm1d(hidden)
        self.output_layer = nn.Linear(hidden, classes)

    def forward(self, vectors: Tensor) -> Tensor:
        """Logits, shape (n, 2), for vectors of shape (n, width)."""
        logits: Tensor = self.output_layer(torch.relu(self.bn1(self.hidden_layer(vectors))))
        return logits


class PublishedClassifier:
    """The published network on one device, in float32."""

    def __init__(self, network: PublishedMlp, device: torch.device) -> None:
        self.network = network.to(device=device, dtype=torch.float32).eval()
        self.device = device

    @property
    def width(self) -> int:
        """Columns that a merged row must have."""
        return self.network.hidden_layer.in_features

    @torch.inference_mode()
    def scores(self, vectors: Tensor) -> NDArray[np.float32]:
        """See `Classifier.scores`."""
        if vectors.ndim != 2 or vectors.shape[1] != self.width:
            raise ModelError(
                f"the classifier takes vectors of width {self.width}, got {tuple(vectors.shape)}"
            )
        logits = self.network(vectors.to(device=self.device, dtype=torch.float32))
        scores: NDArray[np.float32] = torch.softmax(logits, dim=1).cpu().numpy()
        return scores


def load_classifier(spec: ModelSpec, device: torch.device | str) -> Classifier:
    """Load the classifier of a model, after checking its hash.

    Raises:
        ModelError: the file is missing, is not the recorded one, or does not fit the encoders.
    """
    path = spec.classifier
    if not path.is_file():
        raise ModelError(f"{path}: classifier weights are missing; `virnucpro models list`")
    if spec.classifier_sha256 and sha256_file(path) != spec.classifier_sha256:
        raise ModelError(
            f"{path}: not the file that was installed (sha256 differs); install the model again"
        )
    if classifier_kind(path) != PUBLISHED_KIND:
        from virnucpro.scores.mini_classifier import load_mini_classifier

        return load_mini_classifier(spec, device)
    classifier = load_published(path, torch.device(device))
    if classifier.width != spec.dim:
        raise ModelError(
            f"{path}: takes vectors of width {classifier.width}; {spec.dna.name} and "
            f"{spec.protein.name} give {spec.dim}"
        )
    return classifier


def classifier_kind(path: Path) -> str:
    """Kind of network in a classifier file: its metadata say it, else the names of its tensors.

    Raises:
        ModelError: the file is no safetensors file.
    """
    try:
        with safe_open(path, framework="np") as file:
            is_published = "hidden_layer.weight" in file.keys()  # noqa: SIM118
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: not a safetensors file ({error})") from error
    return str(metadata.get("kind", PUBLISHED_KIND if is_published else "mini"))


def load_published(path: Path, device: torch.device) -> PublishedClassifier:
    """Read the published network from safetensors; its sizes come from the tensors.

    Raises:
        ModelError: tensors are missing, unknown or of unexpected shape.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: not a safetensors file ({error})") from error
    weight = tensors.get("hidden_layer.weight")
    if weight is None or weight.ndim != 2:
        raise ModelError(f"{path}: no hidden_layer.weight; not a VirNucPro classifier")
    # training counts batches; inference never reads the counter
    tensors.setdefault("bn1.num_batches_tracked", torch.zeros((), dtype=torch.int64))
    network = PublishedMlp(width=weight.shape[1], hidden=weight.shape[0])
    try:
        network.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise ModelError(f"{path}: not a VirNucPro classifier ({error})") from error
    return PublishedClassifier(network, device)
