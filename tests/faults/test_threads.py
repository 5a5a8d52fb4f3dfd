"""`-t N` bounds the CPU threads of a run, and no CPU is counted that the process may not use."""

import re

import pytest
import stand_ins
import torch
from runs_here import dna, run

from virnucpro.pipeline import features, parallel_merge, workers
from virnucpro.scores.scorer import Embedder, Scorer


@pytest.fixture
def predict(tiny_home, tmp_path):
    fasta = tmp_path / "in.fa"
    fasta.write_text(f">a\n{dna(1, 2500)}\n")

    def call(*options):
        words = ["predict", fasta, "-m", "500", "--orf-policy", "longest", "--no-progress"]
        words += ["--no-report", "-k", "-o", tmp_path / "out", *options]
        done = run(*words, env={"VIRNUCPRO_MODEL_DIR": str(tiny_home)}, code=0)
        return done.output

    return call


@pytest.fixture
def of_torch(monkeypatch):
    """Pretend that torch has so many threads; gives those that it had at each step of a run."""
    told = []

    def pretend(count):
        torch.set_num_threads(count)
        for owner, name in (
            (Embedder, "embed"), (Scorer, "classify"), (features, "merge_features"),
        ):  # fmt: skip
            monkeypatch.setattr(owner, name, telling(getattr(owner, name)))
        return told

    def telling(work):
        def tell(*given, **named):
            told.append(torch.get_num_threads())
            return work(*given, **named)

        return tell

    before = torch.get_num_threads()
    yield pretend
    torch.set_num_threads(before)


@pytest.mark.parametrize("options", [(), ("--staged",)], ids=["stream", "staged"])
@pytest.mark.parametrize(("torchs", "asked", "used"), [(4, 1, 1), (4, 3, 3), (2, 5, 2)])
def test_encoders_and_classifier_keep_within_the_threads_asked_for(
    predict, of_torch, torchs, asked, used, options
):
    told = of_torch(torchs)
    predict("-t", str(asked), *options)
    assert len(told) >= 3 and set(told) == {used}
    assert torch.get_num_threads() == torchs


def test_without_a_number_the_usable_cpus_bound_them(predict, of_torch, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 5})
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    monkeypatch.setattr(parallel_merge, "WORTH_PROCESSES_BYTES", 0)
    monkeypatch.setenv("VIRNUCPRO_PREDICTION_SEQUENCES_PER_FILE", "8")
    told = of_torch(4)
    said = predict("--staged")
    assert len(told) > 4 and set(told) == {2}
    assert "Auto-detected 2 CPU cores for merging" in said
    assert "parallel merge with 2 workers" in said
    assert "sequential merge" in predict("--staged", "--force", "-t", "1")


@pytest.mark.parametrize(
    ("options", "share"),
    [
        ("--persistent-models -t 3", "3 threads on cpu"),
        ("--parallel --ranks 2 -t 5", "2 threads on cpu"),
    ],
    ids=["kept workers", "ranks"],
)
def test_worker_processes_share_the_threads(predict, tmp_path, monkeypatch, options, share):
    monkeypatch.setattr(workers, "worker_main", stand_ins.worker_that_tells_its_threads)
    said = predict(*options.split())
    said += "".join(path.read_text() for path in tmp_path.glob("out/esm_v2/logs/*.log"))
    assert set(re.findall(r"\d threads on \w+", said)) == {share}
