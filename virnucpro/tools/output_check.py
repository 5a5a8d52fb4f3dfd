"""Is what lies in a run's directory whole? Reads files, changes none, executes nothing.

Checked are the files that a later run would reuse: feature and merged files, HDF5 shards, the
ledger's records with the outputs they speak for, and the results that run.json lists.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from virnucpro.core.checkpoint import check_file, read_entry
from virnucpro.core.errors import VirNucProError
from virnucpro.core.text import clipped
from virnucpro.pipeline.output_dir import LEDGER

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
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        if path.suffix == ".pt":
            yield Finding(path, _problem(path, _read_pt if load else _is_zip))
        elif path.suffix == ".h5":
            yield Finding(path, _problem(path, _read_h5 if load else _is_hdf5))
        elif path.suffix == ".entry" and path.parent.name == LEDGER:
            root = path.parent.parent.parent
            yield Finding(path, _problem(path, partial(_read_entry, root=root, load=load)))


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
    from virnucpro.pipeline import feature_files

    feature_files.read_vectors(path)
    return ""


def _read_entry(path: Path, root: Path, load: bool) -> str:
    """An entry is bad if an output that is still there differs from it; one that is gone is not."""
    for name, (size, sha256) in read_entry(path).outputs.items():
        if (root / name).is_file():
            if load:
                check_file(root / name, size, sha256)
            elif (root / name).stat().st_size != size:
                return f"{name} is not what was committed"
    return ""
