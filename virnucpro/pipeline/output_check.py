"""Is what lies in a run's directory whole? Reads files, changes none, executes nothing.

Checked are the files that a later run would reuse: feature and merged files, HDF5 shards, the
ledger's records with the outputs they speak for, and the results that run.json lists.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from virnucpro.core.checkpoint import LEDGER_FORMAT
from virnucpro.core.errors import VirNucProError
from virnucpro.core.files import sha256_file
from virnucpro.core.text import clipped, shown

_Check = Callable[[Path], str]


@dataclass(frozen=True, slots=True)
class Finding:
    """One file that was checked.

    Attributes:
        path: the file.
        problem: what is wrong with it; empty if it is whole.
    """

    path: Path
    problem: str = ""


def check_output_dir(directory: Path, load: bool = True) -> Iterator[Finding]:
    """Check every reusable file under `directory`, in the order of their names.

    Args:
        directory: an output directory, or any folder with such files.
        load: read contents and compare checksums; False looks at sizes and signatures only.

    Yields:
        One finding a file; what a ledger record speaks for is part of the record's finding.
    """
    everything = sorted(path for path in directory.rglob("*") if path.is_file())
    by_name: dict[str, list[Path]] = {}
    for path in everything:
        by_name.setdefault(path.name, []).append(path)
    for path in everything:
        if path.suffix == ".pt":
            yield Finding(path, _problem(path, _read_pt if load else _is_zip))
        elif path.suffix == ".h5":
            yield Finding(path, _problem(path, _read_h5 if load else _is_hdf5))
        elif path.suffix == ".json" and path.parent.name == "ledger":
            yield Finding(path, _problem(path, lambda record: _read_record(record, by_name, load)))
        elif path.name == "run.json":
            yield Finding(path, _problem(path, lambda run: _read_run(run, load)))


def _problem(path: Path, check: _Check) -> str:
    try:
        return check(path) if path.stat().st_size else "empty"
    except VirNucProError as error:
        return str(error).removeprefix(f"{path}: ")
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        return f"cannot be read ({clipped(error)})"


def _is_zip(path: Path) -> str:
    return "" if zipfile.is_zipfile(path) else "not a .pt file in zip form"


def _is_hdf5(path: Path) -> str:
    import h5py

    return "" if h5py.is_hdf5(path) else "not an HDF5 file"


def _read_pt(path: Path) -> str:
    from virnucpro.pipeline import feature_files

    if path.stem.endswith("_merged"):
        feature_files.read_merged(path)
    elif path.stem.endswith("_ESM"):
        feature_files.read_protein_features(path)
    elif path.stem.endswith(("_DNABERT_S", "_DNABERT")):
        feature_files.read_dna_features(path)
    else:
        return "neither features nor merged features, by its name"
    return ""


def _read_h5(path: Path) -> str:
    from virnucpro.engines.seals import is_sealed, read_seal

    return "" if is_sealed(path, read_seal(path)) else "fails its checksum"


def _read_record(path: Path, by_name: dict[str, list[Path]], load: bool) -> str:
    """A record is bad if an output that is still there differs from it; one that is gone is not."""
    record = json.loads(path.read_text(encoding="utf-8"))
    if record["format"] != LEDGER_FORMAT:
        return f"of format {shown(record['format'])}, not {LEDGER_FORMAT}"
    for entry in record["outputs"]:
        candidates = by_name.get(entry["name"], [])
        if candidates and not any(_is_same(file, entry, load) for file in candidates):
            return f"{clipped(record['unit'])}: {candidates[0]} is not what was committed"
    return ""


def _is_same(path: Path, entry: dict[str, Any], load: bool) -> bool:
    if path.stat().st_size != entry["size"]:
        return False
    return not load or bool(sha256_file(path) == entry["sha256"])


def _read_run(path: Path, load: bool) -> str:
    run = json.loads(path.read_text(encoding="utf-8"))
    if run.get("tool") != "virnucpro":
        return "not written by virnucpro"
    for name, stated in run["outputs"].items():
        file = path.parent / name
        if not file.is_file():
            return f"{clipped(name)} is missing"
        if load and sha256_file(file) != stated:
            return f"{clipped(name)} is not what the run wrote"
    return ""
