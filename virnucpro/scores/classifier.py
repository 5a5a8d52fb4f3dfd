"""The classifiers: merged vectors in, probabilities out, in float32.

Arithmetic is written once, for arrays of numpy and for tensors on a GPU alike.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from virnucpro.core.errors import ModelError
from virnucpro.core.files import sha256_file
from virnucpro.models import classifier_file as files
from virnucpro.models.classifier_file import PUBLISHED_KIND, read_classifier
from virnucpro.models.specs import ModelSpec
from virnucpro.scores.kinds import Kinds

LAYER_NORM_EPS = 1e-5

Floats = NDArray[np.float32]


class Classifier:
    """The classifier of a model; a `ModelError` if it is not the recorded one, or no fit."""

    def __init__(self, spec: ModelSpec, device: str = "cpu") -> None:
        path, self._device = spec.classifier, device
        if not path.is_file():
            raise ModelError(f"{path}: classifier weights are missing; `virnucpro models list`")
        if spec.classifier_sha256 and sha256_file(path) != spec.classifier_sha256:
            problem = "not the file that was installed (sha256 differs); install the model again"
            raise ModelError(f"{path}: {problem}")
        kind, tensors = read_classifier(path)
        self._is_published, self._kinds = kind == PUBLISHED_KIND, Kinds(spec.groups)
        self._tensors = {name: self._there(tensor) for name, tensor in tensors.items()}
        first = tensors["hidden_layer.weight" if self._is_published else "hidden.weight"]
        self.width = first.shape[1]  # of the vectors that it takes
        if self.width != spec.dim:
            raise ModelError(
                f"{path}: takes vectors of width {self.width}; {spec.dna.name} and "
                f"{spec.protein.name} give {spec.dim}"
            )

    def scores(self, vectors: Floats) -> Floats:
        """P(other) and P(virus) of merged vectors (n, width), DNA first: shape (n, 2).

        P(null) and the columns of `Kinds` follow where the model has them. A ModelError tells of
        vectors of another width.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.width:
            raise ModelError(
                f"the classifier takes vectors of width {self.width}, got {vectors.shape}"
            )
        x, t = self._there(vectors), self._tensors
        if self._is_published:  # linear, batch norm, ReLU, linear; as origin prediction.py
            h = self._linear("hidden_layer", x) - t["bn1.running_mean"]
            h = (
                h / (t[files.VARIANCE] + files.BATCH_NORM_EPS) ** 0.5 * t["bn1.weight"]
                + t["bn1.bias"]
            )
            return _softmax(self._linear("output_layer", h.clip(0)))
        x = x - x.mean(axis=1, keepdims=True)  # layer norm, linear, squared ReLU
        x = x / ((x * x).mean(axis=1, keepdims=True) + LAYER_NORM_EPS) ** 0.5
        hidden = self._linear("hidden", x * t["norm.weight"] + t["norm.bias"]).clip(0) ** 2
        logits = self._linear("out", hidden)
        groups = self._linear("kind", hidden) if "kind.weight" in t else logits[:, :0]
        return mini_scores(logits, groups, self._kinds)

    def _there(self, array: Floats) -> Any:
        if self._device == "cpu":
            return array
        import torch

        return torch.from_numpy(array).to(self._device)

    def _linear(self, name: str, x: Any) -> Any:
        return x @ self._tensors[f"{name}.weight"].T + self._tensors[f"{name}.bias"]


def mini_scores(logits: Any, groups: Any, kinds: Kinds) -> Floats:
    """Logits of the three classes (n, 3) and of the groups to P and the columns of `kinds`."""
    if not groups.shape[1] or groups.shape[1] != len(kinds.families):  # groups without names
        return _softmax(logits)
    return np.hstack([_softmax(logits), kinds.columns(_softmax(groups))])


def _softmax(logits: Any) -> Floats:
    table = np.asarray(logits.cpu() if hasattr(logits, "cpu") else logits)
    powers = np.exp(table - table.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))
