"""How `virnucpro predict` routes work; no GPU is needed and none is used."""

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

    def run(*options, gpus=(0, 1), code=0, general=()):
        with (
            patch("virnucpro.pipeline.prediction.run_prediction", return_value=code) as pipeline,
            patch("virnucpro.cli.predict.validate_and_get_device", return_value="cpu"),
            patch("virnucpro.cli.predict.detect_cuda_devices", return_value=list(gpus)),
            patch("virnucpro.core.device.detect_cuda_devices", return_value=list(gpus)),
            patch("virnucpro.cli.predict.Config", MagicMock()),
        ):
            arguments = [*general, "predict", tmp_fasta, *options]
            result = CliRunner().invoke(cli, list(map(str, arguments)), catch_exceptions=False)
        return pipeline.call_args.kwargs if pipeline.called else None, result

    return run


def test_parallel_routes_esm2_to_v2(invoke, tmp_path):
    given, result = invoke("--parallel", "--output-dir", tmp_path)
    assert result.exit_code == 0 and given["use_v2_architecture"] is True
    runtime = given["runtime_config"]
    assert isinstance(runtime, RuntimeConfig)
    assert (runtime.enable_checkpointing, runtime.force_restart) == (False, False)


def test_v1_fallback_routes_all_to_v1(invoke, tmp_path):
    given, _ = invoke("--parallel", "--v1-fallback", "--output-dir", tmp_path)
    assert (given["use_v2_architecture"], given["runtime_config"]) == (False, None)


def test_single_gpu_routes_to_v1(invoke, tmp_path):
    given, result = invoke("-v", "--output-dir", tmp_path, gpus=[0])
    assert (given["use_v2_architecture"], given["runtime_config"]) == (False, None)
    assert not given["settings"].compute.staged
    assert "Architecture: one stream" in result.output
    for flags in (["--staged"], ["--persistent-models"], ["--merge-threads", 2], ["-k"]):
        given, result = invoke("--output-dir", tmp_path, *flags, gpus=[0])
        assert given["use_v2_architecture"] is False and given["settings"].compute.staged
        assert "Architecture: v1.0 (single-GPU or non-parallel mode)" in result.output


def test_several_gpus_are_all_used_by_one_stream(invoke):
    given, result = invoke("-v", gpus=[0, 1], code=6)
    assert given["use_v2_architecture"] is False
    assert given["settings"].compute.devices == ("cuda:0", "cuda:1")
    assert given["output_dir"] == Path("reads_predictions")  # named after the first input
    assert "Architecture: one stream" in result.output
    assert result.exit_code == 6  # what the pipeline says


def test_parallel_constructs_runtime_config_with_resume(invoke, tmp_path):
    given, _ = invoke("--parallel", "--resume", "--output-dir", tmp_path)
    assert given["runtime_config"].enable_checkpointing is True
    assert given["runtime_config"].checkpoint_dir == tmp_path / ".checkpoints"


def test_parallel_force_resume_sets_config(invoke, tmp_path):
    given, _ = invoke("--parallel", "--force-resume", "--output-dir", tmp_path)
    assert given["runtime_config"].force_restart is True
    assert given["runtime_config"].enable_checkpointing is True
    output = given["settings"].output
    assert (output.resume, output.repair, output.force) == (True, True, False)


def test_hybrid_architecture_logged(invoke):
    _, result = invoke("--parallel")
    assert "Architecture: v2.0 hybrid" in result.output
    assert "  ESM-2 embedding: v2.0 (async DataLoader + sequence packing)" in result.output
    assert "  DNABERT-S embedding: v1.0 (fast enough, v2.0 planned for v2.1)" in result.output
    given, result = invoke("--parallel", "--dnabert-v2")
    assert "  DNABERT-S embedding: v2.0 (--dnabert-v2)" in result.output
    assert given["settings"].compute.dnabert_v2


def test_v1_fallback_architecture_logged(invoke):
    _, result = invoke("--parallel", "--v1-fallback")
    line = "Architecture: v1.0 (--v1-fallback, all stages use legacy multi-worker)"
    assert line in result.output


def test_named_gpus_are_the_ones_used(invoke):
    given, _ = invoke("--gpus", "3,2", gpus=range(4))
    assert given["settings"].compute.devices == ("cuda:3", "cuda:2")
    given, _ = invoke("--parallel", "--gpus", "3,2", gpus=range(4))
    assert given["runtime_config"].devices == ("cuda:3", "cuda:2")


@pytest.mark.parametrize(("name", "devices"), [("CPU", ("cpu",)), ("2", ("cuda:2",))])
@pytest.mark.parametrize("by_flag", [True, False])
def test_a_named_device_is_the_only_one_used(invoke, monkeypatch, name, devices, by_flag):
    if not by_flag:
        monkeypatch.setenv("VIRNUCPRO_DEVICE_NAME", name)
    flag = ["--device", name] if by_flag else []
    given, _ = invoke(*flag, gpus=range(4))
    assert (given["settings"].compute.gpus, given["settings"].compute.device) == ((), name)
    given, _ = invoke("--parallel", *flag, gpus=range(4))
    assert given["runtime_config"].devices == devices
    given, _ = invoke("--device", "auto", gpus=range(4))
    assert given["settings"].compute.devices == ("cuda:0", "cuda:1", "cuda:2", "cuda:3")


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (["--gpus", "2,3", "--device", "cpu"], 2, "give one of them"),
        (["--gpus", "2,9"], 5, "GPU 9"),
        (["--parallel", "--v1-attention", "--v1-fallback"], 2, "drop --v1-fallback"),
        (["-m", "custom"], 2, "needs --model-path"),
        (["--precision", "fp8", "--staged"], 2, "leave it or the stages out"),
        (["--precision", "fp4"], 2, "--precision"),
        (["--conservative", "--relaxed"], 2, "give one of them"),
        (["-o", "-"], 2, "give a folder"),
        (["-o", "s3://bucket/run"], 2, "give a folder"),
    ],
)
def test_what_does_not_fit_together_ends_before_any_work(invoke, options, code, told):
    given, result = invoke(*options, gpus=range(4))
    assert (given, result.exit_code) == (None, code)
    assert told in result.output


@pytest.mark.parametrize(
    ("variable", "value", "field", "expected"),
    [
        ("VIRNUCPRO_DISABLE_FP16", "1", "dtype", "float32"),
        ("VIRNUCPRO_DISABLE_PACKING", "yes", "packing", False),
        ("VIRNUCPRO_DISABLE_PACKING", "false", "packing", True),
        ("VIRNUCPRO_V1_ATTENTION", "true", "v1_attention", True),
        ("VIRNUCPRO_FEATURES_DATALOADER_WORKERS", "0", "loader_workers", 0),
    ],
)
def test_environment_switches_reach_the_engine(
    invoke, monkeypatch, variable, value, field, expected
):
    monkeypatch.setenv(variable, value)
    given, _ = invoke("--parallel")
    assert getattr(given["settings"].compute, field) == expected
    given, _ = invoke("--parallel", "--dataloader-workers", "5")
    assert given["settings"].compute.loader_workers == 5
    monkeypatch.setenv("VIRNUCPRO_DISABLE_PACKING", "perhaps")
    given, result = invoke("--parallel")
    assert (given, result.exit_code) == (None, 2)
    assert "VIRNUCPRO_DISABLE_PACKING=perhaps" in result.output


def test_flag_goes_over_environment_over_file(invoke, tmp_path, monkeypatch):
    settings = tmp_path / "settings.yaml"
    settings.write_text("prediction: {batch_size: 11, num_workers: 12, threads: 13}\n")
    monkeypatch.setenv("VIRNUCPRO_PREDICTION_BATCH_SIZE", "21")
    monkeypatch.setenv("VIRNUCPRO_PREDICTION_NUM_WORKERS", "22")
    given, _ = invoke("-b", "31", general=["-c", settings])
    compute = given["settings"].compute
    assert (compute.classifier_batch, compute.reader_threads, compute.threads) == (31, 22, 13)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("--skip-checkpoint-validation", "is deprecated and has no effect"),
        ("--dnabert-v2", "--dnabert-v2 has no effect"),
        ("--dataloader-workers 0", "--dataloader-workers has no effect"),
        ("--staged --v1-attention", "--v1-attention has no effect"),
        ("--v1-fallback --pin-memory", "--pin-memory has no effect"),
        ("--parallel --esm-batch-size 4096", "--esm-batch-size has no effect"),
        ("--parallel --dnabert-v2 --persistent-models", "--persistent-models has no effect"),
        ("--parallel --v1-fallback --dataloader-workers 2", "--dataloader-workers has no effect"),
        ("--parallel --dnabert-v2 --ranks 2 --v1-attention", None),
        ("--parallel --dnabert-batch-size 4096 --dataloader-workers 0", None),
        ("--parallel --v1-fallback --dnabert-batch-size 64 --esm-batch-size 64", None),
        ("--esm-batch-size 4096 --v1-attention --pin-memory", None),
        ("--v1-fallback", None),
    ],
)
def test_a_flag_that_nothing_reads_is_named_and_no_other(invoke, options, told):
    given, result = invoke("-v", *options.split(), gpus=())
    assert given is not None
    v1 = "Architecture: v1.0 (--v1-fallback, all stages use legacy multi-worker)"
    assert (v1 in result.output) == ("--v1-fallback" in options)
    assert result.output.count("Architecture:") == 1
    assert told in result.output if told else "no effect" not in result.output
