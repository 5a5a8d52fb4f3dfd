"""Published outputs to compare with: result folders of the original, or `.npz` of the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from virnucpro.core.errors import InputError, ModelError
from virnucpro.core.text import clipped
from virnucpro.models.specs import ModelSpec
from virnucpro.pipeline import feature_files
from virnucpro.scores.consensus import RESULTS_HEADER
from virnucpro.sequences.fasta_files import read_fasta

RESULTS = "prediction_results.txt"
_STAGES = ("dnabert", "esm2", "merged", "scores")


@dataclass(frozen=True, slots=True, eq=False)
class Published:
    """What the original made of n ORFs."""

    name: str  # of the file, or of the folder
    ids: list[str]
    nucleotide: list[str]
    protein: list[str]
    stages: dict[str, NDArray[Any]]  # each of _STAGES, (n, d); scores are P(other), P(virus)
    consensus: Path  # the table of chunk calls; it need not be there


def read_published(folder: Path, spec: ModelSpec) -> list[Published]:
    """Everything under `folder` that can be compared with; a file that does not fit is an error."""
    found = [_from_npz(path) for path in sorted(folder.glob("*.npz"))]
    results = sorted(folder.rglob(f"*_merged/{RESULTS}"))
    found += [_from_results(folder, path.parent) for path in results]
    if not found:
        raise ModelError(f"{folder}: holds no outputs of the original, and no .npz files of them")
    widths = {"dnabert": spec.dna.dim, "esm2": spec.protein.dim, "merged": spec.dim, "scores": 2}
    for one in found:
        for stage, width in widths.items():
            if (shape := one.stages[stage].shape) != (len(one.ids), width):
                problem = f"{stage} has shape {shape}; {spec.name} gives width {width}"
                raise ModelError(f"{one.name}: {problem}")
    return found


def _from_npz(path: Path) -> Published:
    try:
        with np.load(path, allow_pickle=False) as file:
            stages = {stage: file[stage] for stage in _STAGES}
            ids, dna, protein = ([*map(str, file[k])] for k in ("ids", "nucleotide", "protein"))
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise ModelError(f"{path}: not a file of published outputs ({clipped(error)})") from error
    consensus = path.with_name(f"{path.stem}_consensus.tsv")
    return Published(path.stem, ids, dna, protein, stages, consensus)


def _from_results(root: Path, merged: Path) -> Published:
    """`{stem}_merged` with `{stem}_nucleotide` and `{stem}_protein` beside it."""
    stem = merged.name.removesuffix("_merged")
    dna, protein = (merged.with_name(f"{stem}_{kind}") for kind in ("nucleotide", "protein"))
    readers = (
        (dna, "*_DNABERT*.pt", feature_files.read_dna_features),
        (protein, "*_ESM.pt", feature_files.read_protein_features),
        (merged, "*_merged.pt", feature_files.read_merged),
    )
    try:
        nucleotides, proteins = (
            dict(pair for path in sorted(folder.glob("output_*.fa")) for pair in read_fasta(path))
            for folder in (dna, protein)
        )
        known: list[dict[str, NDArray[Any]]] = []
        for folder, pattern, read in readers:
            parts = [read(path) for path in sorted(folder.glob(pattern))]
            known.append(
                {i: row for p in parts for i, row in zip(p.seq_ids, p.vectors, strict=True)}
            )
        known.append(_predictions(merged / RESULTS))
        stages = {
            stage: np.stack([rows[orf_id] for orf_id in nucleotides])
            for stage, rows in zip(_STAGES, known, strict=True)
        }
        residues = [proteins[orf_id] for orf_id in nucleotides]
    except (InputError, OSError) as error:
        raise ModelError(f"{merged.parent}: {error}") from error
    except (KeyError, ValueError) as error:
        raise ModelError(f"{merged}: not whole, no {clipped(error)} in one of its files") from error
    name, consensus = (
        (merged.parent / stem).relative_to(root),
        "prediction_results_highestscore.csv",
    )
    letters = [*nucleotides.values()]
    return Published(str(name), [*nucleotides], letters, residues, stages, merged / consensus)


def _predictions(path: Path) -> dict[str, NDArray[Any]]:
    """P(other) and P(virus) of each ORF of a prediction_results.txt, shape (2,)."""
    header, *rows = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    if f"{header}\n" != RESULTS_HEADER:
        raise InputError(path, "not a table of predictions", 1)
    fields = (row.split("\t") for row in rows)
    return {orf_id: np.array([float(other), float(virus)]) for orf_id, _, other, virus in fields}
