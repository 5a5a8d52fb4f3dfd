"""A packed stage on ranks that are real processes, on the CPU: shards, resume, lost work."""

import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from staged_files import tiny_protein_encoder, write_split_files

from virnucpro.core.errors import DamagedError
from virnucpro.encoders.load import load_encoder
from virnucpro.encoders.tokenizers import make_tokenizer
from virnucpro.pipeline import workers
from virnucpro.pipeline.multi_gpu_inference import run_multi_gpu_inference
from virnucpro.pipeline.runtime_config import RuntimeConfig
from virnucpro.sequences.fasta import read_fasta

FILES, EACH = 6, 8
COUNT = FILES * EACH


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    return tiny_protein_encoder(tmp_path_factory.mktemp("esm"))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_split_files(tmp_path_factory.mktemp("fasta"), FILES, EACH)[1]


@pytest.fixture(scope="module")
def undisturbed(files, spec, tmp_path_factory):
    out = tmp_path_factory.mktemp("two") / "esm_v2"
    result = run(files, spec, out, 2)
    return result, out, result[0].read_bytes()


def run(files, spec, out, world, on_sequences=lambda more: None, **config):
    model = {"model_type": "esm2", "model_name": spec.name, "encoder_spec": spec}
    return run_multi_gpu_inference(files, out, model, world, RuntimeConfig(**config), on_sequences)


def content(path):
    with h5py.File(path) as file:
        return dict(zip(file["sequence_ids"].asstr()[:], file["embeddings"][:], strict=True))


def shards(out):
    return sorted(out.rglob("shard_*.h5"))


def expect_own_vectors(path, files, spec):
    found = content(path)
    assert len(found) == COUNT
    encoder = load_encoder(spec, torch.device("cpu"), torch.float32)
    tokenizer = make_tokenizer(spec)
    pairs = [pair for file in files for pair in read_fasta(file)]
    assert list(found) == [name for name, _ in pairs]
    for name, letters in pairs:
        wanted = encoder(tokenizer.encode_batch([letters]))[0].numpy()
        np.testing.assert_allclose(found[name], wanted, rtol=1e-4, atol=1e-4)


def test_every_vector_is_the_encoders_own_in_the_order_of_the_files(undisturbed, files, spec):
    (path, failed), out, _ = undisturbed
    assert (path, failed) == (out / "embeddings.h5", [])
    expect_own_vectors(path, files, spec)


@pytest.fixture
def no_process(monkeypatch):
    def refuse(*_):
        raise AssertionError("a rank was started")

    monkeypatch.setattr(workers.Workers, "start", refuse)


def test_a_second_run_starts_no_process(undisturbed, files, spec, tmp_path, no_process):
    out = shutil.copytree(undisturbed[1], tmp_path / "esm_v2")
    before, told = (out / "embeddings.h5").stat().st_mtime_ns, []
    assert run(files, spec, out, 1, told.append) == (out / "embeddings.h5", [])
    assert (out / "embeddings.h5").stat().st_mtime_ns == before and told == [COUNT]
    with pytest.raises(AssertionError, match="a rank was started"):
        run(files, spec, out, 1, enable_checkpointing=False)


def test_a_killed_ranks_work_is_done_by_others(undisturbed, files, spec, tmp_path):
    hit = []

    def kill_one(more):
        if more and not hit:
            hit.append(multiprocessing.active_children()[0].pid)
            os.kill(hit[0], signal.SIGKILL)

    places = {"checkpoint_dir": tmp_path / "a" / "b"}  # which may lie anywhere
    path, failed = run(files, spec, tmp_path / "esm_v2", 1, kill_one, **places)
    assert hit and failed == []
    assert path.read_bytes() == undisturbed[2]
    assert not multiprocessing.active_children()


def test_a_shard_that_cannot_be_computed_costs_no_other(undisturbed, files, spec, tmp_path):
    mine = [Path(shutil.copy(file, tmp_path)) for file in files]
    mine[2].write_text(files[2].read_text() * 2)
    out = tmp_path / "esm_v2"
    path, failed = run(mine, spec, out, 1)
    assert failed == [0] and not path.exists()
    about = json.loads((out / "stage.json").read_text())
    [(name, reason)] = about["given_up"].items()
    assert name == str(mine[2]) and "occurs twice" in reason
    assert len(shards(out)) == FILES - 1
    mine[2].write_text(files[2].read_text())
    told = []
    path, failed = run(mine, spec, out, 1, told.append)
    assert failed == [] and path.read_bytes() == undisturbed[2]
    assert told[0] == COUNT - EACH and sum(told) == COUNT


class StopHereError(Exception):
    """Stands for a signal that arrives in the coordinator."""


def stop_after(share):
    told = []

    def tell(more):
        told.append(more)
        if sum(told) >= share * COUNT:
            raise StopHereError

    return tell


def test_an_interrupted_run_goes_on_where_it_was(undisturbed, files, spec, tmp_path):
    out = tmp_path / "esm_v2"
    for share in (0.3, 0.4):
        with pytest.raises(StopHereError):
            run(files, spec, out, 1, stop_after(share))
        assert not multiprocessing.active_children()
    assert not (out / "embeddings.h5").exists()
    committed = len([*out.rglob("*.entry")])
    assert committed > 1
    with h5py.File(shards(out)[0], "r+") as file:
        file["embeddings"][0, 0] += 1
    with pytest.raises(DamagedError, match="force-resume"):
        run(files, spec, out, 1)
    counts = []
    path, failed = run(files, spec, out, 1, counts.append, force_restart=True)
    assert failed == [] and path.read_bytes() == undisturbed[2]
    assert counts[0] == (committed - 1) * EACH  # one of them was damaged
    assert sum(counts) == COUNT


def test_other_letters_under_the_same_ids_are_computed_anew(undisturbed, files, spec, tmp_path):
    out = shutil.copytree(undisturbed[1], tmp_path / "esm_v2")
    changed = [tmp_path / file.name for file in files]
    others = str.maketrans("ACDEGHIKL", "CDEGHIKLM")
    for old, new in zip(files, changed, strict=True):
        records = ((name, letters.translate(others)) for name, letters in read_fasta(old))
        new.write_text("".join(f">{name}\n{letters}\n" for name, letters in records))
    counts = []
    path, failed = run(changed, spec, out, 1, counts.append)
    assert failed == [] and sum(counts) == COUNT
    expect_own_vectors(path, changed, spec)


def test_more_ranks_than_files_and_none_without_sequences(tmp_path, spec, no_process, monkeypatch):
    path, failed = run([], spec, tmp_path / "none" / "esm_v2", 2)
    assert failed == []
    with h5py.File(path) as file:
        assert file["embeddings"].shape == (0, spec.dim)
    monkeypatch.undo()
    fasta = tmp_path / "one.faa"
    fasta.write_text(">only F1\nMKV\n")
    path, failed = run([fasta], spec, tmp_path / "esm_v2", 2)
    assert failed == [] and list(content(path)) == ["only"]
