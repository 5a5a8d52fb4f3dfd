"""Features of split files: vectors of either encoder, the two merged, and the files of them.

What `torch.save` writes is a zip of a pickle and of tensors' bytes, written and read here without
torch, which takes seconds to import, and 9 s to read 10,000 rows of floats safely. Reading may end
in a `FileNotFoundError` or a `DamagedFeaturesError`, writing in an `OutputError`.
"""

import io
import logging
import math
import pickle
import struct
import zipfile
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from virnucpro.core.errors import DamagedError, InputError
from virnucpro.core.files import atomic_write, digest_of, sha256_file
from virnucpro.core.records import Embeddings
from virnucpro.core.text import clipped
from virnucpro.engines.base import EngineOptions
from virnucpro.models.specs import EncoderSpec
from virnucpro.scores.scorer import Embedder, LoadedModels
from virnucpro.sequences.fasta import first_word, read_fasta

logger = logging.getLogger("virnucpro.pipeline.features")

_MOST_FLOATS = 4096  # looked for at a time; lists of ours and of the original's are shorter


class DamagedFeaturesError(DamagedError, RuntimeError):
    """A feature file that cannot be read, or does not hold what its layout says."""


def write_dna_features(path: Path, embeddings: Embeddings) -> None:
    """Write `{nucleotide: ids, data: [{label, mean_representation: floats}]}`."""
    label, mean = b"}(" + _text("label"), _text("mean_representation") + b"]("
    cells = np.empty((embeddings.vectors.shape[1], 9), dtype=np.uint8)
    cells[:, 0] = ord("G")  # a float: eight bytes, the highest first
    rows = []
    for seq_id, row in zip(embeddings.seq_ids, embeddings.vectors, strict=True):
        cells[:, 1:] = row.astype(">f8").view(np.uint8).reshape(-1, 8)
        rows += [label, _text(seq_id), mean, cells.tobytes(), b"eu"]
    _write(path, "nucleotide", embeddings.seq_ids, [*_list(rows), *_MARKS])


def write_protein_features(path: Path, embeddings: Embeddings) -> None:
    """Write `{proteins: ids, data: [tensor (d,) float32]}`."""
    vectors, dim = embeddings.vectors, embeddings.vectors.shape[1]
    rows = _tensors(vectors.size, range(0, vectors.size, dim), dim)
    _write(path, "proteins", embeddings.seq_ids, [*_list(rows), *_MARKS], vectors)


def write_merged(path: Path, embeddings: Embeddings, inputs: str) -> None:
    """Write `{ids, data: tensor (n, d) float32}`, first under `path.with_suffix('.tmp')`."""
    # torch passes over a record of another name, as that of `inputs`, the digest of both files
    vectors = embeddings.vectors
    tensor = _tensors(vectors.size, [0], *vectors.shape)
    _write(path, "ids", embeddings.seq_ids, tensor, vectors, inputs, path.with_suffix(".tmp"))


# Opcodes of pickle's protocol 2; Python's `pickletools` describes each. What 10,000 rows of
# floats are as Python objects takes 300 MB, and a class of torch's cannot be named without torch.


def _text(value: str) -> bytes:
    letters = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(letters)) + letters


def _list(items: Iterable[bytes]) -> list[bytes]:
    return [b"](", *items, b"e"]  # all since the mark go into the list


def _numbers(*values: int) -> bytes:
    return b"".join(b"\x8a\x08" + struct.pack("<q", value) for value in values)


def _tensors(size: int, offsets: Iterable[int], *shape: int) -> Iterator[bytes]:
    """Tensors in the one storage of `size` numbers, each of them from its offset on."""
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    place = b"(" + _numbers(*shape) + b"t(" + _numbers(*strides) + b"t"
    storage = _text("storage") + b"ctorch\nFloatStorage\n" + _text("0") + _text("cpu")
    # q gives a number to what h takes again
    function, hooks = b"ctorch._utils\n_rebuild_tensor_v2\nq\0", b"ccollections\nOrderedDict\nq\2"
    storage = b"(" + storage + _numbers(size) + b"tQq\1"
    for offset in offsets:
        yield b"".join((function, b"(", storage, _numbers(offset), place, b"\x89", hooks, b")RtR"))
        function, storage, hooks = b"h\0", b"h\1", b"h\2"


_MARKS = [_text(word) for word in ("version", "1.0", "status", "complete")]


def _write(
    path: Path, key: str, ids: Iterable[str], data: Iterable[bytes],
    vectors: NDArray[np.float32] | None = None, inputs: str = "", temporary: Path | None = None,
) -> None:  # fmt: skip
    """Write a dictionary of ids and of pickled `data`, and the storage of its tensors."""
    entries = _text(key), *_list(map(_text, ids)), _text("data"), *data
    records: dict[str, Any] = {
        # u: all since the mark, in pairs, go into the dictionary
        "data.pkl": b"".join((b"\x80\x02}(", *entries, b"u.")),
        "version": b"3\n",
        "byteorder": b"little",
    }
    if vectors is not None:
        records["data/0"] = vectors.astype("<f4").reshape(-1).view(np.uint8)
    if inputs:
        records["inputs.txt"] = inputs.encode()
    with atomic_write(path, temporary=temporary) as file, zipfile.ZipFile(file, "w") as archive:
        for name, content in records.items():
            # a ZipInfo carries a fixed date: same content, same bytes
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), content)


def read_dna_features(path: Path) -> Embeddings:
    """Read a DNA feature file, ours or the original's."""
    ids, rows = _content(path, "nucleotide", list)
    try:
        labels = [row["label"] for row in rows]
        means = [row["mean_representation"] for row in rows]
    except Exception as error:
        problem = f"rows are not mean representations ({clipped(error)})"
        raise DamagedFeaturesError(path, problem) from error
    if labels != ids:
        raise DamagedFeaturesError(path, "labels of the rows differ from the list of ids")
    return _checked(path, ids, _stacked(path, means))


def read_protein_features(path: Path) -> Embeddings:
    """Read a protein feature file, ours or the original's."""
    ids, rows = _content(path, "proteins", list)
    return _checked(path, ids, _stacked(path, rows))


def read_merged(path: Path) -> Embeddings:
    """Read a merged file: rows with their ids, DNA columns first."""
    ids, data = _content(path, "ids", np.ndarray)
    return _checked(path, ids, data.astype(np.float32))


def read_records(path: Path) -> dict[str, bytes]:
    """Content of every record of a `.pt` file by its name in the archive's one folder, checked."""
    records: dict[str, bytes] = {}
    name = ""
    try:
        size = path.stat().st_size
        if not zipfile.is_zipfile(path):
            raise ValueError("not in zip form")
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            if any(info.compress_type != zipfile.ZIP_STORED for info in infos):
                # a few kB could unpack to the whole memory
                raise ValueError("packed records, as no .pt file has them")
            # records that lie over each other could make a small file endless to read
            if sum(info.file_size for info in infos) > size:
                raise ValueError("holds less than its records claim")
            for info in infos:
                name = info.filename
                records[name.partition("/")[2]] = archive.read(info)
    except FileNotFoundError:
        raise
    except zipfile.BadZipFile as error:
        raise DamagedFeaturesError(path, f"record {name} fails its checksum") from error
    except Exception as error:  # a damaged directory may point before the file
        raise DamagedFeaturesError(path, f"not a whole .pt file ({clipped(error)})") from error
    return records


class _Unpickler(pickle._Unpickler):
    """Reads containers, texts, numbers and tensors, which become arrays, and no class."""

    stack: list[Any]
    # no BUILD, INST, OBJ, NEWOBJ: nothing is called but what `find_class` gives
    dispatch: ClassVar[dict[int, Any]] = {
        code: pickle._Unpickler.dispatch[code]
        for code in b"\x80}])(XJKM\x8a\x88\x89Nqrhjt\x85\x86\x87aesu0cQR."
    }

    def __init__(self, records: Mapping[str, bytes]) -> None:
        self._records = records
        self._stream = io.BytesIO(records["data.pkl"])
        super().__init__(self._stream)

    def find_class(self, module: str, name: str) -> Any:
        known = {
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "collections.OrderedDict": dict,
            "torch.FloatStorage": "<f4",
            "torch.DoubleStorage": "<f8",
            "torch.HalfStorage": "<f2",
            "torch.BFloat16Storage": "<u2",
        }
        return known[f"{module}.{name}"]

    def persistent_load(self, pid: tuple[Any, ...]) -> NDArray[np.floating]:
        _, kind, key, *_ = pid
        content = np.frombuffer(self._records[f"data/{key}"], kind)
        # of bfloat16: the upper half of a float32
        return (content.astype("<u4") << 16).view("<f4") if kind == "<u2" else content

    @staticmethod
    def _tensor(
        storage: NDArray[np.floating], offset: int, shape: tuple[int, ...],
        strides: tuple[int, ...], *_: object,
    ) -> NDArray[np.floating]:  # fmt: skip
        array = storage[offset : offset + math.prod(shape)].reshape(shape)
        for count, stride, found in zip(shape, strides, array.strides, strict=True):
            if count > 1 and stride * array.itemsize != found:
                raise ValueError("a tensor's rows do not lie one after the other")
        return array

    def _load_floats(self) -> None:
        """A float and those that follow it: G and eight bytes each, the highest first."""
        first = self._stream.tell() - 1
        content = self._stream.getbuffer()[first : first + 9 * _MOST_FLOATS]
        cells = np.frombuffer(content, np.uint8, len(content) // 9 * 9).reshape(-1, 9)
        others = cells[:, 0] != ord("G")
        count = int(others.argmax()) if others.any() else len(cells)
        values = np.ascontiguousarray(cells[:count, 1:]).view(">f8")[:, 0]
        with np.errstate(over="ignore"):  # infinite, and refused with its name
            self.stack.append(values.astype(np.float32))
        self._stream.seek(first + 9 * count)

    dispatch[ord("G")] = _load_floats


def _content(path: Path, key: str, kind: type) -> tuple[list[Any], Any]:
    """The list of ids, and what stands beside it as `data`."""
    records = read_records(path)
    try:
        content = _Unpickler(records).load()
    except Exception as error:
        problem = f"not a whole .pt file ({type(error).__name__}: {clipped(error)})"
        raise DamagedFeaturesError(path, problem) from error
    ids, data = (content.get(key), content.get("data")) if isinstance(content, dict) else (0, 0)
    if not isinstance(ids, list) or not isinstance(data, kind):
        raise DamagedFeaturesError(path, f"no `{key}` and `data` as in its layout")
    return ids, data


def _stacked(path: Path, rows: Sequence[Any]) -> NDArray[np.float32]:
    """Vectors, whole or in lists of their parts, as rows."""
    try:
        parts = [row if isinstance(row, list) else [row] for row in rows]
        # a few bytes could name one row many times; no number takes less than two
        if 2 * sum(part.size for row in parts for part in row) > path.stat().st_size:
            raise ValueError("holds less than its rows claim")
        vectors = [row[0] if len(row) == 1 else np.concatenate(row) for row in parts]
        return np.array(vectors or np.empty((0, 0)), dtype=np.float32)
    except Exception as error:
        problem = f"rows are not vectors of one width ({clipped(error)})"
        raise DamagedFeaturesError(path, problem) from error


def _checked(path: Path, ids: Sequence[Any], vectors: NDArray[np.float32]) -> Embeddings:
    problem = ""
    if vectors.ndim != 2 or len(vectors) != len(ids):
        problem = f"{len(ids)} ids for data of shape {vectors.shape}"
    elif not all(isinstance(seq_id, str) for seq_id in ids):
        problem = "an id is not text"
    elif len(set(ids)) != len(ids):
        problem = "an id occurs twice"
    elif not (finite := np.isfinite(vectors).all(axis=1)).all():
        first = clipped(ids[int(np.argmin(finite))])
        problem = f"the vector of {first} holds values that are not finite"
    if problem:
        raise DamagedFeaturesError(path, problem)
    return Embeddings(tuple(ids), vectors)


def write_vectors(
    path: Path, parts: Iterable[Embeddings], shape: tuple[int, int], **about: str
) -> None:
    """Write HDF5: `sequence_ids` (n,) text, `embeddings` (n, d) float32, attributes; streams."""
    import h5py

    with atomic_write(path, "w+b") as file, h5py.File(file, "w") as content:
        content.attrs.update(about)
        ids = content.create_dataset("sequence_ids", shape[:1], h5py.string_dtype())
        vectors = content.create_dataset("embeddings", shape, "<f4")
        first = 0
        for part in filter(len, parts):
            rows = slice(first, first := first + len(part))
            ids[rows], vectors[rows] = list(part.seq_ids), part.vectors


def read_vectors(path: Path) -> Embeddings:
    """Read a whole file of `write_vectors`."""
    import h5py

    try:
        with h5py.File(path, "r") as content:
            ids = content["sequence_ids"].asstr()[:].tolist()
            return _checked(path, ids, np.asarray(content["embeddings"][:], dtype=np.float32))
    except Exception as error:
        raise DamagedFeaturesError(path, f"not a whole file of vectors ({error})") from error


def vectors_by_file(
    path: Path, title: str, ids_of_files: Iterable[Sequence[str]]
) -> Iterator[Embeddings]:
    """Vectors of an HDF5 file, for one list of ids after the other, in the order of each; streams.

    Rows of ours lie in that order; others are found by id. An id without a row is warned of, by the
    `title` of the file, and left out.
    """
    import h5py

    with h5py.File(path, "r") as content:
        names, vectors = content["sequence_ids"].asstr(), content["embeddings"]
        row_of: dict[str, int] = {}
        first = 0
        for ids in ids_of_files:
            here = slice(first, first := first + len(ids))
            if names[here].tolist() == list(ids):
                yield Embeddings(tuple(ids), vectors[here])
                continue
            row_of = row_of or {seq_id: row for row, seq_id in enumerate(names[:])}
            for seq_id in set(ids) - row_of.keys():
                logger.warning("Sequence %s not found in %s", seq_id, title)
            found = tuple(filter(row_of.__contains__, ids))
            rows, place = np.unique([row_of[i] for i in found], return_inverse=True)
            # HDF5 reads rising rows only, and at least one
            yield Embeddings(found, vectors[rows.astype(int)][place] if found else vectors[:0])


@dataclass(frozen=True, slots=True)
class EmbedJob:
    """Embed split files with one encoder: a `Job`, see `Embedder`."""

    encoder: EncoderSpec
    options: EngineOptions = field(default_factory=EngineOptions)

    def task(self, models: LoadedModels) -> "EmbedTask":
        """The encoder on the device of `models`."""
        return EmbedTask(self.encoder, models, self.options)


class SplitFile(NamedTuple):
    """A unit of an `EmbedJob`: a split file, and the file that its vectors go into."""

    input_file: Path  # FASTA of DNA or protein, as the encoder takes it; ids must be unique
    output_file: Path  # gets the vectors, in file order
    layout: Literal["dna", "protein", "shard"]  # the published feature files, or HDF5


class EmbedTask(Embedder):
    """Turns split files into files of vectors; the unit's result is its rows and tokens."""

    def prepare(self, unit: SplitFile) -> tuple[SplitFile, list[str], Any]:
        """Read and tokenise a split file; an `InputError` where an id occurs twice."""
        names: list[str] = []
        sequences: list[bytes] = []
        for name, sequence in read_fasta(unit.input_file):
            names.append(first_word(name))
            sequences.append(sequence.encode("latin-1", "replace"))
        if len(set(names)) != len(names):
            raise InputError(unit.input_file, "a sequence id occurs twice")
        return unit, names, self.tokens(sequences)

    def run(
        self, prepared: tuple[SplitFile, list[str], Any]
    ) -> Generator[int, None, tuple[int, int]]:
        """Embed and write; yields rows as they are done, returns rows and tokens."""
        unit, names, items = prepared
        vectors = np.empty((len(names), self.spec.dim), dtype=np.float32)
        yield from self.embed(items, vectors)
        embeddings = Embeddings(tuple(names), vectors)
        if unit.layout == "shard":
            write_vectors(unit.output_file, [embeddings], vectors.shape)
        elif unit.layout == "dna":
            write_dna_features(unit.output_file, embeddings)
        else:
            write_protein_features(unit.output_file, embeddings)
        return len(names), sum(map(len, items))

    def stats(self) -> dict[str, Any]:
        """What the engine did so far."""
        return {self.spec.kind: self.load().stats.as_dict()}


def merge_features(nucleotide_file: Path, protein_file: Path, output_file: Path) -> Path:
    """Join the vectors of one file pair: DNA columns, then protein columns, rows as DNA has them.

    A sequence that only one side has loses id and row together, with a warning. An existing output
    is kept when it was made from the same bytes. An InputError if no id is in both files.
    """
    inputs = digest_of(sha256_file(nucleotide_file), sha256_file(protein_file))
    if output_file.exists() and output_file.stat().st_size > 0:
        with suppress(OSError, LookupError, DamagedFeaturesError):  # torn, or not ours
            if read_records(output_file)["inputs.txt"] == inputs.encode():
                logger.info("Skipping merge - output exists: %s", output_file)
                return output_file
        logger.info("Merging again - made from other inputs, or damaged: %s", output_file)
    dna = read_dna_features(nucleotide_file)
    protein = read_protein_features(protein_file)
    ids, left, right = dna.seq_ids, dna.vectors, protein.vectors
    if ids != protein.seq_ids:  # not of ours, which are rows of one unit
        row_of = {seq_id: row for row, seq_id in enumerate(protein.seq_ids)}
        shared = [row for row, seq_id in enumerate(ids) if seq_id in row_of]
        ids = tuple(dna.seq_ids[row] for row in shared)
        common, files = set(ids), (nucleotide_file.name, protein_file.name)
        for one, names in ((dna, files), (protein, files[::-1])):
            if alone := [seq_id for seq_id in one.seq_ids if seq_id not in common]:
                told = "%d of %d sequences of %s are not in %s and are left out, first: %s"
                logger.warning(told, len(alone), len(one), *names, alone[0])
        if not ids:
            raise InputError(nucleotide_file, f"no sequence id in common with {protein_file}")
        left, right = left[shared], right[[row_of[seq_id] for seq_id in ids]]
    write_merged(output_file, Embeddings(ids, np.hstack([left, right])), inputs)
    return output_file
