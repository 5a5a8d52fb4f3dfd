"""Every way through the pipeline gives the same calls, and does its work where it says.

Tolerance: padded and packed batches add the same float32 numbers in another order; through two
layers, the classifier and the logistic that moves a probability by less than 1e-5.
"""

import logging
import multiprocessing
import re
from unittest.mock import patch

import pytest
import stand_ins
from runs_here import facts, predict_here, tables, write_dna

from virnucpro.core.errors import WorkersFailedError
from virnucpro.pipeline import input_pass, parallel_translate, workers
from virnucpro.pipeline.runtime_config import RuntimeConfig
from virnucpro.pipeline.workers import Workers, WorkerSettings

TOLERANCE = 1e-5
UNITS = 6
V2 = {"use_v2_architecture": True}
WAYS = {
    "translated by three": {"threads": 4},
    "two workers": {},
    "staged, two merge": {"staged": True, "merge_workers": 2},
    "persistent": {"staged": True, "how": {"persistent_models": True}},
    "v2, one rank": {"ranks": 1, "how": V2},
    "v2, two ranks": {"ranks": 2, "how": V2},
}


@pytest.fixture(scope="module")
def fasta(tmp_path_factory):
    lengths = [400, 20, 620, 150, 90, 400]
    return write_dna(tmp_path_factory.mktemp("input") / "in.fa", lengths)


@pytest.fixture(scope="module")
def plain(tiny_home, fasta):
    out = fasta.parent / "plain"
    assert predict_here(tiny_home, fasta, out) == 0
    return out


@pytest.fixture
def run(tiny_home, fasta, tmp_path):
    def run(way, **more):
        out = tmp_path / "out"
        options = {"output": {"keep_intermediate": True}, **WAYS[way], **more}
        assert predict_here(tiny_home, fasta, out, **options) == 0
        return out

    return run


def expect_calls_of(out, plain):
    for name, table in tables(plain).items():
        mine, theirs = (text.decode().splitlines() for text in (tables(out)[name], table))
        assert len(mine) == len(theirs) > 5
        for one, other in zip(mine, theirs, strict=True):
            for left, right in zip(one.split("\t"), other.split("\t"), strict=True):
                if left != right:
                    assert float(left) == pytest.approx(float(right), abs=TOLERANCE)


def engines_of(out):
    engines = facts(out)["engines"]
    return [engines[slot].split()[0] for slot in ("dna", "protein")]


def not_here(what):
    """Refuses to do something in this process; others that are spawned know nothing of it."""
    return patch(f"virnucpro.{what}", side_effect=AssertionError(f"{what} ran in this process"))


def test_plain_run(plain):
    assert engines_of(plain) == ["padded", "padded"]
    assert facts(plain)["devices"] == ["cpu"]
    assert {path.name for path in plain.iterdir()} & {"in_nucleotide", "esm_v2"} == set()


def test_translation_in_other_processes(run, plain, monkeypatch):
    monkeypatch.setattr(input_pass, "BLOCK_CHUNKS", 2)
    monkeypatch.setattr(parallel_translate, "BLOCKS_BEFORE_POOL", 0)
    with not_here("pipeline.parallel_translate.find_orfs"):
        out = run("translated by three")
    assert tables(out) == tables(plain)


def test_one_stream_on_two_workers(run, plain):
    executor = Workers([WorkerSettings(threads=1), WorkerSettings(threads=1)])
    try:
        with not_here("encoders.load.load_encoder"):
            out = run("two workers", how={"executor": executor})
        assert [worker.loads for worker in executor.pool] == [2, 2]
    finally:
        executor.close()
    assert tables(out) == tables(plain)


def test_staged_run_merges_in_other_processes(run, plain, caplog):
    caplog.set_level("INFO", "virnucpro")
    with not_here("pipeline.features.merge_features"):
        out = run("staged, two merge")
    assert f"parallel merge with 2 workers ({UNITS} files to merge)" in caplog.text
    expect_calls_of(out, plain)
    assert engines_of(out) == ["padded", "padded"]
    assert len(list(out.glob("in_nucleotide/output_*.fa"))) == UNITS


def test_persistent_run_embeds_in_the_one_worker_that_stays(run, plain, caplog):
    seen, witness = {}, logging.Handler()  # which workers there are whenever something is logged
    witness.emit = lambda record: seen.update(
        (child.pid, child.name) for child in multiprocessing.active_children()
    )
    logging.getLogger("virnucpro").addHandler(witness)
    caplog.set_level("INFO", "virnucpro")
    with not_here("encoders.load.load_encoder"):
        out = run("persistent", output={"progress": True, "keep_intermediate": True})
    expect_calls_of(out, plain)
    assert list(seen.values()) == ["virnucpro-500-0"]  # one process in all, for both encoders
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(("way", "ranks"), [("v2, one rank", 1), ("v2, two ranks", 2)])
def test_v2_embeds_proteins_only_on_as_many_ranks_as_asked_for(run, plain, caplog, way, ranks):
    caplog.set_level("INFO", "virnucpro")
    out = run(way)
    expect_calls_of(out, plain)
    assert engines_of(out) == ["padded", "packed"]
    assert not (out / "dnabert_v2").exists()
    assert {
        "ESM-2: Using v2.0 async architecture",
        "  Features: float32, sdpa kernels, stride-based sharding",
        f"v2.0 ESM-2 complete: {UNITS} feature files created",
    } <= set(caplog.messages)
    logs = [path.read_text() for path in sorted((out / "esm_v2" / "logs").iterdir())]
    assert len(logs) == ranks
    pids = [re.search(r"Worker \d on cpu, pid (\d+)", text)[1] for text in logs]
    assert len(set(pids)) == ranks
    assert all("Engine: packed on cpu" in text for text in logs)


def test_a_failed_rank_fails_the_stage(run, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "worker_main", stand_ins.worker_that_fails_every_unit)
    out = tmp_path / "out"
    with pytest.raises(WorkersFailedError) as caught:
        run("v2, one rank")
    assert str(caught.value) == (
        "v2.0 ESM-2 inference failed on 1/1 workers: ranks [0]. "
        f"Check logs: {out}/esm_v2/logs/worker_*.log"
    )
    assert "protein_features" not in facts(out)["stages"] and not (out / "calls.tsv").exists()


def test_both_encoders_go_through_v2_with_its_batch_sizes_where_they_are_asked_to(run, plain):
    config = RuntimeConfig(token_budget=333)
    how = V2 | {"runtime_config": config}
    out = run("v2, one rank", dnabert_v2=True, how=how)
    expect_calls_of(out, plain)
    assert engines_of(out) == ["packed", "packed"]
    for stage in ("esm_v2", "dnabert_v2"):
        log = (out / stage / "logs" / "worker_0.log").read_text()
        assert "333 tokens a batch" in log
