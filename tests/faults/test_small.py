"""Small faults found in the field, each kind with more than the case that showed it."""

from __future__ import annotations

import json
import os
import random
import shutil
import threading
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from click.testing import CliRunner
from report_data import make_run
from tiny_home import make_tiny_home

import virnucpro
from virnucpro.cli.main import cli
from virnucpro.core.errors import ModelError, VirNucProError
from virnucpro.models.store import BUNDLED, resolve_model
from virnucpro.reports.html import write_report
from virnucpro.training.jobs import read_job

ROOT = Path(__file__).resolve().parents[2]
TINY = {"model": "500", "orf_policy": "longest", "threads": 1}
LONG = "x" * 50_000
MOST_LETTERS = 200


@pytest.fixture(scope="module")
def tiny_home(tmp_path_factory):
    return make_tiny_home(tmp_path_factory.mktemp("small") / "home")


@pytest.fixture
def home(tiny_home, monkeypatch):
    monkeypatch.setenv("VIRNUCPRO_MODEL_DIR", str(tiny_home))


def random_dna(length, seed=0):
    return "".join(random.Random(seed).choices("ACGT", k=length))


@pytest.fixture
def fasta(tmp_path):
    path = tmp_path / "contigs.fa"
    path.write_text(f">a first\n{random_dna(700)}\n>b\n{random_dna(200, 2)}\n>c\nACG\n")
    return path


def run(*words, **more):
    return CliRunner().invoke(cli, list(map(str, words)), **more)


# Results outlive the object that they came from, and keep their numbers


def test_rows_and_chunks_outlive_the_result_they_come_from(home, fasta, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert [row.seq_id for row in virnucpro.predict(fasta, **TINY)] == ["a", "b", "c"]
    chunks = virnucpro.predict(fasta, **TINY).chunks()
    assert next(chunks).seq_id == "a"
    assert [chunk.seq_id for chunk in chunks] == ["a", "b"]
    rows = iter(virnucpro.predict(fasta, **TINY))
    assert len(list(tmp_path.glob("virnucpro-*"))) == 1
    del rows
    assert list(tmp_path.glob("virnucpro-*")) == []


@pytest.mark.parametrize("sequences", [["ACG"], ["ACG", random_dna(300)], [random_dna(300), "A"]])
@pytest.mark.parametrize("per", ["orf", "record"])
def test_vectors_stay_float32_where_a_record_has_none(home, sequences, per, monkeypatch):
    monkeypatch.setattr("virnucpro.pipeline.input_pass.SHARD_RECORDS", 1)
    found = virnucpro.embed(sequences, model="500", orf_policy="longest", per=per)
    assert found.vectors.dtype == np.float32
    assert found.vectors.shape == (len(found.seq_ids), 32)


# Settings, training configurations and messages do not grow


@pytest.fixture
def config(tmp_path):
    def write(text):
        path = tmp_path / "settings.yaml"
        path.write_text(text)
        return path

    return write


DOUBLED = "".join(f"  - &n{i} [{f'*n{i - 1},' * 9 if i else 'x'}]\n" for i in range(12))
GROWING = {
    "lists": "prediction:\n" + DOUBLED,
    "mappings": "a: &a {x: 1}\nb: &b {p: *a, q: *a}\nprediction: {batch_size: [*b, *b]}\n",
    "merged keys": "device: &d {name: cpu}\nlogging:\n  <<: *d\n",
    "itself": "prediction: &a {batch_size: [*a]}\n",
    "keys": "prediction: &a batch\n? [*a]\n: 3\n",
}


@pytest.mark.timeout(30)
@pytest.mark.parametrize("text", [*GROWING.values(), None], ids=[*GROWING, "bomb1.yaml"])
def test_no_value_of_a_yaml_file_stands_for_another(config, text):
    path = config(text) if text else ROOT / "tests" / "data" / "bomb1.yaml"
    result = run("-c", path, "config", "show")
    assert result.exit_code == 2 and "write that value out" in result.output
    assert len(result.output) < 600
    with pytest.raises(VirNucProError, match="write that value out"):
        read_job(path, None)


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "value",
    ["1:" * 100_000 + "1", "1:" * 400 + "1.5", f"0x{'f' * 100_000}", "[" * 100_000, "9" * 5_000],
    ids=["base 60", "fraction of base 60", "hexadecimal", "nested", "decimal"],
)
def test_a_number_without_end_is_refused(config, value):
    result = run("-c", config(f"prediction: {{batch_size: {value}}}\n"), "config", "show")
    assert result.exit_code == 2 and "Traceback" not in result.output
    assert isinstance(result.exception, SystemExit) and len(result.output) < 600


@pytest.mark.timeout(30)
def test_a_file_without_end_is_refused():
    result = run("-c", "/dev/zero", "config", "show")
    assert result.exit_code == 2
    with pytest.raises(VirNucProError, match="over 262,144 bytes"):
        read_job(Path("/dev/zero"), None)


def is_short(text, most=MOST_LETTERS):
    """No value from outside takes more than its share of a message."""
    return f"{'x' * 20}" in text and "x" * (most + 1) not in text and len(text) < 8 * most


SETTINGS = [
    f"prediction: {{batch_size: '{LONG}'}}",
    f"prediction: {{batch_size: [{','.join(['xxxxxxxxxxxxxxxxxxxxxxxxx'] * 900)}]}}",
    f"device: {{name: ['{LONG}']}}",
    f"device: {{dtype: {LONG}}}",
    f"progress: {{enabled: {LONG}}}",
    f"prediction: {{'{LONG}': 1}}",
    f"{{'{LONG}': {{'{LONG}': 1}}}}",
    f"prediction: {{batch_size: !{LONG} 1}}",
    f"prediction: {{batch_size: *{LONG}}}",
]


@pytest.mark.parametrize("text", SETTINGS, ids=range(len(SETTINGS)))
def test_messages_about_settings_stay_short(config, text):
    result = run("-c", config(text + "\n"), "config", "show")
    assert result.exit_code == 2
    assert is_short(result.output), result.output[:2_000]


RECIPES = [
    f"recipe: {LONG}",
    f"data: {{train: {LONG}}}",
    f"classifier: {LONG}",
    f"'{LONG}': 1",
    f"data: {{'{LONG}': 1}}",
    f"dev_count: {LONG}",
]


@pytest.mark.parametrize("text", RECIPES, ids=range(len(RECIPES)))
def test_messages_about_a_training_configuration_stay_short(config, text):
    with pytest.raises(VirNucProError) as caught:
        read_job(config(text + "\n"), None)
    assert is_short(str(caught.value)), str(caught.value)[:2_000]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("name", LONG), ("name", [LONG] * 500), ("classifier", {"file": LONG}), ("chunk_nt", LONG),
        ("dna", {"kind": LONG}), ("dna", {"model": LONG}), (LONG, 1),
        ("orf_policy", {"name": LONG, "keep": 1}), ("files", {LONG: "0"}), ("files", LONG),
    ],
    ids=range(10),
)  # fmt: skip
def test_messages_about_a_model_stay_short(tmp_path, place, value):
    folder = tmp_path / "m"
    shutil.copytree(BUNDLED, folder)
    content = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**content, place: value}))
    try:
        resolve_model("custom", folder, tmp_path)
    except ModelError as error:
        assert len(str(error).replace(str(tmp_path), "")) < 8 * MOST_LETTERS
        assert "x" * (MOST_LETTERS + 1) not in str(error)
    else:
        assert place == LONG  # nothing reads it


@pytest.mark.parametrize(
    "words",
    [
        ["predict", "in.fa", "--device", LONG], ["predict", "in.fa", "--gpus", LONG],
        ["predict", "in.fa", "-m", LONG], ["predict", "in.fa", "-t", LONG], [LONG],
        ["models", "verify", LONG], ["models", "fetch", LONG], ["predict", LONG],
        ["predict", "in.fa", "-p", LONG],
        ["models", "fetch", "300", "500", "--revision", LONG],
        ["evaluate", "virus=in.fa", "-o", "out", "--windows", "--lengths", LONG],
    ],
    ids=range(11),
)  # fmt: skip
def test_messages_about_flags_stay_short(home, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    Path("in.fa").write_text(">a\nACGT\n")
    result = run(*words)
    assert result.exit_code in (2, 4) and isinstance(result.exception, SystemExit)
    assert len(result.output) < 8 * MOST_LETTERS, result.output[:3_000]


def test_messages_about_the_environment_and_mates_stay_short(home, tmp_path, monkeypatch):
    monkeypatch.setenv("VIRNUCPRO_DEVICE_DTYPE", LONG)
    assert is_short(run("config", "show").output)
    monkeypatch.delenv("VIRNUCPRO_DEVICE_DTYPE")
    monkeypatch.setenv(f"VIRNUCPRO_{LONG}", "1")
    assert len(run("config", "show").output) < 5_000
    monkeypatch.delenv(f"VIRNUCPRO_{LONG}")
    one, two = tmp_path / "a_1.fq", tmp_path / "a_2.fq"
    for path, letter in ((one, "y"), (two, "x")):
        path.write_text(f"@{letter * 50_000}\nACGT\n+\nIIII\n")
    result = run("predict", one, two, "--paired", "-m", "500", "-o", tmp_path / "out")
    assert result.exit_code == 3 and "is no mate of" in result.output
    assert "x" * (MOST_LETTERS + 1) not in result.output


# What a flag does is what it says


def test_a_session_loads_each_encoder_once_for_all_its_runs(fasta, tmp_path):
    with virnucpro.Session("mini") as session:
        first = session.predict(fasta, output_dir=tmp_path / "one", threads=1)
        second = session.predict(fasta, output_dir=tmp_path / "two", threads=1)
        assert session.loads == 2  # encoders, not encoders times runs
    assert first.calls.read_bytes() == second.calls.read_bytes()


def test_persistent_models_promise_no_loading_that_they_do_not_save():
    text = " ".join(run("predict", "--help").output.split())
    assert "loads each encoder once with or without" in text
    assert "recommended" not in text.split("--persistent-models")[1].split("--dataloader")[0]


@pytest.fixture
def log_of(fasta):
    """`log_of(*options)`: what predict logs before it would start to compute."""

    def of(*options):
        with (
            patch("virnucpro.pipeline.prediction.run_prediction", return_value=0),
            patch("virnucpro.cli.predict.detect_cuda_devices", return_value=[]),
        ):
            result = run("predict", fasta, *options)
        assert result.exit_code == 0, result.output
        return result.output

    return of


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        (["--parallel", "--dnabert-v2", "--dnabert-batch-size", "4096"], "--dnabert-batch-size"),
        (["--parallel", "--dnabert-v2", "--persistent-models"], "--persistent-models"),
        (["--parallel", "--dnabert-v2", "--cache-clear-interval", "5"], "--cache-clear-interval"),
        (["--dataloader-workers", "0"], "--dataloader-workers"),
        (["--staged", "--no-pin-memory"], "--pin-memory"),
        (["--parallel", "--v1-fallback", "--dataloader-workers", "2"], "--dataloader-workers"),
    ],
)
def test_a_flag_that_nothing_reads_is_named(log_of, options, flag):
    assert f"{flag} has no effect" in log_of(*options)


@pytest.mark.parametrize(
    "options",
    [
        ["--parallel", "--dnabert-batch-size", "4096", "--dataloader-workers", "0"],
        ["--dnabert-batch-size", "4096", "--persistent-models"],
        ["--parallel", "--v1-fallback", "--dnabert-batch-size", "64", "--esm-batch-size", "64"],
        ["--parallel", "--dnabert-v2"],
    ],
)
def test_a_flag_that_is_read_is_not_named(log_of, options):
    assert "no effect" not in log_of(*options)


@pytest.mark.parametrize("options", [["--v1-fallback"], ["--parallel", "--v1-fallback"]])
def test_the_fallback_is_logged_with_parallel_and_without(log_of, options):
    log = log_of(*options)
    assert "Architecture: v1.0 (--v1-fallback, all stages use legacy multi-worker)" in log
    assert log.count("Architecture:") == 1


def test_open_frame_scores_every_open_frame_whatever_the_model_keeps(home):
    open_everywhere = {"a": "ACG" * 100}
    assert len(virnucpro.embed(open_everywhere)) == 1  # the bundled model keeps the longest
    found = virnucpro.embed(open_everywhere, orf_policy="open-frame")
    assert found.seq_ids == tuple(
        f"a_chunk_1{frame}" for frame in ("F1", "F2", "F3", "R1", "R2", "R3")
    )
    assert len(virnucpro.embed(open_everywhere, orf_policy="longest")) == 1


# What can be read once is not read twice


@pytest.mark.timeout(60)
@pytest.mark.parametrize("count", [[], ["--count-only"]])
@pytest.mark.parametrize("kind", ["fifo", "stdin", "pipe", "device", "reference"])
def test_estimate_takes_no_input_that_can_be_read_once_only(home, fasta, tmp_path, kind, count):
    content = fasta.read_bytes()
    reading, writing = os.pipe()
    fifo = tmp_path / "fifo.fa"
    os.mkfifo(fifo)
    words, told = {
        "fifo": ([fasta, fifo], str(fifo)),
        "stdin": (["-"], "standard input"),
        "pipe": ([f"/dev/fd/{reading}"], f"/dev/fd/{reading}"),
        "device": (["/dev/null"], "/dev/null"),
        "reference": ([fasta, "--reference", fifo], str(fifo)),
    }[kind]
    writer = threading.Thread(target=os.write, args=(writing, content))
    writer.start()
    try:
        result = run("estimate", "-m", "500", *count, *words, input=content)
    finally:
        writer.join()
        os.close(reading)
        os.close(writing)
    assert result.exit_code == 2, result.output
    assert f"{told} can be read once only" in result.output


def test_estimate_names_an_input_that_is_missing(home, tmp_path):
    result = run("estimate", "-m", "500", "--count-only", tmp_path / "none.fa")
    assert result.exit_code == 3 and "none.fa" in result.output


# A stop


def test_a_stop_keeps_whole_units_only_as_the_guide_says():
    guide, promises = ((ROOT / "docs" / name).read_text() for name in GUIDES)
    assert "The finished batches of a shard that is\n  still open are lost" in guide
    assert "the finished batches of an open file or shard are lost" in promises


GUIDES = ("MIGRATION_v2.md", "RELIABILITY.md")


# Tables and graphs for people


def test_names_are_no_markup_in_what_multiqc_reads(tmp_path):
    make_run(tmp_path, records=12, samples=2, hostile=True)
    record = json.loads((tmp_path / "run.json").read_text())
    record["model"]["name"] = "<b onclick='x()'>"
    record["version"] = '"><img src=x>'
    (tmp_path / "run.json").write_text(json.dumps(record))
    write_report(tmp_path)
    text = (tmp_path / "virnucpro_mqc.json").read_text()
    assert not set("<>") & set(text) and "onclick='" not in text
    names = list(json.loads(text)["data"])
    assert names == ["&lt;script&gt;alert(1)&lt;/script&gt;", "sample_2"]


def test_the_page_on_outputs_warns_of_cells_that_a_spreadsheet_runs():
    text = (ROOT / "docs" / "outputs.md").read_text()
    assert "spreadsheet" in text and all(f"`{sign}`" in text for sign in "=+-@")
