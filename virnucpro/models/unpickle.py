"""Read tensors out of a torch pickle without executing it.

Room 4 (batch -> one vector per ORF). The two file formats of `torch.save`, with
`pickle_machine` in the place of Python's unpickler; torch itself is not needed.

Source:
    Layout of both formats: torch/serialization.py.
"""

from __future__ import annotations

import re
import struct
import zipfile
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from virnucpro.core.errors import ModelError
from virnucpro.models.pickle_machine import PickleMachine, TensorView

MAX_FILE_BYTES = 256 << 20  # the published classifiers have 6.8 MB
MAX_ENTRIES = 1000
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


def read_torch_file(path: Path) -> tuple[Any, Callable[[TensorView], NDArray[Any]]]:
    """Read a file that `torch.save` wrote, in the zip or in the older format.

    Returns:
        The saved value, of dicts, lists, tuples, numbers, text, `Inert` and `TensorView`; and
        the function that turns a `TensorView` into numbers.

    Raises:
        ModelError: anything but tensors in known containers; names what was found.
    """
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise ModelError(f"{path}: {size} bytes are too many for a classifier")
    data = path.read_bytes()
    try:
        blocks: Mapping[str, bytes]
        tree, blocks = _read_zip(data) if data[:2] == b"PK" else _read_legacy(data)
    except ModelError as error:
        raise ModelError(f"{path}: refused: {error}") from None
    except _DAMAGE as error:
        raise ModelError(f"{path}: not a whole torch file ({error})") from error

    def read(view: TensorView) -> NDArray[Any]:
        storage = view.storage
        block = blocks.get(storage.key, b"")
        if len(block) != storage.count * np.dtype(storage.dtype).itemsize:
            raise ModelError(f"{path}: storage {storage.key!r} is not whole")
        try:
            return _cut(view, np.frombuffer(block, dtype=storage.dtype))
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from None

    return tree, read


_DAMAGE = (
    zipfile.BadZipFile,
    struct.error,
    ValueError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    EOFError,
    OSError,
    NotImplementedError,
    RuntimeError,
)


def _cut(view: TensorView, numbers: NDArray[Any]) -> NDArray[Any]:
    """Cut a tensor, a whole row-major block, out of its storage's numbers."""
    count, strides = 1, []
    for size in reversed(view.shape):
        strides.append(count)
        count *= size
    given = zip(view.shape, view.stride, reversed(strides), strict=True)
    if any(size > 1 and stride != wanted for size, stride, wanted in given):
        raise ModelError("a tensor is not laid out row by row")
    if view.offset + count > len(numbers):
        raise ModelError("a tensor does not fit its storage")
    return numbers[view.offset : view.offset + count].reshape(view.shape)


def _read_zip(data: bytes) -> tuple[Any, dict[str, bytes]]:
    with zipfile.ZipFile(BytesIO(data)) as archive:
        entries = archive.infolist()
        names = [entry.filename for entry in entries]
        if len(entries) > MAX_ENTRIES or len(set(names)) != len(names):
            raise ModelError("the archive has too many or repeated entries")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ModelError("the archive is compressed; torch.save never does that")
        if sum(entry.file_size for entry in entries) > len(data):
            raise ModelError("the archive claims more bytes than it has")
        pickles = [name for name in names if re.fullmatch(r"[^/]+/data\.pkl", name)]
        if len(pickles) != 1:
            raise ModelError("the archive holds no torch pickle")
        root = pickles[0].split("/")[0]
        if f"{root}/byteorder" in names and archive.read(f"{root}/byteorder") != b"little":
            raise ModelError("the numbers are big-endian")
        tree = PickleMachine(archive.read(pickles[0])).run()
        prefix = f"{root}/data/"
        blocks = {
            name.removeprefix(prefix): archive.read(name)
            for name in names
            if name.startswith(prefix)
        }
    return tree, blocks


def _read_legacy(data: bytes) -> tuple[Any, dict[str, bytes]]:
    stream = BytesIO(data)
    if PickleMachine(stream).run() != LEGACY_MAGIC:
        raise ModelError("not a file of torch.save")
    PickleMachine(stream).run()  # version of the format
    system = PickleMachine(stream).run()
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ModelError("the numbers are big-endian")
    machine = PickleMachine(stream)
    tree = machine.run()
    blocks = {}
    for key in PickleMachine(stream).run():
        storage = machine.storages[key]
        if int.from_bytes(stream.read(8), "little") != storage.count:
            raise ModelError(f"storage {key!r} is not of the size it claims")
        blocks[key] = stream.read(storage.count * np.dtype(storage.dtype).itemsize)
    return tree, blocks
