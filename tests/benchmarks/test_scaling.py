"""Suite `scaling`: stages that run on CPUs, with more and more processes."""

from __future__ import annotations

import os
import time

import pytest
from bench_models import blocks_done_here, coding_contigs
from staged_files import orf_ids, write_pairs, write_published_dna

from virnucpro.core.records import Chunk
from virnucpro.pipeline.orf_stages import BLOCK_CHUNKS
from virnucpro.pipeline.parallel_merge import parallel_merge_features
from virnucpro.pipeline.parallel_translate import (
    BLOCKS_BEFORE_POOL,
    FEWEST_WORKERS,
    translate_blocks,
)
from virnucpro.sequences.orfs import OrfPolicy

CPUS = os.cpu_count() or 1
WORKERS = sorted({n for n in (1, 2, 4, CPUS) if n <= CPUS})
TRANSLATORS = sorted({FEWEST_WORKERS, *(n for n in WORKERS if n > FEWEST_WORKERS)})
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
        """Blocks as the pipeline makes them; the first of them are done without workers."""
        blocks = BLOCKS_BEFORE_POOL * (2 if quick else 4) + sequences // 100
        texts = coding_contigs(BLOCK_CHUNKS)
        block = [Chunk(f"c_{i}", text) for i, text in enumerate(texts)]

        def translate(workers):
            for _ in translate_blocks([block] * blocks, OrfPolicy("longest"), workers):
                pass

        took = {1: seconds_of(lambda: translate(1))}
        for n in TRANSLATORS:
            with blocks_done_here() as here:
                took[n] = seconds_of(lambda n=n: translate(n))
            name = f"translation, blocks done by {n} workers"
            figures.at_least(name, blocks - len(here), 1)
        name = f"translating {blocks * BLOCK_CHUNKS} chunks, 1 worker"
        figures.note(name, took[1], "s", "lower")
        self._ratios(figures, "translation", took, quick)

    @staticmethod
    def _ratios(figures, what, took, quick):
        for n in sorted(took)[1:]:
            ratio, name = took[1] / took[n], f"{what}, {n} workers against 1"
            if n == 4 and what == "merging":
                unless = "--quick: starting processes outweighs the work" if quick else ""
                figures.at_least(name, ratio, 2.0, "x", unless=unless)
            else:
                figures.note(name, ratio, "x", "higher")
        if TOO_FEW and what == "merging":
            figures.at_least(f"{what}, most workers", took[1] / took[CPUS], 2.0, "x", TOO_FEW)
