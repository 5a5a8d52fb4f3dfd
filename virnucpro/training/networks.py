"""The networks of the classifiers as training needs them; `scores.classifier` runs them.

Attribute names are those of the weights.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import save
from torch import Tensor, nn

from virnucpro.core.files import atomic_write
from virnucpro.models.classifier_file import MINI_KIND


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

    def forward(self, vectors: Tensor) -> Tensor:
        """Logits, shape (n, 2), for vectors of shape (n, width)."""
        logits: Tensor = self.output_layer(torch.relu(self.bn1(self.hidden_layer(vectors))))
        return logits


class MiniClassifier(nn.Module):
    """Layer norm, one hidden layer with squared ReLU, three classes.

    The third class, null, holds sequence that no genome explains (random, shuffled, low
    complexity). `kinds` further logits name the group a sequence came from; training uses
    them, and they serve as a hint of what a sequence is.
    """

    def __init__(self, width: int, hidden: int = 256, kinds: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        self.width, self.dropout = width, dropout
        self.norm = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, hidden)
        self.out = nn.Linear(hidden, 3)
        self.kind = nn.Linear(hidden, kinds) if kinds else None

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> MiniClassifier:
        """The network that these weights are of.

        Raises:
            ValueError, KeyError, TypeError, RuntimeError: they are of another.
        """
        hidden, width = tensors["hidden.weight"].shape
        network = cls(width, hidden, len(tensors.get("kind.weight", ())))
        network.load_state_dict(tensors)
        return network

    def features(self, vectors: Tensor) -> Tensor:
        """Vectors (n, width) to hidden features (n, hidden)."""
        h = F.dropout(self.norm(vectors), self.dropout, self.training)
        h = F.relu(self.hidden(h))
        return F.dropout(h * h, self.dropout, self.training)

    def forward(self, vectors: Tensor) -> Tensor:
        """Vectors (n, width) to logits (n, 3): other, virus, null."""
        logits: Tensor = self.out(self.features(vectors))
        return logits

    def both(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the three classes and of the kinds: (n, 3), (n, kinds)."""
        h = self.features(vectors)
        return self.out(h), self.kind(h) if self.kind is not None else h[:, :0]


def save_mini_classifier(network: MiniClassifier, path: Path) -> None:
    """Write a classifier as float16 safetensors that name their kind."""
    tensors = {k: v.detach().half().cpu().contiguous() for k, v in network.state_dict().items()}
    with atomic_write(path) as file:
        file.write(save(tensors, metadata={"kind": MINI_KIND}))
