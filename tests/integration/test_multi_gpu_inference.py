"""Ranks are real processes here: killed, stopped, starved and fed bad sequences, on the CPU."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from virnucpro.engines.shards import ShardDamagedError, write_shard
from virnucpro.pipeline.sequence_index import build_index, read_sequences
from virnucpro.pipeline.shard_plan import plan_shards, unit_of

from tests.checkpoints import esm2_config, esm2_tensors, write_safetensors
from tests.reliability.runs import are_gone, descendants
from virnucpro.core.errors import ModelError
from virnucpro.core.records import Embeddings
from virnucpro.encoders.load import load_encoder
from virnucpro.encoders.tokenizers import make_tokenizer
from virnucpro.engines.plans import collate_padded
from virnucpro.models.specs import EncoderSpec, Esm2Shape
from virnucpro.pipeline import multi_gpu_inference, rank_scheduler
from virnucpro.pipeline.multi_gpu_inference import run_multi_gpu_inference
from virnucpro.pipeline.runtime_config import RuntimeConfig
from virnucpro.sequences.fasta_files import read_fasta

SHAPE = Esm2Shape(layers=1, dim=16, heads=2, ffn=32)
COUNT = 48


def make_spec(folder: Path) -> EncoderSpec:
    write_safetensors(folder, esm2_tensors(SHAPE, seed=1), esm2_config(SHAPE))
    return EncoderSpec(kind="esm2", name="tiny", path=folder, sha256="0", dim=SHAPE.dim)


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    return make_spec(tmp_path_factory.mktemp("esm"))


def write_proteins(folder: Path) -> list[Path]:
    draw = random.Random(0)
    paths = []
    for f in range(2):
        paths.append(folder / f"output_{f}.faa")
        sequences = [
            "".join(draw.choices("ACDEFGHIKL", k=draw.randint(1, 90))) for _ in range(COUNT // 2)
        ]
        paths[-1].write_text("".join(f">p{f}_{i}F1\n{s}\n" for i, s in enumerate(sequences)))
    return paths


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_proteins(tmp_path_factory.mktemp("fasta"))


@pytest.fixture(scope="module")
def undisturbed(files, spec, tmp_path_factory):
    out = tmp_path_factory.mktemp("one") / "esm_v2"
    result = run(files, spec, out, 1)
    return result, out, result[0].read_bytes()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(rank_scheduler, "_TICK_S", 0.1)


def run(files, spec, out, world, on_sequences=lambda more: None, **config):
    config = RuntimeConfig(**{"dataloader_workers": 0} | config)
    model = {"model_type": "esm2", "model_name": spec.name, "encoder_spec": spec}
    return run_multi_gpu_inference(files, out, model, world, config, on_sequences)


def content(path):
    with h5py.File(path) as file:
        return dict(zip(file["sequence_ids"].asstr()[:], file["embeddings"][:], strict=True))


def report(out):
    return json.loads((out / "stage.json").read_text())


def expect_own_vectors(path, files, spec):
    """Every sequence of `files` is there, with what the encoder alone makes of it."""
    found = content(path)
    assert len(found) == COUNT
    encoder = load_encoder(spec, torch.device("cpu"), torch.float32)
    tokenizer = make_tokenizer(spec)
    for name, letters in (pair for file in files for pair in read_fasta(file)):
        wanted = encoder(collate_padded([(tokenizer.encode(letters))], 1))[0].numpy()
        np.testing.assert_allclose(found[name], wanted, rtol=1e-4, atol=1e-4)


def test_every_vector_is_the_encoders_own(undisturbed, files, spec):
    (path, failed), out, _ = undisturbed
    assert failed == []
    assert path == out / "embeddings.h5"
    expect_own_vectors(path, files, spec)


def test_the_run_says_what_it_did(undisturbed):
    (path, _), out, _ = undisturbed
    about = report(out)
    assert about["sequences"] == sum(rank["sequences"] for rank in about["ranks"]) == COUNT
    assert about["ranks"][0]["backend"] == "sdpa"
    assert "Rank 0 on cpu" in (out / "logs" / "worker_0.log").read_text()
    with h5py.File(path) as file:
        assert {"input_digest", "model_hash", "dtype", "key"} <= set(file.attrs)
    assert not list(out.rglob("shard_*.h5"))


def test_a_second_run_starts_no_process(undisturbed, files, spec, tmp_path, monkeypatch):
    out = shutil.copytree(undisturbed[1], tmp_path / "esm_v2")
    before = (out / "embeddings.h5").stat().st_mtime_ns

    def refuse(*_):
        raise AssertionError("a rank was started")

    monkeypatch.setattr(rank_scheduler.RankScheduler, "_start", refuse)
    assert run(files, spec, out, 1) == (out / "embeddings.h5", [])
    assert (out / "embeddings.h5").stat().st_mtime_ns == before
    with pytest.raises(AssertionError, match="a rank was started"):
        run(files, spec, out, 1, enable_checkpointing=False)


def disturb(how):
    """A callback that sends a signal to one rank when the first batch is done."""
    hit = []

    def tell(more):
        if not hit:
            hit.append(multiprocessing.active_children()[0].pid)
            os.kill(hit[0], how)

    return tell, hit


@pytest.mark.parametrize(
    ("world", "how"),
    [(3, signal.SIGKILL), (2, signal.SIGSTOP), (1, signal.SIGKILL)],
    ids=["killed", "hung", "last-one-killed"],
)
def test_a_lost_ranks_work_is_done_by_others(undisturbed, files, spec, tmp_path, world, how):
    tell, hit = disturb(how)
    path, failed = run(files, spec, tmp_path / "esm_v2", world, tell, worker_timeout=4.0)
    assert hit
    assert failed == []
    assert path.read_bytes() == undisturbed[2]
    assert not multiprocessing.active_children()


def test_a_reader_that_is_killed_costs_nothing(undisturbed, files, spec, tmp_path):
    """Readers are the rank's own processes; the rank does their work and ends in good order."""
    readers = []

    def kill_one(more):
        if not readers:
            [rank] = [c for c in multiprocessing.active_children() if c.name == "rank-0"]
            readers.extend(descendants(rank.pid))
            os.kill(readers[0], signal.SIGKILL)

    path, failed = run(files, spec, tmp_path / "esm_v2", 1, kill_one, dataloader_workers=2)
    assert len(readers) == 2
    assert failed == []
    assert path.read_bytes() == undisturbed[2]
    log = (tmp_path / "esm_v2" / "logs" / "worker_0.log").read_text()
    assert "A reading process ended" in log
    assert "Done: " in log
    assert are_gone(readers)


def test_a_shard_that_cannot_be_computed_costs_no_other(files, spec, tmp_path, monkeypatch):
    copied = tmp_path / "cut.faa"
    copied.write_text("".join(path.read_text() for path in files))

    def index_then_cut(paths):
        index = build_index(paths)
        os.truncate(copied, copied.stat().st_size - 1)  # the last protein is one letter short
        return index

    monkeypatch.setattr(multi_gpu_inference, "build_index", index_then_cut)
    path, failed = run([copied], spec, tmp_path / "esm_v2", 1)
    assert failed == [0]
    assert not path.exists()
    given_up = report(tmp_path / "esm_v2")["given_up"]
    assert len(given_up) == 1
    assert "changed during the run" in next(iter(given_up.values()))
    assert len(list((tmp_path / "esm_v2").rglob("shard_*.h5"))) == 15


class StopHereError(Exception):
    """Stands for a signal that arrives in the coordinator."""


def test_an_interrupted_run_goes_on_where_it_was(undisturbed, files, spec, tmp_path):
    out = tmp_path / "esm_v2"

    told = []

    def stop(more):
        told.append(more)
        if sum(told) > COUNT // 2:
            raise StopHereError

    with pytest.raises(StopHereError):
        run(files, spec, out, 1, stop)
    assert not multiprocessing.active_children()
    shards = sorted(out.rglob("shard_*.h5"))
    assert 0 < len(shards) < 16
    assert not (out / "embeddings.h5").exists()
    with h5py.File(shards[0], "r+") as file:
        file["embeddings"][0, 0] += 1
    with pytest.raises(ShardDamagedError):
        run(files, spec, out, 1)
    counts = []
    path, failed = run(files, spec, out, 1, counts.append, force_restart=True)
    assert failed == []
    assert path.read_bytes() == undisturbed[2]
    assert counts[0] > COUNT // 4, "finished shards were computed again"
    assert sum(counts) == COUNT


def test_other_letters_under_the_same_ids_are_computed_anew(undisturbed, files, spec, tmp_path):
    """Neither the finished file of the old letters nor a finished shard of theirs is reused."""
    out = shutil.copytree(undisturbed[1], tmp_path / "esm_v2")
    changed = [tmp_path / file.name for file in files]
    for old, new in zip(files, changed, strict=True):
        others = str.maketrans("ACDEGHIKL", "CDEGHIKLM")
        records = ((name, letters.translate(others)) for name, letters in read_fasta(old))
        new.write_text("".join(f">{name}\n{letters}\n" for name, letters in records))
    index = build_index(changed)
    ids, _ = read_sequences(index.files, index.places.take(plan_shards(index, unit_of("esm2"))[0]))
    with h5py.File(out / "embeddings.h5") as file:
        made_by = dict(file.attrs)
    zeros = Embeddings(tuple(ids), np.zeros((len(ids), SHAPE.dim), np.float32))
    write_shard(out / ".checkpoints" / "esm_v2_shards" / "shard_00000.h5", zeros, made_by)
    counts = []
    path, failed = run(changed, spec, out, 1, counts.append)
    assert failed == []
    assert sum(counts) == COUNT
    expect_own_vectors(path, changed, spec)


def test_more_ranks_than_sequences(tmp_path, spec):
    fasta = tmp_path / "one.faa"
    fasta.write_text(">only F1\nMKV\n")
    path, failed = run([fasta], spec, tmp_path / "esm_v2", 2)
    assert failed == []
    assert list(content(path)) == ["only"]


def test_no_sequences_give_an_empty_file_and_no_process(tmp_path, spec):
    fasta = tmp_path / "none.faa"
    fasta.write_text("")
    path, failed = run([fasta], spec, tmp_path / "esm_v2", 2)
    assert failed == []
    with h5py.File(path) as file:
        assert file["embeddings"].shape == (0, SHAPE.dim)


def test_an_encoder_that_cannot_be_loaded_is_a_model_error(files, spec, tmp_path):
    missing = EncoderSpec(kind="esm2", name="x", path=tmp_path / "x", sha256="1", dim=16)
    with pytest.raises(ModelError):
        run(files, missing, tmp_path / "esm_v2", 1)


PARENT = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.integration.test_multi_gpu_inference import make_spec, run, write_proteins

if __name__ == "__main__":
    import multiprocessing, os, signal
    folder = Path({folder!r})
    def die(more):
        pids = [str(child.pid) for child in multiprocessing.active_children()]
        (folder / "pids").write_text(" ".join(pids))
        os.kill(os.getpid(), signal.SIGKILL)
    run(write_proteins(folder), make_spec(folder / "esm"), folder / "esm_v2", 1, die)
"""


def test_ranks_end_when_their_parent_is_killed(tmp_path):
    root = Path(__file__).parents[2]
    script = tmp_path / "parent.py"
    script.write_text(textwrap.dedent(PARENT.format(root=str(root), folder=str(tmp_path))))
    ended = subprocess.run([sys.executable, str(script)], check=False, timeout=120)
    assert ended.returncode == -signal.SIGKILL
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert pids
    assert are_gone(pids), "a rank outlived its parent"
