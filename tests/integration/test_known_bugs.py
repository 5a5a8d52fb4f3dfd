"""Bugs that the pipelines before this one had, where no other test would catch them.

`docs/bugs.md` lists all of them, each with its test.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from tests.integration.test_multi_gpu_inference import (
    COUNT,
    StopHereError,
    content,
    make_spec,
    run,
    write_proteins,
)
from virnucpro.cli.main import cli
from virnucpro.cli.settings import build_settings
from virnucpro.core.config import KEYS, Config, environment_name
from virnucpro.core.errors import OutputError
from virnucpro.encoders.load import load_encoder
from virnucpro.encoders.tokenizers import make_tokenizer
from virnucpro.engines import feeding
from virnucpro.engines.base import EngineOptions, make_engine
from virnucpro.pipeline import workers as worker_processes
from virnucpro.pipeline.feature_files import read_merged
from virnucpro.sequences.fasta_files import read_fasta
from virnucpro.sequences.orfs import OrfPolicy, find_orfs

ROOT = Path(__file__).resolve().parents[2]
RESULTS = (
    "calls.tsv",
    "in_merged/prediction_results.txt",
    "in_merged/prediction_results_highestscore.csv",
)


@pytest.fixture(scope="module")
def fasta(tmp_path_factory, random_dna):
    path = tmp_path_factory.mktemp("bugs") / "in.fa"
    path.write_text("".join(f">c{i}\n{random_dna(300 + 90 * i, i)}\n" for i in range(6)))
    return path


@pytest.fixture
def call(tiny_home, fasta):
    """`call(out, *options)` of predict; without a number of threads, as most people call it."""

    def invoke(out, *options, **variables):
        words = ["predict", str(fasta), "-o", str(out), "-m", "500", "--orf-policy", "longest"]
        env = {"VIRNUCPRO_MODEL_DIR": str(tiny_home), **variables}
        return CliRunner().invoke(cli, [*words, "--no-progress", "--no-report", *options], env=env)

    return invoke


def results(out):
    return [(out / name).read_bytes() for name in RESULTS]


@pytest.fixture
def undisturbed(call, tmp_path):
    assert call(tmp_path / "undisturbed").exit_code == 0
    return results(tmp_path / "undisturbed")


def test_a_run_stopped_twice_has_every_vector_once_under_its_own_id(tmp_path, monkeypatch):
    """Ids must not come from an unordered set, nor rows be written again by the second resume."""
    monkeypatch.setattr(worker_processes, "_TICK_S", 0.1)
    files, spec = write_proteins(tmp_path), make_spec(tmp_path / "esm")
    out = tmp_path / "esm_v2"

    def stop_after(share):
        told = []

        def tell(more):
            told.append(more)
            if sum(told) >= share * COUNT:
                raise StopHereError

        return tell

    for share in (0.3, 0.7):
        with pytest.raises(StopHereError):
            run(files, spec, out, 1, stop_after(share))
    path, failed = run(files, spec, out, 1)
    assert failed == []
    names, sequences = zip(*(pair for file in files for pair in read_fasta(file)), strict=True)
    device = torch.device("cpu")
    encoder = load_encoder(spec, device, torch.float32)
    engine = make_engine("padded", encoder, device=device, options=EngineOptions(compile="off"))
    tokenizer = make_tokenizer(spec)
    expected = np.empty((len(names), encoder.dim), dtype=np.float32)
    for rows, vectors in engine.embed([tokenizer.encode(letters) for letters in sequences]):
        expected[rows] = vectors
    found = content(path)
    assert len(found) == len(names)
    for name, vector in zip(names, expected, strict=True):
        torch.testing.assert_close(torch.tensor(found[name]), torch.tensor(vector))


@pytest.mark.parametrize(
    ("layout", "variables"),
    [
        ("padded", {"VIRNUCPRO_DISABLE_PACKING": "true"}),
        ("packed", {"VIRNUCPRO_V1_ATTENTION": "1", "VIRNUCPRO_DISABLE_FP16": "1"}),
    ],
    ids=["padded", "plain attention"],
)
def test_rescue_switches_give_the_same_calls(call, undisturbed, tmp_path, layout, variables):
    done = call(tmp_path / "out", "--parallel", "--ranks", "1", **variables)
    assert done.exit_code == 0, done.output
    engine = json.loads((tmp_path / "out" / "run.json").read_text())["engines"]["protein"]
    assert engine.split()[0] == layout
    tables = [table.decode().split() for table in (results(tmp_path / "out")[1], undisturbed[1])]
    for left, right in zip(*tables, strict=True):
        if left != right:
            assert float(left) == pytest.approx(float(right), abs=1e-5)


@pytest.mark.parametrize(
    ("stage", "unfinished"),
    [
        ("staged.write_fasta", "reading"),
        ("staged.parallel_merge_with_progress", "merging"),
        ("prediction.classify", "prediction"),
        ("prediction.scored_shards", "scoring"),
        ("prediction.write_final_tables", "tables"),
    ],
)
def test_resume_after_a_failure_in_any_stage(call, undisturbed, tmp_path, stage, unfinished):
    out = tmp_path / "out"
    with patch(f"virnucpro.pipeline.{stage}", side_effect=OutputError("no space left")):
        failed = call(out, "--staged")
    assert failed.exit_code == 1
    assert "no space left" in failed.output
    record = json.loads((out / "run.json").read_text())
    assert unfinished not in record["stages"]
    assert record["status"] != "done"
    resumed = call(out, "--resume", "--staged")
    assert resumed.exit_code == 0, resumed.output
    assert results(out) == undisturbed
    assert json.loads((out / "run.json").read_text())["status"] == "done"


def test_settings_that_change_no_result_keep_finished_work(call, undisturbed, tmp_path):
    out = tmp_path / "undisturbed"
    again = call(out, "--resume", "-b", "7", "-w", "0", "--dnabert-batch-size", "512")
    assert again.exit_code == 0
    assert "complete" in again.output.lower()
    assert results(out) == undisturbed


def test_a_batch_size_is_a_number_of_tokens_on_any_number_of_workers(call, tmp_path):
    for name, more in (("one", ["--staged"]), ("pool", ["--persistent-models"])):
        sizes = ["--dnabert-batch-size", "1111", "--esm-batch-size", "1222"]
        done = call(tmp_path / name, *sizes, *more)
        assert done.exit_code == 0, done.output
        found = re.findall(r"Engine: padded on cpu.* (\d+) tokens a batch", done.output)
        assert found == ["1111", "1222"]


@pytest.mark.parametrize(("workers", "batch"), [(3, 7), (0, 256)])
def test_the_classifier_reads_with_the_threads_that_were_set(call, tmp_path, workers, batch):
    with patch("virnucpro.engines.feeding.spread", wraps=feeding.spread) as given:
        done = call(tmp_path / "out", "--staged", "-t", "9", "-w", str(workers), "-b", str(batch))
    assert done.exit_code == 0, done.output
    assert [found.args[2] for found in given.call_args_list if found.args[0] is read_merged] == [
        workers
    ]


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
        words = ["predict", str(tmp_path / "in.fa"), "-o", str(tmp_path / "out"), "--no-report"]
    env = {environment_name(name): values[name], "VIRNUCPRO_MODEL_DIR": str(tmp_path / "home")}
    result = CliRunner().invoke(cli, words, env=env)
    if name == "logging.file":
        assert "Model: mini" in log.read_text()
    elif name == "logging.format":
        assert all(json.loads(line) for line in result.output.splitlines())
    else:
        assert result.exit_code == 4
        assert "offline" in result.output.lower()


def test_the_package_has_its_command_and_needs_no_file_of_the_current_folder(tmp_path):
    scripts = {entry.name for entry in importlib.metadata.entry_points(group="console_scripts")}
    assert "virnucpro" in scripts
    command = [sys.executable, "-m", "virnucpro", "config", "show"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())


def test_options_in_the_migration_guide_exist():
    from tests.integration.test_docs import all_options

    guide = (ROOT / "docs" / "MIGRATION_v2.md").read_text()
    assert set(re.findall(r"(?<![\w-])--[a-z][\w-]+", guide)) <= all_options()


def test_two_runs_never_share_a_directory(call, tmp_path):
    from virnucpro.pipeline.output_dir import working_in

    with working_in(tmp_path / "out", resume=False, force=False):
        second = call(tmp_path / "out")
    assert second.exit_code == 2
    assert "another" in second.output
    assert call(tmp_path / "out").exit_code == 0


def test_a_run_writes_nothing_outside_its_directory(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call(tmp_path / "out").exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_quiet_still_tells_errors(tmp_path):
    words = ["-q", "predict", str(tmp_path / "absent.fa"), "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 3
    assert "absent.fa" in result.output
