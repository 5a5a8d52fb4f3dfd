"""Features of one split file: its DNA vectors, its protein vectors, and the two merged."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from virnucpro.core.errors import InputError
from virnucpro.core.files import digest_of, sha256_file
from virnucpro.core.records import Embeddings
from virnucpro.encoders.tokenizers import Tokenizer
from virnucpro.engines.base import Engine
from virnucpro.engines.feeding import tokenize
from virnucpro.pipeline import feature_files
from virnucpro.sequences.fasta_files import read_fasta

logger = logging.getLogger("virnucpro.pipeline.features")

OnRows = Callable[[int], object]  # told the number of vectors after each batch


@dataclass(frozen=True, slots=True)
class SequenceEmbedder:
    """A loaded encoder: its tokenizer, and the engine it runs in.

    Attributes:
        tokenizer: sequence -> token ids.
        engine: token ids -> vectors, in any order.
        dim: width of a vector.
    """

    tokenizer: Tokenizer
    engine: Engine
    dim: int

    def embed(self, names: Sequence[str], sequences: Sequence[str], on_rows: OnRows) -> Embeddings:
        """One vector a sequence, in the order given.

        Raises:
            RuntimeError: the engine returned an unknown id, lost one, or gave a value that is
                not finite.
        """
        items = tokenize(self.tokenizer, names, sequences)
        row_of = {name: row for row, name in enumerate(names)}
        vectors = np.full((len(names), self.dim), np.nan, dtype=np.float32)
        for batch in self.engine.embed(items) if items else ():
            vectors[[row_of[seq_id] for seq_id in batch.seq_ids]] = batch.vectors
            on_rows(len(batch))
        missing = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(missing):
            raise RuntimeError(
                f"{len(missing)} vectors missing or not finite, first: {names[missing[0]]}"
            )
        return Embeddings(tuple(names), vectors)


def extract_dnabert_features(
    nucleotide_file: Path,
    output_file: Path,
    embedder: SequenceEmbedder,
    on_rows: OnRows = lambda rows: None,
) -> Path:
    """Embed the DNA of one split file.

    Args:
        nucleotide_file: FASTA; ids must be unique.
        output_file: `output_k_DNABERT_S.pt`; rows in file order.
        embedder: the model's DNA encoder.
        on_rows: told the number of vectors after each batch.

    Raises:
        InputError: not FASTA, or an id occurs twice.
        RuntimeError: a vector is missing or not finite.
        OutputError: the file could not be written.
    """
    names, sequences = _read_split(nucleotide_file)
    feature_files.write_dna_features(output_file, embedder.embed(names, sequences, on_rows))
    return output_file


def extract_esm_features(
    protein_file: Path,
    output_file: Path,
    embedder: SequenceEmbedder,
    on_rows: OnRows = lambda rows: None,
) -> Path:
    """Embed the proteins of one split file.

    Args:
        protein_file: FASTA; ids must be unique.
        output_file: `output_k_ESM.pt`; rows in file order.
        embedder: the model's protein encoder.
        on_rows: told the number of vectors after each batch.

    Raises:
        InputError: not FASTA, or an id occurs twice.
        RuntimeError: a vector is missing or not finite.
        OutputError: the file could not be written.
    """
    names, sequences = _read_split(protein_file)
    feature_files.write_protein_features(output_file, embedder.embed(names, sequences, on_rows))
    return output_file


def merge_features(nucleotide_file: Path, protein_file: Path, output_file: Path) -> Path:
    """Join the vectors of one file pair by id: DNA columns, then protein columns.

    Rows follow the nucleotide file. A sequence that only one side has loses id and row
    together, with a warning. An existing output is kept when it was made from the same bytes.

    Returns:
        `output_file`, a dictionary `{ids, data: tensor (n, d) float32}`.

    Raises:
        FileNotFoundError: an input is missing.
        DamagedFeaturesError: an input cannot be read as a feature file.
        InputError: the two files have no id in common.
        OutputError: the merged file could not be written.
    """
    inputs = digest_of(sha256_file(nucleotide_file), sha256_file(protein_file))
    if output_file.exists() and output_file.stat().st_size > 0:
        if feature_files.merged_inputs(output_file) == inputs:
            logger.info("Skipping merge - output exists: %s", output_file)
            return output_file
        logger.info("Merging again - made from other inputs, or damaged: %s", output_file)
    dna = feature_files.read_dna_features(nucleotide_file)
    protein = feature_files.read_protein_features(protein_file)
    merged = _join(dna, protein)
    if len(merged) < max(len(dna), len(protein)):
        _report_partners(dna, protein, nucleotide_file, protein_file)
    if not len(merged) and (len(dna) or len(protein)):
        raise InputError(nucleotide_file, f"no sequence id in common with {protein_file}")
    feature_files.write_merged(output_file, merged, inputs)
    return output_file


def _read_split(path: Path) -> tuple[list[str], list[str]]:
    names: list[str] = []
    sequences: list[str] = []
    for name, sequence in read_fasta(path):
        names.append(name.split(maxsplit=1)[0] if name else "")
        sequences.append(sequence)
    if len(set(names)) != len(names):
        raise InputError(path, "a sequence id occurs twice")
    return names, sequences


def _join(dna: Embeddings, protein: Embeddings) -> Embeddings:
    row_of = {seq_id: row for row, seq_id in enumerate(protein.seq_ids)}
    shared = [row for row, seq_id in enumerate(dna.seq_ids) if seq_id in row_of]
    ids = tuple(dna.seq_ids[row] for row in shared)
    width = dna.vectors.shape[1]
    vectors = np.empty((len(ids), width + protein.vectors.shape[1]), dtype=np.float32)
    vectors[:, :width] = dna.vectors[shared]
    vectors[:, width:] = protein.vectors[[row_of[seq_id] for seq_id in ids]]
    return Embeddings(ids, vectors)


def _report_partners(dna: Embeddings, protein: Embeddings, dna_file: Path, pro_file: Path) -> None:
    for one, other, file, partner in (
        (dna, protein, dna_file, pro_file),
        (protein, dna, pro_file, dna_file),
    ):
        known = set(other.seq_ids)
        alone = [seq_id for seq_id in one.seq_ids if seq_id not in known]
        if alone:
            logger.warning(
                "%d of %d sequences of %s are not in %s and are left out, first: %s",
                len(alone), len(one), file.name, partner.name, alone[0],
            )  # fmt: skip
