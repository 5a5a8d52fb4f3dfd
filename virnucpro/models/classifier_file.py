"""Classifier files, checked in names, shapes and numbers: pickled modules, safetensors."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from virnucpro.core.errors import ModelError
from virnucpro.models.torch_file import TorchFile

PUBLISHED_KIND, MINI_KIND = "mlp", "mini"
BATCH_NORM_EPS = 1e-5
CLASSES, MINI_CLASSES = 2, 3
VARIANCE = "bn1.running_var"
_MAX_BYTES = 256 << 20  # the published classifiers have 6.8 MB
_MAX_TENSORS = 64
_STATE_DICT_KEYS = ("state_dict", "model_state_dict")

Tensors = dict[str, NDArray[np.float32]]


class _Layer:
    """Stands for a layer of a pickled module: keeps its state, and can do nothing."""

    state: Mapping[str, Any] = MappingProxyType({})  # pickles call no `__init__`

    def __setstate__(self, state: Any) -> None:
        self.state = state if isinstance(state, dict) else {}


_MODULES = "linear.Linear", "batchnorm.BatchNorm1d", "dropout.Dropout", "activation.ReLU"
_LAYERS = ["__main__.MLPClassifier", *(f"torch.nn.modules.{name}" for name in _MODULES)]


def read_classifier(path: Path) -> tuple[str, Tensors]:
    """Kind of network and tensors of a pickled module, a state dict, or safetensors, by content.

    All numbers are finite; tensors have the names and shapes of their kind of network. A
    ModelError tells of a file that is unsafe, damaged, or holds other numbers.
    """
    try:
        with path.open("rb") as file:
            start = file.read(9)
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from error
    if size > _MAX_BYTES:
        raise ModelError(f"{path}: {size} bytes are too many for a classifier")
    # safetensors begin with the length of their JSON header; a pickle would claim terabytes
    if start[8:] == b"{" and int.from_bytes(start[:8], "little") < size:
        try:
            with safe_open(path, framework="numpy") as opened:
                kind = (opened.metadata() or {}).get("kind", PUBLISHED_KIND)
                arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{path}: not a safetensors file ({error})") from error
    else:
        kind, arrays = PUBLISHED_KIND, _read_pickled(path)
    arrays.pop("bn1.num_batches_tracked", None)  # counts training batches, decides nothing
    tensors = {}
    for name, array in arrays.items():
        if array.dtype.kind != "f":
            raise ModelError(f"{path}: {name!r:.80} holds {array.dtype}, not plain floats")
        tensors[name] = array.astype(np.float32)
        if not np.isfinite(tensors[name]).all():
            raise ModelError(f"{path}: {name!r:.80} holds numbers that are not finite")
    if kind not in (PUBLISHED_KIND, MINI_KIND):
        raise ModelError(f"{path}: holds a classifier of the unknown kind {kind!r:.40}")
    expected = _expected(kind, tensors)
    if tensors.keys() != expected.keys():
        odd = ", ".join(sorted(tensors.keys() ^ expected.keys()))
        raise ModelError(f"{path}: not a VirNucPro classifier; missing or unknown: {odd[:200]}")
    for name, shape in expected.items():
        if tensors[name].shape != shape or 0 in shape:
            raise ModelError(f"{path}: {name} has shape {tensors[name].shape}, expected {shape}")
    if kind == PUBLISHED_KIND and (tensors[VARIANCE] < 0).any():
        raise ModelError(f"{path}: {VARIANCE} holds negative variances")
    return kind, tensors


def _expected(kind: str, tensors: Tensors) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors of a kind of network, as wide as the hidden layer found."""
    first = "hidden_layer.weight" if kind == PUBLISHED_KIND else "hidden.weight"
    weight = tensors.get(first, np.zeros(0))
    hidden, width = weight.shape if weight.ndim == 2 else (0, 0)
    if kind == PUBLISHED_KIND:
        features = ("hidden_layer.bias", "bn1.weight", "bn1.bias", "bn1.running_mean", VARIANCE)
        return {
            first: (hidden, width), **dict.fromkeys(features, (hidden,)),
            "output_layer.weight": (CLASSES, hidden), "output_layer.bias": (CLASSES,),
        }  # fmt: skip
    groups = len(np.atleast_1d(tensors.get("kind.weight", ())))
    named = {"kind.weight": (groups, hidden), "kind.bias": (groups,)} if groups else {}
    return {
        "norm.weight": (width,), "norm.bias": (width,), first: (hidden, width),
        "hidden.bias": (hidden,), "out.weight": (MINI_CLASSES, hidden),
        "out.bias": (MINI_CLASSES,), **named,
    }  # fmt: skip


def _read_pickled(path: Path) -> dict[str, NDArray[Any]]:
    file = TorchFile(path, [(_Layer, name) for name in _LAYERS])
    tree = file.content
    if isinstance(tree, _Layer):
        values = dict(_tensors_of(path, tree, "", depth=3))
    elif isinstance(tree, dict):
        values = next((tree[k] for k in _STATE_DICT_KEYS if isinstance(tree.get(k), dict)), tree)
    else:
        raise ModelError(f"{path}: holds a {type(tree).__name__}, no classifier")
    if len(values) > _MAX_TENSORS:
        raise ModelError(f"{path}: holds more than the tensors of a classifier")
    arrays = {}
    for name, value in values.items():
        tensor = file.tensor(name, value)
        if not tensor.is_contiguous():  # a view could claim any size
            raise ModelError(f"{path}: {name!r:.80} is not laid out row by row")
        try:
            arrays[str(name)] = tensor.detach().numpy()
        except TypeError as error:
            raise ModelError(f"{path}: {name!r:.80} holds {tensor.dtype}") from error
    return arrays


def _tensors_of(path: Path, layer: _Layer, prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
    """Tensors of a module and of those inside it, with dotted names."""
    if depth == 0:
        raise ModelError(f"{path}: modules nested too deep for a classifier")
    eps = layer.state.get("eps", BATCH_NORM_EPS)
    if type(eps) is not float or eps != BATCH_NORM_EPS:
        raise ModelError(f"{path}: batch norm with an unusual epsilon")
    for kind in ("_parameters", "_buffers", "_modules"):
        members = layer.state.get(kind, {})
        if not isinstance(members, dict) or len(members) > _MAX_TENSORS:
            raise ModelError(f"{path}: not the layers of a classifier")
        for name, member in members.items():
            if isinstance(member, _Layer):
                yield from _tensors_of(path, member, f"{prefix}{name}.", depth - 1)
            elif member is not None and kind != "_modules":
                yield f"{prefix}{name}", member
