"""What --resume takes, what it refuses, and what it never takes for its own."""

import json
import shutil

import faults
import pytest
from runs import entries, results

from virnucpro.core.checkpoint import parse_entry
from virnucpro.core.files import sha256_file

STAGED = ("--staged", "-k")


@pytest.fixture(scope="module")
def stopped(runs):
    """A run that made and kept everything but was killed before it could say so."""
    out = runs.folder / "stopped"
    assert runs.finish(out, *STAGED).code == 0
    record = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({**record, "status": "running", "outputs": {}}))
    (out / "calls.tsv").unlink()
    return out


@pytest.fixture(scope="module")
def finished(runs):
    """A run that ended well and removed what it needed no more."""
    out = runs.folder / "finished"
    assert runs.finish(out).code == 0
    return out


@pytest.fixture
def kept(stopped, runs):
    out = shutil.copytree(stopped, runs.folder / "kept")
    yield out
    shutil.rmtree(out)


def stamps(out):
    """When each file of a stage was written; a file that is made again gets another."""
    files = [path for path in out.rglob("*") if path.suffix in {".fa", ".faa", ".pt", ".bin"}]
    return {str(path.relative_to(out)): path.stat().st_mtime_ns for path in files}


WRONG = {"tool": "virnucpro", "files": [], "inputs": 3, "samples": {}, "outputs": [], "stages": 1}


@pytest.mark.parametrize("content", ["whole", None, json.dumps(WRONG)])
def test_finished_units_are_taken_as_they_are(runs, undisturbed, kept, content):
    """Even if run.json was lost, or is no record of a run."""
    before, path = stamps(kept), kept / "run.json"
    if content != "whole":
        path.unlink() if content is None else path.write_text(content)
    refused = runs.finish(kept)
    assert refused.code == 2 and "--resume goes on with it, --force starts over" in refused.said
    assert stamps(kept) == before
    assert runs.finish(kept, "--resume", *STAGED).code == 0
    assert stamps(kept) == before
    assert results(kept) == undisturbed


@pytest.mark.parametrize(
    ("name", "made_again"),
    [
        ("reads_chunked500.fa", (".fa", ".faa")),
        ("reads_nucleotide/output_2.fa", (".fa", ".faa")),
        ("reads_nucleotide/output_2_DNABERT_S.pt", ("output_2_DNABERT_S.pt",)),
        ("reads_protein/output_2_ESM.pt", ("output_2_ESM.pt",)),
        ("reads_merged/prediction_results.txt", ()),
        ("chunks.tsv", ()),
    ],
)
def test_a_damaged_file_stops_resume_and_force_resume_makes_only_it_again(
    runs, undisturbed, kept, name, made_again
):
    if made_again:  # else nothing looks into the file
        for unit, path in entries(kept).items():
            if unit.startswith(("scores", "calls", "tables")):
                path.unlink()
    path = kept / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    refused = runs.finish(kept, "--resume", *STAGED)
    wanted = f"{path}: fails its checksum; run again with --force-resume"
    assert refused.code == 1 and wanted in refused.said
    before = stamps(kept)
    assert runs.finish(kept, "--force-resume", *STAGED).code == 0
    assert path.read_bytes() == whole
    assert results(kept) == undisturbed
    changed = {key for key, stamp in stamps(kept).items() if before.get(key) != stamp}
    assert all(key.endswith((*made_again, "_merged.pt")) for key in changed)


def test_damaged_results_of_a_finished_run_are_not_written_over(
    runs, undisturbed, finished, tmp_path
):
    out = shutil.copytree(finished, tmp_path / "out")
    (out / "calls.tsv").write_text("edited by hand\n")
    refused = runs.finish(out, "--resume")
    assert refused.code == 1 and "calls.tsv: holds 15 bytes where" in refused.said
    assert (out / "calls.tsv").read_text() == "edited by hand\n"
    assert runs.finish(out, "--force-resume").code == 0
    assert results(out) == undisturbed
    (out / "calls.tsv").unlink()
    assert runs.finish(out, "--resume").code == 0  # missing is not damaged
    assert results(out) == undisturbed


@pytest.mark.parametrize("begun", ["absent", "locked", "barely"])
def test_resume_begins_where_there_is_nothing_yet(runs, undisturbed, tmp_path, begun):
    out = tmp_path / "out"
    if begun != "absent":
        out.mkdir()
        (out / ".virnucpro.lock").touch()
    if begun == "barely":
        (out / ".checkpoints" / "ledger").mkdir(parents=True)
        (out / ".checkpoints" / "ledger" / "files.txt").write_text('"run.json"\n')
        (out / ".run.json.tmp-77").write_text("{")
    assert runs.finish(out, "--resume").code == 0
    assert results(out) == undisturbed
    assert not list(out.glob(".*tmp*"))


def test_files_of_others_are_refused_and_left_alone(runs, tmp_path):
    out, names = tmp_path / "out", ["thesis.doc", "thesis_merged.tmp", ".draft.tmp-12"]
    out.mkdir()
    for name in names:
        (out / name).write_text("mine")
    for options in ([], ["--resume"]):
        refused = runs.finish(out, *options)
        assert refused.code == 2 and "holds files of others (" in refused.said
    assert sorted(path.name for path in out.iterdir()) == sorted(names)
    for _ in range(2):
        assert runs.finish(out, "--force").code == 0
        assert all((out / name).read_text() == "mine" for name in names)


CHANGES = {
    "input": [], "policy": ["--orf-policy", "open-frame"], "length": ["-e", "300"],
    "minimum": ["--min-length", "500"], "model": ["-m", "300"],
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_changed_input_model_or_setting_never_reuses_old_work(runs, kept, tmp_path, change):
    text, fresh, options = runs.input.read_text(), tmp_path / "fresh", CHANGES[change]
    try:
        if change == "input":
            runs.input.write_text(text.replace("ACGT", "ACGA", 1))
        assert runs.finish(fresh, *options).code == 0
        assert runs.finish(kept, "--resume", *options).code == 0
    finally:
        runs.input.write_text(text)
    assert results(kept) == results(fresh)


def test_other_vectors_of_an_older_model_are_never_merged(runs, kept, tmp_path):
    """A file that fails under the new model leaves no place for the old model's vectors."""
    running = runs.finish(kept, "--resume", *STAGED, "-m", "300", fault=faults.fail_on_some_files)
    assert running.code == 6
    for name in faults.POISON_FILES:
        stem = name.removesuffix(".fa")
        assert not (kept / "reads_merged" / f"{stem}_merged.pt").exists()
    fresh = tmp_path / "fresh"
    assert runs.finish(fresh, "--staged", "-m", "300", fault=faults.fail_on_some_files).code == 6
    assert results(kept) == results(fresh)


def test_every_unit_of_a_run_is_in_the_ledger_with_its_digests(kept):
    kinds = {unit.rstrip("0123456789 ") for unit in entries(kept)}
    assert kinds == {
        "inputs", "reading", "dna features", "protein features", "scores", "calls", "tables",
    }  # fmt: skip
    named = 0
    for unit, path in entries(kept).items():
        for name, (size, sha256) in parse_entry(path.read_bytes(), path).outputs.items():
            if name != "calls.tsv":
                assert (kept / name).stat().st_size == size, unit
                assert sha256_file(kept / name) == sha256, unit
                named += 1
    assert named > 20
