"""Every reader of files from outside, as a function of bytes.

A target may raise `VirNucProError`, which is how a reader refuses a file; anything else that
comes out of it is a finding. `seeds` gives whole files to start from.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import hashlib
import io
import json
import lzma
import pickle
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zstandard
from safetensors.numpy import save as save_safetensors

from virnucpro.core.checkpoint import CLAIMS, Ledger
from virnucpro.core.config import Config
from virnucpro.core.errors import VirNucProError
from virnucpro.core.records import Embeddings
from virnucpro.encoders.load import read_checkpoint
from virnucpro.models.classifier_file import read_classifier
from virnucpro.models.store import read_manifest
from virnucpro.pipeline import features
from virnucpro.reports.explain import expected_false, read_run
from virnucpro.scores.calibration import Calibration
from virnucpro.sequences.alignments import alignment_format, read_alignments
from virnucpro.sequences.fasta import pairs_of, read_records
from virnucpro.sequences.read_log import ReadLog
from virnucpro.training.jobs import read_evaluation, read_job

FASTA = b">a first\nACGT\nNNGT\n>b\n\n>a\r\nac-gt*.\r\n> ../x <b>\nMKV 12\n>\xf8\xc3\xb8\nU"
FASTQ = b"@a/1\nACGT\n+\nIIII\n@b\nAC\n+b\nII\n"
PACK = [gzip.compress, bz2.compress, lzma.compress, zstandard.ZstdCompressor().compress]
_KEPT_NT = 1 << 20  # of one record; the readers stream, the targets do not keep


@dataclass(frozen=True)
class Target:
    """A reader under test.

    Attributes:
        name: of the target.
        read: takes the folder to write in and the file's bytes.
        seeds: makes whole files to start from.
        weight: its share of the cases.
    """

    name: str
    read: Callable[[Path, bytes], object]
    seeds: Callable[[], list[bytes]]
    weight: int


def run(target: Target, folder: Path, data: bytes) -> None:
    """Give one file to a target; returns unless that is a finding."""
    with contextlib.suppress(VirNucProError):
        target.read(folder, data)


def _put(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def _drain(records: Iterable[Any]) -> None:
    """Read to the end; what comes out must be as `Record` promises."""
    seen = set()
    for record in records:
        if not record.seq_id or record.seq_id in seen or len(record.seq_id.encode().split()) != 1:
            raise AssertionError(f"id {record.seq_id!r} is empty, known or of two words")
        seen.add(record.seq_id)
        if record.sequence and not (record.sequence.isascii() and record.sequence.isalpha()):
            raise AssertionError("something that is no letter is left in a sequence")


def _fasta(folder: Path, data: bytes) -> None:
    _drain(read_records([_put(folder, "in.fa", data)]))


def _pairs(folder: Path, data: bytes) -> None:
    half = data.find(b"\xff\xff")
    parts = [data[:half], data[half + 2 :]] if half >= 0 else [data]  # one file holds them in turn
    paths = [_put(folder, f"{number}.fq", part) for number, part in enumerate(parts)]
    _drain(pairs_of(paths, ReadLog()))


def _packed(folder: Path, data: bytes) -> None:
    _drain(read_records([_put(folder, "in.gz", data)]))


def _repacked(folder: Path, data: bytes) -> None:
    """The first byte chooses a packing for the rest, the second where it is cut."""
    if len(data) < 2:
        return
    packed = PACK[data[0] % 4](data[2:])
    cut = len(packed) - data[1] % 16 if data[1] & 16 else len(packed)
    _drain(read_records([_put(folder, "in.gz", packed[:cut])]))


def _alignments(folder: Path, data: bytes) -> None:
    path = _put(folder, "in.bam", data)
    if alignment_format(path) in ("BAM", "SAM"):
        for record in read_alignments(path, ReadLog()):
            if len(record.sequence) > _KEPT_NT:
                break


def _yaml(folder: Path, data: bytes) -> None:
    Config.load(_put(folder, "settings.yaml", data))


def _training(folder: Path, data: bytes) -> None:
    path = _put(folder, "recipe.yaml", data)
    for read in (read_job, read_evaluation):
        with contextlib.suppress(VirNucProError):
            read(path, None)


def _environment(folder: Path, data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    Config.load(None, {"VIRNUCPRO_PREDICTION_BATCH_SIZE": text, "VIRNUCPRO_MODELS_OFFLINE": text})


def _json_files(folder: Path, data: bytes) -> None:
    """run.json, model.json, a calibration: all of them JSON of a known form."""
    _put(folder, "run.json", data)
    with contextlib.suppress(VirNucProError):
        run = read_run(folder)
        expected_false(run)
    path = _put(folder, "model.json", data)
    with contextlib.suppress(VirNucProError):
        read_manifest(folder)
    Calibration.load(path)


def _ledger(folder: Path, data: bytes) -> None:
    """An entry whose seal is right whatever its header says, and the list of claimed files."""
    ledger = Ledger(folder, folder / "ledger")
    ledger.folder.mkdir(exist_ok=True)
    ledger.discard("unit")
    header, _, payload = data.partition(b"\n")
    seal = hashlib.sha256(header + b"\n").hexdigest().encode()
    (ledger.folder / ledger.name("unit", "key")).write_bytes(b"\n".join((seal, header, payload)))
    (ledger.folder / CLAIMS).write_bytes(data)
    if not all(isinstance(name, str) for name in ledger.claimed()):
        raise AssertionError("a claimed name is no text")
    ledger.read("unit", "key")


def _features(folder: Path, data: bytes) -> None:
    path = _put(folder, "output_1.pt", data)
    readers: tuple[Callable[[Path], object], ...] = (
        features.read_dna_features, features.read_protein_features,
        features.read_merged, features.read_records,
    )  # fmt: skip
    for read in readers:
        with contextlib.suppress(VirNucProError):
            read(path)


def _safetensors(folder: Path, data: bytes) -> None:
    path = _put(folder, "model.safetensors", data)
    with contextlib.suppress(VirNucProError):
        read_classifier(path)
    for tensor in read_checkpoint(path)[0].values():
        tensor.clone()


def _pickled(folder: Path, data: bytes) -> None:
    path = _put(folder, "model.pt", data)
    with contextlib.suppress(VirNucProError):
        read_classifier(path)
    for tensor in read_checkpoint(path)[0].values():
        tensor.clone()


def _packed_seeds() -> list[bytes]:
    return [pack(text) for pack in PACK for text in (FASTA, FASTQ, b"")]


def _repacked_seeds() -> list[bytes]:
    return [bytes([kind, cut]) + FASTA for kind in range(4) for cut in (0, 17, 20)]


def _alignment_seeds() -> list[bytes]:
    sam = b"@HD\tVN:1.6\n@SQ\tSN:c\tLN:9\nr1\t4\t*\t0\t0\t*\t*\t0\t0\tACGT\tIIII\n"
    return [sam, gzip.compress(b"BAM\x01\0\0\0\0\0\0\0\0")]


def _yaml_seeds() -> list[bytes]:
    return [b"prediction: {batch_size: 3}\nprogress:\n  enabled: no\n", b"a: &x [*x]\n", b"- 1\n"]


def _training_seeds() -> list[bytes]:
    recipe = (Path(__file__).parents[1] / "recipes" / "mini.yaml").read_bytes()
    return [recipe, b"classifier: mlp\ndata: {train: [a.fa], table: t.tsv}\nrecipe: {rate: 0.1}\n"]


def _json_seeds() -> list[bytes]:
    values: list[Any] = [
        {"tool": "virnucpro", "seconds": 1.5, "stages": {"scoring": {"seconds": 1.0, "orfs": 2}},
         "engines": {"dna": "padded float32 sdpa"}, "devices": ["cpu"], "model": {"name": "a"}},
        {"format": 2, "name": "a", "source": "", "revision": "", "licence": "", "files": {},
         "encoder": {"kind": "esm2", "dim": 8, "file": ""}},
        {"format": 2, "name": "a", "source": "", "revision": "", "licence": "",
         "files": {"c": {"sha256": "0" * 64, "size": 1, "mtime_ns": 0}},
         "model": {"dna": {"installed": "d"}, "protein": {"installed": "p"}, "classifier": "c",
                   "calibration": "", "orf_policy": {"name": "longest", "keep": 1},
                   "chunk_nt": 500, "groups": []}},
        {"format": 1, "slope": 1.0, "offset": [0.0]},
    ]  # fmt: skip
    return [json.dumps(value).encode() for value in values]


def _ledger_seeds() -> list[bytes]:
    empty = hashlib.sha256().hexdigest()
    header = {"format": 2, "unit": "unit", "key": "key", "facts": {"sequences": 1}, "bytes": 0,
              "sha256": empty, "outputs": {"run.json": [3, "00"]}}  # fmt: skip
    return [json.dumps(header).encode() + b"\n", b'"run.json"\n"a/b.fa"\n"torn']


def _feature_seeds() -> list[bytes]:
    embeddings = Embeddings(("a_F1", "b_R2"), np.arange(6, dtype=np.float32).reshape(2, 3))
    found = []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(_temporary()))
        features.write_dna_features(folder / "d.pt", embeddings)
        features.write_protein_features(folder / "p.pt", embeddings)
        features.write_merged(folder / "m.pt", embeddings, "00")
        found = [path.read_bytes() for path in sorted(folder.iterdir())]
    return found


def _safetensors_seeds() -> list[bytes]:
    tensors = {"hidden_layer.weight": np.zeros((2, 3), np.float32), "b": np.zeros(2, np.float16)}
    return [save_safetensors(tensors), b"\x08\0\0\0\0\0\0\0{}      "]


def _pickled_seeds() -> list[bytes]:
    state = {"hidden_layer.weight": torch.zeros(2, 3), "nested": [1, "a", None]}
    whole, legacy, archive = io.BytesIO(), io.BytesIO(), io.BytesIO()
    torch.save(state, whole)
    torch.save(state, legacy, _use_new_zipfile_serialization=False)
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps({"a": print}, protocol=2))
    return [whole.getvalue(), legacy.getvalue(), archive.getvalue()]


def _temporary() -> Any:
    import tempfile

    return tempfile.TemporaryDirectory()


TARGETS = {
    target.name: target
    for target in (
        Target("fasta", _fasta, lambda: [FASTA, FASTQ, b"", b">", b"@"], 27),
        Target("pairs", _pairs, lambda: [FASTQ + b"\xff\xff" + FASTQ, FASTA, FASTQ], 10),
        Target("packed", _packed, _packed_seeds, 10),
        Target("repacked", _repacked, _repacked_seeds, 14),
        Target("alignments", _alignments, _alignment_seeds, 3),
        Target("yaml", _yaml, _yaml_seeds, 5),
        Target("training", _training, _training_seeds, 3),
        Target("environment", _environment, lambda: [b"1", b"true", b""], 3),
        Target("json", _json_files, _json_seeds, 8),
        Target("features", _features, _feature_seeds, 5),
        Target("ledger", _ledger, _ledger_seeds, 4),
        Target("safetensors", _safetensors, _safetensors_seeds, 4),
        Target("pickled", _pickled, _pickled_seeds, 4),
    )
}
