"""Is what a later run would reuse whole? Feature and merged files, HDF5 shards, the ledger."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

from virnucpro.core.checkpoint import check_file, parse_entry
from virnucpro.core.errors import VirNucProError
from virnucpro.core.text import clipped
from virnucpro.pipeline.output_dir import LEDGER


def check_output_dir(directory: Path, load: bool = True) -> Iterator[tuple[Path, str]]:
    """Check every reusable file, by name; without `load` sizes and signatures only.

    Yields each with what is wrong with it: nothing if it is whole.
    """
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        is_entry = path.suffix == ".entry" and path.parent.name == LEDGER
        if path.suffix in (".pt", ".h5") or is_entry:
            try:
                yield path, _problem(path, load) if path.stat().st_size else "empty"
            except VirNucProError as error:
                yield path, str(error).removeprefix(f"{path}: ")
            except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
                yield path, f"cannot be read ({clipped(error)})"


def _problem(path: Path, load: bool) -> str:
    from virnucpro.pipeline import features

    if path.suffix == ".entry":
        root = path.parent.parent.parent
        # an output that is gone is not bad: it is made again
        for name, (size, sha256) in parse_entry(path.read_bytes(), path).outputs.items():
            if (root / name).is_file() and load:
                check_file(root / name, size, sha256)
            elif (root / name).is_file() and (root / name).stat().st_size != size:
                return f"{name} is not what was committed"
    elif path.suffix == ".h5":
        import h5py

        if not load:
            return "" if h5py.is_hdf5(path) else "not an HDF5 file"
        features.read_vectors(path)
    elif not load:
        return "" if zipfile.is_zipfile(path) else "not a .pt file in zip form"
    elif path.stem.endswith("_merged"):
        features.read_merged(path)
    elif path.stem.endswith("_ESM"):
        features.read_protein_features(path)
    elif path.stem.endswith(("_DNABERT_S", "_DNABERT")):
        features.read_dna_features(path)
    else:
        return "neither features nor merged features, by its name"
    return ""
