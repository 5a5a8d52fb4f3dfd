"""A rank computes what it is given as its settings say; here in this process, without a GPU."""

from __future__ import annotations

import multiprocessing
from dataclasses import replace

import h5py
import pytest
from runs import are_gone
from staged_files import tiny_protein_encoder, write_split_files

from tests.unit.models.test_attention import varlen_by_hand
from virnucpro.models import attention, layouts
from virnucpro.pipeline.multi_gpu_inference import _Stage
from virnucpro.pipeline.rank_messages import Assignment, Bye, Done, Ready
from virnucpro.pipeline.rank_worker import RankServer
from virnucpro.pipeline.runtime_config import RuntimeConfig
from virnucpro.pipeline.sequence_index import build_index
from virnucpro.pipeline.shard_plan import plan_shards

RECORDS = 30


@pytest.fixture
def job_of(tmp_path):
    """`job_of(**settings)`: the job of the one rank of a stage, and its assignments."""
    _, files = write_split_files(tmp_path / "split", 2, RECORDS // 2)
    spec = tiny_protein_encoder(tmp_path / "weights")

    def make(out="out", **settings):
        stage = _Stage(tmp_path / out, RuntimeConfig(**settings), spec, {})
        stage.prepare(keep_shards=False)
        index = build_index(files)
        plan = enumerate(plan_shards(index, stage.unit))
        shards = [Assignment(k, index.places.take(chosen)) for k, chosen in plan]
        [job] = stage.jobs(index, ["cpu"])
        return replace(job, cpu_threads=1), shards

    return make


def serve(job, shards):
    """What a rank says until it ends, and the pids of its readers."""
    before = set(multiprocessing.active_children())
    ours, theirs = multiprocessing.Pipe()
    server = RankServer(job, theirs)
    readers = [child.pid for child in set(multiprocessing.active_children()) - before]
    for message in (*shards, None):
        ours.send(message)
    server.serve()
    said = []
    while ours.poll():
        said.append(ours.recv())
    return said, readers


def rows(folder):
    """Id and vector of every row of every shard, in order."""
    found = []
    for path in sorted(folder.glob("shard_*.h5")):
        with h5py.File(path) as file:
            ids, vectors = file["sequence_ids"].asstr()[:], file["embeddings"][:]
        found += [(seq_id, row.tobytes()) for seq_id, row in zip(ids, vectors, strict=True)]
    return found


@pytest.mark.parametrize("workers", [0, 1, 2, 5])
def test_any_number_of_readers_gives_every_sequence_once_with_the_same_bytes(job_of, workers):
    job, shards = job_of(dataloader_workers=workers)
    said, readers = serve(job, shards)
    assert len(readers) == workers
    assert are_gone(readers)
    done = [message.shard for message in said if isinstance(message, Done)]
    assert sorted(done) == [assignment.shard for assignment in shards]
    found = rows(job.shard_dir)
    assert len({seq_id for seq_id, _ in found}) == len(found) == RECORDS
    if workers:
        alone, shards = job_of("alone", dataloader_workers=0)
        serve(alone, shards)
        assert found == rows(alone.shard_dir)


@pytest.mark.parametrize(
    ("settings", "layout", "backend"),
    [
        ({}, "packed", "varlen"),
        ({"v1_attention": True}, "packed", "sdpa"),
        ({"disable_packing": True}, "padded", "sdpa"),
    ],
)
def test_switches_choose_layout_and_kernels(job_of, monkeypatch, settings, layout, backend):
    monkeypatch.setattr(attention, "choose_backend", lambda *_: "varlen")  # as on a GPU
    monkeypatch.setattr(layouts, "varlen_attn", varlen_by_hand)
    job, shards = job_of(dataloader_workers=0, **settings)
    said, _ = serve(job, shards)
    for stats in (said[0].stats, said[-1].stats):
        assert (stats["layout"], stats["backend"]) == (layout, backend)
    assert isinstance(said[0], Ready)
    assert isinstance(said[-1], Bye)
    assert said[-1].stats["sequences"] == RECORDS


def test_settings_reach_the_engine(job_of):
    job, _ = job_of(dataloader_workers=0, token_budget=777, dtype="bfloat16", compile="off")
    [ready, *_] = serve(job, [])[0]
    assert (ready.stats["token_budget"], ready.stats["dtype"]) == (777, "bfloat16")
