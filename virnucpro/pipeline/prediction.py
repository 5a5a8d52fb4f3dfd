"""One prediction: the list of stages, and the bridge from shards to per-file features."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from virnucpro.core.records import Embeddings
from virnucpro.pipeline.feature_files import read_dna_ids, write_protein_features
from virnucpro.pipeline.row_index import RowIndex

logger = logging.getLogger("virnucpro.pipeline.prediction")


def _stream_h5_to_pt_files(
    h5_path: Path, output_dir: Path, nucleotide_feature_files: Sequence[Path]
) -> list[Path]:
    """Shard order -> file order: one protein feature file beside each nucleotide one.

    Streams: ids are indexed in a few bytes each, and the vectors of one file are in memory.

    Args:
        h5_path: datasets `sequence_ids` (n,) and `embeddings` (n, d) float32, in any order.
        output_dir: gets `output_k_ESM.pt`; made if missing.
        nucleotide_feature_files: `output_k_DNABERT_S.pt`; they give ids and their order.

    Returns:
        The files written, in the order of `nucleotide_feature_files`.

    Raises:
        DamagedFeaturesError: a nucleotide file cannot be read.
        OutputError: a file could not be written; nothing half-written is left behind.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    written = []
    with h5py.File(h5_path, "r") as shards:
        index = RowIndex.of_dataset(shards["sequence_ids"])
        embeddings = shards["embeddings"]
        for nucleotide_file in nucleotide_feature_files:
            ids = read_dna_ids(nucleotide_file)
            rows = index.rows(ids)
            for place in np.flatnonzero(rows < 0):
                logger.warning("Sequence %s not found in v2.0 ESM-2 output", ids[place])
            found = np.flatnonzero(rows >= 0)
            in_shard_order = found[np.argsort(rows[found])]  # HDF5 reads rising rows only
            vectors = np.empty((len(ids), embeddings.shape[1]), dtype=np.float32)
            if len(found):
                vectors[in_shard_order] = embeddings[rows[in_shard_order]]
            name = nucleotide_file.stem.removesuffix("_S").removesuffix("_DNABERT")
            output_file = output_dir / f"{name}_ESM.pt"
            write_protein_features(
                output_file, Embeddings(tuple(ids[place] for place in found), vectors[found])
            )
            written.append(output_file)
    return written
