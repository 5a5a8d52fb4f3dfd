"""No run removes, empties or writes over its own input, an earlier result, or a file of others."""

import gzip
import json
import os
import shutil
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from runs_here import contents, dna, predict_with, run, write_fasta

ALL = ("--min-score", "0")


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_home):
    """Runs made once: `plain` of one file, `kept` with intermediates, `two` of two samples."""
    folder = tmp_path_factory.mktemp("made")
    one = write_fasta(folder / "s.fa", ("a x", 1), ("b", 2))
    other = write_fasta(folder / "other.fa", ("c", 3))
    for name, words, more in (
        ("plain", [one, *ALL], {}), ("kept", [one, *ALL, "-k"], {}),
        ("two", [one, other, *ALL], {}), ("reported", [one], {"report": True}),
        ("stdin", ["-"], {"stdin": one.read_bytes()}),
    ):  # fmt: skip
        done = predict_with(tiny_home, *words, "-o", folder / name, **more)
        assert done.exit_code == 0, done.output
    return folder


@pytest.fixture
def copy(made, tmp_path, monkeypatch):
    """`copy(name)` of one of the runs of `made`, in the current directory."""
    monkeypatch.chdir(tmp_path)
    return lambda name: shutil.copytree(made / name, tmp_path / name, symlinks=True)


@pytest.fixture
def source(made):
    path = made / "s.fa"
    before = path.read_bytes()
    yield path
    path.write_bytes(before)


@pytest.fixture
def refused(predict):
    """`refused(out, code, text, ...)`: the run ends so, and no file below `folder` has changed."""

    def check(out, code, text, *words, folder=None, **more):
        before = contents(folder or out)
        done = predict(*words, "-o", out, **more)
        assert done.exit_code == code and text in " ".join(done.output.split()), done.output
        assert contents(folder or out) == before

    return check


def put(out, names, text="mine"):
    for path in (out / name for name in names):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def are_mine(out, names):
    return all((out / name).read_text() == "mine" for name in names)


@pytest.mark.parametrize("words", [[], ["--parallel"], ["-k", "--staged"], ["--force"]])
def test_a_run_of_an_input_that_was_refused_leaves_nothing(tmp_path, predict, words):
    path, out = write_fasta(tmp_path / "s.fa", ("a", 1), ("b", "AC?GT")), tmp_path / "new" / "out"
    predict(path, "-o", out, *words, code=3)
    assert not out.parent.exists()
    put(out, ["notes.txt"])
    for more in ([], ["--paired"]):  # which fails before the ledger is begun
        predict(path, path, *more, "-o", out, *words, "--force", code=2 if more else 3)
        assert [entry.name for entry in out.iterdir()] == ["notes.txt"]
    write_fasta(path, ("a", 1), ("b", 2))
    predict(path, "-o", out, "--force", code=0)


OWN = "a file of the run in"


@pytest.mark.parametrize("how", ["relative", "dots", "link", "two links", "second name"])
def test_force_does_not_remove_its_own_input(copy, refused, tmp_path, how):
    out = copy("plain")
    if how == "relative":
        path = Path("plain/viral.fasta")
    elif how == "dots":
        path = out / ".." / "plain" / "viral.fasta"
    else:
        path = tmp_path / "other.fa"
        if how == "second name":
            path.hardlink_to(out / "viral.fasta")
        else:
            Path("folder").symlink_to(out)
            path.symlink_to((Path("folder") if how == "two links" else out) / "viral.fasta")
    refused(out, 2, OWN, path, "--force", folder=tmp_path)


@pytest.mark.parametrize("flag", ["--force", "--resume", "--force-resume"])
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("two", "samples/other/viral.fasta"), ("kept", "s_nucleotide/output_1.fa"),
        ("kept", "s_chunked500.fa"),
    ],
)  # fmt: skip
def test_no_file_of_a_run_is_its_input(copy, refused, name, file, flag):
    out = copy(name)
    refused(out, 2, OWN, out / file, flag)


def test_other_files_that_are_read_are_spared_too(copy, refused, made, source):
    out = copy("two")
    own, mine = out / "viral.fasta", made / "s.fa"
    for words in ([mine, own], [mine, own, "--paired"], [mine, "--reference", own]):
        refused(out, 2, OWN, *words, "--force")
    (out / "run.json").unlink()  # the list of files in the ledger says so too
    refused(out, 2, OWN, own, "--force")
    before = source.read_bytes()
    for path in (source, f"{source.parent}/./{source.name}"):
        done = run("-l", path, "predict", source, "-o", "out", code=2)
        assert "is an input" in done.output
    assert source.read_bytes() == before


@contextmanager
def standard_input(path):
    standard, file = os.dup(0), os.open(path, os.O_RDONLY)
    os.dup2(file, 0)
    try:
        yield
    finally:
        os.dup2(standard, 0)
        os.close(standard)
        os.close(file)


def test_standard_input_may_not_come_from_a_file_that_force_removes(copy, refused):
    out = copy("plain")
    with standard_input(out / "viral.fasta"):
        refused(out, 2, OWN, "/dev/stdin", "--force")


EMPTY = {"nothing": b"", "blank lines": b"\n\n  \n", "an empty gzip": gzip.compress(b"")}
BROKEN = {
    "a cut gzip": gzip.compress(b">a\n" + dna(7).encode())[:60], "control signs": b">a\nAC\0GT\n",
    "no format": b"ACGT\n", "proteins": b">p\n" + b"MKVLEQFPIWHD" * 20 + b"\n",
}  # fmt: skip


@pytest.mark.parametrize("name", EMPTY)
def test_a_finished_run_outlives_an_input_that_became_empty(copy, refused, source, name):
    out, whole = copy("plain"), source.read_bytes()
    source.write_bytes(EMPTY[name])
    kept = "holds no records; the run of what it held before is kept"
    refused(out, 3, kept, source, "--resume")
    source.write_bytes(whole)
    refused(out, 0, "Already complete", source, "--resume", *ALL)


@pytest.mark.parametrize("name", BROKEN)
def test_a_finished_run_outlives_an_input_that_became_unreadable(copy, refused, source, name):
    source.write_bytes(BROKEN[name])
    refused(copy("plain"), 3, "s.fa", source, "--resume")


def test_a_stopped_run_and_one_of_two_inputs_outlive_it_too(copy, refused, made, source):
    source.write_bytes(b"")
    refused(copy("two"), 3, "s.fa", source, made / "other.fa", "--resume")
    out = copy("kept")
    record = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({**record, "status": "running", "outputs": {}}))
    (out / "calls.tsv").unlink()
    refused(out, 3, "holds no records", source, "--resume")


def test_a_sample_that_was_empty_from_the_start_hinders_nothing(tmp_path, predict):
    empty, out = tmp_path / "empty.fa", tmp_path / "out"
    empty.touch()
    for name, flags in (("a", []), ("b", ["--resume"])):
        full = write_fasta(tmp_path / "full.fa", (name, 5))
        predict(full, empty, "-o", out, *flags, code=0)
    assert (out / "calls.tsv").read_text().splitlines()[1].startswith("b\t")


@pytest.mark.parametrize("name", EMPTY)
def test_a_finished_run_outlives_an_empty_standard_input(copy, refused, name):
    text = "standard input: holds no records"
    refused(copy("stdin"), 3, text, "-", "--resume", stdin=EMPTY[name])


def test_standard_input_is_compared_by_content(copy, refused, made):
    out = copy("stdin")
    same, other = ((made / name).read_bytes() for name in ("s.fa", "other.fa"))
    refused(out, 2, "standard input with other content", "-", "--resume", stdin=other)
    refused(out, 2, "--force starts over", "-", stdin=other)
    refused(out, 0, "Already complete", "-", "--resume", stdin=same)


def test_pipes_are_compared_by_content(tmp_path, made, predict, refused):
    pipe, out, text = tmp_path / "pipe.fa", tmp_path / "out", (made / "s.fa").read_bytes()
    os.mkfifo(pipe)

    def fed(content, call, *words):
        writer = threading.Thread(target=pipe.write_bytes, args=[content])
        writer.start()
        done = call(*words)
        writer.join()
        return done

    assert fed(text, predict, pipe, "-o", out).exit_code == 0
    for content, code in ((b"", 3), (b">x\n" + text, 2), (text, 0)):
        fed(content, refused, out, code, "", pipe, "--resume")


def test_the_same_name_in_another_directory_is_another_file(
    tmp_path, monkeypatch, predict, refused
):
    for number, name in enumerate(("one", "two")):
        write_fasta(tmp_path / name / "in.fa", (name, number))
    monkeypatch.chdir(tmp_path / "one")
    predict("in.fa", "-o", tmp_path / "out", code=0)
    monkeypatch.chdir(tmp_path / "two")
    refused(tmp_path / "out", 2, "holds a run of in.fa", "in.fa", "--resume")


NAMES = (
    "records.tsv", "contigs.tsv", "orfs.bin", "input_1", "run_record.json", "calls.tsv",
    "ledger/00ff.json", ".records.tsv.tmp-1", "output_1.fa", "output_1_merged.pt",
    "prediction_results.txt", "stage.json", "embeddings.h5", "viral.fasta.gz", "viral.fasta",
    "logs/worker_0.log", "shard_00000.h5", "other/viral.fasta", "other/calls.tsv", "merging",
)  # fmt: skip
FOLDERS = [
    ".checkpoints", ".checkpoints/ledger", "s_merged", "s_nucleotide",
    "s_protein", "samples", "samples/other",
]  # fmt: skip


@pytest.fixture
def others(tmp_path):
    put(tmp_path / "others", NAMES)
    return tmp_path / "others"


@pytest.mark.parametrize("name", FOLDERS)
def test_no_link_in_place_of_a_folder_is_followed(copy, made, others, predict, name):
    out = copy("two")
    path = out / name
    shutil.rmtree(path, ignore_errors=True)
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(others)
    before = contents(others)
    for flags in (["--resume", "--gzip-fasta"], ["--resume", "-e", "300", "-k"], ["--force"]):
        predict(made / "s.fa", made / "other.fa", "-o", out, *flags)
        assert contents(others) == before and path.is_symlink()


PACKED = ["esm_v2", "esm_v2/logs", ".checkpoints/esm_v2_shards"]


@pytest.mark.parametrize("name", [*FOLDERS, *PACKED])
def test_a_new_run_does_not_write_through_a_link(made, others, tmp_path, predict, name):
    out, flags = tmp_path / "out", ["--parallel", "--ranks", "1"] if name in PACKED else ["-k"]
    (out / name).parent.mkdir(parents=True)
    (out / name).symlink_to(others)
    before = contents(others)
    done = predict(made / "s.fa", made / "other.fa", "-o", out, "--force", *flags)
    assert contents(others) == before and (out / name).is_symlink()
    assert done.exit_code == 2 and f"{out / name} is a link" in done.output
    assert not (out / "calls.tsv").exists()


@pytest.mark.parametrize(
    "name", ["viral.fasta", "s_merged/prediction_results.txt", "run.json", ".virnucpro.lock"]
)
def test_force_touches_nothing_where_a_link_took_the_place_of_a_file(
    copy, refused, made, tmp_path, name
):
    out = copy("plain")
    (out / name).rename(tmp_path / "moved")
    (out / name).symlink_to(tmp_path / "moved")
    if name == ".virnucpro.lock":  # a link that leads nowhere is somebody else's too
        (tmp_path / "moved").unlink()
    refused(out, 2, f"{name} is a link", made / "s.fa", "--force", folder=tmp_path)


def test_the_output_directory_itself_may_be_a_link(made, tmp_path, predict):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    for flags in ([], ["--resume"], ["--force"]):
        predict(made / "s.fa", "-o", tmp_path / "out", *flags, code=0)
    assert (tmp_path / "disk" / "calls.tsv").exists()


def test_temporary_files_are_never_opened_through_a_link(made, tmp_path, predict):
    out, mine = tmp_path / "out", tmp_path / "mine"
    mine.write_text("mine")
    names = ["calls.tsv", "run.json", "viral.fasta", "s_nucleotide.fa", "chunks.tsv", "report.html"]
    names += [".checkpoints/records.tsv", ".checkpoints/scores.bin", "s_nucleotide/output_1.fa"]
    links = [out / f"{Path(name).parent}/.{Path(name).name}.tmp-{os.getpid()}" for name in names]
    for link in links:
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(mine)
    (out / f".regions.tsv.tmp-{os.getpid()}").hardlink_to(mine)
    predict(made / "s.fa", "-o", out, "--force", report=True, code=0)
    assert mine.read_text() == "mine" and all(link.is_symlink() for link in links)


NOT_OURS = [
    "notes.txt", "esm_v2/notes.txt", "esm_v2/logs/mine.log", "esm_v2/data/x.h5",
    "dnabert_v2/embeddings.txt", ".checkpoints/notes", ".checkpoints/ledger/notes.json",
    ".checkpoints/ledger/deep/00ff.json", ".checkpoints/esm_v2_shards/shard_1.txt",
    "s_merged/figure.png", "s_nucleotide/output_1.txt", "samples/calls.txt", "data/viral.fasta",
    "calls.tsv.bak", "mine/output_1.fa", "thesis.doc", ".checkpoints/.sort-x/notes.txt",
]  # fmt: skip


@pytest.mark.parametrize("name", ["plain", "kept", "two"])
def test_files_go_by_name_and_no_folder_goes_as_a_whole(copy, made, predict, name):
    out, own = copy(name), ["esm_v2/stage.json", "esm_v2/logs/worker_0.log"]
    put(out, NOT_OURS)
    put(out, own, "{}")
    folders = ["esm_v2", "dnabert_v2", "data", "samples", ".", "..", "mine", "../s.fa"]
    with (out / ".checkpoints" / "ledger" / "files.txt").open("a") as file:
        file.writelines(json.dumps(name) + "\n" for name in (*own, *folders))
    inputs = [made / "s.fa", *([made / "other.fa"] if name == "two" else [])]
    for flags in (["--resume"], ["--resume", "--gzip-fasta"], ["--force"]):
        predict(*inputs, "-o", out, *flags, code=0)
        assert are_mine(out, NOT_OURS)
    assert not any((out / name).exists() for name in own)


def test_what_a_run_removed_itself_is_its_own_no_more(copy, made, predict):
    out = copy("plain")
    names = ["s_protein.faa", "s_nucleotide/output_1.fa", "s_chunked500.fa", "viral.fasta.gz"]
    put(out, names)
    for flags in ([], ["--gzip-fasta"], ["-e", "300"], ["--force"]):
        done = predict(made / "s.fa", "-o", out, "--resume", *flags)
        assert done.exit_code in ((0, 2) if flags else (0,)) and are_mine(out, names)


def test_a_file_of_others_that_clashes_is_named_at_once(made, tmp_path, refused):
    out = tmp_path / "out"
    put(out, ["notes.txt"])
    refused(out, 2, "holds files of others (notes.txt); choose another", made / "s.fa")
    put(out, ["calls.tsv"])
    refused(out, 2, "calls.tsv is there already", made / "s.fa")


@pytest.mark.parametrize(
    "name",
    [
        "s_protein.faa", "s_nucleotide/output_1.fa", "s_merged/output_3_merged.pt", "chunks.tsv",
        "failed_files.txt", "s_protein/output_7_ESM.pt", "run.json", "viral.fasta", "report.html",
    ],
)  # fmt: skip
def test_files_of_others_are_found_before_any_work(made, tmp_path, refused, name):
    out = tmp_path / "out"
    put(out, [name], '{"tool": "virnucpro", "format": 1}')
    refused(out, 2, "is there already", made / "s.fa", "--force", "-k", report=True)


def lose(out, how):
    path = out / "run.json"
    text = path.read_bytes()
    path.unlink()
    if how != "deleted":
        path.write_bytes({"empty": b"", "torn": text[:-40], "garbage": b"\xff{", "[]": b"[]"}[how])
    return json.loads(text)


@pytest.mark.parametrize("how", ["deleted", "empty", "torn", "garbage", "[]"])
@pytest.mark.parametrize("name", ["kept", "reported"])
def test_a_lost_run_json_costs_a_finished_run_nothing(copy, made, predict, name, how):
    out = copy(name)
    record, before = lose(out, how), contents(out)
    flags = {"reported": [], "kept": [*ALL, "-k"]}[name]
    done = predict(made / "s.fa", "-o", out, "--resume", *flags, report=name == "reported", code=0)
    assert "Already complete" in done.output
    assert json.loads((out / "run.json").read_text())["outputs"] == record["outputs"]
    after = contents(out)
    for found in (before, after):
        found.pop(out / "run.json", None)
    assert after == before


@pytest.mark.parametrize("how", ["deleted", "torn"])
def test_a_run_whose_run_json_was_lost_is_as_protected_as_before(copy, made, predict, refused, how):
    out = copy("plain")
    put(out, ["thesis.doc"])
    lose(out, how)
    refused(out, 2, "--resume goes on with it", made / "s.fa")
    refused(out, 2, "holds a run of", made / "other.fa", "--resume")
    put(out, ["chunks.tsv"])
    refused(out, 1, "chunks.tsv: ", made / "s.fa", "--resume")
    predict(made / "other.fa", "-o", out, "--force", code=0)
    assert not (out / "s_merged").exists() and are_mine(out, ["thesis.doc"])


@pytest.mark.parametrize("name", ["report.html", "virnucpro_mqc.json"])
@pytest.mark.parametrize("how", ["missing", "torn", "empty", "other"])
def test_a_report_that_is_not_whole_is_made_again(copy, made, predict, refused, name, how):
    out = copy("reported")
    whole = (out / name).read_bytes()
    cut = {"torn": whole[: len(whole) // 2], "empty": b"", "other": whole.replace(b"5", b"6")}
    (out / name).unlink() if how == "missing" else (out / name).write_bytes(cut[how])
    again = predict(made / "s.fa", "-o", out, "--resume", report=True, code=0)
    assert "Already complete" in again.output
    assert (out / name).read_bytes() == whole
    refused(out, 0, "", made / "s.fa", "--resume", report=True)


def test_a_report_is_made_only_if_it_is_asked_for_then_or_later(copy, made, predict):
    out = copy("reported")
    (out / "report.html").unlink()
    predict(made / "s.fa", "-o", out, "--resume", code=0)
    assert not (out / "report.html").exists()
    out = copy("plain")
    done = predict(made / "s.fa", "-o", out, "--resume", *ALL, report=True, code=0)
    assert "Already complete" in done.output
    assert (out / "report.html").exists() and (out / "virnucpro_mqc.json").exists()
