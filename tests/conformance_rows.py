"""The rows of the conformance list, those with one check together: 001, 000, 003, 002, 004."""

from __future__ import annotations

import conformance_behaviour as shown
from conformance_checks import (
    BENCHMARK,
    FEATURES,
    GUIDE,
    MERGE,
    MERGE_MODULE,
    PIPELINE,
    PREDICT,
    PREDICTION,
    absent,
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
CASE = "TestParallelMergeIntegration"
TRANSLATE = "parallel_translate.py"
EXPORTS = ("merge_file_pair_worker", "parallel_merge_features", "parallel_merge_with_progress")
LISTS = ("nucleotide_files", "protein_files", "output_dir", "num_workers")
MATCHES = tested(WHOLE, f"{CASE}.test_parallel_merge_matches_sequential")

MERGING = {
    "001-01 001-02 001-30 001-31": tested(
        UNIT, "test_ten_pairs_in_two_processes_equal_the_sequential_merge"
    ),
    "001-03 001-14 001-35 001-48": every(
        tested(WHOLE, "test_auto_worker_detection"),
        literal(MERGE, 'multiprocessing.get_context("spawn")'),
    ),
    "001-04": exists(MERGE),
    "001-05 001-06 001-07 001-39 001-42 001-43 001-45": names(MERGE_MODULE, *EXPORTS),
    "001-08 001-24 001-40 001-44 001-46": every(
        literal(FEATURES, "output_file.exists() and output_file.stat().st_size > 0"),
        tested(UNIT, "test_changed_input_is_merged_again"),
    ),
    "001-09": every(
        lines(MERGE, r"    from virnucpro\.pipeline\.features import merge_features"),
        shown.no_torch_at_start,
    ),
    "001-10": lines(MERGE, r"ctx.Pool\(num_workers\)"),
    "001-11": parameters(f"{MERGE_MODULE}:merge_file_pair_worker", "file_pair"),
    "001-12": parameters(f"{MERGE_MODULE}:merge_batch_worker", "file_pair_batch"),
    "001-13": parameters(f"{MERGE_MODULE}:parallel_merge_features", *LISTS),
    "001-15": tested(UNIT, "test_pairs_are_found_by_name_not_by_position"),
    "001-16": every(shown.merge_settings, lines(f"{PIPELINE}/pools.py", r"\.imap\(")),
    "001-17": lines(MERGE, r"return merged_files, failed_pairs"),
    "001-18 001-20 001-37 001-49": tested(UNIT, "test_progress_counts_every_pair_once"),
    "001-19": literal(MERGE, 'create_file_bar(len(file_pairs), desc="Merging features")'),
    "001-21": every(tested(UNIT, "test_settings"), tested(WHOLE, "test_auto_worker_detection")),
    "001-22 001-23": every(
        shown.merge_settings, literal(MERGE, "max(1, len(file_pairs) // (num_workers * 4))")
    ),
    "001-25": literal(FEATURES, '"Skipping merge - output exists: %s", output_file'),
    "001-26": every(
        literal(f"{PIPELINE}/feature_files.py", "path.with_suffix('.tmp')"),
        tested(
            "tests/unit/core/test_files.py",
            "test_failure_leaves_the_old_content_and_nothing_else",
        ),
    ),
    "001-27": tested(UNIT, "test_partly_mismatched_ids_lose_id_and_row_together"),
    "001-28 001-41 001-47": literal(UNIT, "unittest.TestCase", "import mock"),
    "001-29": tested(UNIT, "test_worker_merges_a_valid_pair"),
    "001-32": tested(UNIT, "test_no_common_id_is_a_failure_that_names_the_file"),
    "001-33": tested(UNIT, "test_missing_file_gives_none"),
    "001-34 000-26 000-40": tested(UNIT, "test_partial_failure_keeps_the_others_and_tells_why"),
    "001-36": every(
        tested(UNIT, "test_progress_counts_every_pair_once"),
        lines(MERGE, r"\nfrom virnucpro\.core\.progress import.*Reporter"),
    ),
    "001-38": tested(UNIT, "test_existing_outputs_are_not_made_again"),
    "001-50": every(
        literal(f"{PIPELINE}/{TRANSLATE}", 'get_context("spawn")'),
        tested(f"tests/test_{TRANSLATE}", "test_processes_are_spawned_once_and_get_blocks_by_imap"),
    ),
    "000-01 000-19 000-38": MATCHES,
    "000-02 000-34": tested(WHOLE, "test_merge_scaling_analysis"),
    "000-03 000-05 000-35": exists(WHOLE),
    "000-04 000-14": tested(WHOLE, "test_partial_failure_handling"),
    "000-06 000-08 000-30": lines(MERGE, r"return.*merged_files.*failed_pairs"),
    "000-07": lines(WHOLE, r"subprocess.run.*virnucpro predict"),
    "000-09": every(
        literal(WHOLE, f"class {CASE}(unittest.TestCase)"), tested(WHOLE, f"{CASE}.setUpClass")
    ),
    "000-10": every(MATCHES, literal(WHOLE, "torch.load(", "torch.allclose(", '["ids"]')),
    "000-11 000-36 000-39": every(
        tested(WHOLE, "test_parallel_merge_performance"),
        literal(WHOLE, "assert alone / together >= 2", "CPUS < 4"),
    ),
    "000-12 000-18": every(
        tested(WHOLE, "test_cli_merge_threads_parameter"),
        literal(WHOLE, "--merge-threads 2", "subprocess.run("),
    ),
    "000-13": logged("merge-threads", "parallel merge with 2 workers"),
    "000-15 000-42": tested(WHOLE, "test_merge_checkpoint_resume"),
    "000-16": tested(WHOLE, "test_auto_worker_detection"),
    "000-17": literal(MERGE, "Auto-detected %d CPU cores for merging"),
    "000-20": literal(MERGE, "-> tuple[list[Path], list[FailedPair]]", "tuple[Path, Path, str]"),
    "000-21": literal(MERGE, "zip(file_pairs, outcomes, strict=True)"),
    "000-22": every(
        literal(MERGE, 'f"Merge failed for {nuc.name}'),
        tested(UNIT, "test_partial_failure_keeps_the_others_and_tells_why"),
    ),
    "000-23": literal(MERGE, '"Failed to merge %d file pairs"'),
    "000-24": together(
        MERGE, "def parallel_merge_with_progress", "tuple[list[Path], list[FailedPair]]"
    ),
    "000-25": literal(MERGE, "merged=merged, failed=failed"),
    "000-27": literal(MERGE, 'f"File not found: '),
    "000-28": literal(MERGE, 'f"Failed to load tensors: '),
    "000-29": literal(MERGE, 'f"Unexpected error in merge: '),
    "000-31": literal(WHOLE, "(10, 20, 40)", "(1, 2, 4, CPUS)"),
    "000-32": tested(WHOLE, "test_memory_efficient_streaming"),
    "000-33": tested(WHOLE, f"{CASE}.tearDownClass"),
    "000-37 000-41": helps("predict", "--merge-threads"),
    "000-43": tested(
        "tests/unit/pipeline/test_persistent_pool.py",
        "test_a_bad_file_is_recorded_with_its_reason_and_the_rest_goes_on",
    ),
}

WORKERS = "tests/integration/test_persistent_workers.py"
POOL = "virnucpro.pipeline.persistent_pool"
RUN = "virnucpro.pipeline.prediction:run_prediction"

PERSISTENT = {
    "003-01 003-10 003-11 003-30": shown.both_stages_on_one_pool,
    "003-02 003-17 003-21": every(
        helps("predict", "--persistent-models / --no-persistent-models"),
        together(PREDICT, "--persistent-models/--no-persistent-models", "default=False"),
    ),
    "003-03 003-23 003-31": every(
        tested(WORKERS, "test_persistent_vs_standard_output_equivalence"),
        literal(WORKERS, '["protein", "dna"]'),
    ),
    "003-04": literal(PREDICTION, "use_persistent_pool"),
    "003-05": literal(PREDICT, "--persistent-models"),
    "003-06 003-28": exists(WORKERS),
    "003-07": lines(PREDICT, r"persistent_models.*=.*ctx.obj"),
    "003-08": lines(PREDICTION, r"BatchQueueManager.*use_persistent_pool"),
    "003-09 003-14 003-33": every(
        parameters(RUN, "persistent_models", defaults=[("persistent_models", False)]),
        shown.both_stages_on_one_pool,
    ),
    "003-12": every(tested(WORKERS, "test_pool_lifecycle"), shown.pools_end),
    "003-13": every(
        lines(PREDICTION, rf"from {POOL} import .*\bPersistentWorkerPool\b"),
        parameters(f"{POOL}:PersistentWorkerPool", "num_workers", "model_type"),
        shown.lazy_pool,
    ),
    "003-15": shown.progress_of_pools,
    "003-16": literal(PREDICTION, "persistent_models", "PersistentWorkerPool"),
    "003-18": helps(
        "predict", "stay in GPU memory between stages", "less loading", "more memory",
        "continuously", "several samples in sequence",
    ),
    "003-19": literal(PREDICT, "persistent_models=persistent_models"),
    "003-20": logged(
        "persistent", "Using persistent model loading - models will remain in GPU memory"
    ),
    "003-22": tested(WORKERS, "test_persistent_pool_initialization"),
    "003-24 003-32": every(
        tested(WORKERS, "test_memory_management"), literal(WORKERS, "torch.cuda.empty_cache")
    ),
    "003-25": tested(WORKERS, "test_pool_lifecycle", "test_gpu_memory_is_given_back"),
    "003-26 003-29": tested(WORKERS, "test_cli_persistent_flag"),
    "003-27": literal(WORKERS, "@pytest.fixture", "pytest.skip("),
}  # fmt: skip

ROUTING = "tests/unit/test_cli_predict.py"
ADAPTER = "tests/unit/pipeline/test_stream_h5.py"
PROTOCOL = "tests/integration/test_paths_protocol.py"
MULTI = "virnucpro.pipeline.multi_gpu_inference"
RESUMING = tested(
    ROUTING, "test_parallel_constructs_runtime_config_with_resume",
    "test_parallel_force_resume_sets_config",
)  # fmt: skip

PACKED = {
    "002-01 002-02 002-32 002-33 002-39 002-69 002-70": every(
        shown.routes, tested(ROUTING, "test_parallel_routes_esm2_to_v2")
    ),
    "002-03 002-71": every(shown.routes, tested(ROUTING, "test_v1_fallback_routes_all_to_v1")),
    "002-04": logged("parallel", "ESM-2 embedding: v2.0", "DNABERT-S embedding: v1.0"),
    "002-05 002-58 002-59 002-72": RESUMING,
    "002-06": every(shown.routes, tested(ROUTING, "test_named_gpus_are_the_ones_used")),
    "002-07 002-73": shown.nothing_finished,
    "002-08 002-11": exists(ROUTING),
    "002-09": literal(PREDICT, "v1_fallback"),
    "002-10": literal(PREDICTION, "run_multi_gpu_inference"),
    "002-12": lines(PREDICT, "use_v2_architecture"),
    "002-13": lines(
        PREDICTION, r"from virnucpro\.pipeline\.multi_gpu_inference import run_multi_gpu_inference"
    ),
    "002-14": lines(PREDICT, r"from virnucpro\.pipeline\.runtime_config import RuntimeConfig"),
    "002-15": lines(PREDICT, "run_prediction"),
    "002-16": every(
        helps(
            "predict",
            r"--v1-fallback .*v1\.0 multi-worker for ESM-2 instead of v2\.0 async DataLoader",
        ),
        together(PREDICT, '"--parallel"', '"--v1-fallback"', "v1_fallback: bool"),
    ),
    "002-17": literal(PREDICT, "use_v2 = parallel and not v1_fallback"),
    "002-18": logged("parallel", "Architecture: v2.0 hybrid"),
    "002-19": logged("parallel", "  ESM-2 embedding: v2.0 (async DataLoader + sequence packing)"),
    "002-20": logged(
        "parallel", "  DNABERT-S embedding: v1.0 (fast enough, v2.0 planned for v2.1)"
    ),
    "002-21": logged(
        "fallback", "Architecture: v1.0 (--v1-fallback, all stages use legacy multi-worker)"
    ),
    "002-22": shown.architecture_of_v1,
    "002-23": shown.logging_before_torch,
    "002-24": every(
        RESUMING,
        literal(
            PREDICT, "enable_checkpointing=resume or force_resume", "force_restart=force_resume",
            'checkpoint_dir=out / ".checkpoints"',
        ),
        tested(ROUTING, "test_v1_fallback_routes_all_to_v1"),
    ),
    "002-25": literal(PREDICT, "use_v2_architecture=use_v2", "runtime_config=runtime_config"),
    "002-26 002-50": every(
        parameters(
            RUN, "persistent_models", "use_v2_architecture", "runtime_config",
            defaults=[("use_v2_architecture", False), ("runtime_config", None)],
        ),
        literal(PREDICTION, "runtime_config: how"),
    ),
    "002-27 002-48": every(
        shown.same_calls,
        tested(
            PROTOCOL, "test_v2_embeds_proteins_only_on_as_many_ranks_as_asked_for",
            "test_persistent_run_embeds_in_the_one_worker_that_stays",
            "test_staged_run_merges_in_other_processes",
        ),
    ),
    "002-28": together(PREDICTION, 'run.report.stage("protein_features")', "if engines.use_v2:"),
    "002-29": logged("parallel", "ESM-2: Using v2.0 async architecture"),
    "002-30": shown.features_line,
    "002-31": literal(PREDICTION, "len(detect_cuda_devices()) or 1"),
    "002-34": parameters(
        f"{MULTI}:run_multi_gpu_inference",
        "fasta_files", "output_dir", "model_config", "world_size", "runtime_config",
    ),
    "002-35": every(shown.failure_text, shown.nothing_finished),
    "002-36": shown.nothing_finished,
    "002-37 002-38": shown.nothing_failed,
    "002-40": every(
        parameters(
            "virnucpro.pipeline.prediction:_stream_h5_to_pt_files",
            "h5_path", "output_dir", "nucleotide_feature_files",
        ),
        literal(PREDICTION, ") -> list[Path]:"),
    ),
    "002-41 002-45": tested(ADAPTER, "test_rows_go_to_their_files_and_merge"),
    "002-42 002-43": tested(
        ADAPTER, "test_outputs_follow_the_order_and_the_names_of_the_nucleotide_files"
    ),
    "002-44": every(
        tested(ADAPTER, "test_a_missing_id_is_warned_of_and_loses_no_other_row"),
        literal(ADAPTER, "not found in v2.0 ESM-2 output"),
    ),
    "002-46": every(
        names("virnucpro.core.checkpoint", "atomic_save"),
        tested(ADAPTER, "test_a_write_that_fails_leaves_whole_files_only"),
    ),
    "002-47 002-74": tested(ADAPTER, "test_memory_is_that_of_one_file_not_of_all"),
    "002-49": names("virnucpro.cli.predict", "predict"),
    "002-51": names("virnucpro.pipeline.prediction", "_stream_h5_to_pt_files"),
    "002-52 002-66": every(
        literal(PREDICTION, "run_multi_gpu_inference", "world_size="),
        literal(PREDICT, "v1_fallback", "use_v2_architecture"),
    ),
    "002-53": literal(ROUTING, '"""', "def tmp_fasta", "@pytest.fixture"),
    "002-54": every(
        names("virnucpro.cli.predict", "validate_and_get_device", "detect_cuda_devices", "Config"),
        literal(ROUTING, "virnucpro.pipeline.prediction.run_prediction"),
    ),
    "002-55": tested(ROUTING, "test_parallel_routes_esm2_to_v2"),
    "002-56": tested(ROUTING, "test_v1_fallback_routes_all_to_v1"),
    "002-57": tested(ROUTING, "test_single_gpu_routes_to_v1"),
    "002-60": tested(ROUTING, "test_hybrid_architecture_logged"),
    "002-61": tested(ROUTING, "test_v1_fallback_architecture_logged"),
    "002-62": literal(
        ROUTING, "import pytest", "from pathlib import Path", "import CliRunner",
        "from virnucpro.cli.main import cli", "import MagicMock, patch", "import RuntimeConfig",
    ),
    "002-63 002-64 002-75": tested(
        ROUTING, "test_parallel_routes_esm2_to_v2", "test_v1_fallback_routes_all_to_v1",
        "test_single_gpu_routes_to_v1", "test_parallel_constructs_runtime_config_with_resume",
        "test_parallel_force_resume_sets_config", "test_hybrid_architecture_logged",
        "test_v1_fallback_architecture_logged",
    ),
    "002-65": helps("predict", "--v1-fallback"),
    "002-67": every(
        lines(PREDICTION, r"Stage 5.*DNABERT"),
        absent(PREDICTION, r"Stage 5.*DNABERT.*\n?.*\n?.*v2\.0"),
    ),
    "002-68": lines(PREDICTION, r"world_size="),
    "002-76": every(
        exists("virnucpro/cli/main.py"),
        names(MULTI, "run_multi_gpu_inference"),
        names("virnucpro.pipeline.runtime_config", "RuntimeConfig"),
        names("virnucpro.core.checkpoint", "atomic_save"),
        names("virnucpro.pipeline.features", "EmbedJob"),  # in place of the DNABERT-S worker
    ),
    "002-78": literal(GUIDE, "not k-mers", "never truncated"),
}  # fmt: skip

SIGNALS = "tests/reliability/test_signals.py"
COMMAND, SUITES = "tests/unit/cli/test_cli_benchmark.py", "tests/benchmarks/test_v2.py"
NEW_SUITES = ("v2-validation", "v2-scaling", "v2-throughput", "v1-comparison")
OLD_SUITES = ("scaling", "throughput", "memory", "equivalence")


def says(*texts):
    return literal(GUIDE, *texts)


def suite(name, class_name):
    return every(
        lines(BENCHMARK, rf'"{name}": \("-k", "{class_name}"\)'), tested(SUITES, class_name)
    )


GUIDANCE = {
    "004-01 004-13": suite("v2-validation", "TestProductionValidation"),
    "004-02 004-16": suite("v1-comparison", "TestV1Comparison"),
    "004-03": says("ESM-2 goes through the packed v2.0 engine", "DNABERT-S stays on the"),
    "004-04": says("--parallel --v1-fallback -o out"),
    "004-05": says("| `--esm-batch-size` |", "| `--dnabert-batch-size` |"),
    "004-06": says("### Why DNABERT-S Stays v1.0", "planned to become the default in v2.1"),
    "004-07": literal(BENCHMARK, "v2-validation"),
    "004-08 004-42": shown.enough_lines,
    "004-09": lines(BENCHMARK, r"pytest.*tests/benchmarks"),
    "004-10 004-22 004-47": helps(
        "benchmark", r"\[" + r"\|".join([*OLD_SUITES, *NEW_SUITES, "all"]) + r"\]"
    ),
    "004-11": helps(
        "benchmark", r"production workload \(PERF\)", r"2-GPU scaling .* 1\.9x",
        r"DataLoader \+ packing sweep", "conditional v1/v2 comparison",
    ),
    "004-12": helps(
        "benchmark", "benchmark --suite v2-validation",
        "benchmark --suite v1-comparison --data-size medium",
    ),
    "004-14": suite("v2-scaling", "TestV2Scaling"),
    "004-15": suite("v2-throughput", "TestParameterTuning"),
    "004-17 004-49": every(
        names("virnucpro.cli.benchmark", "_build_pytest_command"),
        tested(COMMAND, "test_suite_selects_its_tests"),
    ),
    "004-18": shown.notes("Note: v1.0 comparison requires 'v1.0' git tag in repository"),
    "004-19": shown.notes("Tests will skip gracefully if v1.0 tag is unavailable"),
    "004-20": every(
        names("virnucpro.cli.benchmark", "_display_summary"),
        tested(COMMAND, "test_summary_takes_reports_that_lack_parts"),
    ),
    "004-21": every(
        lines(BENCHMARK, *(rf'"{name}": \("-m", "{name}"\)' for name in OLD_SUITES)),
        tested(COMMAND, "test_suite_all_takes_what_the_machine_can_run"),
    ),
    "004-23": lines(GUIDE, r"\A# Migration Guide: v1\.0 to v2\.0\n"),
    "004-24": says(
        "one process per GPU", "async DataLoader", "4-5x the throughput", "packed batches",
        "variable-length flash attention", "FP16", "default with `--parallel`", "--v1-fallback",
    ),
    "004-25": every(says("## Hybrid Architecture (v2.0)"), shown.table_of_stages),
    "004-26": says("**Performance.**", "**Validation.**", "**Risk.**", "45+ hours"),
    "004-27": lines(
        GUIDE, "## What Changed", r"\| Process model \|", r"N x 11 GB .* 1 x 6 GB",
        r"\| Batching \|", r"\| Precision \| FP32, BF16.* FP16", r"\| Attention \|",
        r"\| Checkpointing \|", r"\| Output format \|",
    ),
    "004-28": says("### CLI Changes", "No breaking change", "| `--v1-fallback` |"),
    "004-29": lines(GUIDE, r"`--esm-batch-size`.*ignored"),
    "004-30": lines(GUIDE, r"`--dnabert-batch-size`.*still used"),
    "004-31": every(
        lines(GUIDE, r"`--dataloader-workers.*threads", r"`--dataloader-workers.*used.*default 1"),
        shown.threads_of_readers,
    ),
    "004-32": lines(GUIDE, r"`--persistent-models`.*no effect on ESM-2"),
    "004-33": every(
        says(
            "First-fit-decreasing packing", "Attention without cross-sequence mixing",
            "Sequence-level checkpoints", "SIGTERM", "Elastic redistribution",
        ),
        shown.first_fit_decreasing,
        shown.no_mixing,
        shown.shards_without_resume,
        tested(
            SIGNALS, "test_one_process_stops_and_goes_on",
            "test_worker_processes_end_with_the_run",
        ),
        tested(
            "tests/unit/pipeline/test_workers.py",
            "test_a_lost_worker_is_replaced_and_no_unit_with_it",
            "test_a_worker_that_cannot_start_leaves_its_units_to_others",
        ),
    ),
    "004-34": says("-m 500 --parallel -o out", "--parallel --v1-fallback -o out"),
    "004-35": every(
        says(
            "Architecture: v2.0 hybrid\n"
            "  ESM-2 embedding: v2.0 (async DataLoader + sequence packing)\n"
            "  DNABERT-S embedding: v1.0 (fast enough, v2.0 planned for v2.1)",
            "Architecture: v1.0 (--v1-fallback, all stages use legacy multi-worker)",
        ),
        shown.logged_as_said,
    ),
    "004-36": says(*(f"virnucpro benchmark --suite {name}" for name in NEW_SUITES)),
    "004-37": lines(
        GUIDE, r"`VIRNUCPRO_DISABLE_FP16` \| unset \|.*FP32",
        r"`VIRNUCPRO_DISABLE_PACKING` \| unset \|",
    ),
    "004-38": lines(
        GUIDE, "## Deprecation Timeline", r"v2\.0 .*available", r"v2\.1 .*warns",
        r"v3\.0 .*removed", r"v1\.0 engine is not removed",
    ),
    "004-39": every(
        says("fails fast", "RuntimeError", "failed_files.txt", "every N-th sequence"),
        shown.nothing_finished,
    ),
    "004-40": every(
        says("## Troubleshooting", "VIRNUCPRO_DISABLE_PACKING=1", "VIRNUCPRO_DISABLE_FP16=1"),
        lines(GUIDE, r"\| out of memory \|.*budget follows from free memory"),
    ),
    "004-41": every(
        shown.true_options, shown.true_tokens, shown.true_figures, shown.logged_as_said
    ),
    "004-43 004-44 004-45 004-46": lines(
        GUIDE, "hybrid", "v1-fallback", r"DNABERT-S embedding.*v1.0", r"v2.1", "deprecated"
    ),
    "004-48": says(
        "hybrid", "### Why DNABERT-S Stays v1.0", "v2.1", "--v1-fallback",
        "### Deprecated Options", "fails fast", "## Environment Variables",
        "## Deprecation Timeline", "## Troubleshooting",
    ),
    "004-50": exists("virnucpro/cli/main.py"),
    "004-51": every(says("4-5x"), shown.thresholds_reached, shown.threshold_of_two_gpus),
}  # fmt: skip

ROWS = {
    row: check
    for table in (MERGING, PERSISTENT, PACKED, GUIDANCE)
    for rows, check in table.items()
    for row in rows.split()
}
