"""Published outputs to compare with: vectors and scores of ORFs that the original computed.

Two forms are read: result folders as the original leaves them, and `.npz` files with the same
content. Nothing in them is executed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from virnucpro.core.errors import InputError, ModelError
from virnucpro.core.records import Embeddings
from virnucpro.core.text import clipped
from virnucpro.models.specs import ModelSpec
from virnucpro.pipeline import feature_files
from virnucpro.scores.consensus import RESULTS_HEADER
from virnucpro.sequences.fasta_files import read_fasta

RESULTS = "prediction_results.txt"
_STAGES = ("dnabert", "esm2", "merged", "scores")


@dataclass(frozen=True, slots=True, eq=False)
class Published:
    """What the original made of some ORFs.

    Attributes:
        name: of the file, or of the folder.
        ids: n ORFs.
        nucleotide: their DNA.
        protein: their proteins.
        stages: `dnabert`, `esm2`, `merged` and `scores` (P(other), P(virus)), each (n, d).
        consensus: the table of chunk calls; None without one.
    """

    name: str
    ids: list[str]
    nucleotide: list[str]
    protein: list[str]
    stages: dict[str, NDArray[Any]]
    consensus: Path | None


def read_published(folder: Path, spec: ModelSpec) -> list[Published]:
    """Everything under `folder` that can be compared with.

    Raises:
        ModelError: nothing is there, a file is damaged, or widths are not those of `spec`.
    """
    found = [_from_npz(path) for path in sorted(folder.glob("*.npz"))]
    results = sorted(folder.rglob(f"*_merged/{RESULTS}"))
    found += [_from_results(folder, path.parent) for path in results]
    if not found:
        raise ModelError(f"{folder}: holds no outputs of the original, and no .npz files of them")
    widths = {"dnabert": spec.dna.dim, "esm2": spec.protein.dim, "merged": spec.dim, "scores": 2}
    for published in found:
        for stage, width in widths.items():
            shape = published.stages[stage].shape
            if shape != (len(published.ids), width):
                raise ModelError(
                    f"{published.name}: {stage} has shape {shape}; {spec.name} gives width {width}"
                )
    return found


def _from_npz(path: Path) -> Published:
    try:
        with np.load(path, allow_pickle=False) as file:
            content = {key: file[key] for key in (*_STAGES, "ids", "nucleotide", "protein")}
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise ModelError(f"{path}: not a file of published outputs ({clipped(error)})") from error
    ids, nucleotide, protein = (
        list(map(str, content.pop(key))) for key in ("ids", "nucleotide", "protein")
    )
    table = path.with_name(f"{path.stem}_consensus.tsv")
    return Published(
        path.stem, ids, nucleotide, protein, content, table if table.is_file() else None
    )


def _from_results(root: Path, merged: Path) -> Published:
    """`{stem}_merged` with `{stem}_nucleotide` and `{stem}_protein` beside it."""
    stem = merged.name.removesuffix("_merged")
    dna, protein = (merged.with_name(f"{stem}_{kind}") for kind in ("nucleotide", "protein"))
    try:
        nucleotides, proteins = _sequences(dna), _sequences(protein)
        vectors: list[dict[str, NDArray[Any]]] = [
            _rows(dna, "*_DNABERT*.pt", feature_files.read_dna_features),
            _rows(protein, "*_ESM.pt", feature_files.read_protein_features),
            _rows(merged, "*_merged.pt", feature_files.read_merged),
            _predictions(merged / RESULTS),
        ]
        ids = list(nucleotides)
        stages = {
            name: np.stack([rows[orf_id] for orf_id in ids])
            for name, rows in zip(_STAGES, vectors, strict=True)
        }
        residues = [proteins[orf_id] for orf_id in ids]
    except (InputError, OSError) as error:
        raise ModelError(f"{merged.parent}: {error}") from error
    except (KeyError, ValueError) as error:
        raise ModelError(f"{merged}: not whole, no {clipped(error)} in one of its files") from error
    table = merged / "prediction_results_highestscore.csv"
    name = str((merged.parent / stem).relative_to(root))
    consensus = table if table.is_file() else None
    return Published(name, ids, list(nucleotides.values()), residues, stages, consensus)


def _predictions(path: Path) -> dict[str, NDArray[np.float64]]:
    """P(other) and P(virus) of each ORF of a prediction_results.txt, shape (2,)."""
    header, *rows = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    if f"{header}\n" != RESULTS_HEADER:
        raise InputError(path, "not a table of predictions", 1)
    fields = (row.split("\t") for row in rows)
    return {orf_id: np.array([float(other), float(virus)]) for orf_id, _, other, virus in fields}


def _sequences(folder: Path) -> dict[str, str]:
    return dict(pair for path in sorted(folder.glob("output_*.fa")) for pair in read_fasta(path))


def _rows(
    folder: Path, pattern: str, read: Callable[[Path], Embeddings]
) -> dict[str, NDArray[np.float32]]:
    return dict(_pairs(map(read, sorted(folder.glob(pattern)))))


def _pairs(parts: Iterator[Embeddings]) -> Iterator[tuple[str, NDArray[np.float32]]]:
    for part in parts:
        yield from zip(part.seq_ids, part.vectors, strict=True)
