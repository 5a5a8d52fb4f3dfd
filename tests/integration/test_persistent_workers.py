"""Workers that keep their models: same output, models loaded once, nothing left behind."""

import multiprocessing
from contextlib import closing
from unittest import mock

import pytest
import torch
from runs import are_gone
from runs_here import run
from staged_files import tiny_dna_encoder, tiny_protein_encoder, write_split_files

from virnucpro.engines.base import EngineOptions
from virnucpro.engines.runner import BatchEngine
from virnucpro.pipeline.features import EmbedJob, SplitFile
from virnucpro.pipeline.persistent_pool import BatchQueueManager, PersistentWorkerPool
from virnucpro.pipeline.settings import Compute
from virnucpro.pipeline.worker_loop import Done, Failed, InProcess


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """{slot: (job, split files)}, two files a slot."""
    folder = tmp_path_factory.mktemp("workers")
    dna_files, protein_files = write_split_files(folder, 2)
    dna, protein = tiny_dna_encoder(folder / "dna"), tiny_protein_encoder(folder / "protein")
    return {"dna": (EmbedJob(dna), dna_files), "protein": (EmbedJob(protein), protein_files)}


@pytest.fixture
def work(inputs, tmp_path):
    def unit(slot, file):
        output = tmp_path / f"{slot}_{file.stem}.pt"
        return SplitFile(input_file=file, output_file=output, layout=slot)

    return {
        slot: (job, [unit(slot, file) for file in files]) for slot, (job, files) in inputs.items()
    }


@pytest.fixture(scope="module")
def pool():
    """One worker for every test that leaves a whole one behind."""
    compute = Compute(device="cpu", cache_clear_interval=5, threads=1)
    with closing(PersistentWorkerPool(1, "tiny", compute)) as pool:
        yield pool
    assert not multiprocessing.active_children()


@pytest.fixture
def gpu():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return "cuda:0"


def seen_by(queue, job, files):
    pids = set()

    for _, outcome in queue.process(job, files):
        pids.update(child.pid for child in multiprocessing.active_children())
        assert isinstance(outcome, Done)
    return pids


def test_persistent_pool_initialization(pool, work):
    assert pool.pool is None
    pool.create_pool()
    [worker] = pool.pool
    assert worker.process.is_alive() and worker.process.name == "virnucpro-tiny-0"
    pool.create_pool()
    assert pool.pool == [worker]
    assert (worker.settings.cache_clear_interval, worker.settings.threads) == (5, 1)
    queue = BatchQueueManager(use_persistent_pool=pool)
    for slot, loads in (("dna", 1), ("protein", 2), ("dna", 2)):
        seen = seen_by(queue, *work[slot])
        assert seen == {worker.process.pid}  # nobody else has worked
        assert pool.pool == [worker] and worker.loads == loads


@pytest.mark.parametrize("slot", ["protein", "dna"])
def test_persistent_vs_standard_output_equivalence(pool, work, tmp_path, slot):
    job, files = work[slot]
    mine = [file._replace(output_file=tmp_path / f"p{k}.pt") for k, file in enumerate(files)]
    list(BatchQueueManager(use_persistent_pool=pool).process(job, mine))
    seen = seen_by(BatchQueueManager(PersistentWorkerPool(2, "own")), job, files)
    own = seen - {worker.process.pid for worker in pool.pool}
    assert len(own) == 2 and are_gone([*own])  # standard workers end with their stage
    for left, right in zip(mine, files, strict=True):
        assert left.output_file.read_bytes() == right.output_file.read_bytes()


def test_memory_management(work):
    here = InProcess("cpu", cache_clear_interval=2)
    with mock.patch.object(here.models, "unit_finished") as finished:
        for _ in range(3):
            for job, files in work.values():
                list(here.run(job, enumerate(files), lambda rows: None))
    assert here.models.loads == 2 and finished.call_count == 12
    with mock.patch("torch.cuda.empty_cache") as of_torch:
        for device, count in (("cpu", 0), ("cuda:0", 3)):  # every second unit of six
            here.models.device = device
            for _ in range(6):
                here.models.unit_finished()
            assert of_torch.call_count == count  # torch.cuda.empty_cache


def test_pool_lifecycle(pool, work):
    before = {child.pid for child in multiprocessing.active_children()}
    own = PersistentWorkerPool(2, "tiny", Compute(device="cpu", threads=2))
    with pytest.raises(KeyError), closing(own):
        own.create_pool()
        pids = {worker.process.pid for worker in own.pool}
        list(BatchQueueManager(use_persistent_pool=own).process(*work["protein"]))
        assert {worker.process.pid for worker in own.pool} == pids
        raise KeyError
    assert own.pool is None and are_gone([*pids])
    assert {child.pid for child in multiprocessing.active_children()} == before
    own.close()


def test_a_bad_file_is_recorded_with_its_reason_and_the_rest_goes_on(
    inputs, tmp_path, caplog, monkeypatch
):
    real = BatchEngine._forward

    def forward(engine, ready):
        if ready.tokens.numel() > 400:
            raise torch.OutOfMemoryError("simulated")
        return real(engine, ready)

    monkeypatch.setattr(BatchEngine, "_forward", forward)
    job = EmbedJob(inputs["dna"][0].encoder, EngineOptions(token_budget=60))
    files = [
        SplitFile(input_file=path, output_file=path.with_suffix(".pt"), layout="dna")
        for path in write_split_files(tmp_path, 4)[0]
    ]
    files[0].input_file.write_text(f">long\n{'ACGTTGCA' * 400}\n")
    files[2].input_file.write_text(">a\nAC\n>a\nAG\n")
    outcomes = BatchQueueManager().process(job, files)
    failed = {file: one.reason for file, one in outcomes if isinstance(one, Failed)}
    assert set(failed) == {files[0], files[2]}
    assert "one sequence" in failed[files[0]] and "occurs twice" in failed[files[2]]
    assert [file.output_file.exists() for file in files] == [False, True, False, True]
    assert "trying it again, alone" in caplog.text


@pytest.mark.gpu
def test_gpu_memory_is_given_back(gpu, work):
    free = torch.cuda.mem_get_info(gpu)[0]
    with closing(PersistentWorkerPool(1, "tiny", Compute(device=gpu))) as pool:
        list(BatchQueueManager(use_persistent_pool=pool).process(*work["protein"]))
    assert torch.cuda.mem_get_info(gpu)[0] >= free - (64 << 20)


@pytest.mark.parametrize(("flag", "expected"), [("", False), ("--no-", False), ("--", True)])
def test_cli_persistent_flag(tmp_path, flag, expected):
    fasta = tmp_path / "in.fa"
    fasta.write_text(">a\nACGT\n")
    flags = [f"{flag}persistent-models"] if flag else []
    with mock.patch("virnucpro.pipeline.prediction.run_prediction", return_value=0) as given:
        done = run("predict", *flags, "-o", tmp_path, fasta)
    assert done.exit_code == 0, done.output
    assert given.call_args.kwargs["persistent_models"] is expected
    line = "Using persistent model loading - models will remain in GPU memory"
    assert (line in done.output) is expected
