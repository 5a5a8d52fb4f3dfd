"""Split files through one encoder: every file is done, or recorded with its reason."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from staged_files import tiny_dna_encoder, write_split_files

from virnucpro.core.errors import ModelError
from virnucpro.engines.forward import Forward
from virnucpro.pipeline.feature_files import read_dna_features
from virnucpro.pipeline.features import EmbedJob, SplitFile
from virnucpro.pipeline.persistent_pool import PersistentWorkerPool
from virnucpro.pipeline.work_queue import BatchQueueManager
from virnucpro.scores.scorer import EmbeddingOptions


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return tiny_dna_encoder(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def job(encoder):
    return EmbedJob(encoder, EmbeddingOptions(token_budget=60))


@pytest.fixture
def files(tmp_path):
    paths, _ = write_split_files(tmp_path, 4)
    return [
        SplitFile(input_file=path, output_file=path.with_suffix(".pt"), layout="dna")
        for path in paths
    ]


class Heard:
    """Stands for a progress bar: what it was told."""

    def __init__(self):
        self.total, self.updates = None, []

    @contextmanager
    def create_file_bar(self, total, desc, unit):
        self.total = total, desc, unit
        yield self

    def update(self, n=1, **postfix):
        self.updates.append(n)


def test_every_file_is_embedded_and_told_of_once(job, files):
    told, bar = [], Heard()
    result = BatchQueueManager(progress=bar).process(job, files, 24, told.append, "Embedding DNA")
    assert (result.finished, result.failed) == (tuple(files), ())
    assert told == files
    assert all(len(read_dna_features(file.output_file)) == 6 for file in files)
    assert result.tokens > 24 and result.engine["sequences"] == 24
    assert bar.total == (24, "Embedding DNA", "ORFs")
    assert sum(bar.updates) == 24 and len(bar.updates) > len(files)


def test_a_bad_file_is_recorded_with_its_reason_and_the_rest_goes_on(job, files, caplog):
    files[2].input_file.write_text(">a\nAC\n>a\nAG\n")
    bar = Heard()
    result = BatchQueueManager(progress=bar).process(job, files)
    [(failed, reason)] = result.failed
    assert failed == files[2] and "occurs twice" in reason
    assert result.finished == (*files[:2], files[3])
    assert not failed.output_file.exists()
    assert sum(bar.updates) == 18
    assert "trying it again, alone" in caplog.text


def test_missing_weights_stop_the_stage(job, files, tmp_path):
    nowhere = replace(job, encoder=replace(job.encoder, path=tmp_path / "nowhere"))
    with pytest.raises(ModelError, match="nowhere"):
        BatchQueueManager().process(nowhere, files)
    assert not any(file.output_file.exists() for file in files)


def test_a_sequence_that_does_not_fit_costs_its_file_only(job, files, monkeypatch):
    real = Forward.__call__

    def call(forward, ready):
        if ready.tokens.numel() > 400:
            raise torch.OutOfMemoryError("simulated")
        return real(forward, ready)

    monkeypatch.setattr(Forward, "__call__", call)
    files[0].input_file.write_text(f">long\n{'ACGTTGCA' * 400}\n")
    result = BatchQueueManager().process(job, files)
    assert [file for file, _ in result.failed] == files[:1]
    assert "one sequence" in result.failed[0][1]
    assert result.finished == tuple(files[1:])


def test_a_pool_needs_workers_and_devices():
    for workers, devices in ((0, ("cpu",)), (1, ())):
        with pytest.raises(ValueError, match="workers and devices"):
            PersistentWorkerPool(workers, "mini", devices=devices)
