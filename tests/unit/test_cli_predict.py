"""How `virnucpro predict` routes work; no GPU is needed and none is used."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import MagicMock, patch

import pytest
from click.testing import CliRunner

from virnucpro.cli.main import cli
from virnucpro.pipeline.runtime_config import RuntimeConfig


@pytest.fixture
def tmp_fasta(tmp_path):
    path = tmp_path / "reads.fa"
    path.write_text(">read_1\nACGTACGTACGT\n")
    return path


@pytest.fixture
def invoke(tmp_fasta):
    """Run predict with `gpus` visible; returns what run_prediction was given, and the output."""

    def run(*options, gpus=(0, 1), code=0):
        with (
            patch("virnucpro.pipeline.prediction.run_prediction", return_value=code) as pipeline,
            patch("virnucpro.cli.predict.validate_and_get_device", return_value="cpu"),
            patch("virnucpro.cli.predict.detect_cuda_devices", return_value=list(gpus)),
            patch("virnucpro.core.device.detect_cuda_devices", return_value=list(gpus)),
            patch("virnucpro.cli.predict.Config", MagicMock()),
        ):
            arguments = ["predict", str(tmp_fasta), *options]
            result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
        return pipeline.call_args.kwargs if pipeline.called else None, result

    return run


def test_parallel_routes_esm2_to_v2(invoke, tmp_path):
    given, result = invoke("--parallel", "--output-dir", str(tmp_path))
    assert result.exit_code == 0
    assert given["use_v2_architecture"] is True
    assert isinstance(given["runtime_config"], RuntimeConfig)


def test_v1_fallback_routes_all_to_v1(invoke, tmp_path):
    given, _ = invoke("--parallel", "--v1-fallback", "--output-dir", str(tmp_path))
    assert given["use_v2_architecture"] is False
    assert given["runtime_config"] is None


def test_single_gpu_routes_to_v1(invoke, tmp_path):
    given, _ = invoke("--output-dir", str(tmp_path), gpus=[0])
    assert given["use_v2_architecture"] is False


def test_several_gpus_imply_parallel(invoke):
    given, result = invoke(gpus=[0, 1])
    assert given["use_v2_architecture"] is True
    assert "Detected 2 GPUs, enabling parallel processing" in result.output


def test_parallel_constructs_runtime_config_with_resume(invoke, tmp_path):
    given, _ = invoke("--parallel", "--resume", "--output-dir", str(tmp_path))
    assert given["runtime_config"].enable_checkpointing is True
    assert given["runtime_config"].checkpoint_dir == tmp_path / ".checkpoints"


def test_parallel_without_resume_reuses_nothing(invoke):
    given, _ = invoke("--parallel")
    assert given["runtime_config"].enable_checkpointing is False
    assert given["runtime_config"].force_restart is False


def test_parallel_force_resume_sets_config(invoke, tmp_path):
    given, _ = invoke("--parallel", "--force-resume", "--output-dir", str(tmp_path))
    assert given["runtime_config"].force_restart is True
    assert given["runtime_config"].enable_checkpointing is True


def test_hybrid_architecture_logged(invoke):
    _, result = invoke("--parallel")
    assert "Architecture: v2.0 hybrid" in result.output
    assert "  ESM-2 embedding: v2.0 (async DataLoader + sequence packing)" in result.output
    assert "  DNABERT-S embedding: v1.0 (fast enough, v2.0 planned for v2.1)" in result.output


def test_dnabert_v2_architecture_logged(invoke):
    given, result = invoke("--parallel", "--dnabert-v2")
    assert "  DNABERT-S embedding: v2.0 (--dnabert-v2)" in result.output
    assert given["settings"].compute.dnabert_v2


def test_v1_fallback_architecture_logged(invoke):
    _, result = invoke("--parallel", "--v1-fallback")
    line = "Architecture: v1.0 (--v1-fallback, all stages use legacy multi-worker)"
    assert line in result.output


def test_single_gpu_architecture_logged(invoke):
    _, result = invoke(gpus=[0])
    assert "Architecture: v1.0 (single-GPU or non-parallel mode)" in result.output


def test_partial_exit_code_is_passed_through(invoke):
    _, result = invoke(code=6)
    assert result.exit_code == 6


def test_named_gpus_are_the_ones_used(invoke):
    given, _ = invoke("--gpus", "3,2", gpus=range(4))
    assert given["settings"].compute.gpus == (3, 2)
    assert given["runtime_config"].devices == ("cuda:3", "cuda:2")


def test_a_named_device_is_the_only_one_used(invoke):
    given, _ = invoke("--device", "cpu", gpus=range(4))
    assert given["use_v2_architecture"] is False
    assert given["settings"].compute.gpus == ()
    given, _ = invoke("--device", "CPU", "--parallel", gpus=range(4))
    assert given["runtime_config"].devices == ("cpu",)
    given, _ = invoke("--device", "cuda:1", "--parallel", gpus=range(4))
    assert given["runtime_config"].devices == ("cuda:1",)


@pytest.mark.parametrize(("name", "devices"), [("cpu", ("cpu",)), ("2", ("cuda:2",))])
def test_a_device_named_in_the_settings_is_the_only_one_used(
    invoke, monkeypatch, tmp_path, name, devices
):
    monkeypatch.setenv("VIRNUCPRO_DEVICE_NAME", name)
    given, _ = invoke(gpus=range(4))
    assert given["use_v2_architecture"] is False
    assert given["settings"].compute.device == name
    given, _ = invoke("--parallel", gpus=range(4))
    assert given["runtime_config"].devices == devices
    given, _ = invoke("--device", "auto", gpus=range(4))
    assert given["runtime_config"].devices == ("cuda:0", "cuda:1", "cuda:2", "cuda:3")


def test_gpus_and_device_exclude_each_other(invoke):
    given, result = invoke("--gpus", "2,3", "--device", "cpu", gpus=range(4))
    assert (given, result.exit_code) == (None, 2)


def test_missing_gpu_is_a_device_error(invoke):
    given, result = invoke("--gpus", "2,9", gpus=range(4))
    assert given is None
    assert result.exit_code == 5
    assert "GPU 9" in result.output


def test_v1_attention_with_v1_fallback_is_a_usage_error(invoke):
    given, result = invoke("--parallel", "--v1-attention", "--v1-fallback")
    assert (given, result.exit_code) == (None, 2)


@pytest.mark.parametrize(
    ("variable", "value", "field", "expected"),
    [
        ("VIRNUCPRO_DISABLE_FP16", "1", "dtype", "float32"),
        ("VIRNUCPRO_DISABLE_PACKING", "yes", "disable_packing", True),
        ("VIRNUCPRO_DISABLE_PACKING", "false", "disable_packing", False),
        ("VIRNUCPRO_V1_ATTENTION", "true", "v1_attention", True),
    ],
)
def test_environment_switches_reach_the_engine(
    invoke, monkeypatch, variable, value, field, expected
):
    monkeypatch.setenv(variable, value)
    given, _ = invoke("--parallel")
    assert getattr(given["runtime_config"], field) == expected


@pytest.mark.parametrize(("options", "workers"), [([], None), (["0"], 0), (["5"], 5)])
def test_processes_that_tokenise_reach_the_engine(tmp_fasta, options, workers):
    flag = ["--dataloader-workers", *options] if options else []
    with patch("virnucpro.pipeline.prediction.run_prediction", return_value=0) as pipeline:
        words = ["predict", str(tmp_fasta), "--parallel", *flag]
        CliRunner().invoke(cli, words, catch_exceptions=False)
    assert pipeline.call_args.kwargs["runtime_config"].dataloader_workers == workers


def test_unreadable_switch_is_a_usage_error(invoke, monkeypatch):
    monkeypatch.setenv("VIRNUCPRO_DISABLE_PACKING", "perhaps")
    given, result = invoke("--parallel")
    assert (given, result.exit_code) == (None, 2)
    assert "VIRNUCPRO_DISABLE_PACKING=perhaps" in result.output


@pytest.mark.parametrize(
    "flag", ["--skip-checkpoint-validation", "--cuda-streams", "--no-cuda-streams"]
)
def test_flag_without_effect_warns(invoke, flag):
    given, result = invoke(flag)
    assert given is not None
    assert "is deprecated and has no effect" in result.output


def test_flag_goes_over_environment_over_file(tmp_path, tmp_fasta, monkeypatch):
    settings = tmp_path / "settings.yaml"
    settings.write_text("prediction: {batch_size: 11, num_workers: 12, threads: 13}\n")
    monkeypatch.setenv("VIRNUCPRO_PREDICTION_BATCH_SIZE", "21")
    monkeypatch.setenv("VIRNUCPRO_PREDICTION_NUM_WORKERS", "22")
    with patch("virnucpro.pipeline.prediction.run_prediction", return_value=0) as pipeline:
        arguments = ["-c", str(settings), "predict", str(tmp_fasta), "-b", "31"]
        CliRunner().invoke(cli, arguments, catch_exceptions=False)
    compute = pipeline.call_args.kwargs["settings"].compute
    assert (compute.classifier_batch, compute.reader_threads, compute.threads) == (31, 22, 13)


def test_custom_model_needs_a_path(invoke):
    given, result = invoke("-m", "custom")
    assert (given, result.exit_code) == (None, 2)


def test_default_output_directory_is_named_after_the_first_input(invoke):
    given, _ = invoke()
    assert given["output_dir"] == Path("reads_predictions")


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        (["--dnabert-v2"], "--dnabert-v2"),
        (["--ranks", "2"], "--ranks"),
        (["--v1-fallback"], "--v1-fallback"),
        (["--v1-attention"], "--v1-attention"),
        (["--parallel", "--v1-fallback", "--dnabert-v2"], "--dnabert-v2"),
        (["--parallel", "--esm-batch-size", "4096"], "--esm-batch-size"),
    ],
)
def test_a_flag_that_the_engine_does_not_read_is_named(invoke, options, flag):
    _, result = invoke(*options, gpus=())
    assert result.exit_code == 0
    assert f"{flag} has no effect" in result.output


def test_flags_of_the_engine_in_use_are_not_named(invoke):
    _, result = invoke("--parallel", "--dnabert-v2", "--ranks", "2", "--v1-attention", gpus=())
    assert "no effect" not in result.output
    _, result = invoke("--esm-batch-size", "4096", gpus=())
    assert "no effect" not in result.output
