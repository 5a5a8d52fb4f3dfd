"""Each process computes on the GPU that was named; the GPUs and the processes are stand-ins."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import stand_ins

from virnucpro.core.errors import OutputError
from virnucpro.pipeline import persistent_pool, rank_scheduler

SEEN = [0, 1, 2, 3]


@pytest.fixture
def devices_of(predict, tmp_path, random_dna, monkeypatch):
    """`devices_of(*options)`: where each rank was to compute, and each DNA and protein file."""
    fasta = tmp_path / "in.fa"
    fasta.write_text("".join(f">c{i}\n{random_dna(400, i)}\n" for i in range(6)))
    monkeypatch.setenv("VIRNUCPRO_PREDICTION_SEQUENCES_PER_FILE", "3")
    for module in ("cli.predict", "core.device", "pipeline.prediction"):
        monkeypatch.setattr(f"virnucpro.{module}.detect_cuda_devices", lambda: SEEN)
    monkeypatch.setattr(rank_scheduler, "rank_main", stand_ins.rank_that_names_its_device)
    monkeypatch.setattr(persistent_pool, "worker_main", stand_ins.worker_that_names_its_device)
    out = tmp_path / "out"

    def texts(pattern):
        return [path.read_text() for path in sorted(out.rglob(pattern))]

    def run(*options, code):
        with patch("virnucpro.pipeline.results.merge", side_effect=OutputError("stop here")):
            done = predict(fasta, "-o", out, "--parallel", *options)
        assert done.exit_code == code, done.output
        return texts("device_*"), texts("output_*_DNABERT_S.pt"), texts("output_*_ESM.pt")

    return run


def test_ranks_compute_on_the_gpus_that_were_named(devices_of):
    ranks, dna, _ = devices_of("--gpus", "2,3", code=5)
    assert ranks == ["cuda:2", "cuda:3"]
    assert set(dna) == {"cuda:2", "cuda:3"}


def test_one_rank_computes_on_the_first_gpu_that_was_named(devices_of):
    ranks, _, _ = devices_of("--gpus", "3,1", "--ranks", "1", code=5)
    assert ranks == ["cuda:3"]


@pytest.mark.parametrize("more", [[], ["--persistent-models"]], ids=["anew", "persistent"])
def test_workers_compute_on_the_gpus_that_were_named(devices_of, more):
    ranks, dna, protein = devices_of("--gpus", "3,2", "--v1-fallback", *more, code=1)
    assert ranks == []
    assert set(dna) == set(protein) == {"cuda:3", "cuda:2"}


def test_a_named_device_is_the_workers_own(devices_of):
    _, dna, protein = devices_of("--device", "cuda:1", "--v1-fallback", code=1)
    assert set(dna) == set(protein) == {"cuda:1"}
