"""Feature files, split files and tiny encoders for the tests of the staged path."""

from pathlib import Path
from unittest import mock

import numpy as np
import torch
from tiny_published import DNA, PROTEIN, write_dna, write_protein

from virnucpro.core.records import Embeddings
from virnucpro.models.specs import EncoderSpec
from virnucpro.pipeline.features import write_dna_features, write_protein_features

DNA_DIM, PROTEIN_DIM = 768, 2560


def embeddings(ids, dim, seed=0) -> Embeddings:
    draw = np.random.default_rng(seed)
    return Embeddings(tuple(ids), draw.standard_normal((len(ids), dim), dtype=np.float32))


def orf_ids(k, count=5) -> list[str]:
    return [f"contig{k}_chunk_{i}F1" for i in range(1, count + 1)]


def write_pair(folder, k, dna_ids=None, protein_ids=None, dims=(DNA_DIM, PROTEIN_DIM)):
    """`output_k` feature files of one split file; returns (nucleotide, protein)."""
    folder.mkdir(parents=True, exist_ok=True)
    dna_ids = orf_ids(k) if dna_ids is None else dna_ids
    protein_ids = list(reversed(dna_ids)) if protein_ids is None else protein_ids
    nucleotide = folder / f"output_{k}_DNABERT_S.pt"
    protein = folder / f"output_{k}_ESM.pt"
    write_dna_features(nucleotide, embeddings(dna_ids, dims[0], seed=2 * k))
    write_protein_features(protein, embeddings(protein_ids, dims[1], seed=2 * k + 1))
    return nucleotide, protein


def write_pairs(folder, count, dims=(DNA_DIM, PROTEIN_DIM), rows=5):
    """Two lists, nucleotide and protein files, for split files 1 to `count`."""
    pairs = [
        write_pair(folder, k, dna_ids=orf_ids(k, rows), dims=dims) for k in range(1, count + 1)
    ]
    return [nucleotide for nucleotide, _ in pairs], [protein for _, protein in pairs]


def write_published_dna(path, ids, dim=DNA_DIM, seed=0) -> np.ndarray:
    """A DNA feature file as the original writes it: no records beside the published content."""
    vectors = embeddings(ids, dim, seed).vectors
    rows = [
        {"label": seq_id, "mean_representation": row.tolist()}
        for seq_id, row in zip(ids, vectors, strict=True)
    ]
    torch.save({"nucleotide": list(ids), "data": rows}, path)
    return vectors


def write_split_files(folder, count, records=6, seed=0):
    draw = np.random.default_rng(seed)
    dna_files, protein_files = [], []
    for k in range(1, count + 1):
        names = orf_ids(k, records)
        for kind, letters, files in (
            ("nucleotide", "ACGT", dna_files),
            ("protein", "ACDEFGHIKLMNPQRSTVWY", protein_files),
        ):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            path = folder / kind / f"output_{k}.fa"
            sequences = ["".join(draw.choice(list(letters), 20 + 3 * i)) for i in range(records)]
            pairs = zip(names, sequences, strict=True)
            path.write_text("".join(f">{name}\n{sequence}\n" for name, sequence in pairs))
            files.append(path)
    return dna_files, protein_files


def tiny_dna_encoder(folder: Path) -> EncoderSpec:
    return EncoderSpec(kind="dnabert", name="dna", path=write_dna(folder), sha256="1", dim=DNA.dim)


def tiny_protein_encoder(folder: Path) -> EncoderSpec:
    path = write_protein(folder)
    return EncoderSpec(kind="esm2", name="protein", path=path, sha256="2", dim=PROTEIN.dim)


def inline_processes(case):
    """For one test, merge in this process in place of others; gives the mock asked for them."""
    patcher = mock.patch("virnucpro.pipeline.parallel_merge.multiprocessing.get_context")
    get_context = patcher.start()
    case.addCleanup(patcher.stop)
    pool = get_context.return_value.Pool.return_value
    pool.__enter__.return_value = pool
    pool.imap.side_effect = lambda work, tasks, chunksize: mock.Mock(
        next=mock.Mock(side_effect=map(work, tasks))
    )
    return get_context
