"""Ray: hosts come and go, the bytes stay; what fails is told, and never tried for ever."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from runs import wait_for
from runs_here import run, tables, write_dna
from stand_ins import Gated, Troubled

from virnucpro.core.checkpoint import Ledger
from virnucpro.core.errors import UsageError
from virnucpro.pipeline import ray_executor, stream
from virnucpro.pipeline.ray_executor import RayExecutor
from virnucpro.pipeline.settings import Compute
from virnucpro.pipeline.stream import ScoreStore
from virnucpro.pipeline.worker_loop import Done, Failed
from virnucpro.scores.scorer import COLUMNS

ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'virnucpro[ray]'")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def cluster():
    """Three hosts of one CPU each, as processes."""
    from ray.cluster_utils import Cluster

    here = Path(__file__).parents[1]  # of the jobs that workers find by name
    # a host that is killed is missed after 3 s where it would be after 15
    health = {f"health_check_{what}": value for what, value in (
        ("initial_delay_ms", 1000), ("period_ms", 1000), ("failure_threshold", 3),
    )}  # fmt: skip
    with mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join([str(here), *sys.path])):
        cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 1, "_system_config": health}
        )
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        yield cluster
        cluster.shutdown()


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """`predict` on a file of many units, to which `-o` is added; what it makes on this host."""
    folder = tmp_path_factory.mktemp("local")
    fasta = write_dna(folder / "in.fa", [600] * 24)
    settings = folder / "settings.yaml"
    settings.write_text("prediction: {sequences_per_file: 3}\nprogress: {enabled: false}\n")
    command = ["-c", settings, "predict", fasta, "-d", "cpu", "--no-report", "-t", "1"]
    run(*command, "-o", folder / "out", code=0)
    return command, tables(folder / "out")


def test_a_host_is_lost_and_one_comes_and_the_tables_are_those_of_a_local_run(
    cluster, local, tmp_path, monkeypatch
):
    command, expected = local
    make, out = stream.score_job, tmp_path / "ray"
    monkeypatch.setattr(stream, "score_job", lambda *given: Gated(make(*given), tmp_path))
    monkeypatch.setattr(ray_executor, "_LEASE_S", 2.0)

    def workers():
        return set(out.glob(".checkpoints/claims/beat-*"))

    on_ray = ["--executor", "ray", "--ray-address", cluster.address]
    with ThreadPoolExecutor(1) as driver:  # this thread may start hosts, another may not
        running = driver.submit(run, *command, *on_ray, "-o", out, code=0)
        assert wait_for(lambda: len(workers()) == 3 or running.done())
        drivers = ray.get_runtime_context().get_node_id()
        other = next(node for node in cluster.worker_nodes if node.node_id != drivers)
        cluster.remove_node(other, allow_graceful=False)
        cluster.add_node(num_cpus=1)
        has_newcomer = wait_for(lambda: len(workers()) == 4 or running.done())
        (tmp_path / "go").touch()
        running.result()
    assert has_newcomer
    assert tables(out) == expected and not workers()


def test_a_driver_is_killed_beside_another_run_and_resumed(cluster, local, tmp_path):
    command, expected = local
    on_ray = [*command, "--executor", "ray", "--ray-address", cluster.address, "-o"]
    outs = [tmp_path / "killed", tmp_path / "beside"]
    words = [sys.executable, "-m", "virnucpro", *map(str, on_ray)]
    killed, beside = (subprocess.Popen([*words, out]) for out in outs)
    assert wait_for(lambda: list(outs[0].glob(".checkpoints/claims/claim-*")))
    killed.kill()
    assert (killed.wait(), beside.wait()) == (-signal.SIGKILL, 0)
    assert not (outs[0] / "calls.tsv").exists()
    run(*on_ray, outs[0], "--resume", code=0)
    assert tables(outs[0]) == tables(outs[1]) == expected


def test_what_fails_hangs_or_kills_is_tried_a_few_times_and_told(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_executor, "_LEAST_PATIENCE_S", 2.0)
    monkeypatch.setattr(ray_executor, "_LEASE_S", 1.0)
    store = ScoreStore(Ledger(tmp_path, tmp_path / "ledger"), "key")
    store.commit(0, np.zeros((2, COLUMNS), np.float32))
    nowhere = RayExecutor(Compute(device="cpu", ray_address="127.0.0.1:1"), store)
    with pytest.raises(UsageError, match="no cluster there"):
        next(nowhere.run(Troubled(tmp_path), [(1, ([b"fine"], [b"M"]))], print))
    assert not store.ledger.storage.names() - {store.name(0)}
    own = {"ray_address": cluster.address, "elsewhere": True, "worker_timeout": 5.0}
    executor, rows = RayExecutor(Compute(device="cpu", **own), store), []
    words = ["fine", "fails", "hangs once", "kills", *(f"fine {k}" for k in range(8))]
    units = (([word.encode()] * 2, [b"M"] * 2) for word in words)
    outcomes = [*executor.run(Troubled(tmp_path), enumerate([None, *units]), rows.append)]
    done = {one.key: one.result for one in outcomes if isinstance(one, Done)}
    given_up = {one.key: one.reason for one in outcomes if isinstance(one, Failed)}
    assert set(given_up) == {2, 4} and "it would not" in given_up[2]
    assert given_up[4] == "lost with 5 workers in a row"
    assert set(done) == {*range(13)} - {2, 4} and done[0] is None
    assert (store.read(3, 2)[0] == 0.5).all() and (done[3] == 0.5).all()
    assert sum(rows) == 2 * 10
    tries = {word: len((tmp_path / word).read_text().split()) for word in words}
    assert tries["fails"] >= 2 and tries["hangs once"] >= 2 and 1 < tries["kills"] <= 5
