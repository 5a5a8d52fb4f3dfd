"""The classifier of the bundled model: merged vectors to other, virus or null.

Room 6 (merged rows -> scores).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn


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

    @torch.no_grad()
    def scores(self, vectors: Tensor) -> Tensor:
        """Probabilities of other, virus, null: (n, 3) float32."""
        return self(vectors.float()).softmax(dim=1)
