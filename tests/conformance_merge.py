"""Rows 001 and 000 of the conformance list: the parallel merge and its tests."""

from __future__ import annotations

from conformance_checks import (
    FEATURES,
    MERGE,
    every,
    exists,
    helps,
    lines,
    literal,
    logged,
    names,
    parameters,
    tested,
    together,
)

UNIT, WHOLE = "tests/test_parallel_merge.py", "tests/test_integration_parallel_merge.py"
MODULE = "virnucpro.pipeline.parallel_merge"
EXPORTS = ("merge_file_pair_worker", "parallel_merge_features", "parallel_merge_with_progress")
LISTS = ("nucleotide_files", "protein_files", "output_dir", "num_workers")
EQUAL = tested(UNIT, "test_ten_pairs_in_two_processes_equal_the_sequential_merge")
PARTIAL = tested(UNIT, "test_partial_failure_keeps_the_others_and_tells_why")
SPAWN = every(tested(UNIT, "test_processes_are_spawned"), literal(MERGE, 'get_context("spawn")'))
PROGRESS = tested(UNIT, "test_progress_counts_every_pair_once")
MATCHES = tested(WHOLE, "TestParallelMergeIntegration.test_parallel_merge_matches_sequential")
FASTER = tested(WHOLE, "test_parallel_merge_performance")
SCALING = tested(WHOLE, "test_merge_scaling_analysis")
RESUME = tested(WHOLE, "test_merge_checkpoint_resume")
SKIP = literal(FEATURES, "output_file.exists() and output_file.stat().st_size > 0")


def settings(logs):
    from virnucpro.pipeline.parallel_merge import get_optimal_settings

    pairs = [(None, None, None)] * 100
    assert get_optimal_settings(pairs, 4) == (4, 1, max(1, 100 // 16))
    assert get_optimal_settings(pairs[:10], 4)[2] == 1


def no_torch_at_start(logs):
    import subprocess
    import sys

    code = f"import sys, {MODULE}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


ROWS = {
    "001-01": EQUAL,
    "001-02": every(EQUAL, names(MODULE, "merge_batch_worker")),
    "001-03": SPAWN,
    "001-04": exists(MERGE),
    "001-05": names(MODULE, "merge_file_pair_worker"),
    "001-06": names(MODULE, "parallel_merge_features"),
    "001-07": names(MODULE, "parallel_merge_with_progress"),
    "001-08": literal(FEATURES, "output_file.exists()"),
    "001-09": every(
        lines(MERGE, r"    from virnucpro\.pipeline\.features import merge_features"),
        no_torch_at_start,
    ),
    "001-10": lines(MERGE, r"ctx.Pool\(num_workers\)"),
    "001-11": parameters(f"{MODULE}:merge_file_pair_worker", "file_pair"),
    "001-12": parameters(f"{MODULE}:merge_batch_worker", "file_pair_batch"),
    "001-13": parameters(f"{MODULE}:parallel_merge_features", *LISTS),
    "001-14": literal(MERGE, 'multiprocessing.get_context("spawn")'),
    "001-15": tested(UNIT, "test_pairs_are_found_by_name_not_by_position"),
    "001-16": every(settings, lines("virnucpro/pipeline/pools.py", r"\.imap\(")),
    "001-17": lines(MERGE, r"return merged_files, failed_pairs"),
    "001-18": PROGRESS,
    "001-19": every(
        literal(MERGE, 'create_file_bar(len(file_pairs), desc="Merging features")'),
        names("virnucpro.core.progress", "ProgressReporter"),
    ),
    "001-20": PROGRESS,
    "001-21": every(
        tested(UNIT, "test_settings"),
        tested(WHOLE, "test_auto_worker_detection"),
    ),
    "001-22": settings,
    "001-23": every(settings, literal(MERGE, "max(1, len(file_pairs) // (num_workers * 4))")),
    "001-24": every(SKIP, tested(UNIT, "test_changed_input_is_merged_again")),
    "001-25": literal(FEATURES, '"Skipping merge - output exists: %s", output_file'),
    "001-26": every(
        literal("virnucpro/pipeline/feature_files.py", "path.with_suffix('.tmp')"),
        tested(
            "tests/unit/core/test_files.py",
            "test_failure_leaves_the_old_content_and_nothing_else",
        ),
    ),
    "001-27": tested(UNIT, "test_partly_mismatched_ids_lose_id_and_row_together"),
    "001-28": every(exists(UNIT), literal(UNIT, "unittest.TestCase", "import mock")),
    "001-29": tested(UNIT, "test_worker_merges_a_valid_pair"),
    "001-30": EQUAL,
    "001-31": EQUAL,
    "001-32": tested(UNIT, "test_no_common_id_is_a_failure_that_names_the_file"),
    "001-33": tested(UNIT, "test_missing_file_gives_none"),
    "001-34": PARTIAL,
    "001-35": SPAWN,
    "001-36": every(PROGRESS, lines(MERGE, r"\nfrom virnucpro\.core\.progress import.*Reporter")),
    "001-37": PROGRESS,
    "001-38": tested(UNIT, "test_existing_outputs_are_not_made_again"),
    "001-39": names(MODULE, "parallel_merge_features", "merge_file_pair_worker"),
    "001-40": literal(FEATURES, "output_file.exists()"),
    "001-41": exists(UNIT),
    "001-42": names("virnucpro.pipeline.parallel_merge"),
    "001-43": names(MODULE, *EXPORTS),
    "001-44": lines(FEATURES, r"output_file.*exists\(\)"),
    "001-45": names(MODULE, *EXPORTS),
    "001-46": SKIP,
    "001-47": exists(UNIT),
    "001-48": SPAWN,
    "001-49": PROGRESS,
    "001-50": every(
        exists("virnucpro/pipeline/parallel_translate.py", "tests/test_parallel_translate.py"),
        literal("virnucpro/pipeline/parallel_translate.py", 'get_context("spawn")'),
        tested(
            "tests/test_parallel_translate.py",
            "test_processes_are_spawned_once_and_get_blocks_by_imap",
        ),
    ),
    "000-01": MATCHES,
    "000-02": SCALING,
    "000-03": exists(WHOLE),
    "000-04": tested(WHOLE, "test_partial_failure_handling"),
    "000-05": exists(WHOLE),
    "000-06": literal(MERGE, "failed_pairs"),
    "000-07": lines(WHOLE, r"subprocess.run.*virnucpro predict"),
    "000-08": lines(MERGE, r"return.*merged_files.*failed_pairs"),
    "000-09": every(
        literal(WHOLE, "class TestParallelMergeIntegration(unittest.TestCase)"),
        tested(WHOLE, "TestParallelMergeIntegration.setUpClass"),
    ),
    "000-10": every(MATCHES, literal(WHOLE, "torch.load(", "torch.allclose(", '["ids"]')),
    "000-11": every(FASTER, literal(WHOLE, "assert alone / together >= 2", "CPUS < 4")),
    "000-12": every(
        tested(WHOLE, "test_cli_merge_threads_parameter"), literal(WHOLE, "--merge-threads 2")
    ),
    "000-13": logged("merge-threads", "parallel merge with 2 workers"),
    "000-14": tested(WHOLE, "test_partial_failure_handling"),
    "000-15": RESUME,
    "000-16": tested(WHOLE, "test_auto_worker_detection"),
    "000-17": literal(MERGE, "Auto-detected %d CPU cores for merging"),
    "000-18": literal(WHOLE, "subprocess.run("),
    "000-19": MATCHES,
    "000-20": literal(MERGE, "-> tuple[list[Path], list[FailedPair]]", "tuple[Path, Path, str]"),
    "000-21": together(MERGE, "zip(file_pairs, outcomes, strict=True)"),
    "000-22": every(literal(MERGE, 'f"Merge failed for {nuc.name}'), PARTIAL),
    "000-23": literal(MERGE, '"Failed to merge %d file pairs"'),
    "000-24": together(
        MERGE, "def parallel_merge_with_progress", "tuple[list[Path], list[FailedPair]]"
    ),
    "000-25": literal(MERGE, "merged=merged, failed=failed"),
    "000-26": PARTIAL,
    "000-27": literal(MERGE, 'f"File not found: '),
    "000-28": literal(MERGE, 'f"Failed to load tensors: '),
    "000-29": literal(MERGE, 'f"Unexpected error in merge: '),
    "000-30": literal(MERGE, "failed_pairs"),
    "000-31": every(SCALING, literal(WHOLE, "(10, 20, 40)", "(1, 2, 4, CPUS)")),
    "000-32": tested(WHOLE, "test_memory_efficient_streaming"),
    "000-33": tested(WHOLE, "TestParallelMergeIntegration.tearDownClass"),
    "000-34": SCALING,
    "000-35": exists(WHOLE),
    "000-36": FASTER,
    "000-37": helps("predict", "merge-threads"),
    "000-38": MATCHES,
    "000-39": FASTER,
    "000-40": PARTIAL,
    "000-41": helps("predict", "--merge-threads"),
    "000-42": RESUME,
    "000-43": tested(
        "tests/unit/pipeline/test_work_queue.py",
        "test_a_bad_file_is_recorded_with_its_reason_and_the_rest_goes_on",
    ),
}  # fmt: skip
