"""Split files through one encoder: every file is done, or recorded with its reason."""

from contextlib import contextmanager

import pytest
import torch
from staged_files import tiny_dna_encoder, write_split_files

from virnucpro.engines.runner import Forward
from virnucpro.pipeline.features import EmbedJob, SplitFile
from virnucpro.pipeline.persistent_pool import BatchQueueManager
from virnucpro.scores.scorer import EmbeddingOptions


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    encoder = tiny_dna_encoder(tmp_path_factory.mktemp("weights"))
    return EmbedJob(encoder, EmbeddingOptions(token_budget=60))


@pytest.fixture
def files(tmp_path):
    return [
        SplitFile(input_file=path, output_file=path.with_suffix(".pt"), layout="dna")
        for path in write_split_files(tmp_path, 4)[0]
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


def test_a_bad_file_is_recorded_with_its_reason_and_the_rest_goes_on(
    job, files, caplog, monkeypatch
):
    """A file that cannot be read, and one with a sequence that does not fit."""
    real = Forward.__call__

    def call(forward, ready, fixed):
        if ready.tokens.numel() > 400:
            raise torch.OutOfMemoryError("simulated")
        return real(forward, ready, fixed)

    monkeypatch.setattr(Forward, "__call__", call)
    files[0].input_file.write_text(f">long\n{'ACGTTGCA' * 400}\n")
    files[2].input_file.write_text(">a\nAC\n>a\nAG\n")
    bar = Heard()
    failed = BatchQueueManager(progress=bar).process(job, files).failed
    assert set(failed) == {files[0], files[2]}
    assert "one sequence" in failed[files[0]] and "occurs twice" in failed[files[2]]
    assert [file.output_file.exists() for file in files] == [False, True, False, True]
    assert sum(bar.updates) == 12
    assert "trying it again, alone" in caplog.text
