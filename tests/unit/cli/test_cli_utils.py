"""`virnucpro utils` and `virnucpro config`: what they say, and with which exit code."""

import json
import re

import h5py
import numpy as np
import pytest
import yaml
from runs_here import run
from staged_files import embeddings, write_pair

from virnucpro.core.checkpoint import Ledger
from virnucpro.core.config import KEYS, Config, unknown_variables
from virnucpro.core.errors import ConfigError
from virnucpro.pipeline.features import merge_features, write_vectors
from virnucpro.reports.tables import SCHEMA

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
    about = {"tool": "virnucpro", "status": "running", "schema": SCHEMA}
    (tmp_path / "run.json").write_text(json.dumps(about))
    (tmp_path / "empty").mkdir()
    result = run(*words, env=env, code=code)
    assert re.search(told.replace("?", r"\?"), result.output), result.output


def test_list_devices_names_the_cpu():
    assert "CPU: " in run("utils", "list-devices", code=0).output
    found = json.loads(run("utils", "list-devices", "--json").output)
    assert "CPU" in [finding["title"] for finding in found]


def test_validate_accepts_dna_and_tells_what_gets_no_call(put):
    path = put(f">a\n{DNA}\n>a\n{DNA}\n>short\nACGT\n>n\n{'N' * 90}\n")
    result = run("utils", "validate", path, code=0)
    assert "4 records, 414 nt, 0 errors" in result.output
    for note in ("1 record had an id that was taken", "1 record shorter", "1 record without 60"):
        assert note in result.output


def test_validate_stops_at_the_most_errors(put):
    path = put("".join(f">p{i}\n{'MKVLEF' * 20}\n" for i in range(9)))
    said = run("utils", "validate", path, "--max-errors", "4", code=3).output
    assert "not DNA" in said and said.count("error: ") == 4


def test_generated_config_is_read_back_as_the_defaults(tmp_path):
    path = tmp_path / "settings.yaml"
    run("utils", "generate-config", "-o", path, code=0)
    assert yaml.safe_load(path.read_text())
    assert Config.load(path) == {name: key.default for name, key in KEYS.items()}
    run("utils", "generate-config", "-o", path, code=2)
    run("utils", "generate-config", "-o", path, "--force", code=0)
    assert run("utils", "generate-config", "-o", "-").output == path.read_text()


def test_config_show_names_every_key_with_its_source(put):
    path = put("prediction: {batch_size: 11}\n", "settings.yaml")
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


def test_doctor_names_what_is_sound_and_what_is_not_with_its_remedy(published, tmp_path):
    def told(*words, code):
        return run("doctor", "-o", tmp_path / "not" / "there", *words, code=code).output

    found = {one["title"]: one for one in json.loads(told("--json", code=0))}
    for title in ("Python", "Packages", "CPU", "500", "DNABERT-S", "Output space"):
        assert (found[title]["ok"], found[title]["remedy"]) == (True, ""), title
    assert "B/s" in found["Output speed"]["text"]
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    with (published / "500" / "classifier.safetensors").open("ab") as file:
        file.write(b"x")
    text = told(code=1)
    assert "FAIL  500:" in text and "-> virnucpro models fetch 500" in text


def test_citation_names_the_paper_and_is_valid_bibtex():
    text = run("citation").output
    assert "10.1093/bib/bbaf224" in text and "ESM-2" in text and "DNABERT-S" in text
    assert "Science 379(6637):1123-1130. doi:10.1126/science.ade2574\n" in text
    entries = run("citation", "--bibtex").output.strip().split("\n\n")
    assert len(entries) == 4
    for entry in entries:
        assert re.fullmatch(r"@\w+\{\w+,\n(  \w+ = \{.+\},\n)+\}", entry)


@pytest.mark.slow
def test_estimate_counts_time_and_memory_of_an_input(home, put):
    fasta = put(f">a\n{'ACG' * 300}\n>b\n{'GCA' * 100}\n>c\nAC\n")
    (row,) = json.loads(run("estimate", "-m", "500", "--count-only", "--json", fasta).output)
    assert (row["records"], row["scored"], row["chunks"]) == (3, 2, 3)
    assert row["orfs"] > 0 and row["protein_tokens"] > row["orfs"] and row["runs"] == []
    result = run("estimate", "-m", "500", "-d", "cpu", fasta, code=0)
    assert re.search(r"on cpu: about [\d.]+ \w+.*, memory \d\.\d GiB", result.output)


def test_estimate_says_in_words_what_it_leaves_out(put, tmp_path):
    env = {"VIRNUCPRO_MODEL_DIR": str(tmp_path / "none")}
    said = run("estimate", "--count-only", put(f">a\n{'ACG' * 100}\n"), env=env, code=0).output
    assert "published models that are not installed: 300, 500" in said
    assert "mini: 1 record, 300 nt; 1 to be scored in 1 chunk, about" in said


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("prediction: {batchsize: 1}", "prediction.batch_size"),
        ("predictions: {batch_size: 1}", "prediction.batch_size"),
        ("device: {nam: cpu}", "device.name"),
    ],
)
def test_unknown_key_names_the_nearest_known_one(put, text, near):
    with pytest.raises(ConfigError, match=f"did you mean '{near}'"):
        Config.load(put(text))


@pytest.mark.parametrize(
    "text",
    [
        *(f"prediction: {{batch_size: {value}}}" for value in ("many", -1, 0, "true", 10**16)),
        "prediction: {sequences_per_file: 0}", "prediction: {expected_length: 29}",
        "prediction: {model_type: maxi}", "features: {esm: {toks_per_batch: 0}}",
        "logging: {format: xml}", "progress: {enabled: perhaps}", "device: {name: [cpu]}",
        "[1, 2]", "a: b: c", "\x00", "!!python/object/apply:os.system ['true']",
    ],
)  # fmt: skip
def test_bad_file_is_a_configuration_error(put, text):
    with pytest.raises(ConfigError):
        Config.load(put(text))


def test_an_error_names_where_key_and_remedy(put):
    path = put("device: {dtype: float17}\n")
    with pytest.raises(ConfigError) as caught:
        Config.load(path)
    for part in (str(path), "device.dtype", "float16", "float17"):
        assert part in str(caught.value)
    with pytest.raises(ConfigError, match="at least 1"):
        Config.load(None, {"VIRNUCPRO_PREDICTION_THREADS": "0"})
    with pytest.raises(ConfigError, match="prediction is a section"):
        Config.load(put("prediction: 3"))
    assert Config.load(put("prediction:\n")).get("prediction.threads") is None


def test_short_names_of_variables_go_before_long_ones():
    given = {"VIRNUCPRO_MODEL_DIR": "/a", "VIRNUCPRO_MODELS_HOME": "/b", "VIRNUCPRO_OFFLINE": "1"}
    config = Config.load(None, given)
    assert (str(config.get("models.home")), config.get("models.offline")) == ("/a", True)
    sources = config.sources
    assert sources["models.home"] == "VIRNUCPRO_MODEL_DIR"
    assert unknown_variables({**given, "VIRNUCPRO_V1_ATTENTION": "", "HOME": "/"}) == []
    assert unknown_variables({"VIRNUCPRO_DEVICE_NAM": "cpu"}) == [
        ("VIRNUCPRO_DEVICE_NAM", "VIRNUCPRO_DEVICE_NAME")
    ]
