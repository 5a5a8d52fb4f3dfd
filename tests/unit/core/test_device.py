"""Devices that are there, and clear errors for those that are not."""

from __future__ import annotations

import pytest
import torch

from virnucpro.core import device as devices
from virnucpro.core.device import (
    detect_cuda_devices,
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


def test_machine_without_a_driver_has_no_gpus(monkeypatch):
    monkeypatch.setattr(devices, "DRIVER_FILES", ("/no/such/file",))
    assert detect_cuda_devices() == []


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


@pytest.mark.parametrize("name", ["cuda:3", "3", "gpu", "cuda:x", "-1", "cuda:-1", ""])
def test_device_that_is_not_there(gpus, name):
    gpus(1)
    if name == "":
        assert validate_and_get_device(name) == torch.device("cuda:0")
        return
    kind = DeviceError if name in ("cuda:3", "3") else UsageError
    with pytest.raises(kind):
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


def test_slurm_allocation_bounds_the_cpus(monkeypatch):
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    assert usable_cpus() == 1
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "0")
    assert usable_cpus() >= 1
