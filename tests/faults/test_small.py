"""Small faults found in the field, each kind with more than the case that showed it."""

import os
import threading
from pathlib import Path

import pytest
from runs_here import run

from virnucpro.core.errors import VirNucProError
from virnucpro.training.jobs import read_job

ROOT = Path(__file__).resolve().parents[2]
LONG = "x" * 50_000
MOST_LETTERS = 200


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
def test_no_value_of_a_yaml_file_stands_for_another(put, text):
    path = put(text) if text else ROOT / "tests" / "data" / "bomb1.yaml"
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
def test_a_number_without_end_is_refused(put, value):
    result = run("-c", put(f"prediction: {{batch_size: {value}}}\n"), "config", "show", code=2)
    assert len(result.output) < 600


@pytest.mark.timeout(30)
def test_a_file_without_end_is_refused():
    run("-c", "/dev/zero", "config", "show", code=2)
    with pytest.raises(VirNucProError, match="over 262,144 bytes"):
        read_job(Path("/dev/zero"), None)


SETTINGS = [
    f"prediction: {{batch_size: [{','.join(['xxxxxxxxxxxxxxxxxxxxxxxxx'] * 900)}]}}",
    f"device: {{dtype: {LONG}}}",
    f"{{'{LONG}': {{'{LONG}': 1}}}}",
    f"prediction: {{batch_size: !{LONG} 1}}",
]
RECIPES = [f"data: {{train: {LONG}}}", f"classifier: {LONG}", f"'{LONG}': 1", f"dev_count: {LONG}"]


@pytest.mark.parametrize("text", [*SETTINGS, *RECIPES], ids=range(8))
def test_messages_about_settings_and_training_stay_short(put, text):
    path = put(text + "\n", "settings.yaml")
    if text in SETTINGS:
        said = run("-c", path, "config", "show", code=2).output
    else:
        with pytest.raises(VirNucProError) as caught:
            read_job(path, None)
        said = str(caught.value)
    assert "x" * 20 in said and "x" * (MOST_LETTERS + 1) not in said
    assert len(said) < 8 * MOST_LETTERS, said[:2_000]


@pytest.mark.parametrize(
    "words",
    [
        ["predict", "in.fa", "--device", LONG], ["predict", "in.fa", "-m", LONG], [LONG],
        ["models", "fetch", LONG], ["predict", LONG], ["predict", "in.fa", "-p", LONG],
        ["evaluate", "virus=in.fa", "-o", "out", "--windows", "--lengths", LONG],
    ],
    ids=range(7),
)  # fmt: skip
def test_messages_about_flags_stay_short(home, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    Path("in.fa").write_text(">a\nACGT\n")
    result = run(*words)
    assert result.exit_code in (2, 4)
    assert len(result.output) < 8 * MOST_LETTERS, result.output[:3_000]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["fifo", "stdin", "pipe", "device", "reference"])
def test_estimate_takes_no_input_that_can_be_read_once_only(put, tmp_path, kind):
    fasta = put(">a\nACGT\n")
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
