"""The classifier of the bundled model: merged vectors to other, virus or null.

Room 6 (merged rows -> scores).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from virnucpro.core.errors import ModelError
from virnucpro.core.files import atomic_write

if TYPE_CHECKING:
    from virnucpro.models.specs import ModelSpec

MINI_KIND = "mini"


class MiniClassifier(nn.Module):
    """Layer norm, one hidden layer with squared ReLU, three classes.

    The third class, null, holds sequence that no genome explains (random, shuffled, low
    complexity). `kinds` further logits name the group a sequence came from; training uses
    them, and they serve as a hint of what a sequence is.
    """

    def __init__(self, dim: int, hidden: int = 256, kinds: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        self.dim, self.kinds, self.dropout = dim, kinds, dropout
        self.norm = nn.LayerNorm(dim)
        self.hidden = nn.Linear(dim, hidden)
        self.out = nn.Linear(hidden, 3)
        self.kind = nn.Linear(hidden, kinds) if kinds else None

    def features(self, vectors: Tensor) -> Tensor:
        """Vectors (n, dim) to hidden features (n, hidden)."""
        h = F.dropout(self.norm(vectors), self.dropout, self.training)
        h = F.relu(self.hidden(h))
        return F.dropout(h * h, self.dropout, self.training)

    def forward(self, vectors: Tensor) -> Tensor:
        """Vectors (n, dim) to logits (n, 3): other, virus, null."""
        logits: Tensor = self.out(self.features(vectors))
        return logits

    def both(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the three classes and of the kinds: (n, 3), (n, kinds)."""
        h = self.features(vectors)
        return self.out(h), self.kind(h) if self.kind is not None else h[:, :0]


class LoadedMiniClassifier:
    """The bundled classifier on one device, in float32."""

    def __init__(self, network: MiniClassifier, device: torch.device) -> None:
        self.network = network.to(device=device, dtype=torch.float32).eval()
        self.device = device

    @torch.inference_mode()
    def scores(self, vectors: Tensor) -> NDArray[np.float32]:
        """P(other), P(virus), P(null) of merged vectors (n, dim): (n, 3)."""
        if vectors.ndim != 2 or vectors.shape[1] != self.network.dim:
            wanted = self.network.dim
            raise ModelError(f"the classifier takes width {wanted}, got {tuple(vectors.shape)}")
        logits = self.network(vectors.to(device=self.device, dtype=torch.float32))
        scores: NDArray[np.float32] = logits.softmax(dim=1).cpu().numpy()
        return scores


def save_mini_classifier(network: MiniClassifier, path: Path) -> None:
    """Write a classifier as float16 safetensors that name their kind."""
    tensors = {k: v.detach().half().cpu().contiguous() for k, v in network.state_dict().items()}
    with atomic_write(path) as file:
        file.write(save(tensors, metadata={"kind": MINI_KIND}))


def load_mini_classifier(spec: ModelSpec, device: torch.device | str) -> LoadedMiniClassifier:
    """Read the classifier of a model directory.

    Raises:
        ModelError: not a file that `save_mini_classifier` wrote.
    """
    path = spec.classifier
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if metadata.get("kind") != MINI_KIND:
            raise ValueError(f"classifier kind {metadata.get('kind')!r} is unknown")
        hidden, dim = tensors["hidden.weight"].shape
        kinds = len(tensors["kind.weight"]) if "kind.weight" in tensors else 0
        network = MiniClassifier(dim, hidden, kinds)
        network.load_state_dict(tensors)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ModelError(f"{path}: not a bundled classifier ({error})") from error
    return LoadedMiniClassifier(network, torch.device(device))
