"""Small faults found in the field, each kind with more than the case that showed it."""

import json
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from runs_here import dna, run, write_fasta

import virnucpro
from virnucpro.core.errors import ModelError, VirNucProError
from virnucpro.models.store import BUNDLED, resolve_model
from virnucpro.training.jobs import read_job

ROOT = Path(__file__).resolve().parents[2]
TINY = {"model": "500", "orf_policy": "longest", "threads": 1}
LONG = "x" * 50_000
MOST_LETTERS = 200


@pytest.fixture
def fasta(tmp_path):
    records = [("a first", dna(0, 700)), ("b", dna(2, 200)), ("c", "ACG")]
    return write_fasta(tmp_path / "contigs.fa", *records)


# Results outlive the object that they came from, and keep their numbers


def test_rows_and_chunks_outlive_the_result_they_come_from(home, fasta, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert [row.seq_id for row in virnucpro.predict(fasta, **TINY)] == ["a", "b", "c"]
    chunks = virnucpro.predict(fasta, **TINY).chunks()
    assert next(chunks).seq_id == "a"
    assert [chunk.seq_id for chunk in chunks] == ["a", "a", "b"]
    rows = iter(virnucpro.predict(fasta, **TINY))
    assert len(list(tmp_path.glob("virnucpro-*"))) == 1
    del rows
    assert list(tmp_path.glob("virnucpro-*")) == []


@pytest.mark.parametrize("sequences", [["ACG"], ["ACG", dna(0)], [dna(0), "A"]])
@pytest.mark.parametrize("per", ["orf", "record"])
def test_vectors_stay_float32_where_a_record_has_none(home, sequences, per, monkeypatch):
    monkeypatch.setattr("virnucpro.pipeline.input_pass.SHARD_RECORDS", 1)
    found = virnucpro.embed(sequences, model="500", orf_policy="longest", per=per)
    assert found.vectors.dtype == np.float32
    assert found.vectors.shape == (len(found.seq_ids), 72)


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
    result = run("-c", path, "config", "show", code=2)
    assert "write that value out" in result.output
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
    result = run("-c", config(f"prediction: {{batch_size: {value}}}\n"), "config", "show", code=2)
    assert "Traceback" not in result.output
    assert isinstance(result.exception, SystemExit) and len(result.output) < 600


@pytest.mark.timeout(30)
def test_a_file_without_end_is_refused():
    run("-c", "/dev/zero", "config", "show", code=2)
    with pytest.raises(VirNucProError, match="over 262,144 bytes"):
        read_job(Path("/dev/zero"), None)


def expect_short(text, shows=True):
    """No value from outside takes more than its share of a message."""
    assert "x" * (MOST_LETTERS + 1) not in text and len(text) < 8 * MOST_LETTERS, text[:2_000]
    assert not shows or "x" * 20 in text


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
    result = run("-c", config(text + "\n"), "config", "show", code=2)
    expect_short(result.output)


RECIPES = [
    f"recipe: {LONG}", f"data: {{train: {LONG}}}", f"classifier: {LONG}", f"'{LONG}': 1",
    f"data: {{'{LONG}': 1}}", f"dev_count: {LONG}",
]  # fmt: skip


@pytest.mark.parametrize("text", RECIPES, ids=range(len(RECIPES)))
def test_messages_about_a_training_configuration_stay_short(config, text):
    with pytest.raises(VirNucProError) as caught:
        read_job(config(text + "\n"), None)
    expect_short(str(caught.value))


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
    folder = shutil.copytree(BUNDLED, tmp_path / "m")
    content = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**content, place: value}))
    try:
        resolve_model("custom", folder, tmp_path)
    except ModelError as error:
        expect_short(str(error).replace(str(tmp_path), ""), shows=False)
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
    assert result.exit_code in (2, 4)
    assert len(result.output) < 8 * MOST_LETTERS, result.output[:3_000]


def test_messages_about_the_environment_and_mates_stay_short(tmp_path):
    expect_short(run("config", "show", env={"VIRNUCPRO_DEVICE_DTYPE": LONG}).output)
    assert len(run("config", "show", env={f"VIRNUCPRO_{LONG}": "1"}).output) < 5_000
    one, two = tmp_path / "a_1.fq", tmp_path / "a_2.fq"
    for path, letter in ((one, "y"), (two, "x")):
        path.write_text(f"@{letter * 50_000}\nACGT\n+\nIIII\n")
    result = run("predict", one, two, "--paired", "-o", tmp_path / "out", code=3)
    assert "is no mate of" in result.output
    assert "x" * (MOST_LETTERS + 1) not in result.output


# What a flag does is what it says


def test_a_session_loads_each_encoder_once_for_all_its_runs(fasta, tmp_path):
    with virnucpro.Session("mini") as session:
        first = session.predict(fasta, output_dir=tmp_path / "one", threads=1)
        second = session.predict(fasta, output_dir=tmp_path / "two", threads=1)
        assert session.loads == 2  # encoders, not encoders times runs
    assert first.calls.read_bytes() == second.calls.read_bytes()


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
@pytest.mark.parametrize("kind", ["fifo", "stdin", "pipe", "device", "reference"])
def test_estimate_takes_no_input_that_can_be_read_once_only(fasta, tmp_path, kind):
    content, fifo = fasta.read_bytes(), tmp_path / "fifo.fa"
    reading, writing = os.pipe()
    os.mkfifo(fifo)
    words, told = {
        "fifo": ([fasta, fifo], fifo),
        "stdin": (["-"], "standard input"),
        "pipe": ([f"/dev/fd/{reading}"], f"/dev/fd/{reading}"),
        "device": (["/dev/null"], "/dev/null"),
        "reference": ([fasta, "--reference", fifo], fifo),
    }[kind]
    writer = threading.Thread(target=os.write, args=(writing, content))
    writer.start()
    try:
        for count in ([], ["--count-only"]):
            result = run("estimate", *count, *words, stdin=content, code=2)
            assert f"{told} can be read once only" in result.output
    finally:
        writer.join()
        os.close(reading)
        os.close(writing)
