"""What version 2.0 left is started over where that is asked for, and nothing else is touched."""

import json

import pytest

from virnucpro.core.errors import UsageError
from virnucpro.pipeline.output_dir import LOCK, working_in

OLD = [
    "calls.tsv", "chunks.tsv", "samples/a/viral.fasta", "x_chunked500.fa", "report.html",
    "x_nucleotide/output_1_DNABERT_S.pt", "x_merged/prediction_results.txt",
    ".checkpoints/orfs.bin", "esm_v2/logs/worker_0.log", ".checkpoints/ledger/1f-2e.json",
]  # fmt: skip
MINE = ["thesis.doc", "regions.tsv", "x_merged/notes.txt", "esm_v2/notes.txt", "linked/calls.tsv"]
LISTED = [*OLD[:8], ".checkpoints", "esm_v2", "thesis.doc", "../outside.tsv", "samples/l/calls.tsv"]


def files_in(folder):
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != LOCK)
    return {path.relative_to(folder).as_posix() for path in paths}


@pytest.fixture
def old(tmp_path):
    """A directory of version 2.0 with files of somebody else, one of them reached by a link."""
    out = tmp_path / "out"
    for name in (*OLD, *MINE):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(name)
    (tmp_path / "outside.tsv").write_text("mine")
    (out / "samples" / "l").symlink_to(out / "linked")
    record = {"tool": "virnucpro", "format": 1, "files": LISTED}
    (out / "run.json").write_text(json.dumps(record))
    return out


@pytest.mark.parametrize("resume", [False, True])
def test_without_force_it_is_refused_and_stays(old, resume):
    before = files_in(old)
    with (
        pytest.raises(UsageError, match=r"version 2\.0.*--force"),
        working_in(old, resume, force=False),
    ):
        pass
    assert files_in(old) == before


def test_force_removes_what_it_lists_by_names_that_it_gives(old):
    with working_in(old, resume=False, force=True):
        assert files_in(old) == set(MINE)
    assert (old.parent / "outside.tsv").exists()
    assert not (old / ".checkpoints").exists()


def test_its_files_are_no_inputs(old):
    with (
        pytest.raises(UsageError, match=r"x_chunked500\.fa, a file of the run"),
        working_in(old, resume=False, force=True, inputs=[old / "x_chunked500.fa"]),
    ):
        pass
    assert files_in(old) == {*OLD, *MINE, "run.json"}


@pytest.mark.parametrize("record", [{"tool": "x"}, {"format": 9}, {"files": 3}])
def test_a_run_json_of_others_is_refused_even_then(old, record):
    known = json.loads((old / "run.json").read_text())
    (old / "run.json").write_text(json.dumps(known | record))
    with (
        pytest.raises(UsageError, match=r"run\.json is there already"),
        working_in(old, resume=False, force=True),
    ):
        pass
    assert files_in(old) == {*OLD, *MINE, "run.json"}
