"""Suite `equivalence`: ways of doing the same work give the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from bench_models import blocks_done_here, coding_contigs
from staged_files import write_pairs

from virnucpro.core.records import Chunk
from virnucpro.models.store import resolve_model
from virnucpro.pipeline.feature_files import read_merged
from virnucpro.pipeline.parallel_merge import parallel_merge_features
from virnucpro.pipeline.parallel_translate import (
    BLOCKS_BEFORE_POOL,
    FEWEST_WORKERS,
    translate_blocks,
)
from virnucpro.sequences.orfs import OrfPolicy
from virnucpro.tools.verify import verify_paths


@pytest.mark.equivalence
class TestEquivalence:
    suite = "equivalence"

    def test_translation(self, figures, sequences):
        """In one process, and with the fewest workers on more blocks than go without them."""
        blocks = BLOCKS_BEFORE_POOL + 8
        texts = coding_contigs(max(blocks, sequences))
        chunks = [Chunk(f"c_{i}", text) for i, text in enumerate(texts)]
        work = [chunks[i::blocks] for i in range(blocks)]
        policy = OrfPolicy("longest")
        one = list(translate_blocks(work, policy, 1))
        with blocks_done_here() as here:
            many = list(translate_blocks(work, policy, FEWEST_WORKERS))
        figures.at_least("translation, blocks done by other processes", blocks - len(here), 1)
        different = sum(a != b for a, b in zip(one, many, strict=True))
        figures.at_most("translation, blocks that differ from one process", different, 0)

    def test_merging(self, figures, sequences, tmp_path):
        pairs = write_pairs(tmp_path / "features", 4, rows=min(sequences, 200))
        merged = [parallel_merge_features(*pairs, tmp_path / str(n), n)[0] for n in (1, 2)]
        worst = 0.0
        for left, right in zip(*merged, strict=True):
            one, two = read_merged(left), read_merged(right)
            assert one.seq_ids == two.seq_ids
            worst = max(worst, float(np.abs(one.vectors - two.vectors).max()))
        figures.at_most("merging, largest difference from one process", worst, 0.0)

    def test_engines(self, figures, device, home):
        """The checks of `virnucpro models verify`: padded and packed against one by one."""
        torch.manual_seed(0)
        for check in verify_paths(resolve_model("500", None, home), device):
            if check.limit < float("inf"):
                figures.at_most(check.what, check.value, check.limit)
