"""Open weight files in the published formats, without ever running what is in them.

Room 4 (batch -> one vector per ORF). Understands safetensors, `pytorch_model.bin` and fair-esm
`.pt`, whole or sharded with an index. Tensors are read one at a time: a large model need not
fit in memory twice.
"""

from __future__ import annotations

import argparse
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from virnucpro.core.errors import ModelError
from virnucpro.models.json_file import read_json

_SINGLE = ("model.safetensors", "pytorch_model.bin")
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_PICKLED = (".bin", ".pt", ".pth")


@dataclass(frozen=True)
class Checkpoint:
    """Named tensors of one model, not yet read.

    Attributes:
        source: file or directory they come from.
        config: what the publisher says about the network; empty if nothing.
        shapes: shape of each tensor.
    """

    source: Path
    config: dict[str, Any]
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    _readers: dict[str, Callable[[], Tensor]] = field(default_factory=dict)

    def read(self, name: str) -> Tensor:
        """One tensor, on the CPU.

        Raises:
            ModelError: if the file breaks off inside it.
        """
        try:
            return self._readers[name]()
        except Exception as error:  # readers of two libraries; each has its own errors
            raise ModelError(f"{self.source}: tensor {name} cannot be read: {error}") from error

    def add(self, name: str, shape: tuple[int, ...], reader: Callable[[], Tensor]) -> None:
        """Note a tensor and how to read it.

        Raises:
            ModelError: if two shards hold the same name.
        """
        if name in self.shapes:
            raise ModelError(f"{self.source}: tensor {name} is there twice")
        self.shapes[name], self._readers[name] = shape, reader


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a weight file, or a directory in one of the published layouts.

    Args:
        path: `.safetensors`, `.bin`, `.pt`, an `.index.json`, or a directory that holds one;
            `config.json` is looked for beside the weights.

    Raises:
        ModelError: if it is missing, damaged, or holds anything but tensors and plain values.
    """
    path = Path(path)
    weights = find_weights(path) if path.is_dir() else path
    if not weights.is_file():
        raise ModelError(f"{weights}: no such weights; fetch the model again")
    checkpoint = Checkpoint(path, _config_beside(weights))
    for file in _shards(weights):
        if file.suffix == ".safetensors":
            _open_safetensors(file, checkpoint)
        elif file.suffix in _PICKLED:
            _open_pickled(file, checkpoint)
        else:
            raise ModelError(f"{file}: not a weight file (.safetensors, .bin, .pt)")
    return checkpoint


def find_weights(folder: Path) -> Path:
    """The weight file or index in a model directory; safetensors before pickles.

    Raises:
        ModelError: if there is none, or no telling which.
    """
    for name in (_SINGLE[0], _INDEXES[0], _SINGLE[1], _INDEXES[1]):
        if (folder / name).is_file():
            return folder / name
    for suffix in (".safetensors", ".pt"):
        found = [p for p in folder.glob(f"*{suffix}") if "contact-regression" not in p.name]
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(sorted(p.name for p in found))
            raise ModelError(f"{folder}: several weight files ({names}); name one")
    raise ModelError(f"{folder}: no weights here (model.safetensors, pytorch_model.bin, *.pt)")


def _config_beside(weights: Path) -> dict[str, Any]:
    config = weights.parent / "config.json"
    return read_json(config) if config.is_file() else {}


def _shards(weights: Path) -> list[Path]:
    if weights.suffix != ".json":
        return [weights]
    names = read_json(weights).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(n, str) for n in names.values()):
        raise ModelError(f"{weights}: no weight_map from tensors to files")
    files = []
    for name in sorted(set(names.values())):
        if Path(name).name != name or "\\" in name or name in ("", ".", ".."):
            raise ModelError(f"{weights}: shard {name!r} is not a file beside the index")
        if not (weights.parent / name).is_file():
            raise ModelError(f"{weights.parent / name}: shard is missing; fetch the model again")
        files.append(weights.parent / name)
    return files


def _open_safetensors(file: Path, checkpoint: Checkpoint) -> None:
    try:
        handle: Any = safe_open(str(file), framework="pt")
        names = list(handle.keys())
        shapes = {name: tuple(handle.get_slice(name).get_shape()) for name in names}
    except Exception as error:  # the library's own error class is not public in all versions
        raise ModelError(f"{file}: not a whole safetensors file: {error}") from error
    for name, shape in shapes.items():
        checkpoint.add(name, shape, partial(handle.get_tensor, name))


def _open_pickled(file: Path, checkpoint: Checkpoint) -> None:
    content = _unpickle(file)
    tensors = content.get("model", content)
    if tensors is not content:
        checkpoint.config.update(_plain_values(content))
    if not isinstance(tensors, Mapping):
        raise ModelError(f"{file}: no table of tensors inside")
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise ModelError(f"{file}: {name!r} is a {type(tensor).__name__}, not a tensor")
        checkpoint.add(str(name), tuple(tensor.shape), partial(_identity, tensor))


def _unpickle(file: Path) -> Mapping[str, Any]:
    """Read a pickle of tensors and plain values; the one class let in carries fair-esm's options.

    PyTorch builds nothing else in this mode: a pickle that names another class is refused
    before anything in it runs.
    """
    try:
        mapped = zipfile.is_zipfile(file)
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # a damaged pickle can fail anywhere
        raise ModelError(f"{file}: damaged, or holds more than tensors: {_cause(error)}") from error
    if not isinstance(content, Mapping):
        raise ModelError(f"{file}: holds a {type(content).__name__}, not a table of tensors")
    return content


def _cause(error: Exception) -> str:
    """The fact in PyTorch's message, without its advice to load unsafely."""
    text = str(error).rpartition("WeightsUnpickler error: ")[2].strip()
    return text.split("\n")[0].split(" Please use")[0] or type(error).__name__


def _plain_values(content: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a fair-esm file: `cfg.model` or `args`, each a Namespace or a dict."""
    config = content.get("cfg")
    options = config.get("model") if isinstance(config, Mapping) else content.get("args")
    if isinstance(options, argparse.Namespace):
        options = vars(options)
    return dict(options) if isinstance(options, Mapping) else {}


def _identity(tensor: Tensor) -> Tensor:
    return tensor
