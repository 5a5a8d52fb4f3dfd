"""float8 is used where a sample of the run keeps its scores; plain PyTorch stands for the GPU."""

import numpy as np
import pytest
from runs_here import facts, predict_here, write_dna

import virnucpro
from tests import plain_kernels
from virnucpro.core import device
from virnucpro.core.errors import UsageError
from virnucpro.encoders import kernels, transformer
from virnucpro.engines import base
from virnucpro.pipeline import stream
from virnucpro.pipeline.worker_loop import InProcess

RUN_ON = kernels.run_on


@pytest.fixture(scope="module")
def fasta(tmp_path_factory):
    return write_dna(tmp_path_factory.mktemp("input") / "in.fa", [150] * 50)


@pytest.fixture
def card(monkeypatch):
    """A GPU that the run may name; the work is done on the CPU, every layer in float8."""
    monkeypatch.setattr(device, "detect_cuda_devices", lambda: [0])
    monkeypatch.setattr(kernels, "run_on", lambda *_: True)
    monkeypatch.setattr(transformer, "KEPT", ())
    monkeypatch.setattr(stream, "LEAST_SEQUENCES", 20)
    for name in ("float16", "fp8"):  # float16 is slow on a CPU
        monkeypatch.setitem(base.DTYPES, name, "float32")
    plain_kernels.install(monkeypatch)


@pytest.fixture
def run(tiny_home, tmp_path, fasta):
    def run(path=fasta, executor=None, **options):
        how = {"executor": executor or InProcess("cpu", threads=1)}
        options = {"dtype": "fp8", "gpus": (0,), "sequences_per_file": 1_000} | options
        return predict_here(tiny_home, path, tmp_path / "out", how=how, **options)

    run.out = tmp_path / "out"
    return run


def test_a_sample_that_keeps_its_scores_is_told_in_run_json(run, card, caplog):
    caplog.set_level("INFO", "virnucpro")
    assert run() == 0
    told = facts(run.out)
    assert told["agreement"]["sequences"] >= 20
    assert told["agreement"]["labels_agree"] >= 0.999
    assert 0 < told["agreement"]["largest_difference"] <= 0.02
    assert told["engines"]["protein"] == "padded float8 triton"
    assert told["engines"]["dna"].startswith("padded float32")
    assert "--precision fp8 holds: of" in caplog.text


def test_scores_that_move_too_far_are_refused_before_any_is_kept(run, card, monkeypatch):
    monkeypatch.setattr(stream, "LARGEST_DIFFERENCE", 1e-9)
    with pytest.raises(UsageError, match=r"probabilities move by up to 0\.0.* leave it out") as e:
        run()
    assert e.value.exit_code == 2
    assert not (run.out / "calls.tsv").exists()


def test_too_few_orfs_are_refused(run, card, tmp_path):
    with pytest.raises(UsageError, match="20 sequences scored both ways, and there are"):
        run(write_dna(tmp_path / "few.fa", [150] * 3))


@pytest.mark.parametrize("missing", ["triton", "card"])
def test_without_triton_or_a_card_of_its_kind_it_is_refused(run, card, monkeypatch, missing):
    monkeypatch.setattr(kernels, "run_on", RUN_ON)
    monkeypatch.setattr(kernels, "triton", None if missing == "triton" else object())
    with pytest.raises(UsageError, match="needs an H100 or later, Triton"):
        run()


def test_the_cpu_and_a_model_without_esm2_are_refused_at_once(run, fasta, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="needs an H100 or later, not cpu"):
        run(gpus=())
    assert not run.out.exists()
    with pytest.raises(UsageError, match="use -m 300 or -m 500"):
        virnucpro.predict(fasta, precision="fp8", output_dir=tmp_path / "mini")


def test_embedding_from_python_refuses_what_it_does_not_try(tiny_home, fasta, card, monkeypatch):
    monkeypatch.setenv("VIRNUCPRO_MODEL_DIR", str(tiny_home))
    with pytest.raises(UsageError, match="fp8 is for predictions"):
        virnucpro.embed(fasta, precision="fp8", model="500", device="cuda:0")


EXACT = np.linspace(0, 1, 2_000, dtype=np.float32)


@pytest.mark.parametrize(
    ("fast", "figure"),
    [
        (np.where(EXACT < 0.003, EXACT + 0.03, EXACT), "up to 0.030"),
        (np.where(abs(EXACT - 0.5) < 0.002, 1 - EXACT, EXACT), "99.60% keep"),
        (np.full_like(EXACT, np.nan), "up to nan"),
    ],
    ids=["one probability", "labels", "nan"],
)
def test_scores_that_move_are_refused_with_the_figures(fast, figure):
    with pytest.raises(UsageError, match=figure) as caught:
        stream.agreement(EXACT, fast)
    assert caught.value.exit_code == 2
