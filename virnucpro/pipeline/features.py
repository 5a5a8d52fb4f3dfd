"""Features of one split file: its DNA vectors, its protein vectors, and the two merged."""

from __future__ import annotations

import logging
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from virnucpro.core.errors import InputError
from virnucpro.core.files import digest_of, sha256_file
from virnucpro.core.records import Embeddings
from virnucpro.models.specs import EncoderSpec
from virnucpro.pipeline import feature_files
from virnucpro.scores.scorer import Embedder, EmbeddingOptions, LoadedModels
from virnucpro.sequences.fasta import first_word, read_fasta

logger = logging.getLogger("virnucpro.pipeline.features")


@dataclass(frozen=True, slots=True)
class EmbedJob:
    """Embed split files with one encoder; see `Embedder`."""

    encoder: EncoderSpec
    options: EmbeddingOptions = field(default_factory=EmbeddingOptions)

    def task(self, models: LoadedModels) -> EmbedTask:
        """The encoder on the device of `models`."""
        return EmbedTask(Embedder(self.encoder, models, self.options))


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitFile:
    """A unit of an `EmbedJob`: a split file, and the file that its vectors go into.

    Attributes:
        input_file: FASTA of DNA or protein, as the encoder takes it; ids must be unique.
        output_file: gets the vectors, in file order.
        layout: `dna` and `protein` are the published feature files, `shard` is HDF5.
    """

    input_file: Path
    output_file: Path
    layout: Literal["dna", "protein", "shard"]


class EmbedTask:
    """Turns split files into files of vectors; the unit's result is its rows and tokens."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    def load(self) -> None:
        """Load the encoder; errors as for `Embedder.load`."""
        self._embedder.load()

    def prepare(self, unit: SplitFile) -> tuple[SplitFile, list[str], Any]:
        """Read and tokenise a split file; an `InputError` where an id occurs twice."""
        names: list[str] = []
        sequences: list[bytes] = []
        for name, sequence in read_fasta(unit.input_file):
            names.append(first_word(name))
            sequences.append(sequence.encode("latin-1", "replace"))
        if len(set(names)) != len(names):
            raise InputError(unit.input_file, "a sequence id occurs twice")
        return unit, names, self._embedder.tokens(sequences)

    def run(
        self, prepared: tuple[SplitFile, list[str], Any]
    ) -> Generator[int, None, tuple[int, int]]:
        """Embed and write; yields rows as they are done, returns rows and tokens."""
        unit, names, items = prepared
        vectors = np.empty((len(names), self._embedder.spec.dim), dtype=np.float32)
        yield from self._embedder.embed(items, vectors)
        embeddings = Embeddings(tuple(names), vectors)
        if unit.layout == "dna":
            feature_files.write_dna_features(unit.output_file, embeddings)
        elif unit.layout == "protein":
            feature_files.write_protein_features(unit.output_file, embeddings)
        else:
            feature_files.write_vectors(unit.output_file, [embeddings], vectors.shape)
        return len(names), sum(map(len, items))

    def stats(self) -> dict[str, Any]:
        """What the engine did so far."""
        return {self._embedder.spec.kind: self._embedder.load().stats.as_dict()}


def merge_features(nucleotide_file: Path, protein_file: Path, output_file: Path) -> Path:
    """Join the vectors of one file pair: DNA columns, then protein columns.

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
    left, right = dna.vectors, protein.vectors
    ids = dna.seq_ids
    if ids != protein.seq_ids:  # not of ours, which are rows of one unit
        row_of = {seq_id: row for row, seq_id in enumerate(protein.seq_ids)}
        shared = [row for row, seq_id in enumerate(ids) if seq_id in row_of]
        ids = tuple(dna.seq_ids[row] for row in shared)
        common = set(ids)
        files = (nucleotide_file, protein_file)
        for one, file, other in zip((dna, protein), files, reversed(files), strict=True):
            if alone := [seq_id for seq_id in one.seq_ids if seq_id not in common]:
                logger.warning(
                    "%d of %d sequences of %s are not in %s and are left out, first: %s",
                    len(alone), len(one), file.name, other.name, alone[0],
                )  # fmt: skip
        if not ids:
            raise InputError(nucleotide_file, f"no sequence id in common with {protein_file}")
        left, right = left[shared], right[[row_of[seq_id] for seq_id in ids]]
    merged = Embeddings(ids, np.hstack([left, right]))
    feature_files.write_merged(output_file, merged, inputs)
    return output_file
