"""The classifiers: merged vectors in, probabilities out.

The published network gives P(other) and P(virus), the bundled model's also P(null). Which one a
weights file holds is written in its metadata.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import save
from torch import Tensor, nn

from virnucpro.core.errors import ModelError
from virnucpro.core.files import atomic_write, sha256_file
from virnucpro.models.classifier_file import PUBLISHED_KIND, read_classifier
from virnucpro.scores.kinds import Kinds

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from virnucpro.models.specs import ModelSpec

MINI_KIND = "mini"


class PublishedMlp(nn.Module):
    """Linear, batch norm, ReLU, linear, softmax; dropout is idle outside training.

    Attribute names are those of the published weights.
    Source: Li-Jing-1997/VirNucPro at 0f93f27, `prediction.py`.
    """

    def __init__(self, width: int, hidden: int, classes: int = 2) -> None:
        super().__init__()
        self.width = width
        self.hidden_layer = nn.Linear(width, hidden)
        self.bn1 = nn.BatchNorm1d(hidden)
        self.output_layer = nn.Linear(hidden, classes)

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> PublishedMlp:
        """The network that these weights are of; a plain error if they are of another."""
        hidden, width = tensors["hidden_layer.weight"].shape
        network = cls(width, hidden)
        # training counts batches; inference never reads the counter
        network.load_state_dict({"bn1.num_batches_tracked": torch.tensor(0), **tensors})
        return network

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
        """The network that these weights are of; a plain error if they are of another."""
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


_NETWORKS: dict[str, type[PublishedMlp] | type[MiniClassifier]] = {
    PUBLISHED_KIND: PublishedMlp,
    MINI_KIND: MiniClassifier,
}


class Classifier:
    """A network on one device, in float32; `groups` names the kinds that it tells apart."""

    def __init__(
        self, network: PublishedMlp | MiniClassifier, device: torch.device,
        groups: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self._kinds = Kinds(groups)
        self.network = network.to(device=device, dtype=torch.float32).eval()
        self.width, self.device = network.width, device

    @torch.inference_mode()
    def scores(self, vectors: Tensor) -> NDArray[np.float32]:
        """Score merged vectors; a row's scores never depend on the other rows' values.

        Args:
            vectors: DNA vector then protein vector, shape (n, width), float32, on any device.

        Returns:
            Shape (n, 2), float32: P(other), P(virus); with P(null) and the columns of `Kinds`
            behind when the model has them.

        Raises:
            ModelError: vectors of another width.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.width:
            raise ModelError(
                f"the classifier takes vectors of width {self.width}, got {tuple(vectors.shape)}"
            )
        vectors = vectors.to(device=self.device, dtype=torch.float32)
        if isinstance(self.network, MiniClassifier):
            return mini_scores(*self.network.both(vectors), self._kinds)
        scores: NDArray[np.float32] = torch.softmax(self.network(vectors), dim=1).cpu().numpy()
        return scores


def mini_scores(logits: Tensor, groups: Tensor, kinds: Kinds) -> NDArray[np.float32]:
    """Logits of the three classes (n, 3) and of the groups to P and the columns of `kinds`."""
    scores: NDArray[np.float32] = torch.softmax(logits, dim=1).cpu().numpy()
    if not groups.shape[1] or groups.shape[1] != len(kinds.families):  # groups without names
        return scores
    return np.hstack([scores, kinds.columns(torch.softmax(groups, dim=1).cpu().numpy())])


def load_classifier(spec: ModelSpec, device: torch.device | str) -> Classifier:
    """Load the classifier of a model, after checking its hash and its numbers.

    Raises:
        ModelError: the file is missing, is not the recorded one, holds numbers that are not
            finite, or does not fit the encoders.
    """
    path = spec.classifier
    if not path.is_file():
        raise ModelError(f"{path}: classifier weights are missing; `virnucpro models list`")
    if spec.classifier_sha256 and sha256_file(path) != spec.classifier_sha256:
        raise ModelError(
            f"{path}: not the file that was installed (sha256 differs); install the model again"
        )
    kind, tensors = read_classifier(path)
    if kind not in _NETWORKS:
        raise ModelError(f"{path}: holds a classifier of the unknown kind {kind!r:.40}")
    try:
        network = _NETWORKS[kind].of({name: torch.from_numpy(t) for name, t in tensors.items()})
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ModelError(f"{path}: not a VirNucPro classifier ({error})") from error
    if network.width != spec.dim:
        raise ModelError(
            f"{path}: takes vectors of width {network.width}; {spec.dna.name} and "
            f"{spec.protein.name} give {spec.dim}"
        )
    return Classifier(network, torch.device(device), spec.groups)


def save_mini_classifier(network: MiniClassifier, path: Path) -> None:
    """Write a classifier as float16 safetensors that name their kind."""
    tensors = {k: v.detach().half().cpu().contiguous() for k, v in network.state_dict().items()}
    with atomic_write(path) as file:
        file.write(save(tensors, metadata={"kind": MINI_KIND}))
