"""Bugs of the pipelines before this one, where no other test would catch them."""

import importlib.metadata
import json
import re
import subprocess
import sys
from unittest.mock import patch

import pytest
from runs_here import TINY, facts, run, tables, write_dna

from virnucpro.cli.options import build_settings
from virnucpro.core.config import KEYS, Config, environment_name
from virnucpro.core.errors import OutputError
from virnucpro.engines import base
from virnucpro.pipeline.features import read_merged
from virnucpro.sequences.orfs import OrfPolicy, find_orfs


@pytest.fixture(scope="module")
def fasta(tmp_path_factory):
    return write_dna(tmp_path_factory.mktemp("bugs") / "in.fa", range(300, 840, 90))


@pytest.fixture
def call(tiny_home, fasta):
    """`call(out, *options)` of predict; without a number of threads, as most people call it."""

    def invoke(out, *options, code=0, **variables):
        words = ["predict", fasta, "-o", out, *TINY, "--no-progress", "--no-report", *options]
        done = run(*words, env={"VIRNUCPRO_MODEL_DIR": str(tiny_home), **variables})
        assert done.exit_code == code, done.output
        return done.output

    return invoke


@pytest.fixture
def undisturbed(call, tmp_path):
    call(tmp_path / "undisturbed")
    return tables(tmp_path / "undisturbed")


@pytest.mark.parametrize(
    ("layout", "variables"),
    [
        ("padded", {"VIRNUCPRO_DISABLE_PACKING": "true"}),
        ("packed", {"VIRNUCPRO_V1_ATTENTION": "1", "VIRNUCPRO_DISABLE_FP16": "1"}),
    ],
    ids=["padded", "plain attention"],
)
def test_rescue_switches_give_the_same_calls(call, undisturbed, tmp_path, layout, variables):
    out = tmp_path / "out"
    call(out, "--parallel", "--ranks", "1", **variables)
    assert facts(out)["engines"]["protein"].split()[0] == layout
    name = "in_merged/prediction_results.txt"
    mine, theirs = (of[name].decode().split() for of in (tables(out), undisturbed))
    for left, right in zip(mine, theirs, strict=True):
        assert left == right or float(left) == pytest.approx(float(right), abs=1e-5)


@pytest.mark.parametrize(
    ("stage", "unfinished"),
    [
        ("prediction.write_fasta", "reading"),
        ("prediction.parallel_merge_with_progress", "merging"),
        ("prediction.LoadedModels", "prediction"),
        ("stream.scored_shards", "scoring"),
        ("prediction.write_final_tables", "tables"),
    ],
)
def test_resume_after_a_failure_in_any_stage(call, undisturbed, tmp_path, stage, unfinished):
    out = tmp_path / "out"
    with patch(f"virnucpro.pipeline.{stage}", side_effect=OutputError("no space left")):
        assert "no space left" in call(out, "--staged", code=1)
    assert unfinished not in facts(out)["stages"] and facts(out)["status"] != "done"
    call(out, "--resume", "--staged")
    assert tables(out) == undisturbed and facts(out)["status"] == "done"


def test_settings_that_change_no_result_keep_finished_work(call, undisturbed, tmp_path):
    out = tmp_path / "undisturbed"
    said = call(out, "--resume", "-b", "7", "-w", "0", "--dnabert-batch-size", "512")
    assert "Already complete" in said and tables(out) == undisturbed


@pytest.mark.parametrize("way", [[], ["--staged"], ["--persistent-models"]])
def test_a_batch_size_is_a_number_of_tokens_on_any_number_of_workers(call, tmp_path, way):
    sizes = ["--dnabert-batch-size", "1111", "--esm-batch-size", "1222"]
    said = call(tmp_path / "out", *sizes, *way)
    found = re.findall(r"Engine: padded on cpu.* (\d+) tokens a batch", said)
    assert found == ["1111", "1222"]


@pytest.mark.parametrize(("workers", "batch"), [(3, 7), (0, 256)])
def test_the_classifier_reads_with_the_threads_that_were_set(call, tmp_path, workers, batch):
    with patch("virnucpro.pipeline.prediction.spread", wraps=base.spread) as given:
        call(tmp_path / "out", "--staged", "-t", "9", "-w", str(workers), "-b", str(batch))
    threads = [found.args[2] for found in given.call_args_list if found.args[0] is read_merged]
    assert threads == [workers]


@pytest.mark.parametrize("policy", ["open-frame", "longest"])
@pytest.mark.parametrize("letters", ["", "A", "AC", "NNNNNNNNN", "NNTAANN"])
def test_an_empty_protein_is_no_orf(policy, letters):
    found = find_orfs([letters], OrfPolicy(policy))
    assert all(protein.strip(b"X") for protein in found.protein)


VALUES = {
    "prediction.model_type": "300", "prediction.model_path": "m", "prediction.min_length": "9",
    "prediction.expected_length": "299", "prediction.batch_size": "9", "device.name": "cpu",
    "prediction.num_workers": "9", "prediction.sequences_per_file": "9", "prediction.threads": "9",
    "device.fallback_to_cpu": "1", "device.dtype": "bfloat16", "models.home": "m",
    "features.dnabert.batch_size": "99", "features.esm.toks_per_batch": "99",
    "features.dataloader_workers": "9", "files.keep_intermediate": "1", "progress.enabled": "0",
    "prediction.worker_timeout": "9",
}  # fmt: skip
SETTINGS_OF_THE_COMMAND = {"models.offline", "logging.format", "logging.file"}


@pytest.mark.parametrize("name", KEYS)
def test_every_setting_has_its_effect(name, tmp_path):
    if name not in SETTINGS_OF_THE_COMMAND:
        given = Config.load(None, {environment_name(name): VALUES[name]})
        assert build_settings({}, given) != build_settings({}, Config.load())
        return
    log = tmp_path / "log"
    values = {"models.offline": "1", "logging.format": "json", "logging.file": str(log)}
    words = ["models", "fetch", "500", "--yes"]
    if name != "models.offline":
        (tmp_path / "in.fa").write_text("")
        words = ["predict", tmp_path / "in.fa", "-o", tmp_path / "out", "--no-report"]
    env = {environment_name(name): values[name], "VIRNUCPRO_MODEL_DIR": str(tmp_path / "home")}
    result = run(*words, env=env)
    if name == "logging.file":
        assert "Model: mini" in log.read_text()
    elif name == "logging.format":
        assert all(json.loads(line) for line in result.output.splitlines())
    else:
        assert result.exit_code == 4 and "offline" in result.output.lower()


def test_the_package_has_its_command_and_needs_no_file_of_the_current_folder(tmp_path):
    scripts = {entry.name for entry in importlib.metadata.entry_points(group="console_scripts")}
    assert "virnucpro" in scripts
    command = [sys.executable, "-m", "virnucpro", "config", "show"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())


def test_a_run_writes_nothing_outside_its_directory(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_quiet_still_tells_errors(tmp_path):
    result = run("-q", "predict", tmp_path / "absent.fa", "-o", tmp_path / "out", code=3)
    assert "absent.fa" in result.output
