"""Prove a model on this machine: fast paths against one sequence at a time, published outputs."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from virnucpro.core.errors import DamagedError, InputError, ModelError
from virnucpro.core.records import Embeddings, Tokens
from virnucpro.core.text import clipped
from virnucpro.encoders.base import Encoder
from virnucpro.encoders.load import load_encoder
from virnucpro.encoders.tokenizers import make_tokenizer
from virnucpro.engines.base import EngineKind, EngineOptions
from virnucpro.engines.runner import BatchEngine
from virnucpro.models.specs import ModelSpec
from virnucpro.pipeline import features
from virnucpro.scores.classifier import Classifier
from virnucpro.sequences.fasta import read_fasta

SEQUENCES = 12
TOKEN_BUDGET = 1024
RESULTS = "prediction_results.txt"

Vectors = NDArray[np.float32]
# What the original made of n ORFs: name of the file or folder, their DNA and proteins, and by the
# stages of `GOLDEN_LIMITS` vectors (n, d) or scores (n, 2).
Published = tuple[str, list[str], list[str], dict[str, NDArray[Any]]]

# How far a path may be from the plain one: length of the difference over that of the vector, 1 -
# cosine without the largest dimension, which can be most of a vector, difference of a probability.
TOLERANCES = {
    "float32": (1e-4, 1e-6, 1e-4),
    # Twice what random weights of the full size are off by, whatever the length.
    "float16": (3e-3, 1e-3, 1e-2),
}
GOLDEN_LIMITS = {"dnabert": 1e-4, "esm2": 1e-3, "merged": 1e-3, "scores": 1e-4}


class Check(NamedTuple):
    """One comparison: what, how far apart, and how far they may be."""

    what: str
    value: float
    limit: float

    @property
    def passed(self) -> bool:
        """Whether the value is within the limit; a value that is no number is not."""
        return self.value <= self.limit


def verify_paths(spec: ModelSpec, device: torch.device) -> Iterator[Check]:
    """Compare every fast path with the plain path, on fixed ORFs; float16 on CUDA."""
    kinds: tuple[EngineKind, ...] = ("padded", "packed")
    merged: dict[str, list[Vectors]] = {}
    for slot, sequences in zip((spec.dna, spec.protein), fixed_sequences(), strict=True):
        items = make_tokenizer(slot).encode_batch(sequences)
        for name in ("float32", "float16") if device.type == "cuda" else ("float32",):
            encoder = load_encoder(slot, device, getattr(torch, name))
            if name == "float32":
                plain = one_by_one(encoder, items, device)
                merged.setdefault("plain", []).append(plain)
                rest = np.arange(plain.shape[1]) != np.abs(plain).mean(axis=0).argmax()
            relative, angle, _ = TOLERANCES[name]
            for kind in kinds:
                found, what = _embed(kind, encoder, items, device), f"{slot.name}, {kind} {name}"
                merged.setdefault(f"{kind} {name}", []).append(found)
                off = np.linalg.norm(found - plain, axis=1) / np.linalg.norm(plain, axis=1)
                a, b = found[:, rest].astype(np.float64), plain[:, rest].astype(np.float64)
                sizes = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
                most = max(0.0, float((1 - (a * b).sum(axis=1) / sizes).max()))
                yield Check(f"{what}: relative error", float(off.max()), relative)
                yield Check(f"{what}: 1 - cosine without the largest dimension", most, angle)
            del encoder
    classifier = Classifier(spec, str(device))
    scores = {path: classifier.scores(np.hstack(parts)) for path, parts in merged.items()}
    for path in [*scores][1:]:
        limit, difference = TOLERANCES[path.split()[1]][2], scores[path] - scores["plain"]
        yield Check(f"scores, {path}: largest difference", _largest(difference), limit)


def verify_golden(spec: ModelSpec, folder: Path, device: torch.device) -> Iterator[Check]:
    """Recompute the published outputs in `folder` with the plain path."""
    everything = read_published(folder, spec)
    encoders = [load_encoder(slot, device, torch.float32) for slot in (spec.dna, spec.protein)]
    tokenizers = [make_tokenizer(slot) for slot in (spec.dna, spec.protein)]
    classifier = Classifier(spec, str(device))
    for name, *sequences, golden in everything:
        dna, protein = (
            one_by_one(encoder, tokenizer.encode_batch(texts), device)
            for encoder, tokenizer, texts in zip(encoders, tokenizers, sequences, strict=True)
        )
        merged = np.hstack([dna, protein])
        scores, known = classifier.scores(merged)[:, :2], golden["scores"]
        found = {"dnabert": dna, "esm2": protein, "merged": merged, "scores": scores}
        for stage, limit in GOLDEN_LIMITS.items():
            difference = _largest(found[stage] - golden[stage])
            yield Check(f"{name}, {stage}: largest difference", difference, limit)
        difference = _largest(classifier.scores(golden["merged"])[:, :2] - known)
        yield Check(f"{name}, classifier on published vectors", difference, 1e-4)


def fixed_sequences(count: int = SEQUENCES) -> tuple[list[str], list[str]]:
    """As many DNA sequences (nt) and proteins (aa) of many lengths, the same on every machine."""
    numbers = np.random.RandomState(20)  # its stream is frozen for good
    codons = np.linspace(5, 166, count).astype(int)
    dna = ["".join(numbers.choice(list("ACGT"), 3 * length + 1)) for length in codons]
    protein = ["".join(numbers.choice(list("ACDEFGHIKLMNPQRSTVWY"), length)) for length in codons]
    return dna, protein


def one_by_one(encoder: Encoder, items: Sequence[Tokens], device: torch.device) -> Vectors:
    """Vectors on the plain path, shape (n, d)."""
    rows = [_embed("padded", encoder, [item], device) for item in items]
    return np.concatenate([np.zeros((0, encoder.dim), np.float32), *rows])


def _embed(
    kind: EngineKind, encoder: Encoder, items: Sequence[Tokens], device: torch.device
) -> Vectors:
    """Vectors in the order of `items`, shape (n, d)."""
    budget = max([TOKEN_BUDGET, *(2 * len(item) for item in items)])
    options = EngineOptions(token_budget=budget, feeding_threads=0)
    engine = BatchEngine(kind, encoder, device=device, options=options)
    vectors = np.full((len(items), encoder.dim), np.nan, dtype=np.float32)
    for rows, found in engine.embed(items):
        vectors[rows] = found
    return vectors


def _largest(difference: NDArray[Any]) -> float:
    return float(np.abs(difference).max(initial=0.0))


def read_published(folder: Path, spec: ModelSpec) -> list[Published]:
    """Everything under `folder` that can be compared with; a file that does not fit is an error."""
    found: list[Published] = []
    for path in sorted(folder.glob("*.npz")):
        try:
            with np.load(path, allow_pickle=False) as file:
                stages = {stage: file[stage] for stage in GOLDEN_LIMITS}
                texts = [[*map(str, file[key])] for key in ("nucleotide", "protein")]
        except (OSError, ValueError, KeyError, EOFError) as error:
            problem = f"not a file of published outputs ({clipped(error)})"
            raise ModelError(f"{path}: {problem}") from error
        found.append((path.stem, texts[0], texts[1], stages))
    results = sorted(folder.rglob(f"*_merged/{RESULTS}"))
    found += [_from_results(folder, path.parent) for path in results]
    if not found:
        raise ModelError(f"{folder}: holds no outputs of the original, and no .npz files of them")
    widths = {"dnabert": spec.dna.dim, "esm2": spec.protein.dim, "merged": spec.dim, "scores": 2}
    for name, nucleotide, _, stages in found:
        for stage, width in widths.items():
            if (shape := stages[stage].shape) != (len(nucleotide), width):
                problem = f"{stage} has shape {shape}; {spec.name} gives width {width}"
                raise ModelError(f"{name}: {problem}")
    return found


def _from_results(root: Path, merged: Path) -> Published:
    """`{stem}_merged` with `{stem}_nucleotide` and `{stem}_protein` beside it."""
    stem, rows = merged.name.removesuffix("_merged"), dict[str, dict[str, Any]]()
    dna, protein = (merged.with_name(f"{stem}_{kind}") for kind in ("nucleotide", "protein"))
    try:
        for name, folder, pattern, read in (
            ("nucleotide", dna, "output_*.fa", read_fasta),
            ("protein", protein, "output_*.fa", read_fasta),
            ("dnabert", dna, "*_DNABERT*.pt", features.read_dna_features),
            ("esm2", protein, "*_ESM.pt", features.read_protein_features),
            ("merged", merged, "*_merged.pt", features.read_merged),
        ):
            rows[name] = {}
            for path in sorted(folder.glob(pattern)):
                part = read(path)
                if isinstance(part, Embeddings):
                    part = zip(part.seq_ids, part.vectors, strict=True)
                rows[name].update(part)
        lines = (merged / RESULTS).read_text(encoding="utf-8", errors="surrogateescape")
        fields = (line.split("\t") for line in lines.splitlines()[1:])
        rows["scores"] = {orf_id: np.array([float(a), float(b)]) for orf_id, _, a, b in fields}
        texts, ids = [rows.pop(name) for name in ("nucleotide", "protein")], [*rows["scores"]]
        stages = {stage: np.stack([found[i] for i in ids]) for stage, found in rows.items()}
        nucleotide, residues = ([text[i] for i in ids] for text in texts)
    except (DamagedError, InputError, OSError) as error:
        raise ModelError(f"{merged.parent}: {error}") from error
    except (KeyError, ValueError) as error:
        raise ModelError(f"{merged}: not whole, no {clipped(error)} in one of its files") from error
    return str((merged.parent / stem).relative_to(root)), nucleotide, residues, stages
