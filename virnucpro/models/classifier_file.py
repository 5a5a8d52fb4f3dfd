"""Published classifier files to safetensors: names, shapes and numbers are checked.

Room 4 (batch -> one vector per ORF). Only safetensors are read at run time; what the original
publishes (a pickled module) and plain state dicts pass through `unpickle` once.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from virnucpro.core.errors import ModelError
from virnucpro.core.files import atomic_write
from virnucpro.models.pickle_machine import Inert, TensorView
from virnucpro.models.unpickle import MAX_FILE_BYTES, read_torch_file

BATCH_NORM_EPS = 1e-5
CLASSES = 2
STATE_DICT_KEYS = ("state_dict", "model_state_dict")
_MAX_DEPTH = 3

Tensors = dict[str, NDArray[np.float32]]


def import_classifier(source: Path, target: Path) -> Tensors:
    """Turn a published classifier into safetensors.

    Args:
        source: pickled module or state dict (`.pth`), or safetensors.
        target: the safetensors file to write; its folder must exist.

    Returns:
        The tensors that were written.

    Raises:
        ModelError: the file is unsafe, damaged or no classifier of this family.
        OutputError: `target` cannot be written.
    """
    tensors = read_classifier(source)
    with atomic_write(target) as file:
        file.write(save(dict(tensors), metadata={"kind": "mlp"}))
    return tensors


def read_classifier(path: Path) -> Tensors:
    """Read and check a classifier file, told by its content and not by its name.

    Raises:
        ModelError: the file is unsafe, damaged or no classifier of this family.
    """
    try:
        with path.open("rb") as file:
            start = file.read(9)
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from error
    if size > MAX_FILE_BYTES:
        raise ModelError(f"{path}: {size} bytes are too many for a classifier")
    # safetensors begin with the length of their JSON header; a pickle would claim terabytes
    is_safetensors = start[8:] == b"{" and int.from_bytes(start[:8], "little") < size
    arrays = _read_safetensors(path) if is_safetensors else _read_pickled(path)
    arrays.pop("bn1.num_batches_tracked", None)  # counts training batches, decides nothing
    tensors = {name: array.astype(np.float32) for name, array in arrays.items()}
    _check(path, tensors)
    return tensors


def _read_safetensors(path: Path) -> dict[str, NDArray[Any]]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: neither a torch file nor safetensors ({error})") from error


def _read_pickled(path: Path) -> dict[str, NDArray[Any]]:
    tree, read = read_torch_file(path)
    if isinstance(tree, dict):
        for key in STATE_DICT_KEYS:
            if isinstance(tree.get(key), dict):
                tree = tree[key]
                break
        views = tree
    elif isinstance(tree, Inert):
        views = dict(_views_of(path, tree, "", _MAX_DEPTH))
    else:
        raise ModelError(f"{path}: holds a {type(tree).__name__}, no classifier")
    found = {name: view for name, view in views.items() if isinstance(view, TensorView)}
    if len(found) != len(views) or len(found) > 16:
        raise ModelError(f"{path}: holds more than the tensors of a classifier")
    return {str(name): read(view) for name, view in found.items()}


def _views_of(path: Path, module: Inert, prefix: str, depth: int) -> list[tuple[str, Any]]:
    """Tensors of a module and of those inside it, with dotted names."""
    if depth == 0:
        raise ModelError(f"{path}: modules nested too deep for a classifier")
    eps = module.state.get("eps", BATCH_NORM_EPS)
    if eps != BATCH_NORM_EPS:
        raise ModelError(f"{path}: batch norm with an unusual epsilon")
    views = []
    for kind in ("_parameters", "_buffers", "_modules"):
        members = module.state.get(kind, {})
        if not isinstance(members, dict) or len(members) > 16:
            raise ModelError(f"{path}: not the layers of a classifier")
        for name, member in members.items():
            if isinstance(member, TensorView):
                views.append((f"{prefix}{name}", member))
            elif isinstance(member, Inert):
                views += _views_of(path, member, f"{prefix}{name}.", depth - 1)
    return views


def _check(path: Path, tensors: Tensors) -> None:
    """Check names, shapes and that each number is finite."""
    weight = tensors.get("hidden_layer.weight", np.zeros(0))
    hidden, width = weight.shape if weight.ndim == 2 else (0, 0)
    expected = {
        "hidden_layer.weight": (hidden, width),
        "hidden_layer.bias": (hidden,),
        "bn1.weight": (hidden,),
        "bn1.bias": (hidden,),
        "bn1.running_mean": (hidden,),
        "bn1.running_var": (hidden,),
        "output_layer.weight": (CLASSES, hidden),
        "output_layer.bias": (CLASSES,),
    }
    if tensors.keys() != expected.keys():
        odd = ", ".join(sorted(tensors.keys() ^ expected.keys()))
        raise ModelError(f"{path}: not a VirNucPro classifier; missing or unknown: {odd[:200]}")
    for name, shape in expected.items():
        if tensors[name].shape != shape or 0 in shape:
            raise ModelError(f"{path}: {name} has shape {tensors[name].shape}, expected {shape}")
        if not np.isfinite(tensors[name]).all():
            raise ModelError(f"{path}: {name} holds numbers that are not finite")
    if (tensors["bn1.running_var"] < 0).any():
        raise ModelError(f"{path}: bn1.running_var holds negative variances")
