"""A rank computes what it is given as its settings say; here in this process, without a GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rank_here import rank_job, rows, serve
from runs import are_gone
from staged_files import tiny_protein_encoder, write_split_files

from tests.unit.encoders.test_attention import varlen_by_hand
from virnucpro.encoders import attention, layouts
from virnucpro.pipeline.rank_messages import Bye, Done, Ready

RECORDS = 30


@pytest.fixture
def job_of(tmp_path):
    """`job_of(**settings)`: the job of the one rank of a stage, and its assignments."""
    _, files = write_split_files(tmp_path / "split", 2, RECORDS // 2)
    spec = tiny_protein_encoder(tmp_path / "weights")

    def make(name="out", **settings):
        job, shards = rank_job(tmp_path / name, spec, files, **settings)
        return replace(job, cpu_threads=1), shards

    return make


@pytest.mark.parametrize("workers", [0, 1, 2, 5])
def test_any_number_of_readers_gives_every_sequence_once_with_the_same_bytes(job_of, workers):
    job, shards = job_of(dataloader_workers=workers)
    served = serve(job, shards)
    assert len(served.readers) == workers
    assert are_gone(served.readers)
    done = [message.shard for message in served.said if isinstance(message, Done)]
    assert sorted(done) == [assignment.shard for assignment in shards]
    alone, shards = job_of("alone", dataloader_workers=0)
    serve(alone, shards)
    found, wanted = rows(job), rows(alone)
    assert len(found) == RECORDS
    assert {name: row.tobytes() for name, row in found.items()} == {
        name: row.tobytes() for name, row in wanted.items()
    }


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
    ready, *_, bye = serve(*job_of(dataloader_workers=0, **settings)).said
    assert isinstance(ready, Ready)
    assert isinstance(bye, Bye)
    for stats in (ready.stats, bye.stats):
        assert (stats["layout"], stats["backend"]) == (layout, backend)
    assert bye.stats["sequences"] == RECORDS


def test_settings_reach_the_engine(job_of):
    job, _ = job_of(dataloader_workers=0, token_budget=777, dtype="bfloat16", compile="off")
    ready, *_ = serve(job, []).said
    assert (ready.stats["token_budget"], ready.stats["dtype"]) == (777, "bfloat16")
