"""Devices that are there, and clear errors for those that are not."""

import pytest
import torch

from virnucpro.core import device as devices
from virnucpro.core.device import (
    parse_gpu_list,
    usable_cpus,
    validate_and_get_device,
)
from virnucpro.core.errors import DeviceError, UsageError


@pytest.fixture
def gpus(monkeypatch):
    def pretend(count):
        monkeypatch.setattr(devices, "detect_cuda_devices", lambda: list(range(count)))

    return pretend


@pytest.mark.parametrize(
    ("name", "count", "expected"),
    [
        ("auto", 0, "cpu"), ("auto", 2, "cuda:0"), ("cpu", 2, "cpu"), ("cuda", 1, "cuda:0"),
        ("cuda:1", 2, "cuda:1"), ("1", 2, "cuda:1"), (" CUDA:1 ", 2, "cuda:1"),
    ],
)  # fmt: skip
def test_device_names(gpus, name, count, expected):
    gpus(count)
    assert validate_and_get_device(name) == torch.device(expected)


@pytest.mark.parametrize("name", ["cuda:3", "3", "gpu", "cuda:x", "-1", "cuda:-1"])
def test_device_that_is_not_there(gpus, name):
    gpus(1)
    with pytest.raises(DeviceError if name in ("cuda:3", "3") else UsageError):
        validate_and_get_device(name)


def test_fallback_is_used_only_when_asked_for(gpus):
    gpus(0)
    assert validate_and_get_device("cuda:1", fallback_to_cpu=True) == torch.device("cpu")
    with pytest.raises(DeviceError, match="--device cpu"):
        validate_and_get_device("cuda:1")


def test_gpu_list_keeps_its_order():
    assert parse_gpu_list("2, 0", [0, 1, 2]) == [2, 0]


@pytest.mark.parametrize("text", ["", "a", "0,0", "0,,1", "5", "-1"])
def test_bad_gpu_list(text):
    with pytest.raises(DeviceError if text == "5" else UsageError):
        parse_gpu_list(text, [0, 1])


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """`kernel(cgroup, files)`: 8 CPUs by affinity, and what the kernel says of control groups."""
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    monkeypatch.setattr(devices, "PROC", tmp_path / "proc")
    monkeypatch.setattr(devices, "GROUPS", tmp_path / "groups")

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
