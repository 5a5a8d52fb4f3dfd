"""`virnucpro profile` measures real batches and recommends one of them."""

import json

import pytest
import torch
from runs_here import run as command

from virnucpro.tools import budget_search


@pytest.fixture
def profile(tiny_home):
    def run(*options, home=tiny_home, code=0):
        words = ["profile", "-d", "cpu", "--model", "esm2", "--min-batch", "512", *options]
        return command(*words, env={"VIRNUCPRO_MODEL_DIR": str(home)}, code=code)

    return run


@pytest.mark.parametrize("engine", ["padded", "packed"])
def test_profile_recommends_a_budget_that_it_tried(profile, tmp_path, engine):
    report = tmp_path / "profile.json"
    result = profile("--max-batch", 2048, "--engine", engine, "-o", report)
    found = json.loads(report.read_text())["encoders"]["esm2_t36_3B_UR50D"]
    assert [trial["token_budget"] for trial in found["trials"]] == [512, 1024, 2048]
    assert all(trial["tokens_per_s"] > 0 and trial["fits"] for trial in found["trials"])
    assert found["recommended"] in (512, 1024, 2048)
    flag = f"--esm-batch-size {found['recommended']}"  # the packed engine has no such flag
    assert (flag in result.output) == (engine == "padded")


def test_profile_measures_the_orfs_of_a_file_in_the_numbers_of_the_settings(
    profile, tmp_path, monkeypatch
):
    asked = []
    real = budget_search.load_encoder
    monkeypatch.setattr(budget_search, "load_encoder", lambda *a: (asked.append(a[2]), real(*a))[1])
    monkeypatch.setenv("VIRNUCPRO_DEVICE_DTYPE", "bfloat16")
    fasta = tmp_path / "in.fa"
    fasta.write_text(">a\n" + "ATGGCCAAGGTTCTG" * 30 + "\n")
    options = ["--max-batch", 600, "--step", 50, "--test-file", fasta]
    result = profile("--model", "dnabert-s", *options)
    assert "--dnabert-batch-size" in result.output and "562 tokens" in result.output
    assert asked == [torch.bfloat16]
