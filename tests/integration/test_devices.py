"""Each process computes on the GPU that was named; the GPUs and the processes are stand-ins."""

import multiprocessing
import re
import sys
from unittest.mock import patch

import pytest
import stand_ins
import torch
from runs_here import predict_here, write_dna

from virnucpro.core import device
from virnucpro.core.device import usable_cpus, validate_and_get_device
from virnucpro.core.errors import DeviceError, OutputError, UsageError, WorkersFailedError
from virnucpro.pipeline import multi_gpu_inference, prediction, workers
from virnucpro.pipeline.multi_gpu_inference import choose_devices
from virnucpro.pipeline.runtime_config import RuntimeConfig
from virnucpro.pipeline.settings import Compute


def packed(*devices):
    return {"use_v2_architecture": True, "runtime_config": RuntimeConfig(devices=devices)}


WAYS = {
    "one stream": ({"gpus": (3, 1)}, {"scores": {"cuda:3", "cuda:1"}}, None),
    "staged": (
        {"gpus": (3, 2), "staged": True},
        {"dna": {"cuda:3", "cuda:2"}, "protein": {"cuda:3", "cuda:2"}}, OutputError,
    ),
    "persistent": (
        {"gpus": (3, 2), "how": {"persistent_models": True}},
        {"dna": {"cuda:3", "cuda:2"}, "protein": {"cuda:3", "cuda:2"}}, OutputError,
    ),
    "a named device": (
        {"device": "cuda:1", "staged": True}, {"dna": {"cuda:1"}, "protein": {"cuda:1"}},
        OutputError,
    ),
    "packed": (
        {"gpus": (2, 3), "how": packed("cuda:2", "cuda:3")},
        {"dna": {"cuda:2", "cuda:3"}, "shard": {"cuda:2", "cuda:3"}}, WorkersFailedError,
    ),
    "packed, one rank": (
        {"gpus": (3, 1), "ranks": 1, "how": packed("cuda:3", "cuda:1")},
        {"dna": {"cuda:3", "cuda:1"}, "shard": {"cuda:3"}}, WorkersFailedError,
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_work_goes_to_the_gpus_that_were_named(tiny_home, tmp_path, monkeypatch, caplog, way):
    options, expected, error = WAYS[way]
    caplog.set_level("INFO", "virnucpro")
    for module in (device, prediction, multi_gpu_inference):
        monkeypatch.setattr(module, "detect_cuda_devices", lambda: [0, 1, 2, 3])
    monkeypatch.setattr(workers, "worker_main", stand_ins.worker_that_names_its_device)
    fasta, out = write_dna(tmp_path / "in.fa", [400] * 4), tmp_path / "out"
    merge = "virnucpro.pipeline.prediction.parallel_merge_with_progress"
    with patch(merge, side_effect=OutputError("stop here")):
        if error is None:
            assert predict_here(tiny_home, fasta, out, **options) == 0
        else:
            with pytest.raises(error):
                predict_here(tiny_home, fasta, out, **options)
    assert not multiprocessing.active_children()
    seen = {}
    for what, gpu in re.findall(r"(\w+) on (cuda:\d)$", caplog.text, re.MULTILINE):
        seen.setdefault(what, set()).add(gpu)
    assert seen == expected


def test_a_gpu_that_is_not_there_is_an_error_or_the_cpu(monkeypatch):
    with pytest.raises(DeviceError, match="use --device cpu"):
        _ = Compute(device="cuda:1").devices
    monkeypatch.setattr("virnucpro.core.device.detect_cuda_devices", lambda: [0, 1])
    assert Compute(device="7", fallback_to_cpu=True).devices == ("cpu",)
    assert Compute().devices == ("cuda:0",)


@pytest.mark.parametrize(("world", "devices"), [(3, ()), (2, ("cuda:1",)), (0, ())])
def test_more_ranks_than_gpus_are_refused(monkeypatch, world, devices):
    monkeypatch.setattr(multi_gpu_inference, "detect_cuda_devices", lambda: [0, 1])
    with pytest.raises(DeviceError, match=r"ranks|world_size"):
        choose_devices(world, devices)


@pytest.mark.parametrize(
    ("name", "count", "expected"),
    [
        ("auto", 0, "cpu"), ("auto", 2, "cuda:0"), ("cpu", 2, "cpu"), ("cuda", 1, "cuda:0"),
        ("cuda:1", 2, "cuda:1"), ("1", 2, "cuda:1"), (" CUDA:1 ", 2, "cuda:1"),
    ],
)  # fmt: skip
def test_device_names(monkeypatch, name, count, expected):
    monkeypatch.setattr(device, "detect_cuda_devices", lambda: list(range(count)))
    assert validate_and_get_device(name) == torch.device(expected)


@pytest.mark.parametrize("name", ["cuda:3", "3", "gpu", "cuda:x", "-1", "cuda:-1"])
def test_device_that_is_not_there(monkeypatch, name):
    monkeypatch.setattr(device, "detect_cuda_devices", lambda: [0])
    with pytest.raises(DeviceError if name in ("cuda:3", "3") else UsageError):
        validate_and_get_device(name)


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """`kernel(cgroup, files)`: 8 CPUs by affinity, and what the kernel says of control groups."""
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    monkeypatch.setattr(device, "PROC", tmp_path / "proc")
    monkeypatch.setattr(device, "GROUPS", tmp_path / "groups")

    def say(cgroup, files):
        for name, text in {"proc/cgroup": "\n".join(cgroup), **files}.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(f"{text}\n")

    return say


def v1(place, quota):
    folder = f"groups/cpu{place}"
    return {f"{folder}/cpu.cfs_quota_us": quota, f"{folder}/cpu.cfs_period_us": "100000"}


def v2(**quotas):
    return {f"groups/{name.replace('_', '/')}/cpu.max": text for name, text in quotas.items()}


@pytest.mark.parametrize(
    ("cgroup", "files", "cpus"),
    [
        (["0::/a/b"], v2(a_b="300000 100000"), 3),
        (["0::/a/b"], v2(a="200000 100000", a_b="max 100000"), 2),
        (["0::/"], {"groups/cpu.max": "250000 100000"}, 3),
        (["0::/a"], v2(a="max 100000"), 8),
        (["0::/a"], v2(a="nonsense"), 8),
        # a container's group is the root of what is mounted, and its path that on the host
        (["0::/docker/x"], {"groups/cpu.max": "400000 100000"}, 4),
        (["4:cpu,cpuacct:/job", "0::/"], v1("/job", "150000"), 2),
        (["4:cpuacct,cpu:/docker/x"], v1("", "500000"), 5),
    ],
)
def test_quotas_of_control_groups_bound_the_cpus(kernel, cgroup, files, cpus):
    kernel(cgroup, files)
    assert usable_cpus() == cpus


def test_slurm_allocation_bounds_the_cpus(monkeypatch):
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    assert usable_cpus() == 1
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "0")
    assert usable_cpus() >= 1


def test_a_gpu_that_is_not_there_is_told_without_torch_too(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(device, "DRIVER_FILES", ())
    with pytest.raises(DeviceError, match="GPUs seen: none"):
        validate_and_get_device("cuda")
