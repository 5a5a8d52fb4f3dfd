"""Suite `scaling`: stages that run on CPUs, with more and more processes."""

from __future__ import annotations

import os
import time

import pytest
from bench_models import coding_contigs
from staged_files import orf_ids, write_pairs, write_published_dna

from virnucpro.core.records import Chunk
from virnucpro.pipeline.parallel_merge import parallel_merge_features
from virnucpro.pipeline.parallel_translate import translate_blocks
from virnucpro.sequences.orfs import OrfPolicy

CPUS = os.cpu_count() or 1
WORKERS = sorted({n for n in (1, 2, 4, CPUS) if n <= CPUS})
TOO_FEW = "" if CPUS >= 4 else f"needs 4 cores, this machine has {CPUS}"


def seconds_of(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@pytest.mark.scaling
class TestWorkerScaling:
    suite = "scaling"

    def test_merging(self, figures, sequences, quick, tmp_path):
        """File pairs as the original writes them, which take long to read."""
        files, rows = (4, 100) if quick else (20, max(200, sequences))
        nucleotides, proteins = write_pairs(tmp_path / "features", files, rows=rows)
        for k, path in enumerate(nucleotides, start=1):
            write_published_dna(path, orf_ids(k, rows))
        took = {
            n: seconds_of(
                lambda n=n: parallel_merge_features(nucleotides, proteins, tmp_path / str(n), n)
            )
            for n in WORKERS
        }
        figures.note(f"merging {files} files of {rows} rows, 1 worker", took[1], "s", "lower")
        self._ratios(figures, "merging", took, quick)

    def test_translation(self, figures, sequences, quick):
        count = 20_000 if quick else max(50_000, 20 * sequences)
        texts = coding_contigs(2_000)
        block = [Chunk(f"c_{i}", text) for i, text in enumerate(texts)]
        blocks = [block] * (count // len(block))

        def translate(workers):
            for _ in translate_blocks(blocks, OrfPolicy("longest"), workers):
                pass

        took = {n: seconds_of(lambda n=n: translate(n)) for n in WORKERS}
        figures.note(f"translating {count} chunks, 1 worker", took[1], "s", "lower")
        self._ratios(figures, "translation", took, quick)

    @staticmethod
    def _ratios(figures, what, took, quick):
        for n in WORKERS[1:]:
            ratio, name = took[1] / took[n], f"{what}, {n} workers against 1"
            if n == 4 and what == "merging":
                unless = "--quick: starting processes outweighs the work" if quick else ""
                figures.at_least(name, ratio, 2.0, "x", unless=unless)
            else:
                figures.note(name, ratio, "x", "higher")
        if TOO_FEW and what == "merging":
            figures.at_least(f"{what}, most workers", took[1] / took[CPUS], 2.0, "x", TOO_FEW)
