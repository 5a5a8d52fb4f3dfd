"""`virnucpro profile` measures real batches and recommends one of them."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner
from tiny_home import make_tiny_home

from virnucpro.cli.main import cli
from virnucpro.core.errors import DeviceError
from virnucpro.tools import budget_search
from virnucpro.tools.budget_search import Trial, best


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return make_tiny_home(tmp_path_factory.mktemp("profile") / "home")


def profile(home, *options):
    words = ["profile", "-d", "cpu", "--min-batch", "512", *map(str, options)]
    return CliRunner().invoke(cli, words, env={"VIRNUCPRO_MODEL_DIR": str(home)})


@pytest.mark.parametrize("engine", ["padded", "packed"])
def test_profile_recommends_a_budget_that_it_tried(home, tmp_path, engine):
    report = tmp_path / "profile.json"
    options = ["--model", "esm2", "--max-batch", "2048", "--engine", engine, "-o", report]
    result = profile(home, *options)
    assert result.exit_code == 0, result.output
    found = json.loads(report.read_text())["encoders"]["esm2_t36_3B_UR50D"]
    assert [trial["token_budget"] for trial in found["trials"]] == [512, 1024, 2048]
    assert all(trial["tokens_per_s"] > 0 and trial["fits"] for trial in found["trials"])
    assert found["recommended"] in (512, 1024, 2048)
    flag = f"--esm-batch-size {found['recommended']}"  # the packed engine has no such flag
    assert (flag in result.output) == (engine == "padded")


def test_profile_measures_in_the_numbers_of_the_settings(home, monkeypatch):
    asked = []
    real = budget_search.load_encoder
    monkeypatch.setattr(budget_search, "load_encoder", lambda *a: (asked.append(a[2]), real(*a))[1])
    monkeypatch.setenv("VIRNUCPRO_DEVICE_DTYPE", "bfloat16")
    assert profile(home, "--model", "esm2", "--max-batch", "512").exit_code == 0
    assert asked == [torch.bfloat16]


def test_profile_refuses_a_report_that_could_not_be_written(home):
    result = profile(home, "--model", "esm2", "-o", "/proc/no/p.json")
    assert result.exit_code == 1
    assert "tokens/s" not in result.output


def test_profile_measures_with_the_orfs_of_a_file(home, tmp_path):
    fasta = tmp_path / "in.fa"
    fasta.write_text(">a\n" + "ATGGCCAAGGTTCTG" * 30 + "\n")
    result = profile(
        home, "--model", "dnabert-s", "--max-batch", "600", "--step", "50", "--test-file", fasta
    )
    assert result.exit_code == 0, result.output
    assert "--dnabert-batch-size" in result.output
    assert "562 tokens" in result.output


def test_profile_refuses_what_cannot_work(home, tmp_path):
    assert profile(home, "--model", "esm2", "--max-batch", "16").exit_code == 2
    empty = tmp_path / "empty.fa"
    empty.write_text("")
    assert profile(home, "--model", "esm2", "--test-file", empty).exit_code == 3
    assert profile(tmp_path / "nothing", "--model", "esm2").exit_code == 4


def test_best_is_the_smallest_budget_near_the_highest_rate():
    rates = {512: 50.0, 1024: 98.0, 2048: 100.0}
    trials = [Trial(budget, rate, 1.0, None, True) for budget, rate in rates.items()]
    assert best([*trials, Trial(4096, 0.0, 1.0, None, False)]).token_budget == 1024
    with pytest.raises(DeviceError):
        best([Trial(512, 0.0, 1.0, None, False)])
