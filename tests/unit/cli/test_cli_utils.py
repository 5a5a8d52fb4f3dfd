"""`virnucpro utils` and `virnucpro config`: what they say, and with which exit code."""

import json
import re

import h5py
import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from runs_here import run
from staged_files import embeddings, write_pair
from tiny_published import make_tiny_home

from virnucpro.cli.info import doctor
from virnucpro.core.checkpoint import Ledger
from virnucpro.core.config import KEYS, Config
from virnucpro.pipeline.feature_files import write_vectors
from virnucpro.pipeline.features import merge_features
from virnucpro.tools.health import check_all

DNA = "ACGTTGCA" * 20


@pytest.fixture
def checkpoints(tmp_path):
    """A directory with one of each kind of file that a run reuses."""
    out = tmp_path / "out"
    dna, protein = write_pair(out / "features", 1)
    merge_features(dna, protein, out / "features" / "output_1_merged.pt")
    shards = out / ".checkpoints" / "esm_v2_shards"
    shards.mkdir(parents=True)
    shard = shards / "shard_00000.h5"
    write_vectors(shard, [embeddings(["a", "b"], 4)], (2, 4))
    ledger = Ledger(out, out / ".checkpoints" / "ledger")
    ledger.commit("features", "k", outputs=[dna, protein, shard])
    ledger.commit("scores 0", "k", b"scores of a unit")
    return out


@pytest.mark.parametrize(
    ("words", "env", "code", "told"),
    [
        (["-l", "no/x.log", "citation"], {}, 1, "no/x.log: .*choose another --log-file"),
        (["predic", "x.fa"], {}, 2, "Did you mean 'predict'?"),
        (["report", "."], {}, 2, "--resume"),
        (
            ["config", "show"], {"VIRNUCPRO_DEVICE_NAM": "cpu"}, 0,
            "VIRNUCPRO_DEVICE_NAM sets nothing; did you mean VIRNUCPRO_DEVICE_NAME?",
        ),
        (["utils", "validate-checkpoints", "absent"], {}, 3, "no such directory"),
        (["utils", "validate-checkpoints", "empty"], {}, 3, "0 files checked"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_said_with_a_remedy(tmp_path, monkeypatch, words, env, code, told):
    monkeypatch.chdir(tmp_path)
    about = {"tool": "virnucpro", "status": "running", "files": [], "inputs": [], "samples": []}
    about |= {"stages": {}, "outputs": {}, "model_outputs": []}
    (tmp_path / "run.json").write_text(json.dumps(about))
    (tmp_path / "empty").mkdir()
    result = run(*words, env=env, code=code)
    assert re.search(told.replace("?", r"\?"), result.output), result.output


def test_list_devices_names_the_cpu():
    assert json.loads(run("utils", "list-devices", "--json").output)[0]["device"] == "cpu"


def test_validate_accepts_dna_and_tells_what_gets_no_call(tmp_path):
    path = tmp_path / "in.fa"
    path.write_text(f">a\n{DNA}\n>a\n{DNA}\n>short\nACGT\n>n\n{'N' * 90}\n")
    result = run("utils", "validate", path, code=0)
    assert "4 records, 414 nt, 0 errors" in result.output
    for note in ("1 records with an id seen before", "1 records shorter", "1 records without 60"):
        assert note in result.output


@pytest.mark.parametrize(
    ("content", "word", "errors"),
    [
        (b"no header\n", "header", 1),
        (b">a\nAC\0GT\n", "NUL", 1),
        (b"".join(b">p%d\n%b\n" % (i, b"MKVLEF" * 20) for i in range(9)), "not DNA", 4),
    ],
)
def test_validate_refuses_what_predict_cannot_read(tmp_path, content, word, errors):
    path = tmp_path / "in.fa"
    path.write_bytes(content)
    result = run("utils", "validate", path, "--max-errors", "4", code=3)
    assert word in result.output and result.output.count("error: ") == errors


def test_generated_config_is_read_back_as_the_defaults(tmp_path):
    path = tmp_path / "settings.yaml"
    run("utils", "generate-config", "-o", path, code=0)
    assert yaml.safe_load(path.read_text())
    assert {name: value for name, value, _ in Config.load(path).items()} == {
        name: key.default for name, key in KEYS.items()
    }
    run("utils", "generate-config", "-o", path, code=2)
    run("utils", "generate-config", "-o", path, "--force", code=0)
    assert run("utils", "generate-config", "-o", "-").output == path.read_text()


def test_config_show_names_every_key_with_its_source(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("prediction: {batch_size: 11}\n")
    env = {"VIRNUCPRO_DEVICE_NAME": "cpu"}
    shown = json.loads(run("-c", path, "config", "show", "--json", env=env).output)
    assert set(shown) == set(KEYS)
    assert shown["prediction.batch_size"]["value"] == 11
    assert shown["prediction.batch_size"]["source"] == str(path)
    assert shown["device.name"]["source"] == "VIRNUCPRO_DEVICE_NAME"
    assert shown["logging.format"]["source"] == "default"
    table = run("-c", path, "config", "show", env=env).output
    assert all(name in table for name in KEYS)


def test_whole_checkpoints_exit_0(checkpoints):
    for options in ((), ("--skip-load",)):
        result = run("utils", "validate-checkpoints", checkpoints, *options, code=0)
        assert "6 files checked, 0 bad" in result.output


def damage_shard(path):
    with h5py.File(path, "r+") as file:
        file["embeddings"][0, 0] += 1


def plant_nan(path):
    bad = embeddings(["a"], 4)
    bad.vectors[0, 0] = np.nan
    write_vectors(path, [bad], bad.vectors.shape)


def damage_scores(ledger):
    for path in ledger.iterdir():
        path.write_bytes(path.read_bytes().replace(b"scores of a unit", b"scores of a Unit"))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("features/output_1_merged.pt", lambda path: path.write_bytes(path.read_bytes()[:-700])),
        (".checkpoints/esm_v2_shards/shard_00000.h5", damage_shard),
        ("features", lambda folder: write_pair(folder, 1, dna_ids=["other"])),  # committed before
        ("shard_00001.h5", plant_nan), (".checkpoints/ledger", damage_scores),
    ],
)  # fmt: skip
def test_damaged_checkpoints_exit_1(checkpoints, name, damage):
    damage(checkpoints / name)
    assert "bad   " in run("utils", "validate-checkpoints", checkpoints, code=1).output


@pytest.fixture
def home(tmp_path):
    return make_tiny_home(tmp_path / "home")


def by_title(home, output_dir):
    return {finding.title: finding for finding in check_all(home, output_dir)}


def test_a_sound_installation_has_packages_a_cpu_and_a_disk(home, tmp_path):
    found = by_title(home, tmp_path / "not" / "there" / "yet")
    for title in ("Python", "Packages", "CPU", "500", "DNABERT-S", "Output space"):
        assert found[title].ok, title
        assert not found[title].remedy
    assert "MB/s" in found["Output speed"].text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "home-sources"]


def test_changed_weights_are_found_and_have_a_remedy(home, tmp_path):
    path = home / "500" / "classifier.safetensors"
    path.write_bytes(path.read_bytes() + b"x")
    finding = by_title(home, tmp_path)["500"]
    assert finding.ok is False and "bytes" in finding.text
    assert finding.remedy == "virnucpro models fetch 500"


def test_the_command_ends_with_1_where_something_is_wrong(home, tmp_path, monkeypatch):
    monkeypatch.setenv("VIRNUCPRO_MODEL_DIR", str(home))
    (home / "500" / "classifier.safetensors").unlink()
    result = CliRunner().invoke(doctor, ["-o", str(tmp_path)])
    assert result.exit_code == 1
    assert "FAIL  500:" in result.output and "-> virnucpro models fetch 500" in result.output
    result = CliRunner().invoke(doctor, ["-o", str(tmp_path), "--json"])
    assert result.exit_code == 1
    findings = json.loads(result.output)
    assert {"title", "ok", "text", "remedy"} == set(findings[0])


def test_citation_names_the_paper_and_is_valid_bibtex():
    text = run("citation").output
    assert "10.1093/bib/bbaf224" in text and "ESM-2" in text and "DNABERT-S" in text
    assert "Science 379(6637):1123-1130. doi:10.1126/science.ade2574\n" in text
    entries = run("citation", "--bibtex").output.strip().split("\n\n")
    assert len(entries) == 4
    for entry in entries:
        assert re.fullmatch(r"@\w+\{\w+,\n(  \w+ = \{.+\},\n)+\}", entry)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shell):
    assert f"{shell}_complete" in run("completion", shell, code=0).output


@pytest.mark.slow
def test_counts_time_and_memory_of_an_input(tiny_home, tmp_path, monkeypatch):
    monkeypatch.setenv("VIRNUCPRO_MODEL_DIR", str(tiny_home))
    fasta = tmp_path / "in.fa"
    fasta.write_text(">a\n" + "ACG" * 300 + "\n>b\n" + "GCA" * 100 + "\n>c\nAC\n")
    (row,) = json.loads(run("estimate", "-m", "500", "--count-only", "--json", fasta).output)
    assert (row["records"], row["scored"], row["chunks"]) == (3, 2, 3)
    assert row["orfs"] > 0 and row["protein_tokens"] > row["orfs"] and row["runs"] == []
    result = run("estimate", "-m", "500", "-d", "cpu", fasta, code=0)
    assert re.search(r"on cpu: about [\d.]+ \w+.*, memory \d\.\d GiB", result.output)
