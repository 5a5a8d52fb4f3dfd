"""Merging from end to end: processes against one process, failures, resuming, the command line."""

import logging
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from runs_here import peak_of
from staged_files import inline_processes, orf_ids, write_pair, write_pairs, write_published_dna
from tiny_published import make_tiny_home

from virnucpro.pipeline.parallel_merge import parallel_merge_features, parallel_merge_with_progress

logger = logging.getLogger("virnucpro.tests.merge")

ROOT = Path(__file__).resolve().parents[1]
CPUS = os.cpu_count() or 1


def merge_timed(pairs, out, num_workers):
    """(merged files, seconds) of a merge that must not fail."""
    start = time.perf_counter()
    merged, failed = parallel_merge_features(*pairs, out, num_workers=num_workers)
    assert failed == []
    return merged, time.perf_counter() - start


class TestParallelMergeIntegration(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.root = Path(cls.temporary.name)
        cls.pairs = write_pairs(cls.root / "features", 8)
        cls.speed_ups = {}

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()
        print("\nMerge speed-ups over one process:")
        for name, ratio in cls.speed_ups.items():
            verdict = "" if ratio >= 1 else "  (slower: starting processes outweighs the work)"
            print(f"  {name}: {ratio:.2f}x{verdict}")

    def setUp(self):
        self.out = self.root / self._testMethodName
        self.out.mkdir()

    def test_parallel_merge_matches_sequential(self):
        one, alone = merge_timed(self.pairs, self.out / "1", 1)
        four, together = merge_timed(self.pairs, self.out / "4", 4)
        self.speed_ups["8 small pairs, 4 workers"] = alone / together
        assert [path.name for path in one] == [path.name for path in four]
        for k, (left, right) in enumerate(zip(one, four, strict=True), start=1):
            left, right = (torch.load(path, weights_only=True) for path in (left, right))
            assert left["ids"] == right["ids"] == orf_ids(k)
            assert left["data"].shape == right["data"].shape == (5, 3328)
            assert torch.allclose(left["data"], right["data"], rtol=0, atol=0)

    @unittest.skipIf(CPUS < 4, f"a speed-up of 4 workers needs 4 cores, this machine has {CPUS}")
    def test_parallel_merge_performance(self):
        """With our own files, and with DNA files as from upstream."""
        pairs = write_pairs(self.out / "features", 20, rows=2000)
        for name in ("ours", "published"):
            _, alone = merge_timed(pairs, self.out / name / "1", 1)
            _, together = merge_timed(pairs, self.out / name / "4", 4)
            self.speed_ups[f"20 {name} pairs of 2000, 4 workers"] = alone / together
            logger.info("merge speed-up with 4 workers: %.2fx", alone / together)
            assert alone / together >= 2
            for k, nucleotide in enumerate(pairs[0], start=1):
                write_published_dna(nucleotide, orf_ids(k, 2000))

    def test_merge_scaling_analysis(self):
        workers = sorted({n for n in (1, 2, 4, CPUS) if n <= CPUS})
        table = {}
        for files in (10, 20, 40):
            pairs = write_pairs(self.out / f"features{files}", files)
            for n in workers:
                merged, seconds = merge_timed(pairs, self.out / f"{files}-{n}", n)
                assert len(merged) == files
                table[files, n] = seconds
        for (files, n), seconds in table.items():
            ratio = table[files, 1] / seconds
            logger.info("%d files, %d workers: %.2f s, %.2fx", files, n, seconds, ratio)
            if n > 1:
                self.speed_ups[f"{files} small pairs, {n} workers"] = ratio

    def test_cli_merge_threads_parameter(self):
        draw = np.random.default_rng(1)
        fasta = self.out / "in.fa"
        records = ["".join(draw.choice(list("ACGT"), 500)) for _ in range(6)]
        fasta.write_text("".join(f">r{k}\n{letters}\n" for k, letters in enumerate(records)))
        home = make_tiny_home(self.out / "home")
        added = {"VIRNUCPRO_MODEL_DIR": str(home), "VIRNUCPRO_PREDICTION_SEQUENCES_PER_FILE": "4"}
        options = {"env": os.environ | added, "cwd": ROOT, "capture_output": True, "text": True}
        args = f"{fasta} -o {self.out}/run -m 500 --orf-policy longest --merge-threads 2 -k"
        done = subprocess.run(f"{sys.executable} -m virnucpro predict {args}".split(), **options)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "parallel merge with 2 workers" in done.stdout
        assert "Traceback" not in done.stdout + done.stderr
        assert len(list((self.out / "run" / "in_merged").glob("output_*_merged.pt"))) >= 2

    def test_partial_failure_handling(self):
        nucleotides, proteins = write_pairs(self.out / "features", 3)
        write_pair(self.out / "features", 2, protein_ids=["of", "another", "run"])
        with self.assertLogs("virnucpro", "WARNING") as log:
            merged, failed = parallel_merge_features(nucleotides, proteins, self.out, 2)
        assert [path.name for path in merged] == [f"output_{k}_merged.pt" for k in (1, 3)]
        assert failed[0][0] == nucleotides[1] and "no sequence id in common" in failed[0][2]
        # lines of the worker processes reach the log of this one
        assert any("no sequence id in common" in line for line in log.output)

    def test_merge_checkpoint_resume(self):
        class Interrupted(BaseException):
            pass

        progress = mock.MagicMock()
        bar = progress.create_file_bar.return_value.__enter__.return_value
        bar.update.side_effect = [None, None, Interrupted]
        with self.assertRaises(Interrupted):
            parallel_merge_with_progress(*self.pairs, self.out, 1, progress)
        done = sorted(self.out.iterdir())
        assert len(done) == 3
        times = [path.stat().st_mtime_ns for path in done]
        with self.assertLogs("virnucpro", "INFO") as log:
            merged, failed = parallel_merge_features(*self.pairs, self.out, 1)
        assert failed == [] and len(merged) == 8 and all(path.is_file() for path in merged)
        assert [path.stat().st_mtime_ns for path in done] == times
        assert sum("Skipping merge - output exists" in line for line in log.output) == 3

    def test_auto_worker_detection(self):
        get_context = inline_processes(self)
        nucleotides, proteins = self.pairs
        with self.assertLogs("virnucpro", "INFO") as log:
            parallel_merge_features(nucleotides[:1], proteins[:1], self.out, 4)
            parallel_merge_features(nucleotides, proteins, self.out)
        get_context.assert_not_called()
        assert sum("sequential merge" in line for line in log.output) == 2
        assert any("small files" in line for line in log.output)
        parallel_merge_features(*self.pairs, self.out, 4)
        get_context.assert_called_once_with("spawn")
        get_context.return_value.Pool.assert_called_once_with(4)
        with (
            mock.patch("virnucpro.pipeline.parallel_merge.usable_cpus", return_value=6),
            mock.patch("virnucpro.pipeline.parallel_merge.WORTH_PROCESSES_BYTES", 0),
            self.assertLogs("virnucpro", "INFO") as log,
        ):
            parallel_merge_features(*self.pairs, self.out)
        get_context.return_value.Pool.assert_called_with(6)
        assert any("Auto-detected 6 CPU cores" in line for line in log.output)
        assert any("parallel merge with 6 workers" in line for line in log.output)

    def test_memory_efficient_streaming(self):
        pairs = write_pairs(self.out / "features", 110, rows=12)
        out = self.out / "merged"
        (merged, _), peak = peak_of(lambda: parallel_merge_features(*pairs, out, num_workers=2))
        assert len(merged) == 110
        assert peak < sum(path.stat().st_size for path in merged) / 4
        assert not multiprocessing.active_children()
