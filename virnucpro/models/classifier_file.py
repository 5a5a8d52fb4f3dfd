"""Pickled weights, and classifier files, checked in names, shapes and numbers."""

from __future__ import annotations

import os
import re
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from virnucpro.core.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

PUBLISHED_KIND, MINI_KIND = "mlp", "mini"
BATCH_NORM_EPS = 1e-5
CLASSES, MINI_CLASSES = 2, 3
VARIANCE = "bn1.running_var"
_MAX_BYTES = 256 << 20  # the published classifiers have 6.8 MB
_MAX_TENSORS = 64
_STATE_DICT_KEYS = ("state_dict", "model_state_dict")

MAX_PICKLE_BYTES = 4 << 20  # 48 layers of weights need 0.2 MB
_MAX_ENTRIES = 10_000
_CHECKED_BYTES = 256 << 20  # larger files are hashed when they are installed
_REMEDY = "from a source you trust, save the tensors alone: torch.save(model.state_dict(), FILE)"

Tensors = dict[str, NDArray[np.float32]]


class TorchFile:
    """What `torch.save` wrote, read without running any of it; tensors, when they are used.

    PyTorch's reader refuses a pickle that names a class it was not given before anything in it
    runs; the archive around it is looked at first.
    """

    def __init__(self, path: Path, classes: Iterable[tuple[type, str]] = ()) -> None:
        """Read `path`; `classes` are let in beside tensors, each with the name it stands for."""
        import torch

        self.path = path
        self._record_bytes: set[int] = set()
        try:
            if is_archive := zipfile.is_zipfile(path):
                self._check_archive()
            with warnings.catch_warnings(), torch.serialization.safe_globals([*classes]):
                warnings.simplefilter("ignore")  # of other pickle protocols: refused or read
                self.content: Any = torch.load(
                    path, map_location="cpu", weights_only=True, mmap=is_archive
                )
        except ModelError:
            raise
        except Exception as error:  # noqa: BLE001 - any; its text, which is not kept, gives bad advice
            reason = f"damaged, or holds more than tensors ({type(error).__name__})"
            if named := re.search(r"GLOBAL ([!-~]{1,120})", str(error)):
                reason = f"its pickle names {named[1]}, which weights do not need and which could "
                reason += "run code; nothing of it was executed"
            raise ModelError(f"{path}: refused: {reason}; {_REMEDY}") from None

    def tensor(self, name: str, value: Any) -> Tensor:
        """`value` as a tensor of plain numbers that are all in the file; else a ModelError."""
        import torch

        if type(value) not in (torch.Tensor, torch.nn.Parameter):
            raise ModelError(f"{self.path}: {name!r:.80} is a {type(value).__name__}, not a tensor")
        plain = value.layout == torch.strided and value.device.type == "cpu"
        if not plain or value.is_quantized or vars(value):  # attributes could stand in for methods
            raise ModelError(f"{self.path}: {name!r:.80} holds no plain numbers")
        stored = value.untyped_storage().nbytes()
        if self._record_bytes and stored not in self._record_bytes:
            raise ModelError(f"{self.path}: {name!r:.80} is not whole")
        return value  # type: ignore[no-any-return]

    def _check_archive(self) -> None:
        with zipfile.ZipFile(self.path) as archive:
            entries = archive.infolist()
            if len(entries) > _MAX_ENTRIES or len({one.filename for one in entries}) < len(entries):
                raise ModelError(f"{self.path}: the archive has too many or repeated entries")
            if any(one.compress_type != zipfile.ZIP_STORED for one in entries):
                raise ModelError(f"{self.path}: compressed, which torch.save never does")
            size = self.path.stat().st_size
            if sum(one.file_size for one in entries) > size:
                raise ModelError(f"{self.path}: the archive claims more bytes than it has")
            pickles = [one for one in entries if one.filename.endswith("/data.pkl")]
            if any(one.file_size > MAX_PICKLE_BYTES for one in pickles):
                raise ModelError(f"{self.path}: a pickle over 4 MiB, far more than weights need")
            if size <= _CHECKED_BYTES and (damaged := archive.testzip()):
                raise ModelError(f"{self.path}: damaged, {damaged:.80} fails its checksum")
            self._record_bytes = {one.file_size for one in entries if "/data/" in one.filename}


class _Layer:
    """Stands for a layer of a pickled module: keeps its state, and can do nothing."""

    state: Mapping[str, Any] = MappingProxyType({})  # pickles call no `__init__`

    def __setstate__(self, state: Any) -> None:
        self.state = state if isinstance(state, dict) else {}


_MODULES = "linear.Linear", "batchnorm.BatchNorm1d", "dropout.Dropout", "activation.ReLU"
_LAYERS = ["__main__.MLPClassifier", *(f"torch.nn.modules.{name}" for name in _MODULES)]


def read_classifier(path: Path) -> tuple[str, Tensors]:
    """Kind and tensors of a pickled module, a state dict or safetensors; a ModelError if not so."""
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
        values = dict(_tensors_of(path, tree))
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


def _tensors_of(path: Path, layer: _Layer, depth: int = 3) -> Iterator[tuple[str, Any]]:
    """Tensors of a module and of those inside it, with dotted names."""
    parts = [layer.state.get(kind, {}) for kind in ("_parameters", "_buffers", "_modules")]
    if depth == 0 or not all(isinstance(x, dict) and len(x) <= _MAX_TENSORS for x in parts):
        raise ModelError(f"{path}: not the layers of a classifier")
    eps = layer.state.get("eps", BATCH_NORM_EPS)
    if type(eps) is not float or eps != BATCH_NORM_EPS:
        raise ModelError(f"{path}: batch norm with an unusual epsilon")
    for name, member in chain.from_iterable(part.items() for part in parts):
        if isinstance(member, _Layer):
            yield from ((f"{name}.{x}", y) for x, y in _tensors_of(path, member, depth - 1))
        elif member is not None:
            yield name, member
