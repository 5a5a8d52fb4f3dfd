"""Open weight files in the published formats, without ever running what is in them.

Safetensors, `pytorch_model.bin` and fair-esm `.pt`, whole or sharded; read tensor by tensor.
"""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from virnucpro.core.errors import ModelError
from virnucpro.models.manifest import read_json
from virnucpro.models.torch_file import TorchFile

_WHOLE = ("model.safetensors", "model.safetensors.index.json",
          "pytorch_model.bin", "pytorch_model.bin.index.json")  # fmt: skip
_PICKLED = (".bin", ".pt", ".pth")


@dataclass(frozen=True)
class Checkpoint:
    """Named tensors of one model, not yet read."""

    source: Path  # file or directory they come from
    config: dict[str, Any]  # what the publisher says about the network; empty if nothing
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    _readers: dict[str, Callable[[], Tensor]] = field(default_factory=dict)

    def read(self, name: str) -> Tensor:
        """One tensor, on the CPU; a ModelError where the file breaks off inside it."""
        try:
            return self._readers[name]()
        except Exception as error:  # readers of two libraries; each has its own errors
            raise ModelError(f"{self.source}: tensor {name} cannot be read: {error}") from error

    def _add(self, name: str, shape: Any, reader: Callable[[], Tensor]) -> None:
        if name in self.shapes:
            raise ModelError(f"{self.source}: tensor {name:.200} is there twice")
        self.shapes[name], self._readers[name] = tuple(shape), reader

    def open_safetensors(self, file: Path) -> None:
        """Note the tensors of a safetensors file."""
        try:
            handle: Any = safe_open(str(file), framework="pt")
            shapes = {name: handle.get_slice(name).get_shape() for name in handle.keys()}  # noqa: SIM118
        except Exception as error:  # the library's own error class is not public in all versions
            raise ModelError(f"{file}: not a whole safetensors file: {error}") from error
        for name, shape in shapes.items():
            self._add(name, shape, partial(handle.get_tensor, name))

    def open_pickled(self, file: Path) -> None:
        """Note the tensors of a pickle, which is not run; options of fair-esm go to `config`."""
        opened = TorchFile(file, [(argparse.Namespace, "argparse.Namespace")])
        content = opened.content
        if not isinstance(content, Mapping):
            raise ModelError(f"{file}: holds a {type(content).__name__}, not a table of tensors")
        tensors = content.get("model", content)
        if not isinstance(tensors, Mapping):
            raise ModelError(f"{file}: no table of tensors inside")
        if tensors is not content:
            config = content.get("cfg")
            options = config.get("model") if isinstance(config, Mapping) else content.get("args")
            if isinstance(options, argparse.Namespace):
                options = vars(options)
            if isinstance(options, Mapping):
                plain = (bool, int, float, str)
                self.config.update({k: v for k, v in options.items() if type(v) in plain})
        for name, value in tensors.items():
            tensor = opened.tensor(name, value)
            self._add(str(name), tensor.shape, partial(Tensor.detach, tensor))


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a weight file, an index, or a directory with one, and its `config.json`."""
    path = Path(path)
    weights = _find_weights(path) if path.is_dir() else path
    if not weights.is_file():
        raise ModelError(f"{weights}: no such weights; fetch the model again")
    config = weights.parent / "config.json"
    checkpoint = Checkpoint(path, read_json(config) if config.is_file() else {})
    files = [weights]
    if weights.suffix == ".json":
        names = read_json(weights).get("weight_map")
        if not isinstance(names, dict) or not all(isinstance(n, str) for n in names.values()):
            raise ModelError(f"{weights}: no weight_map from tensors to files")
        for name in set(names.values()):
            if Path(name).name != name or "\\" in name or name in ("", ".", ".."):
                raise ModelError(f"{weights}: shard {name!r:.200} is not a file beside the index")
            if not (shard := weights.parent / name).is_file():
                raise ModelError(f"{shard}: shard is missing; fetch the model again")
        files = [weights.parent / name for name in sorted(set(names.values()))]
    for file in files:
        if file.suffix == ".safetensors":
            checkpoint.open_safetensors(file)
        elif file.suffix in _PICKLED:
            checkpoint.open_pickled(file)
        else:
            raise ModelError(f"{file}: not a weight file (.safetensors, .bin, .pt)")
    return checkpoint


def _find_weights(folder: Path) -> Path:
    """The weight file or index in a model directory; safetensors before pickles."""
    for name in _WHOLE:
        if (folder / name).is_file():
            return folder / name
    for suffix in (".safetensors", ".pt"):
        found = [p for p in folder.glob(f"*{suffix}") if "contact-regression" not in p.name]
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(sorted(p.name for p in found))
            raise ModelError(f"{folder}: several weight files ({names:.200}); name one")
    raise ModelError(f"{folder}: no weights here (model.safetensors, pytorch_model.bin, *.pt)")
