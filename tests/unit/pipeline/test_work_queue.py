"""The job queue in this process: order, failures, retries, the list of failed files."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from unittest import mock

import pytest
import torch
from staged_files import tiny_dna_encoder, tiny_protein_encoder, write_split_files
from virnucpro.pipeline.embedding_worker import LoadedEncoders
from virnucpro.pipeline.jobs import FeatureJob, WorkerSettings

from virnucpro.core.errors import ModelError
from virnucpro.engines.forward import Forward
from virnucpro.pipeline.feature_files import read_dna_features, read_protein_features
from virnucpro.pipeline.persistent_pool import PersistentWorkerPool
from virnucpro.pipeline.work_queue import BatchQueueManager


@pytest.fixture
def jobs(tmp_path):
    """Two DNA files and two protein files."""
    dna_files, protein_files = write_split_files(tmp_path, 2)
    dna = tiny_dna_encoder(tmp_path / "weights" / "dna")
    protein = tiny_protein_encoder(tmp_path / "weights" / "protein")
    return [
        FeatureJob(encoder=spec, input_file=file, output_file=file.with_suffix(".pt"), rows=6)
        for spec, files in ((dna, dna_files), (protein, protein_files))
        for file in files
    ]


def test_every_file_is_embedded_and_told_of_once(jobs, tmp_path):
    told = []
    queue = BatchQueueManager()
    assert queue.works_here
    result = queue.process(jobs, tmp_path / "failed_files.txt", told.append)
    assert result.finished == tuple(job.output_file for job in jobs) and result.failed == ()
    assert told == jobs
    assert not (tmp_path / "failed_files.txt").exists()
    assert len(read_dna_features(jobs[0].output_file)) == 6
    assert len(read_protein_features(jobs[3].output_file)) == 6


class Heard:
    """Stands for a progress bar: what it was told."""

    def __init__(self):
        self.total, self.updates = None, []

    @contextmanager
    def create_file_bar(self, total, desc, unit):
        assert unit == "ORFs"
        self.total = total
        yield self

    def update(self, n=1, **postfix):
        self.updates.append(n)


@pytest.mark.parametrize("workers", [None, 2])
def test_the_bar_counts_orfs_and_none_of_a_file_that_failed(jobs, workers):
    jobs[2].input_file.write_text(">a\nMK\n>a\nMR\n")
    bar = Heard()
    small = [replace(job, token_budget=40) for job in jobs]
    BatchQueueManager(num_workers=workers, progress=bar).process(small)
    assert bar.total == 24
    assert sum(bar.updates) == 18
    if workers is None:
        assert len([n for n in bar.updates if n > 0]) > len(jobs)


def test_a_bad_file_is_recorded_with_its_reason_and_the_rest_goes_on(jobs, tmp_path, caplog):
    failed_log = tmp_path / "failed_files.txt"
    failed_log.write_text(f"other.fa|ESM-2|kept\n{jobs[0].input_file}|DNABERT-S|old news\n")
    jobs[2].input_file.write_text(">a\nMK\n>a\nMR\n")
    result = BatchQueueManager().process(jobs, failed_log)
    assert [failure.job for failure in result.failed] == [jobs[2]]
    assert len(result.finished) == 3 and not jobs[2].output_file.exists()
    [kept, line] = failed_log.read_text().splitlines()
    assert kept == "other.fa|ESM-2|kept"
    path, label, reason = line.split("|", 2)
    assert (path, label) == (str(jobs[2].input_file), "ESM-2")
    assert "occurs twice" in reason
    assert caplog.text.count("occurs twice") == 2  # tried once more, alone


def test_a_file_that_succeeds_alone_is_not_a_failure(jobs, tmp_path):
    late = jobs[1].input_file
    content = late.read_text()
    late.unlink()
    told = []

    def on_done(job):
        told.append(job)
        if job == jobs[-1]:
            late.write_text(content)

    result = BatchQueueManager().process(jobs, tmp_path / "failed_files.txt", on_done)
    assert result.failed == () and result.finished == tuple(job.output_file for job in jobs)
    assert told[-1] == jobs[1] and len(told) == len(jobs)


def test_missing_weights_stop_the_stage(jobs, tmp_path):
    nowhere = replace(jobs[0].encoder, path=tmp_path / "nowhere")
    with pytest.raises(ModelError, match="nowhere"):
        BatchQueueManager().process([replace(jobs[0], encoder=nowhere), jobs[1]])
    assert not jobs[1].output_file.exists()


def test_encoders_are_loaded_once(jobs):
    encoders = LoadedEncoders(WorkerSettings())
    for job in jobs:
        encoders.embedder(job)
    assert encoders.loads == 2 and encoders.names == ("tiny-dnabert", "tiny-esm2")
    encoders.clear()
    assert encoders.names == ()


def test_the_gpu_cache_is_cleared_every_few_jobs():
    encoders = LoadedEncoders(WorkerSettings(device="cuda:0", cache_clear_interval=3))
    never = LoadedEncoders(WorkerSettings(device="cuda:0", cache_clear_interval=0))
    with mock.patch("torch.cuda.empty_cache") as empty_cache:
        for _ in range(7):
            encoders.job_finished()
            never.job_finished()
    assert empty_cache.call_count == encoders.cache_clears == 2


def test_a_pool_needs_workers_and_devices():
    for workers, devices in ((0, ("cpu",)), (1, ())):
        with pytest.raises(ValueError, match="workers and devices"):
            PersistentWorkerPool(workers, "mini", devices=devices)


def test_workers_are_shared_out_over_devices():
    pool = PersistentWorkerPool(4, "mini", devices=("cuda:2", "cuda:5"), cache_clear_interval=7)
    assert [settings.device for settings in pool._settings] == [
        "cuda:2", "cuda:5", "cuda:2", "cuda:5"
    ]  # fmt: skip
    assert {settings.cache_clear_interval for settings in pool._settings} == {7}
    assert pool.pool is None


def test_a_sequence_that_does_not_fit_costs_its_file_only(jobs, monkeypatch):
    real = Forward.__call__

    def call(forward, ready, fixed):
        if ready.tokens.numel() > 400:
            raise torch.OutOfMemoryError("simulated")
        return real(forward, ready, fixed)

    monkeypatch.setattr(Forward, "__call__", call)
    jobs[0].input_file.write_text(f">long\n{'ACGTTGCA' * 400}\n")
    result = BatchQueueManager().process(jobs[:2])
    assert [failure.job for failure in result.failed] == [jobs[0]]
    assert "one sequence" in result.failed[0].reason
    assert result.finished == (jobs[1].output_file,)
