"""The classifier: merged rows in, P(other) and P(virus) out.

Room 6 (merged rows -> calls). The published network lives here, the bundled model's in
`mini_classifier`; which one a weights file holds is written in its metadata.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from virnucpro.core.errors import ModelError
from virnucpro.core.files import sha256_file
from virnucpro.core.text import clipped, shown
from virnucpro.scores.mini_classifier import MINI_KIND, MiniClassifier

if TYPE_CHECKING:
    from virnucpro.models.specs import ModelSpec

PUBLISHED_KIND = "mlp"


class PublishedMlp(nn.Module):
    """Linear, batch norm, ReLU, linear, softmax; dropout is idle outside training.

    Attribute names are those of the published weights.

    Source:
        Li-Jing-1997/VirNucPro at 0f93f27, `prediction.py`.
    """

    def __init__(self, width: int, hidden: int, classes: int = 2) -> None:
        super().__init__()
        self.width = width
        self.hidden_layer = nn.Linear(width, hidden)
        self.bn1 = nn.BatchNorm1d(hidden)
        self.output_layer = nn.Linear(hidden, classes)

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> PublishedMlp:
        """The network that these weights are of.

        Raises:
            ValueError, KeyError, TypeError, RuntimeError: they are of another.
        """
        hidden, width = tensors["hidden_layer.weight"].shape
        network = cls(width, hidden)
        # training counts batches; inference never reads the counter
        network.load_state_dict({"bn1.num_batches_tracked": torch.tensor(0), **tensors})
        return network

    def forward(self, vectors: Tensor) -> Tensor:
        """Logits, shape (n, 2), for vectors of shape (n, width)."""
        logits: Tensor = self.output_layer(torch.relu(self.bn1(self.hidden_layer(vectors))))
        return logits


_NETWORKS: dict[str, type[PublishedMlp] | type[MiniClassifier]] = {
    PUBLISHED_KIND: PublishedMlp,
    MINI_KIND: MiniClassifier,
}


class Classifier:
    """A network on one device, in float32."""

    def __init__(self, network: PublishedMlp | MiniClassifier, device: torch.device) -> None:
        self.network = network.to(device=device, dtype=torch.float32).eval()
        self.width, self.device = network.width, device

    @torch.inference_mode()
    def scores(self, vectors: Tensor) -> NDArray[np.float32]:
        """Score merged vectors; a row's scores never depend on the other rows' values.

        Args:
            vectors: DNA vector then protein vector, shape (n, width), float32, on any device.

        Returns:
            Shape (n, 2), float32: P(other), P(virus); (n, 3) with P(null) last when the
            model has an out-of-distribution class.

        Raises:
            ModelError: vectors of another width.
        """
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
    network = _read_network(path)
    if network.width != spec.dim:
        raise ModelError(
            f"{path}: takes vectors of width {network.width}; {spec.dna.name} and "
            f"{spec.protein.name} give {spec.dim}"
        )
    return Classifier(network, torch.device(device))


def _read_network(path: Path) -> PublishedMlp | MiniClassifier:
    """Read a network from safetensors; its sizes come from the tensors.

    Raises:
        ModelError: tensors are missing, unknown or of unexpected shape.
    """
    try:
        with safe_open(path, framework="pt") as file:
            kind = (file.metadata() or {}).get("kind", PUBLISHED_KIND)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: not a safetensors file ({clipped(error)})") from error
    if kind not in _NETWORKS:
        raise ModelError(f"{path}: holds a classifier of the unknown kind {shown(kind)}")
    try:
        return _NETWORKS[kind].of(tensors)
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ModelError(f"{path}: not a VirNucPro classifier ({clipped(error)})") from error
