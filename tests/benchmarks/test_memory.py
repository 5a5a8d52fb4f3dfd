"""Suite `memory`: what streams stays within its bound, however long the input."""

from __future__ import annotations

import tracemalloc

import h5py
import numpy as np
import pytest
import torch
from bench_models import coding_contigs, proteins, write_fasta
from staged_files import embeddings

from virnucpro.core.records import Tokens
from virnucpro.encoders.load import load_encoder
from virnucpro.encoders.tokenizers import make_tokenizer
from virnucpro.engines.base import EngineOptions, choose_dtype, make_engine
from virnucpro.models.store import resolve_model
from virnucpro.pipeline.feature_files import write_dna_features
from virnucpro.pipeline.prediction import _stream_h5_to_pt_files
from virnucpro.sequences.fasta import read_records


def peak_of(work):
    """Most bytes that Python and NumPy held during `work`."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.memory
class TestMemory:
    suite = "memory"

    def test_reading(self, figures, quick, tmp_path):
        """Four times the records must not take twice the memory."""
        count = 2_000 if quick else 10_000
        text = coding_contigs(1)[0]
        peaks = []
        for size in (count, 4 * count):
            path = write_fasta(tmp_path / f"{size}.fa", [text] * size)
            peaks.append(peak_of(lambda path=path: sum(1 for _ in read_records([path]))))
        figures.note(f"reading {4 * count} records", peaks[1] / 2**20, "MiB", "lower")
        figures.at_most("reading, 4 times the records", peaks[1] / peaks[0], 2.0, "x memory")

    def test_shards_to_files(self, figures, quick, tmp_path):
        """The vectors of one file may be in memory, those of all files may not."""
        files, rows, dim = (8, 200, 640) if quick else (16, 1_000, 2_560)
        ids = [f"c{i}_chunk_1F1" for i in range(files * rows)]
        with h5py.File(tmp_path / "all.h5", "w") as file:
            order = np.random.default_rng(0).permutation(len(ids))
            names = [ids[i] for i in order]
            file.create_dataset("sequence_ids", data=names, dtype=h5py.string_dtype())
            file.create_dataset("embeddings", data=np.zeros((len(ids), dim), np.float32))
        inputs = []
        for k in range(files):
            path = tmp_path / f"output_{k + 1}_DNABERT_S.pt"
            write_dna_features(path, embeddings(ids[k * rows : (k + 1) * rows], 4))
            inputs.append(path)
        peak = peak_of(
            lambda: _stream_h5_to_pt_files(tmp_path / "all.h5", tmp_path / "out", inputs)
        )
        whole = len(ids) * dim * 4
        name = f"HDF5 to {files} feature files, peak over all vectors"
        figures.at_most(name, peak / whole, 0.75, "x")

    def test_device(self, figures, device, home, sequences):
        """A batch planned by free memory must fit without being halved."""
        spec = resolve_model("500", None, home).protein
        encoder = load_encoder(spec, device, choose_dtype("auto", device))
        tokenizer = make_tokenizer(spec)
        items = [Tokens(str(i), tokenizer.encode(t)) for i, t in enumerate(proteins(sequences))]
        engine = make_engine("packed", encoder, device=device, options=EngineOptions(compile="off"))
        for _ in engine.embed(items):
            pass
        figures.at_most("batches halved for lack of memory", engine.stats.oom_halvings, 0)
        if device.type == "cuda":
            peak, total = torch.cuda.max_memory_allocated(), torch.cuda.mem_get_info()[1]
            figures.at_most("peak over the GPU's memory", peak / total, 0.95, "x")
