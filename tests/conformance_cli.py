"""Rows 003 and 002 of the conformance list: persistent models, routing, log lines."""

from __future__ import annotations

from conformance_behaviour import (
    failure_text,
    logging_before_torch,
    nothing_failed,
    nothing_finished,
    pools_end,
    progress_of_pools,
)
from conformance_checks import (
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

WORKERS, ROUTING = "tests/integration/test_persistent_workers.py", "tests/unit/test_cli_predict.py"
STREAM, RANKS = (
    "tests/unit/pipeline/test_stream_h5.py",
    "tests/integration/test_multi_gpu_inference.py",
)
PROTOCOL = "tests/integration/test_paths_protocol.py"
POOL, MULTI = f"{PIPELINE}/persistent_pool.py", f"{PIPELINE}/multi_gpu_inference.py"
RUN = "virnucpro.pipeline.prediction:run_prediction"
SAME = tested(WORKERS, "test_persistent_vs_standard_output_equivalence")
CYCLE, MEMORY = tested(WORKERS, "test_pool_lifecycle"), tested(WORKERS, "test_memory_management")
FLAG = tested(WORKERS, "test_cli_persistent_flag")
OFF = parameters(RUN, "persistent_models", defaults=[("persistent_models", False)])
TO_V2 = tested(ROUTING, "test_parallel_routes_esm2_to_v2")
TO_V1 = tested(ROUTING, "test_v1_fallback_routes_all_to_v1")
RESUMING = tested(
    ROUTING, "test_parallel_constructs_runtime_config_with_resume",
    "test_parallel_force_resume_sets_config",
)  # fmt: skip
HYBRID = logged("parallel", "Architecture: v2.0 hybrid")
WORLD = lines(PREDICTION, r"world_size=")
STAGE_5 = lines(PREDICTION, r"Stage 5.*DNABERT")
ROUTED = [
    "test_parallel_routes_esm2_to_v2", "test_v1_fallback_routes_all_to_v1",
    "test_single_gpu_routes_to_v1", "test_parallel_constructs_runtime_config_with_resume",
    "test_parallel_force_resume_sets_config", "test_hybrid_architecture_logged",
    "test_v1_fallback_architecture_logged",
]  # fmt: skip


FAIL_FAST = nothing_finished


def features_line(logs):
    from virnucpro.pipeline.multi_gpu_inference import _features

    on_cuda = _features({"dtype": "float16", "backend": "varlen"})
    assert f"  Features: {on_cuda}, stride-based sharding" == (
        "  Features: FP16, FlashAttention varlen, stride-based sharding"
    )
    assert "  Features: float32, sdpa kernels, stride-based sharding" in logs("parallel")


def lazy_pool(logs):
    from virnucpro.pipeline.persistent_pool import PersistentWorkerPool

    pool = PersistentWorkerPool(1, "esm2")
    assert pool.pool is None
    assert callable(pool.create_pool)
    pool.close()


ROWS = {
    "003-01": logged("persistent", "Started 1 workers"),
    "003-02": helps("predict", "--persistent-models"),
    "003-03": SAME,
    "003-04": literal(PREDICTION, "use_persistent_pool"),
    "003-05": literal(PREDICT, "--persistent-models"),
    "003-06": exists(WORKERS),
    "003-07": lines(PREDICT, r"persistent_models.*=.*ctx.obj"),
    "003-08": lines(PREDICTION, r"BatchQueueManager.*use_persistent_pool"),
    "003-09": OFF,
    "003-10": lines(PREDICTION, r"def file_wise", r"PersistentWorkerPool\("),
    "003-11": literal(PREDICTION, 'embed.file_wise("protein", run.model.protein)'),
    "003-12": every(CYCLE, pools_end),
    "003-13": every(
        literal(PREDICTION, "from virnucpro.pipeline.persistent_pool import PersistentWorkerPool"),
        parameters(
            "virnucpro.pipeline.persistent_pool:PersistentWorkerPool", "num_workers", "model_type"
        ),
        lazy_pool,
    ),
    "003-14": OFF,
    "003-15": progress_of_pools,
    "003-16": literal(PREDICTION, "persistent_models", "PersistentWorkerPool"),
    "003-17": every(
        helps("predict", "--persistent-models / --no-persistent-models"),
        together(PREDICT, "--persistent-models/--no-persistent-models", "default=False"),
    ),
    "003-18": helps(
        "predict", "stay in GPU memory between stages", "less loading", "more memory",
        "continuously", "several samples in sequence",
    ),
    "003-19": every(FLAG, literal(PREDICT, "persistent_models=persistent_models")),
    "003-20": logged(
        "persistent", "Using persistent model loading - models will remain in GPU memory"
    ),
    "003-21": helps("predict", "persistent-models"),
    "003-22": tested(WORKERS, "test_persistent_pool_initialization"),
    "003-23": every(SAME, literal(WORKERS, '["protein", "dna"]')),
    "003-24": every(MEMORY, literal(WORKERS, "torch.cuda.empty_cache")),
    "003-25": every(CYCLE, tested(WORKERS, "test_gpu_memory_is_given_back")),
    "003-26": FLAG,
    "003-27": literal(WORKERS, "@pytest.fixture", "pytest.skip("),
    "003-28": exists(WORKERS),
    "003-29": FLAG,
    "003-30": logged("persistent", "Started 1 workers"),
    "003-31": SAME,
    "003-32": MEMORY,
    "003-33": OFF,
    "002-01": every(TO_V2, logged("parallel", "ESM-2: Using v2.0 async architecture")),
    "002-02": every(STAGE_5, logged("parallel", "DNABERT-S embedding: v1.0")),
    "002-03": TO_V1,
    "002-04": HYBRID,
    "002-05": RESUMING,
    "002-06": every(WORLD, tested(ROUTING, "test_named_gpus_are_the_ones_used")),
    "002-07": FAIL_FAST,
    "002-08": exists(ROUTING),
    "002-09": literal(PREDICT, "v1_fallback"),
    "002-10": literal(PREDICTION, "run_multi_gpu_inference"),
    "002-11": exists(ROUTING),
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
    "002-18": HYBRID,
    "002-19": logged("parallel", "  ESM-2 embedding: v2.0 (async DataLoader + sequence packing)"),
    "002-20": logged(
        "parallel", "  DNABERT-S embedding: v1.0 (fast enough, v2.0 planned for v2.1)"
    ),
    "002-21": logged(
        "fallback", "Architecture: v1.0 (--v1-fallback, all stages use legacy multi-worker)"
    ),
    "002-22": logged("merge-threads", "Architecture: v1.0 (single-GPU or non-parallel mode)"),
    "002-23": logging_before_torch,
    "002-24": every(
        RESUMING,
        literal(
            PREDICT, "enable_checkpointing=resume or force_resume", "force_restart=force_resume",
            'checkpoint_dir=out / ".checkpoints"',
        ),
        tested(ROUTING, "test_v1_fallback_routes_all_to_v1"),
    ),
    "002-25": literal(PREDICT, "use_v2_architecture=use_v2", "runtime_config=runtime_config"),
    "002-26": every(
        parameters(
            RUN, "persistent_models", "use_v2_architecture", "runtime_config",
            defaults=[("use_v2_architecture", False), ("runtime_config", None)],
        ),
        literal(PREDICTION, "runtime_config: how"),
    ),
    "002-27": tested(PROTOCOL, "test_path_gives_the_calls_of_one_process"),
    "002-28": together(PREDICTION, 'run.record.stage("protein_features")', "if use_v2:"),
    "002-29": logged("parallel", "ESM-2: Using v2.0 async architecture"),
    "002-30": features_line,
    "002-31": literal(PREDICTION, "len(detect_cuda_devices()) or 1"),
    "002-32": every(
        literal(PREDICTION, '"model_type": "esm2"', '"model_name": spec.name', '"enable_fp16"'),
        literal("virnucpro/models/published.py", "esm2_t36_3B_UR50D"),
    ),
    "002-33": literal(f"{PIPELINE}/paths.py", 'self.output_dir / "esm_v2"'),
    "002-34": parameters(
        "virnucpro.pipeline.multi_gpu_inference:run_multi_gpu_inference",
        "fasta_files", "output_dir", "model_config", "world_size", "runtime_config",
    ),
    "002-35": every(failure_text, nothing_finished),
    "002-36": tested(RANKS, "test_the_run_says_what_it_did"),
    "002-37": nothing_failed,
    "002-38": lines(PREDICTION, r'"v2\.0 ESM-2 complete: %d feature files created"'),
    "002-39": together(PREDICTION, "if use_v2:", "else:", 'file_wise("protein"'),
    "002-40": every(
        parameters(
            "virnucpro.pipeline.prediction:_stream_h5_to_pt_files",
            "h5_path", "output_dir", "nucleotide_feature_files",
        ),
        literal(PREDICTION, ") -> list[Path]:"),
    ),
    "002-41": tested(STREAM, "test_rows_go_to_their_files_and_merge"),
    "002-42": tested(STREAM, "test_outputs_follow_the_order_and_the_names_of_the_nucleotide_files"),
    "002-43": tested(STREAM, "test_outputs_follow_the_order_and_the_names_of_the_nucleotide_files"),
    "002-44": every(
        tested(STREAM, "test_a_missing_id_is_warned_of_and_loses_no_other_row"),
        literal(STREAM, "not found in v2.0 ESM-2 output"),
    ),
    "002-45": tested(STREAM, "test_rows_go_to_their_files_and_merge"),
    "002-46": every(
        names("virnucpro.core.checkpoint", "atomic_save"),
        tested(STREAM, "test_a_write_that_fails_leaves_whole_files_only"),
    ),
    "002-47": tested(STREAM, "test_memory_is_that_of_one_file_not_of_all"),
    "002-48": tested(PROTOCOL, "test_path_gives_the_calls_of_one_process"),
    "002-49": names("virnucpro.cli.predict", "predict"),
    "002-50": parameters(RUN, "use_v2_architecture", "runtime_config"),
    "002-51": names("virnucpro.pipeline.prediction", "_stream_h5_to_pt_files"),
    "002-52": every(
        literal(PREDICTION, "run_multi_gpu_inference", "world_size"),
        literal(PREDICT, "v1_fallback"),
    ),
    "002-53": literal(ROUTING, '"""', "def tmp_fasta", "@pytest.fixture"),
    "002-54": every(
        names("virnucpro.cli.predict", "validate_and_get_device", "detect_cuda_devices", "Config"),
        literal(ROUTING, "virnucpro.pipeline.prediction.run_prediction"),
    ),
    "002-55": TO_V2,
    "002-56": TO_V1,
    "002-57": tested(ROUTING, "test_single_gpu_routes_to_v1"),
    "002-58": RESUMING,
    "002-59": RESUMING,
    "002-60": tested(ROUTING, "test_hybrid_architecture_logged"),
    "002-61": tested(ROUTING, "test_v1_fallback_architecture_logged"),
    "002-62": literal(
        ROUTING, "import pytest", "from pathlib import Path", "import CliRunner",
        "from virnucpro.cli.main import cli", "import MagicMock, patch", "import RuntimeConfig",
    ),
    "002-63": tested(ROUTING, *ROUTED),
    "002-64": tested(ROUTING, *ROUTED),
    "002-65": helps("predict", "--v1-fallback"),
    "002-66": every(lines(PREDICT, "v1.fallback", "use_v2_architecture"), WORLD),
    "002-67": every(STAGE_5, absent(PREDICTION, r"Stage 5.*DNABERT.*\n?.*\n?.*v2\.0")),
    "002-68": WORLD,
    "002-69": every(TO_V2, WORLD),
    "002-70": STAGE_5,
    "002-71": TO_V1,
    "002-72": every(RESUMING, HYBRID),
    "002-73": FAIL_FAST,
    "002-74": tested(STREAM, "test_memory_is_that_of_one_file_not_of_all"),
    "002-75": tested(ROUTING, *ROUTED),
    "002-76": every(
        exists("virnucpro/cli/main.py", MULTI, f"{PIPELINE}/runtime_config.py"),
        names("virnucpro.core.checkpoint", "atomic_save"),
        names("virnucpro.pipeline.features", "extract_dnabert_features"),
    ),
    "002-78": literal("docs/MIGRATION_v2.md", "not k-mers", "never truncated"),
}  # fmt: skip
