"""Workers that keep their models: same output, models loaded once, nothing left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch
from click.testing import CliRunner
from staged_files import tiny_dna_encoder, tiny_protein_encoder, write_split_files
from virnucpro.pipeline.embedding_worker import LoadedEncoders, run_job
from virnucpro.pipeline.jobs import FeatureJob, JobDone, WorkerSettings

from virnucpro.cli.main import cli
from virnucpro.core.device import usable_cpus
from virnucpro.pipeline.persistent_pool import PersistentWorkerPool
from virnucpro.pipeline.work_queue import BatchQueueManager

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def all_jobs(tmp_path_factory):
    """{"dna": jobs, "protein": jobs} over two split files each."""
    folder = tmp_path_factory.mktemp("workers")
    dna_files, protein_files = write_split_files(folder, 2)
    dna = tiny_dna_encoder(folder / "weights" / "dna")
    protein = tiny_protein_encoder(folder / "weights" / "protein")
    return {
        kind: [FeatureJob(encoder=spec, input_file=f, output_file=f, rows=6) for f in files]
        for kind, spec, files in (("dna", dna, dna_files), ("protein", protein, protein_files))
    }


@pytest.fixture
def jobs(all_jobs, tmp_path):
    """The same jobs with outputs of this test."""
    return {
        kind: [
            replace(job, output_file=tmp_path / f"{kind}_{job.input_file.stem}.pt") for job in jobs
        ]
        for kind, jobs in all_jobs.items()
    }


@pytest.fixture(scope="module")
def pool():
    """One worker for every test that leaves a whole one behind."""
    with PersistentWorkerPool(1, "tiny") as pool:
        yield pool
    assert not multiprocessing.active_children()


@pytest.fixture
def gpu():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return "cuda:0"


def answers(pool, jobs):
    """Give one job to each idle worker; what the workers said in the end."""
    for worker, job in zip(pool.idle(), jobs, strict=True):
        pool.assign(worker, job)
    said = []
    while pool.busy():
        said += [message for *_, message in pool.events(1.0)]
    return [message for message in said if isinstance(message, JobDone)]


def test_persistent_pool_initialization(jobs):
    pool = PersistentWorkerPool(1, "tiny", cache_clear_interval=5)
    assert pool.pool is None
    with pool:
        pool.create_pool()
        [worker] = pool.pool
        assert worker.process.is_alive() and worker.process.name == "virnucpro-tiny-cpu"
        pool.create_pool()
        assert pool.pool == [worker]
        assert worker.settings.cache_clear_interval == 5
        assert worker.settings.threads == usable_cpus()
        [first] = answers(pool, jobs["dna"][:1])
        assert told(first) == (6, ("tiny-dnabert",), 1, 0)
        [second] = answers(pool, jobs["protein"][:1])
        assert told(second) == (6, ("tiny-dnabert", "tiny-esm2"), 2, 0)
        [third] = answers(pool, jobs["dna"][1:])
        assert third.loads == 2


@pytest.mark.parametrize("kind", ["protein", "dna"])
def test_persistent_vs_standard_output_equivalence(pool, jobs, tmp_path, kind):
    mine = [replace(job, output_file=tmp_path / f"p{k}.pt") for k, job in enumerate(jobs[kind])]
    standard = BatchQueueManager(num_workers=1)
    assert not standard.works_here
    expected = standard.process(jobs[kind])
    assert not {child.name for child in multiprocessing.active_children()} & {"virnucpro-queue-cpu"}
    found = BatchQueueManager(use_persistent_pool=pool).process(mine)
    assert found.failed == expected.failed == () and len(found.finished) == 2
    for left, right in zip(found.finished, expected.finished, strict=True):
        assert left.read_bytes() == right.read_bytes()


def test_memory_management(jobs):
    encoders = LoadedEncoders(WorkerSettings(cache_clear_interval=2))
    for _ in range(5):
        for job in (*jobs["dna"], *jobs["protein"]):
            assert isinstance(run_job(job, encoders, lambda rows: None), JobDone)
    assert encoders.loads == len(encoders.names) == 2
    encoders.settings = WorkerSettings(device="cuda:0", cache_clear_interval=2)
    with mock.patch("torch.cuda.empty_cache") as empty_cache:
        for _ in range(6):
            encoders.job_finished()
    assert empty_cache.call_count == 3


def told(done):
    """What a worker says of its encoders after a job."""
    return done.rows, done.loaded, done.loads, done.cache_clears


def test_pool_lifecycle(pool, jobs):
    before = {child.pid for child in multiprocessing.active_children()}
    own = PersistentWorkerPool(1, "tiny")
    with pytest.raises(KeyError), own:
        assert len(answers(own, jobs["dna"][:1])) == 1
        pid = own.pool[0].process.pid
        raise KeyError
    assert own.pool is None
    assert {child.pid for child in multiprocessing.active_children()} == before
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    own.close()
    # a given pool stays from one input to the next
    with PersistentWorkerPool(1, "tiny") as given:
        queue = BatchQueueManager(use_persistent_pool=given)
        queue.process(jobs["dna"][:1])
        running = {child.pid for child in multiprocessing.active_children()}
        queue.process(jobs["protein"][:1])
        assert {child.pid for child in multiprocessing.active_children()} == running > before
    assert {child.pid for child in multiprocessing.active_children()} == before


@pytest.mark.gpu
def test_gpu_memory_is_given_back(gpu, jobs):
    free = torch.cuda.mem_get_info(gpu)[0]
    with PersistentWorkerPool(1, "tiny", devices=(gpu,)) as pool:
        assert len(answers(pool, jobs["protein"][:1])) == 1
    assert torch.cuda.mem_get_info(gpu)[0] >= free - (64 << 20)


@pytest.mark.parametrize(("flag", "expected"), [("", False), ("--no-", False), ("--", True)])
def test_cli_persistent_flag(tmp_path, flag, expected):
    fasta = tmp_path / "in.fa"
    fasta.write_text(">a\nACGT\n")
    flags = [f"{flag}persistent-models"] if flag else []
    with mock.patch("virnucpro.pipeline.prediction.run_prediction", return_value=0) as run:
        done = CliRunner().invoke(cli, ["predict", *flags, "-o", str(tmp_path), str(fasta)])
    assert done.exit_code == 0, done.output
    assert run.call_args.kwargs["persistent_models"] is expected
    line = "Using persistent model loading - models will remain in GPU memory"
    assert (line in done.output) is expected


def interfere(pool, fifo, content, action):
    """When a worker hangs on `fifo`: put a file in its place, then do `action` to the worker."""
    while True:
        held = [worker for worker in pool.busy() if worker.job and worker.job.input_file == fifo]
        if held and len(pool.busy()) == 1:
            break
        time.sleep(0.05)
    fifo.unlink()
    fifo.write_text(content)
    action(held[0])


def kill(worker):
    os.kill(worker.process.pid, signal.SIGKILL)


def fall_silent(worker):
    worker.last_word -= 1e6


@pytest.mark.parametrize(
    ("action", "reason"), [(kill, "exit code -9"), (fall_silent, "no sign of life")]
)
def test_a_lost_worker_is_replaced_and_its_file_done(pool, jobs, tmp_path, caplog, action, reason):
    caplog.set_level("INFO", "virnucpro")
    fifo = tmp_path / "output_9.fa"
    os.mkfifo(fifo)
    stuck = replace(jobs["dna"][0], input_file=fifo, output_file=tmp_path / "output_9.pt")
    content = jobs["dna"][0].input_file.read_text()
    helper = threading.Thread(target=interfere, args=(pool, fifo, content, action), daemon=True)
    helper.start()
    queue = BatchQueueManager(use_persistent_pool=pool)
    result = queue.process([stuck, *jobs["dna"]], tmp_path / "failed_files.txt")
    helper.join()
    assert result.failed == () and len(result.finished) == 3
    assert stuck.output_file.is_file() and not (tmp_path / "failed_files.txt").exists()
    assert reason in caplog.text and "output_9.fa again, alone" in caplog.text


ORPHAN = """
import os, sys, time
from virnucpro.pipeline.jobs import FeatureJob
from virnucpro.pipeline.persistent_pool import PersistentWorkerPool
import pickle
if __name__ == "__main__":
    pool = PersistentWorkerPool(1, "tiny")
    [worker] = pool.idle()
    pool.assign(worker, pickle.loads(bytes.fromhex(sys.argv[1])))
    print(worker.process.pid, flush=True)
    time.sleep(60)
"""


def test_a_busy_worker_ends_when_its_parent_is_killed(jobs, tmp_path):
    import pickle

    script, fifo = tmp_path / "orphan.py", tmp_path / "stuck.fa"
    script.write_text(ORPHAN)
    os.mkfifo(fifo)
    job = pickle.dumps(replace(jobs["dna"][0], input_file=fifo)).hex()
    command = [sys.executable, str(script), job]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)}) as parent:  # noqa: E501  # fmt: skip
        pid = int(parent.stdout.readline())
        writer = os.open(fifo, os.O_WRONLY)  # returns when the worker has opened the other end
        parent.kill()
    deadline = time.monotonic() + 30
    with suppress(ProcessLookupError):
        while time.monotonic() < deadline and not is_zombie(pid):
            os.kill(pid, 0)
            time.sleep(0.05)
    os.close(writer)
    assert time.monotonic() < deadline


def is_zombie(pid):
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    return False
