"""The networks of the classifiers as training needs them; attributes are named as weights are."""

from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import save
from torch import Tensor, nn

from virnucpro.core.files import atomic_write


class PublishedMlp(nn.Module):
    """Linear, batch norm, ReLU, dropout, linear.

    Source:
        Li-Jing-1997/VirNucPro at 0f93f27, `prediction.py`.
    """

    def __init__(self, width: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        self.hidden_layer = nn.Linear(width, hidden)
        self.bn1 = nn.BatchNorm1d(hidden)
        self.output_layer = nn.Linear(hidden, 2)

    def forward(self, vectors: Tensor) -> Tensor:
        """Logits, shape (n, 2), for vectors of shape (n, width)."""
        h = torch.relu(self.bn1(self.hidden_layer(vectors)))
        logits: Tensor = self.output_layer(F.dropout(h, self.dropout, self.training))
        return logits


class MiniClassifier(nn.Module):
    """Layer norm, one hidden layer with squared ReLU, three classes.

    The third class, null, holds sequence that no genome explains (random, shuffled, low
    complexity). `kinds` further logits name the group that a sequence came from.
    """

    def __init__(self, width: int, hidden: int = 256, kinds: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        self.norm = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, hidden)
        self.out = nn.Linear(hidden, 3)
        self.kind = nn.Linear(hidden, kinds) if kinds else None

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> "MiniClassifier":
        """The network that these weights are of."""
        hidden, width = tensors["hidden.weight"].shape
        network = cls(width, hidden, len(tensors.get("kind.weight", ())))
        network.load_state_dict(tensors)
        return network

    def forward(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of other, virus, null (n, 3) and of the kinds (n, kinds) of vectors (n, width)."""
        h = F.dropout(self.norm(vectors), self.dropout, self.training)
        h = F.relu(self.hidden(h))
        h = F.dropout(h * h, self.dropout, self.training)
        return self.out(h), self.kind(h) if self.kind is not None else h[:, :0]


def save_classifier(network: nn.Module, kind: str, dtype: torch.dtype, path: Path) -> None:
    """Write a classifier as safetensors that name their kind."""
    state = network.state_dict()
    state.pop("bn1.num_batches_tracked", None)
    tensors = {name: tensor.to(dtype).cpu().contiguous() for name, tensor in state.items()}
    with atomic_write(path) as file:
        file.write(save(tensors, metadata={"kind": kind}))
