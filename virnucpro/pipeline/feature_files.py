"""Feature and merged files: the published `.pt` layouts, written whole and read without trust.

Beside the published content a file may carry records of ours, which other readers pass over:
`vectors.npy` and `ids.json` in DNA files, because a list of Python floats takes 9 s per
10,000 rows to read back safely and an array takes 20 ms; `inputs.txt` in merged files, the
digest of what they were made from.
"""

from __future__ import annotations

import io
import json
import logging
import lzma
import pickle
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from virnucpro.core.errors import InputError
from virnucpro.core.files import atomic_write
from virnucpro.core.records import Embeddings
from virnucpro.core.text import clipped
from virnucpro.sequences.fasta_files import read_fasta

# The stage that its warnings are about.
logger = logging.getLogger("virnucpro.pipeline.prediction")

_MARKS = {"version": "1.0", "status": "complete"}
_ROOT = "archive"  # the folder inside the zip when torch saves to a stream
_FOLDER = 0x10  # the attribute that makes a record of a zip a folder

# what reading a damaged or hostile file may end in, with weights_only
_UNREADABLE = (
    RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile, struct.error, EOFError, ValueError,
    LookupError, TypeError, AttributeError, AssertionError, ArithmeticError, NotImplementedError,
    zlib.error, lzma.LZMAError,
)  # fmt: skip


class DamagedFeaturesError(InputError, RuntimeError):
    """A feature file that cannot be read, or does not hold what its layout says."""

    exit_code = 1  # no input of the user's: a run made it


def write_dna_features(path: Path, embeddings: Embeddings) -> None:
    """Write `{nucleotide: ids, data: [{label, mean_representation: floats}]}`.

    Raises:
        OutputError: the file could not be written; nothing is left behind.
    """
    ids = list(embeddings.seq_ids)
    array = np.ascontiguousarray(embeddings.vectors, dtype=np.float32)
    vectors = io.BytesIO()
    np.save(vectors, array)
    records: dict[str, bytes | memoryview] = {
        "data.pkl": _pickled_dna(ids, array),
        "version": b"3\n",
        "byteorder": sys.byteorder.encode(),
        "vectors.npy": vectors.getbuffer(),
        "ids.json": json.dumps(ids).encode(),
    }
    _write(path, io.BytesIO(), records)


def _pickled_dna(ids: Sequence[str], vectors: NDArray[np.float32]) -> memoryview:
    """What `pickle` would write, straight from the array: shape (n, d) becomes n lists of floats.

    10,000 rows of 768 floats made by `pickle` take 0.6 s and 300 MB of Python objects. The
    opcodes are those of protocol 2 (Python's `pickletools` describes each).
    """
    text = io.BytesIO()
    text.write(b"\x80\x02}(")  # protocol, empty dictionary, mark
    text.write(_pickled_text("nucleotide") + b"](")
    text.writelines(map(_pickled_text, ids))
    text.write(b"e" + _pickled_text("data") + b"](")  # e: all since the mark go into the list
    label = b"}(" + _pickled_text("label")
    mean = _pickled_text("mean_representation") + b"]("
    cells = np.empty((vectors.shape[1], 9), dtype=np.uint8)
    cells[:, 0] = ord("G")  # a float: eight bytes, the highest first
    for seq_id, row in zip(ids, vectors, strict=True):
        cells[:, 1:] = row.astype(">f8").view(np.uint8).reshape(-1, 8)
        text.writelines((label, _pickled_text(seq_id), mean, cells.tobytes(), b"eu"))
    text.write(b"e" + b"".join(_pickled_text(word) for mark in _MARKS.items() for word in mark))
    text.write(b"u.")  # u: all since the mark, in pairs, go into the dictionary; then the end
    return text.getbuffer()


def _pickled_text(value: str) -> bytes:
    letters = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(letters)) + letters


def write_protein_features(path: Path, embeddings: Embeddings) -> None:
    """Write `{proteins: ids, data: [tensor (d,) float32]}`.

    Raises:
        OutputError: the file could not be written; nothing is left behind.
    """
    vectors = torch.from_numpy(np.ascontiguousarray(embeddings.vectors, dtype=np.float32))
    payload = {"proteins": list(embeddings.seq_ids), "data": list(vectors), **_MARKS}
    _write(path, _saved(payload), {})


def write_merged(path: Path, embeddings: Embeddings, inputs: str) -> None:
    """Write `{ids, data: tensor (n, d) float32}`, first under `path.with_suffix('.tmp')`.

    Args:
        path: the merged file.
        embeddings: n rows, DNA columns first.
        inputs: digest of the files it was made from.

    Raises:
        OutputError: the file could not be written; nothing is left behind.
    """
    vectors = torch.from_numpy(np.ascontiguousarray(embeddings.vectors, dtype=np.float32))
    payload = {"ids": list(embeddings.seq_ids), "data": vectors}
    _write(path, _saved(payload), {"inputs.txt": inputs.encode()}, path.with_suffix(".tmp"))


def write_vectors(
    path: Path, parts: Iterable[Embeddings], attributes: Mapping[str, str], rows: int | None = None,
    dim: int = 0,
) -> None:  # fmt: skip
    """Write HDF5: `sequence_ids` (n,) text, `embeddings` (n, d) float32, and attributes. Streams.

    Args:
        path: final name; its folder must exist.
        parts: rows in their order.
        attributes: what the file says of itself.
        rows: n; None where there is one part.
        dim: d where there is no part.

    Raises:
        OutputError: the file could not be written; nothing is left behind.
    """
    import h5py

    with atomic_write(path, "w+b") as file, h5py.File(file, "w") as content:
        content.attrs.update(attributes)
        first = 0
        for part in chain(parts, [Embeddings((), np.empty((0, dim), dtype=np.float32))]):
            if "embeddings" not in content:
                shape = (len(part) if rows is None else rows, part.vectors.shape[1])
                ids = content.create_dataset("sequence_ids", shape[:1], h5py.string_dtype())
                vectors = content.create_dataset("embeddings", shape, "<f4")
            if len(part):
                ids[first : first + len(part)] = list(part.seq_ids)
                vectors[first : first + len(part)] = part.vectors
            first += len(part)


def read_vectors(path: Path) -> Embeddings:
    """Read a whole file of `write_vectors`.

    Raises:
        DamagedFeaturesError: unreadable, or not of this layout.
    """
    import h5py

    try:
        with h5py.File(path, "r") as content:
            ids = content["sequence_ids"].asstr()[:].tolist()
            return _checked(path, ids, np.asarray(content["embeddings"][:], dtype=np.float32))
    except (OSError, *_UNREADABLE) as error:
        raise DamagedFeaturesError(path, f"not a whole file of vectors ({error})") from error


class VectorFile:
    """An HDF5 file of vectors, read by id. A context manager.

    Args:
        path: as `write_vectors` writes it, rows in any order.
        title: what the file is, for warnings about ids that it lacks.
    """

    def __init__(self, path: Path, title: str) -> None:
        import h5py

        self._file, self._title = h5py.File(path, "r"), title
        self._ids, self._vectors = self._file["sequence_ids"], self._file["embeddings"]
        self._next = 0
        self._row_of: dict[str, int] | None = None

    def of(self, ids: Sequence[str]) -> Embeddings:
        """The vectors of `ids` in their order; an id without a row is warned of and left out."""
        first, self._next = self._next, self._next + len(ids)
        if self._ids.asstr()[first : self._next].tolist() == list(ids):
            return Embeddings(tuple(ids), self._vectors[first : self._next])
        if self._row_of is None:  # not ours: rows in another order
            self._row_of = {seq_id: row for row, seq_id in enumerate(self._ids.asstr()[:])}
        found = [seq_id for seq_id in ids if seq_id in self._row_of]
        for seq_id in ids:
            if seq_id not in self._row_of:
                logger.warning("Sequence %s not found in %s", seq_id, self._title)
        rows = np.array([self._row_of[seq_id] for seq_id in found], dtype=np.int64)
        vectors = np.empty((len(found), self._vectors.shape[1]), dtype=np.float32)
        order = np.argsort(rows)  # HDF5 reads rising rows only
        if len(rows):
            vectors[order] = self._vectors[rows[order]]
        return Embeddings(tuple(found), vectors)

    def __enter__(self) -> VectorFile:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


def write_dna_files(h5_path: Path, split_files: Sequence[Path], outputs: Sequence[Path]) -> None:
    """Vectors of the packed engine -> one DNA feature file for each split file."""
    with VectorFile(h5_path, "v2.0 DNABERT-S output") as vectors:
        for split_file, output in zip(split_files, outputs, strict=True):
            write_dna_features(output, vectors.of([name for name, _ in read_fasta(split_file)]))


def read_dna_features(path: Path) -> Embeddings:
    """Read a DNA feature file, ours or the original's.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFeaturesError: unreadable, not of this layout, or values that are not finite.
    """
    check_records(path)
    stored = _read_record(path, "vectors.npy")
    if stored is not None:
        return _checked(path, _stored_ids(path), _array(path, stored))
    content = _load(path)
    ids, rows = _listed(path, content, "nucleotide")
    try:
        labels = [row["label"] for row in rows]
        vectors = np.array([_floats(row["mean_representation"]) for row in rows], dtype=np.float32)
    except _UNREADABLE as error:
        raise DamagedFeaturesError(
            path, f"rows are not mean representations ({clipped(error)})"
        ) from error
    if labels != ids:
        raise DamagedFeaturesError(path, "labels of the rows differ from the list of ids")
    return _checked(path, ids, vectors)


def read_protein_features(path: Path) -> Embeddings:
    """Read a protein feature file, ours or the original's.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFeaturesError: unreadable, not of this layout, or values that are not finite.
    """
    check_records(path)
    ids, rows = _listed(path, _load(path), "proteins")
    try:
        vectors = torch.stack(rows).float().numpy() if rows else np.empty((0, 0), np.float32)
    except _UNREADABLE as error:
        raise DamagedFeaturesError(
            path, f"rows are not vectors of one width ({clipped(error)})"
        ) from error
    return _checked(path, ids, vectors)


def read_merged(path: Path) -> Embeddings:
    """Read a merged file: rows with their ids, DNA columns first.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFeaturesError: unreadable, not of this layout, or values that are not finite.
    """
    check_records(path)
    content = _load(path)
    data = content.get("data")
    if not isinstance(content.get("ids"), list) or not isinstance(data, torch.Tensor):
        raise DamagedFeaturesError(path, "not a merged file: no ids, or data is not a tensor")
    return _checked(path, content["ids"], data.float().numpy())


def read_dna_ids(path: Path) -> list[str]:
    """Ids of a DNA feature file, in row order.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFeaturesError: unreadable, or not of this layout.
    """
    check_records(path)
    ids = _stored_ids(path)
    return _checked_ids(path, ids or _listed(path, _load(path), "nucleotide")[0])


def merged_inputs(path: Path) -> str | None:
    """Digest of the files that a merged file was made from; None if it is torn or not ours."""
    try:
        check_records(path)
        stored = _read_record(path, "inputs.txt")
    except (OSError, *_UNREADABLE):
        return None
    return None if stored is None else stored.decode("ascii", "replace")


def check_records(path: Path) -> None:
    """See that every record of a `.pt` file is what was written; torch does not ask.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFeaturesError: not a `.pt` file in zip form, or a record fails its checksum.
    """
    try:
        size = path.stat().st_size
        if not zipfile.is_zipfile(path):
            raise DamagedFeaturesError(path, "not a .pt file in zip form")
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            if any(record.compress_type != zipfile.ZIP_STORED for record in records):
                # a few kB could unpack to the whole memory
                raise DamagedFeaturesError(path, "holds packed records, as no .pt file does")
            if any(record.external_attr & _FOLDER for record in records):
                # torch would take it for empty, and give whatever lies in memory
                raise DamagedFeaturesError(path, "holds folders, as no .pt file does")
            # records that lie over each other could make a small file endless to check
            if sum(record.file_size for record in records) > size:
                raise DamagedFeaturesError(path, "holds less than its records claim")
            if (damaged := archive.testzip()) is not None:
                raise DamagedFeaturesError(path, f"record {damaged} fails its checksum")
    except (DamagedFeaturesError, FileNotFoundError):
        raise
    except (OSError, *_UNREADABLE) as error:  # a damaged directory may point before the file
        raise DamagedFeaturesError(path, f"not a whole .pt file ({error})") from error


def _saved(payload: object) -> io.BytesIO:
    content = io.BytesIO()
    torch.save(payload, content)
    return content


def _write(
    path: Path,
    content: io.BytesIO,
    records: Mapping[str, bytes | memoryview],
    temporary: Path | None = None,
) -> None:
    with zipfile.ZipFile(content, "a") as archive:
        for name, value in records.items():
            # a ZipInfo carries a fixed date: same content, same bytes
            archive.writestr(zipfile.ZipInfo(f"{_ROOT}/{name}"), value)
    with atomic_write(path, temporary=temporary) as file:
        file.write(content.getbuffer())


def _read_record(path: Path, name: str) -> bytes | None:
    try:
        with zipfile.ZipFile(path) as archive:
            info = archive.NameToInfo.get(f"{_ROOT}/{name}")
            return None if info is None else archive.read(info)
    except FileNotFoundError:
        raise
    except (OSError, *_UNREADABLE) as error:  # a damaged directory may point before the file
        raise DamagedFeaturesError(path, f"not a whole .pt file ({clipped(error)})") from error


def _stored_ids(path: Path) -> list[str]:
    stored = _read_record(path, "ids.json")
    try:
        ids = [] if stored is None else json.loads(stored)
    except (ValueError, RecursionError) as error:
        raise DamagedFeaturesError(path, f"ids cannot be read ({clipped(error)})") from error
    return ids if isinstance(ids, list) else []


def _array(path: Path, stored: bytes) -> NDArray[np.float32]:
    try:
        vectors = np.load(io.BytesIO(stored), allow_pickle=False)
    except (*_UNREADABLE, OSError, MemoryError) as error:
        raise DamagedFeaturesError(path, f"vectors cannot be read ({clipped(error)})") from error
    if not isinstance(vectors, np.ndarray) or vectors.dtype != np.float32:
        raise DamagedFeaturesError(path, "vectors are not float32")
    return vectors


def _load(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, *_UNREADABLE) as error:
        raise DamagedFeaturesError(path, f"not a whole .pt file ({clipped(error)})") from error
    if not isinstance(content, dict):
        raise DamagedFeaturesError(path, "does not hold a dictionary")
    return content


def _listed(path: Path, content: Mapping[str, Any], key: str) -> tuple[list[str], list[Any]]:
    ids, rows = content.get(key), content.get("data")
    if not isinstance(ids, list) or not isinstance(rows, list):
        raise DamagedFeaturesError(path, f"no lists `{key}` and `data` in it")
    return ids, rows


def _floats(values: Any) -> Any:
    return values.float().numpy() if isinstance(values, torch.Tensor) else values


def _checked(path: Path, ids: Sequence[Any], vectors: NDArray[np.float32]) -> Embeddings:
    if not len(ids) and not vectors.size:
        return Embeddings((), np.empty((0, vectors.shape[-1] if vectors.ndim == 2 else 0), "f4"))
    if vectors.ndim != 2 or len(vectors) != len(ids):
        raise DamagedFeaturesError(path, f"{len(ids)} ids for data of shape {vectors.shape}")
    names = _checked_ids(path, ids)
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        first = names[int(np.argmin(finite))]
        raise DamagedFeaturesError(
            path, f"the vector of {clipped(first)} holds values that are not finite"
        )
    return Embeddings(tuple(names), vectors)


def _checked_ids(path: Path, ids: Sequence[Any]) -> list[str]:
    if not all(isinstance(seq_id, str) for seq_id in ids):
        raise DamagedFeaturesError(path, "an id is not text")
    if len(set(ids)) != len(ids):
        raise DamagedFeaturesError(path, "an id occurs twice")
    return list(ids)
