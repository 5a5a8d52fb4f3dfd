"""Merging of feature files: one pair, many pairs, and pairs that cannot be merged."""

import multiprocessing
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from staged_files import (
    embeddings,
    inline_processes,
    orf_ids,
    write_pair,
    write_pairs,
    write_published_dna,
)

from virnucpro.pipeline.features import (
    merge_features,
    read_dna_features,
    read_merged,
    read_protein_features,
    write_protein_features,
)
from virnucpro.pipeline.parallel_merge import (
    get_optimal_settings,
    merge_file_pair_worker,
    pair_files,
    parallel_merge_features,
    parallel_merge_with_progress,
)

SMALL = (3, 4)


class MergeCase(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.out = self.folder / "merged"
        self.out.mkdir()


class TestOnePair(MergeCase):
    def test_worker_merges_a_valid_pair(self):
        """Rows follow the nucleotide file, DNA columns first; published files merge as ours."""
        nucleotide, protein = write_pair(self.folder, 1)
        output = self.out / "output_1_merged.pt"
        assert merge_file_pair_worker((nucleotide, protein, output)) == output
        content = torch.load(output, weights_only=True)
        dna, esm = read_dna_features(nucleotide), read_protein_features(protein)
        assert content["ids"] == orf_ids(1) == list(dna.seq_ids) == list(reversed(esm.seq_ids))
        assert content["data"].shape == (5, 3328) and content["data"].dtype == torch.float32
        np.testing.assert_array_equal(content["data"], np.hstack([dna.vectors, esm.vectors[::-1]]))
        write_published_dna(nucleotide, orf_ids(1), seed=2)
        rows = [torch.from_numpy(row.copy()) for row in esm.vectors]
        torch.save({"proteins": list(esm.seq_ids), "data": rows}, protein)
        theirs = read_merged(merge_features(nucleotide, protein, self.out / "theirs.pt"))
        assert theirs.seq_ids == dna.seq_ids
        np.testing.assert_array_equal(theirs.vectors, content["data"])

    def test_partly_mismatched_ids_lose_id_and_row_together(self):
        nucleotide, protein = write_pair(
            self.folder, 1, ["a", "b", "c", "d"], ["d", "x", "b"], dims=SMALL
        )
        with self.assertLogs("virnucpro", "WARNING") as log:
            output = merge_features(nucleotide, protein, self.out / "m.pt")
        merged = read_merged(output)
        assert merged.seq_ids == ("b", "d") and merged.vectors.shape == (2, 7)
        esm = read_protein_features(protein)
        np.testing.assert_array_equal(merged.vectors[:, 3:], esm.vectors[[2, 0]])
        assert "first: a" in log.output[0] and "first: x" in log.output[1]

    def expect_none(self, pair, text):
        with self.assertLogs("virnucpro", "WARNING") as log:
            assert merge_file_pair_worker(pair) is None
        assert text in log.output[-1]
        assert not list(self.out.iterdir())

    def test_no_common_id_is_a_failure_that_names_the_file(self):
        nucleotide, protein = write_pair(self.folder, 1, ["a"], ["b"], dims=SMALL)
        text = f"no sequence id in common with {protein}"
        self.expect_none((nucleotide, protein, self.out / "m.pt"), text)

    def test_missing_file_gives_none(self):
        nucleotide, protein = write_pair(self.folder, 1, dims=SMALL)
        protein.unlink()
        self.expect_none((nucleotide, protein, self.out / "m.pt"), f"File not found: {protein}")

    def test_torn_file_or_unwritable_output_gives_none(self):
        nucleotide, protein = write_pair(self.folder, 1, dims=SMALL)
        nowhere = self.folder / "nowhere" / "m.pt"
        self.expect_none((nucleotide, protein, nowhere), "Unexpected error in merge: ")
        protein.write_bytes(protein.read_bytes()[:-200])
        self.expect_none((nucleotide, protein, self.out / "m.pt"), "Failed to load tensors: ")

    def test_changed_input_is_merged_again(self):
        files = (*write_pair(self.folder, 1, dims=SMALL), self.out / "output_1_merged.pt")
        merge_features(*files)
        esm = embeddings(orf_ids(1), 4, seed=99)
        write_protein_features(files[1], esm)
        merged = read_merged(merge_features(*files))
        np.testing.assert_array_equal(merged.vectors[:, 3:], esm.vectors)


class TestManyPairs(MergeCase):
    def test_ten_pairs_in_two_processes_equal_the_sequential_merge(self):
        nucleotides, proteins = write_pairs(self.folder, 10, dims=SMALL)
        here = AssertionError("a pair was merged in this process")
        with mock.patch("virnucpro.pipeline.features.merge_features", side_effect=here):
            merged, failed = parallel_merge_features(nucleotides, proteins, self.out, num_workers=2)
        assert failed == []
        assert merged == [self.out / f"output_{k}_merged.pt" for k in range(1, 11)]
        for nucleotide, protein, output in zip(nucleotides, proteins, merged, strict=True):
            alone = merge_features(nucleotide, protein, self.folder / "alone.pt")
            assert output.read_bytes() == alone.read_bytes()
        assert not multiprocessing.active_children()

    def test_partial_failure_keeps_the_others_and_tells_why(self):
        nucleotides, proteins = write_pairs(self.folder, 10, dims=SMALL)
        proteins[2].unlink()
        proteins[6].write_bytes(b"torn")
        inline_processes(self)
        with self.assertLogs("virnucpro", "WARNING") as log:
            merged, failed = parallel_merge_features(nucleotides, proteins, self.out, 2)
        assert len(merged) == 8 and len(list(self.out.iterdir())) == 8
        pairs = [(nucleotides[k], proteins[k]) for k in (2, 6)]
        assert [(nuc, pro) for nuc, pro, _ in failed] == pairs
        name = nucleotides[2].name
        assert failed[0][2] == f"Merge failed for {name}: File not found: {proteins[2]}"
        assert "Failed to load tensors" in failed[1][2]
        assert "Failed to merge 2 file pairs" in log.output[-1]

    def test_progress_counts_every_pair_once(self):
        nucleotides, proteins = write_pairs(self.folder, 4, dims=SMALL)
        proteins[1].unlink()
        with mock.patch("virnucpro.pipeline.parallel_merge.ProgressReporter") as reporter:
            parallel_merge_with_progress(nucleotides, proteins, self.out, num_workers=1)
        create_file_bar = reporter.return_value.create_file_bar
        create_file_bar.assert_called_once_with(4, desc="Merging features")
        bar = create_file_bar.return_value.__enter__.return_value
        assert bar.update.call_count == 4
        assert bar.update.call_args == mock.call(1, merged=3, failed=1)

    def test_pairs_are_found_by_name_not_by_position(self):
        nucleotides, proteins = write_pairs(self.folder, 3, dims=SMALL)
        lost = proteins.pop(0)
        stray = self.folder / "output_9_ESM.pt"
        pairs, alone = pair_files(nucleotides, [stray, *reversed(proteins)], self.out)
        assert [(n.name, p.name, o.name) for n, p, o in pairs] == [
            (f"output_{k}_DNABERT_S.pt", f"output_{k}_ESM.pt", f"output_{k}_merged.pt")
            for k in (2, 3)
        ]
        names = [(nucleotides[0].name, lost.name), ("output_9_DNABERT_S.pt", stray.name)]
        assert [(n.name, p.name) for n, p, _ in alone] == names
        with self.assertRaisesRegex(ValueError, "same output"):
            pair_files(nucleotides * 2, proteins, self.out)

    def test_settings(self):
        pairs = [(Path("n"), Path("p"), Path("o"))] * 100
        with mock.patch("os.sched_getaffinity", return_value=set(range(3))):
            assert get_optimal_settings(pairs) == (3, 1, 8)
        assert get_optimal_settings(pairs, 4) == (4, 1, 6)
        assert get_optimal_settings(pairs[:31], 4) == (4, 1, 1)
