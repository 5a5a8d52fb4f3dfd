"""A run that loses units, is stopped or finds damage: nothing wrong is called, resume mends it."""

from pathlib import Path

import pytest
import stand_ins
from runs_here import calls, facts, predict_here, tables, write_dna

from virnucpro.core.errors import DamagedError
from virnucpro.pipeline import workers as workers_module
from virnucpro.pipeline.settings import Compute
from virnucpro.pipeline.worker_loop import InProcess
from virnucpro.pipeline.workers import Workers, WorkerSettings

GOLDEN = Path(__file__).parents[3] / "shared" / "golden"
RESUME = {"output": {"resume": True}}


@pytest.fixture(scope="module")
def fasta(tmp_path_factory):
    # r4 is r0 once more: its ORFs are computed with r0's
    path = write_dna(tmp_path_factory.mktemp("input") / "in.fa", [400, 20, 620, 150, 90, 333])
    first = path.read_text().splitlines()[1]
    path.write_text(path.read_text() + f">copy\n{first}\n")
    return path


@pytest.fixture(scope="module")
def undisturbed(tiny_home, fasta):
    out = fasta.parent / "undisturbed"
    assert predict_here(tiny_home, fasta, out) == 0
    return tables(out)


@pytest.fixture
def run(tiny_home, fasta, tmp_path):
    return lambda **options: predict_here(tiny_home, fasta, tmp_path / "out", **options)


class Picky(InProcess):
    def __init__(self, stop_after=1_000):
        super().__init__("cpu", threads=1)
        self.stop_after, self.computed = stop_after, []

    def run(self, job, items, on_rows):
        self.job = job
        for outcome in super().run(job, self._noted(items), on_rows):
            yield outcome
            if outcome.key + 1 == self.stop_after:
                raise KeyboardInterrupt

    def _noted(self, items):
        for key, unit in items:
            self.computed += [] if unit is None else [key]
            yield key, unit


def resumed(run, undisturbed, tmp_path, **options):
    """Resume gives the undisturbed bytes; returns the units that it computed."""
    picky = Picky()
    assert run(how={"executor": picky}, **RESUME | options) == 0
    assert tables(tmp_path / "out") == undisturbed
    assert not (tmp_path / "out" / "failed_files.txt").exists()
    assert facts(tmp_path / "out")["status"] == "done"
    return set(picky.computed)


def test_a_unit_that_kills_its_workers_costs_its_records_only(
    run, undisturbed, tmp_path, monkeypatch
):
    monkeypatch.setattr(workers_module, "worker_main", stand_ins.worker_killed_by_one_unit)
    workers = Workers([WorkerSettings(threads=1)])
    try:
        assert run(how={"executor": workers}) == 6
    finally:
        workers.close()
    [line, _] = (tmp_path / "out" / "failed_files.txt").read_text().splitlines()
    reason = "worker process died (exit code -9)"
    assert line == f"unit {stand_ins.POISON_UNIT}|scoring|{reason}"
    statuses = [row["status"] for row in calls(tmp_path / "out").values()]
    assert {"failed", "called", "too_short"} == set(statuses)
    assert resumed(run, undisturbed, tmp_path) == {stand_ins.POISON_UNIT}


@pytest.mark.parametrize("stop_after", [1, 2, 4])
def test_a_stopped_run_goes_on_where_it_was(run, undisturbed, tmp_path, stop_after):
    with pytest.raises(KeyboardInterrupt):
        run(how={"executor": Picky(stop_after=stop_after)})
    assert not (tmp_path / "out" / "calls.tsv").exists()
    computed = resumed(run, undisturbed, tmp_path)
    assert min(computed) == stop_after and len(computed) == max(computed) - stop_after + 1
    before = (tmp_path / "out" / "calls.tsv").stat().st_mtime_ns
    assert resumed(run, undisturbed, tmp_path) == set()
    assert (tmp_path / "out" / "calls.tsv").stat().st_mtime_ns == before


def test_damaged_scores_stop_a_resume_and_are_made_again_where_asked(run, undisturbed, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(how={"executor": Picky(stop_after=3)})
    ledger = tmp_path / "out" / ".checkpoints" / "ledger"
    [entry] = [path for path in ledger.glob("*.entry") if b'"scores 1"' in path.read_bytes()]
    content = bytearray(entry.read_bytes())
    content[-3] ^= 1
    entry.write_bytes(content)
    with pytest.raises(DamagedError, match="force-resume"):
        run(**RESUME)
    mended = resumed(run, undisturbed, tmp_path, output={"resume": True, "repair": True})
    assert 1 in mended and not {0, 2} & mended


def test_calls_are_done_on_whatever_device_they_were_made(run, tmp_path, monkeypatch):
    first, again, out = Picky(), Picky(), tmp_path / "out"
    assert run(how={"executor": first}) == 0
    claimed = (out / ".checkpoints" / "ledger" / "files.txt").read_text().splitlines()
    assert '"run.json"' in claimed and len(set(claimed)) == len(claimed)
    before = facts(out)
    monkeypatch.setattr(Compute, "devices", ("cuda:0",))
    assert run(how={"executor": again}, **RESUME) == 0
    assert again.computed == [] and facts(out) == before
    (out / "calls.tsv").unlink()
    assert run(how={"executor": again}, **RESUME) == 0
    after = facts(out)
    assert again.computed == [] and set(after["stages"]) == {"scoring", "tables"}
    for name in ("engines", "devices"):
        assert after[name] == before[name]
    assert after["stages"]["scoring"] == before["stages"]["scoring"]


def test_the_staged_path_resumes_what_one_stream_began(run, undisturbed, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(how={"executor": Picky(stop_after=3)})
    keep = {"resume": True, "keep_intermediate": True}
    assert run(staged=True, output=keep) == 0
    made = sorted(path.name for path in (tmp_path / "out").glob("in_merged/*_merged.pt"))
    assert made == [f"output_{k}_merged.pt" for k in (4, 5, 6)]
    assert calls(tmp_path / "out").keys() >= {"r0", "copy"}
    assert tables(tmp_path / "out")["calls.tsv"] == undisturbed["calls.tsv"]


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="needs the golden files in ../shared")
@pytest.mark.parametrize(
    "name", ["orfs_vanilla", "fixed500_vanilla", "orfs_broad", "fixed500_broad"]
)
def test_files_of_the_staged_path_are_the_published_ones(tiny_home, tmp_path, name):
    fasta = tmp_path / "in.fa"
    fasta.write_bytes((GOLDEN / f"{name}_input.fa").read_bytes())
    keep = {"keep_intermediate": True}
    out = tmp_path / "out"
    assert predict_here(tiny_home, fasta, out, policy="open-frame", staged=True, output=keep) == 0
    for mine, theirs in (
        ("in_chunked500.fa", "chunked500.fa"), ("in_nucleotide.fa", "orf_nucleotide.fa"),
        ("in_protein.faa", "orf_protein.faa"),
    ):  # fmt: skip
        assert (out / mine).read_bytes() == (GOLDEN / f"{name}_{theirs}").read_bytes()
