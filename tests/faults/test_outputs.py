"""No run removes, empties or writes over its own input, an earlier result, or a file of others."""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from virnucpro.cli.main import cli

ROOT = Path(__file__).resolve().parents[2]
FLAGS = ["-t", "1", "--no-progress"]


def dna(seed, length=240):
    return "".join(random.Random(seed).choices("ACGT", k=length))


def predict(*arguments, stdin=None):
    words = ["predict", *map(str, arguments), *FLAGS]
    return CliRunner().invoke(cli, words, input=stdin)


def contents(folder):
    """Every file below, but for the lock: its bytes and when they were written; links as such."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            found[path] = path.readlink()
        elif path.is_file() and path.name != ".virnucpro.lock":
            found[path] = (path.read_bytes(), path.stat().st_mtime_ns)
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Runs made once: `plain` of one file, `kept` with intermediates, `two` of two samples."""
    folder = tmp_path_factory.mktemp("made")
    one, other = folder / "s.fa", folder / "other.fa"
    one.write_text(f">a x\n{dna(1)}\n>b\n{dna(2)}\n")
    other.write_text(f">c\n{dna(3)}\n")
    for name, arguments in {
        "plain": [one, "--no-report", "--min-score", "0"],
        "kept": [one, "--no-report", "--min-score", "0", "-k"],
        "two": [one, other, "--no-report", "--min-score", "0"],
        "reported": [one],
        "stdin": ["-", "--no-report"],
    }.items():
        stdin = one.read_bytes() if name == "stdin" else None
        done = predict(*arguments, "-o", folder / name, stdin=stdin)
        assert done.exit_code == 0, done.output
    return folder


@pytest.fixture
def run(made, tmp_path, monkeypatch):
    """`run(name)`: a copy of one of the runs of `made` in the current directory."""
    monkeypatch.chdir(tmp_path)
    return lambda name: shutil.copytree(made / name, tmp_path / name, symlinks=True)


@pytest.fixture
def source(made):
    """The input of most runs, in its own words again after the test."""
    path = made / "s.fa"
    before = path.read_bytes()
    yield path
    path.write_bytes(before)


# An input among the files that a run removes


def spelled_relative(path, out):
    return path.relative_to(Path.cwd())


def spelled_with_dots(path, out):
    return out / ".." / out.name / path.relative_to(out)


def through_a_link(path, out):
    Path("link.fa").symlink_to(path)
    return Path("link.fa")


def through_two_links(path, out):
    Path("folder").symlink_to(out)
    Path("again.fa").symlink_to(Path("folder") / path.relative_to(out))
    return Path("again.fa")


def by_a_second_name(path, out):
    Path("hard.fa").hardlink_to(path)
    return Path("hard.fa")


SPELLINGS = [
    spelled_relative, spelled_with_dots, through_a_link, through_two_links, by_a_second_name,
]  # fmt: skip


def expect_spared(out, before, *arguments):
    refused = predict(*arguments, "-o", out, "--no-report")
    assert refused.exit_code == 2, refused.output
    assert "a file of the run in" in refused.output
    assert contents(Path.cwd()) == before


@pytest.mark.parametrize("spell", SPELLINGS, ids=lambda spell: spell.__name__)
def test_force_does_not_remove_its_own_input(run, spell):
    out = run("plain")
    path = spell(out / "viral.fasta", out)
    expect_spared(out, contents(Path.cwd()), path, "--force")


@pytest.mark.parametrize("flag", ["--force", "--resume", "--force-resume"])
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("two", "samples/other/viral.fasta"), ("two", "viral.fasta"), ("kept", "s_nucleotide.fa"),
        ("kept", "s_nucleotide/output_1.fa"), ("kept", "s_chunked500.fa"),
    ],
)  # fmt: skip
def test_no_file_of_a_run_is_its_input(run, name, file, flag):
    out = run(name)
    expect_spared(out, contents(Path.cwd()), out / file, flag)


def test_other_files_that_are_read_are_spared_too(run, made):
    out = run("two")
    own, mine = out / "viral.fasta", made / "s.fa"
    before = contents(Path.cwd())
    expect_spared(out, before, mine, own, "--force")
    expect_spared(out, before, mine, own, "--paired", "--force")
    expect_spared(out, before, mine, "--reference", own, "--force")


@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
def test_standard_input_may_not_come_from_a_file_that_force_removes(run, name):
    out = run("plain")
    before = contents(out)
    words = [sys.executable, "-m", "virnucpro", "predict", name, "-o", str(out), "--force"]
    with (out / "viral.fasta").open("rb") as file:
        refused = subprocess.run(
            words, stdin=file, capture_output=True, text=True, env=environment(), check=False
        )
    assert refused.returncode == 2 and "a file of the run in" in refused.stderr
    assert contents(out) == before


def test_no_log_lines_are_written_into_an_input(run, source):
    before = source.read_bytes()
    for words in (["-l", str(source)], ["--log-file", f"{source.parent}/./{source.name}"]):
        refused = CliRunner().invoke(cli, [*words, "predict", str(source), "-o", "out"])
        assert refused.exit_code == 2 and "is an input" in refused.output
    assert source.read_bytes() == before


def test_an_input_is_spared_where_the_list_of_files_was_lost(run):
    out = run("kept")
    (out / "run.json").unlink()
    expect_spared(out, contents(Path.cwd()), out / "viral.fasta", "--force")


def test_a_copy_of_a_result_may_be_the_input(run):
    out = run("plain")
    shutil.copy(out / "viral.fasta", "copy.fa")
    assert predict("copy.fa", "-o", out, "--no-report", "--force").exit_code == 0
    assert not (out / "s_merged").exists() and (out / "copy_merged").is_dir()


def environment(**more):
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}


# An input that became empty, or something else

EMPTY = {"nothing": b"", "blank lines": b"\n\n  \n", "an empty gzip": gzip.compress(b"")}
BROKEN = {
    "a cut gzip": gzip.compress(b">a\n" + dna(7).encode())[:60], "control signs": b">a\nAC\0GT\n",
    "no format": b"ACGT\n", "proteins": b">p\n" + b"MKVLEQFPIWHD" * 20 + b"\n",
}  # fmt: skip


def expect_kept(out, code, words, *arguments, stdin=None):
    """The run ends with this code and these words, and all that lies in `out` is as it was."""
    before = contents(out)
    refused = predict(*arguments, "-o", out, "--no-report", "--resume", stdin=stdin)
    assert refused.exit_code == code, refused.output
    assert words in refused.output
    assert contents(out) == before


@pytest.mark.parametrize("name", EMPTY)
def test_a_finished_run_outlives_an_input_that_became_empty(run, source, name):
    out, whole = run("plain"), source.read_bytes()
    source.write_bytes(EMPTY[name])
    expect_kept(out, 3, "holds no records; the run of what it held before is kept", source)
    source.write_bytes(whole)
    expect_kept(out, 0, "Already complete", source, "--min-score", "0")


@pytest.mark.parametrize("name", BROKEN)
def test_a_finished_run_outlives_an_input_that_became_unreadable(run, source, name):
    out = run("plain")
    source.write_bytes(BROKEN[name])
    expect_kept(out, 3, "s.fa", source)


def test_a_finished_run_outlives_one_of_its_inputs_that_became_empty(run, made, source):
    out = run("two")
    source.write_bytes(b"")
    expect_kept(out, 3, "s.fa", source, made / "other.fa")


def test_a_sample_that_was_empty_from_the_start_hinders_nothing(tmp_path):
    full, empty = tmp_path / "full.fa", tmp_path / "empty.fa"
    full.write_text(f">a\n{dna(5)}\n")
    empty.touch()
    out = tmp_path / "out"
    assert predict(full, empty, "-o", out, "--no-report").exit_code == 0
    full.write_text(f">b\n{dna(6)}\n")
    assert predict(full, empty, "-o", out, "--no-report", "--resume").exit_code == 0
    assert (out / "calls.tsv").read_text().splitlines()[1].startswith("b\t")


@pytest.mark.parametrize("name", EMPTY)
def test_a_finished_run_outlives_an_empty_standard_input(run, name):
    expect_kept(run("stdin"), 3, "standard input: holds no records", "-", stdin=EMPTY[name])


def test_standard_input_is_compared_by_content(run, made):
    out = run("stdin")
    other = (made / "other.fa").read_bytes()
    expect_kept(out, 2, "holds a run of -", "-", stdin=other)
    expect_kept(out, 0, "Already complete", "-", stdin=(made / "s.fa").read_bytes())
    refused = predict("-", "-o", out, "--no-report", stdin=other)
    assert refused.exit_code == 2 and "--force starts over" in refused.output


def test_a_file_by_the_name_of_standard_input_is_compared_by_content(tmp_path, made):
    def fed(path, *flags):
        standard, file = os.dup(0), os.open(path, os.O_RDONLY)
        os.dup2(file, 0)
        try:
            return predict("/dev/stdin", "-o", tmp_path / "out", "--no-report", *flags)
        finally:
            os.dup2(standard, 0)
            os.close(standard)
            os.close(file)

    assert fed(made / "s.fa").exit_code == 0
    before = contents(tmp_path)
    assert fed(made / "other.fa", "--resume").exit_code == 2
    assert "Already complete" in fed(made / "s.fa", "--resume").output
    assert contents(tmp_path) == before


def test_pipes_are_compared_by_content(tmp_path, made):
    pipe, out = tmp_path / "pipe.fa", tmp_path / "out"
    os.mkfifo(pipe)
    text = (made / "s.fa").read_bytes()

    def fed(content, *flags):
        writer = threading.Thread(target=pipe.write_bytes, args=[content])
        writer.start()
        done = predict(pipe, "-o", out, "--no-report", *flags)
        writer.join()
        return done

    assert fed(text).exit_code == 0
    before = contents(out)
    assert fed(b"", "--resume").exit_code == 3
    assert fed(b">x\n" + text, "--resume").exit_code == 2
    assert "Already complete" in fed(text, "--resume").output
    assert contents(out) == before


def test_a_stopped_run_outlives_an_input_that_became_empty(run, source):
    out = run("kept")
    record = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({**record, "status": "running", "outputs": {}}))
    (out / "calls.tsv").unlink()
    source.write_bytes(b"")
    expect_kept(out, 3, "holds no records", source)


def test_the_same_name_in_another_directory_is_another_file(tmp_path, monkeypatch):
    for number, name in enumerate(("one", "two")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "in.fa").write_text(f">{name}\n{dna(number)}\n")
    out = tmp_path / "out"
    monkeypatch.chdir(tmp_path / "one")
    assert predict("in.fa", "-o", out, "--no-report").exit_code == 0
    monkeypatch.chdir(tmp_path / "two")
    expect_kept(out, 2, "holds a run of in.fa", "in.fa")


# Files of others


@pytest.fixture
def others(tmp_path):
    """A folder of somebody else's, whose files have names that a run gives too."""
    folder = tmp_path / "others"
    for name in (
        "records.tsv", "contigs.tsv", "orfs.bin", "input_1", "run_record.json", "calls.tsv",
        "ledger/00ff.json", ".records.tsv.tmp-1", "output_1.fa", "output_1_merged.pt",
        "prediction_results.txt", "stage.json", "embeddings.h5", "viral.fasta.gz", "viral.fasta",
        "logs/worker_0.log", "shard_00000.h5", "other/viral.fasta", "other/calls.tsv", "merging",
    ):  # fmt: skip
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    return folder


FOLDERS = [
    ".checkpoints", ".checkpoints/ledger", "s_merged", "s_nucleotide",
    "s_protein", "samples", "samples/other",
]  # fmt: skip


@pytest.mark.parametrize("name", FOLDERS)
def test_no_link_in_place_of_a_folder_is_followed(run, made, others, name):
    out = run("two")
    path = out / name
    if path.exists():
        shutil.rmtree(path)
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(others)
    before = contents(others)
    for flags in (["--resume", "--gzip-fasta"], ["--resume", "-e", "300", "-k"], ["--force"]):
        predict(made / "s.fa", made / "other.fa", "-o", out, "--no-report", *flags)
        assert contents(others) == before
        assert path.is_symlink()


@pytest.mark.parametrize("name", FOLDERS)
def test_a_new_run_does_not_write_through_a_link(made, others, tmp_path, name):
    out = tmp_path / "out"
    (out / name).parent.mkdir(parents=True)
    (out / name).symlink_to(others)
    before = contents(others)
    done = predict(made / "s.fa", made / "other.fa", "-o", out, "--no-report", "--force", "-k")
    assert contents(others) == before and (out / name).is_symlink()
    assert done.exit_code == 2 and f"{out / name} is a link" in done.output
    assert not (out / "calls.tsv").exists()


@pytest.mark.parametrize("name", ["esm_v2", "esm_v2/logs", ".checkpoints/esm_v2_shards"])
def test_packed_stages_do_not_write_through_a_link(run, made, others, name):
    out = run("plain")
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).symlink_to(others)
    before = contents(others)
    done = predict(
        made / "s.fa", "-o", out, "--no-report", "--resume", "-e", "300", "--parallel",
        "--ranks", "1",
    )  # fmt: skip
    assert contents(others) == before
    assert done.exit_code == 2 and f"{out / name} is a link" in done.output


@pytest.mark.parametrize(
    "name", ["calls.tsv", "viral.fasta", "s_merged/prediction_results.txt", "run.json"]
)
def test_force_touches_nothing_where_a_link_took_the_place_of_a_file(run, made, tmp_path, name):
    out = run("plain")
    (out / name).rename(tmp_path / "moved")
    (out / name).symlink_to(tmp_path / "moved")
    before = contents(tmp_path)
    refused = predict(made / "s.fa", "-o", out, "--no-report", "--force")
    assert refused.exit_code == 2 and f"{out / name} is a link" in refused.output
    assert contents(tmp_path) == before


def test_the_lock_is_not_made_through_a_link(made, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / ".virnucpro.lock").symlink_to(tmp_path / "elsewhere")
    refused = predict(made / "s.fa", "-o", out, "--no-report")
    assert refused.exit_code == 2 and ".virnucpro.lock is a link" in refused.output
    assert not (tmp_path / "elsewhere").exists()


def test_a_link_that_leads_nowhere_is_somebody_elses_too(made, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "calls.tsv").symlink_to(tmp_path / "disk" / "calls.tsv")
    refused = predict(made / "s.fa", "-o", out, "--no-report", "--force")
    assert refused.exit_code == 2 and "calls.tsv is a link" in refused.output
    assert (out / "calls.tsv").is_symlink() and not (out / "chunks.tsv").exists()


def test_the_output_directory_itself_may_be_a_link(made, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    for flags in ([], ["--resume"], ["--force"]):
        done = predict(made / "s.fa", "-o", tmp_path / "out", "--no-report", *flags)
        assert done.exit_code == 0, done.output
    assert (tmp_path / "disk" / "calls.tsv").exists()


def test_temporary_files_are_never_opened_through_a_link(made, tmp_path):
    out, mine = tmp_path / "out", tmp_path / "mine"
    mine.write_text("mine")
    names = ["calls.tsv", "run.json", "viral.fasta", "s_nucleotide.fa", "chunks.tsv", "report.html"]
    names += [".checkpoints/records.tsv", ".checkpoints/scores.bin", "s_nucleotide/output_1.fa"]
    links = [out / f"{Path(name).parent}/.{Path(name).name}.tmp-{os.getpid()}" for name in names]
    for link in links:
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(mine)
    hard = out / f".regions.tsv.tmp-{os.getpid()}"
    hard.hardlink_to(mine)
    done = predict(made / "s.fa", "-o", out, "--force")
    assert done.exit_code == 0, done.output
    assert mine.read_text() == "mine" and all(link.is_symlink() for link in links)


NOT_OURS = [
    "notes.txt", "esm_v2/notes.txt", "esm_v2/logs/mine.log", "esm_v2/data/x.h5",
    "dnabert_v2/embeddings.txt", ".checkpoints/notes", ".checkpoints/ledger/notes.json",
    ".checkpoints/ledger/deep/00ff.json", ".checkpoints/esm_v2_shards/shard_1.txt",
    "s_merged/figure.png", "s_nucleotide/output_1.txt", "samples/calls.txt", "data/viral.fasta",
    "calls.tsv.bak", "mine/output_1.fa", "thesis.doc", ".checkpoints/.sort-x/notes.txt",
]  # fmt: skip


def list_as_ours(out, *names):
    """Let the ledger say that these are the run's."""
    with (out / ".checkpoints" / "ledger" / "files.txt").open("a") as file:
        file.writelines(json.dumps(name) + "\n" for name in names)


@pytest.mark.parametrize("name", ["plain", "kept", "two"])
def test_files_go_by_name_and_no_folder_goes_as_a_whole(run, made, name):
    out = run(name)
    for path in (out / name for name in NOT_OURS):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    own = [out / "esm_v2" / "stage.json", out / "esm_v2" / "logs" / "worker_0.log"]
    for path in own:
        path.write_text("{}")
    list_as_ours(out, *(str(path.relative_to(out)) for path in own))
    list_as_ours(out, "esm_v2", "dnabert_v2", "data", "samples", ".", "..", "mine", "../s.fa")
    inputs = [made / "s.fa", *([made / "other.fa"] if name == "two" else [])]
    for flags in (["--resume"], ["--resume", "--gzip-fasta"], ["--force"]):
        done = predict(*inputs, "-o", out, "--no-report", *flags)
        assert done.exit_code == 0, done.output
        assert {path: path.read_text() for path in (out / name for name in NOT_OURS)} == {
            out / name: "mine" for name in NOT_OURS
        }
    assert not any(path.exists() for path in own)


def test_what_a_run_removed_itself_is_its_own_no_more(run, made):
    out = run("plain")
    names = ["s_protein.faa", "s_nucleotide/output_1.fa", "s_chunked500.fa", "viral.fasta.gz"]
    for path in (out / name for name in names):
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    assert predict(made / "s.fa", "-o", out, "--no-report", "--resume").exit_code == 0
    assert all((out / name).read_text() == "mine" for name in names)
    for flags in (["--resume", "--gzip-fasta"], ["--resume", "-e", "300"], ["--force"]):
        refused = predict(made / "s.fa", "-o", out, "--no-report", *flags)
        assert refused.exit_code in (0, 2)
        assert all((out / name).read_text() == "mine" for name in names)


def test_files_of_others_are_found_before_any_work(made, tmp_path):
    for name in (
        "s_protein.faa", "s_nucleotide/output_1.fa", "s_merged/output_3_merged.pt", "chunks.tsv",
        "failed_files.txt", "s_protein/output_7_ESM.pt",
    ):  # fmt: skip
        out = tmp_path / name.replace("/", "-")
        (out / name).parent.mkdir(parents=True)
        (out / name).write_text("mine")
        refused = predict(made / "s.fa", "-o", out, "--no-report", "--force", "-k")
        assert refused.exit_code == 2, refused.output
        assert f"{out / name} is there already" in refused.output
        files = {path.name for path in out.rglob("*") if path.is_file()}
        assert files <= {Path(name).name, ".virnucpro.lock"}


def test_a_report_of_others_is_not_written_over(run, made):
    out = run("plain")
    (out / "report.html").write_text("mine")
    for flags in (["--resume", "--min-score", "0"], ["--resume"]):
        refused = predict(made / "s.fa", "-o", out, *flags)
        assert refused.exit_code == 2 and "report.html is there already" in refused.output
        assert (out / "report.html").read_text() == "mine"


# run.json lost


def lose(out, how):
    path = out / "run.json"
    if how == "deleted":
        path.unlink()
    else:
        text = path.read_bytes()
        path.write_bytes({"empty": b"", "torn": text[:-40], "garbage": b"\xff{", "[]": b"[]"}[how])


LOSSES = ["deleted", "empty", "torn", "garbage", "[]"]


@pytest.mark.parametrize("how", LOSSES)
@pytest.mark.parametrize("name", ["plain", "kept", "reported"])
def test_a_lost_run_json_costs_a_finished_run_nothing(run, made, name, how):
    out = run(name)
    flags = {"reported": [], "plain": ["--no-report", "--min-score", "0"]}
    flags["kept"] = [*flags["plain"], "-k"]
    before, record = contents(out), json.loads((out / "run.json").read_text())
    lose(out, how)
    again = predict(made / "s.fa", "-o", out, "--resume", *flags[name])
    assert again.exit_code == 0 and "Already complete" in again.output
    after = contents(out)
    for found in (before, after):
        found.pop(out / "run.json")
    assert after == before
    assert json.loads((out / "run.json").read_text())["outputs"] == record["outputs"]


@pytest.mark.parametrize("how", ["deleted", "torn"])
def test_a_run_whose_run_json_was_lost_is_as_protected_as_before(run, made, how):
    out = run("plain")
    (out / "thesis.doc").write_text("mine")
    lose(out, how)
    before = contents(out)
    refused = predict(made / "s.fa", "-o", out, "--no-report")
    assert refused.exit_code == 2 and "--resume goes on with it" in refused.output
    expect_kept(out, 2, "holds a run of", made / "other.fa")
    assert contents(out) == before
    (out / "chunks.tsv").write_text("edited by hand\n")
    expect_kept(out, 1, "chunks.tsv: ", made / "s.fa")
    assert predict(made / "other.fa", "-o", out, "--no-report", "--force").exit_code == 0
    assert not (out / "s_merged").exists() and (out / "thesis.doc").read_text() == "mine"


def test_other_thresholds_cost_no_scores_where_run_json_was_lost(run, made):
    out = run("plain")
    stamp = (out / "chunks.tsv").stat().st_mtime_ns
    (out / "run.json").unlink()
    done = predict(made / "s.fa", "-o", out, "--no-report", "--resume", "--min-score", "1")
    assert done.exit_code == 0, done.output
    assert (out / "viral.fasta").read_text() == ""
    assert (out / "chunks.tsv").stat().st_mtime_ns == stamp


# The report


@pytest.mark.parametrize("name", ["report.html", "virnucpro_mqc.json"])
@pytest.mark.parametrize("how", ["missing", "torn", "empty", "other"])
def test_a_report_that_is_not_whole_is_made_again(run, made, name, how):
    out = run("reported")
    path = out / name
    whole = path.read_bytes()
    cut = {"torn": whole[: len(whole) // 2], "empty": b"", "other": whole.replace(b"mini", b"maxi")}
    path.unlink() if how == "missing" else path.write_bytes(cut[how])
    again = predict(made / "s.fa", "-o", out, "--resume")
    assert again.exit_code == 0 and "Already complete" in again.output
    assert path.read_bytes() == whole
    before = contents(out)
    assert predict(made / "s.fa", "-o", out, "--resume").exit_code == 0
    assert contents(out) == before


def test_a_report_that_nobody_asks_for_is_not_made(run, made):
    out = run("reported")
    (out / "report.html").unlink()
    assert predict(made / "s.fa", "-o", out, "--resume", "--no-report").exit_code == 0
    assert not (out / "report.html").exists()


def test_a_report_is_made_when_it_is_asked_for_later(run, made):
    out = run("plain")
    done = predict(made / "s.fa", "-o", out, "--resume", "--min-score", "0")
    assert done.exit_code == 0 and "Already complete" in done.output
    assert (out / "report.html").exists() and (out / "virnucpro_mqc.json").exists()
