"""Which devices a run uses, how large its units are, and settings that make no sense."""

from types import SimpleNamespace

import pytest

from virnucpro.core.errors import DeviceError
from virnucpro.pipeline import multi_gpu_inference
from virnucpro.pipeline.multi_gpu_inference import choose_devices
from virnucpro.pipeline.run import orfs_per_unit
from virnucpro.pipeline.runtime_config import RuntimeConfig
from virnucpro.pipeline.settings import Compute


def test_a_gpu_that_is_not_there_is_an_error_or_the_cpu(monkeypatch):
    with pytest.raises(DeviceError, match="use --device cpu"):
        _ = Compute(device="cuda:1").devices
    monkeypatch.setattr("virnucpro.core.device.detect_cuda_devices", lambda: [0, 1])
    assert Compute(device="7", fallback_to_cpu=True).devices == ("cpu",)
    assert Compute().devices == ("cuda:0",)


@pytest.mark.parametrize(
    ("on_cpu", "is_large", "asked", "size"),
    [(True, True, None, 100), (True, False, None, 10_000), (False, True, None, 10_000),
     (True, True, 7, 7)],
)  # fmt: skip
def test_units_of_a_large_model_on_a_cpu_are_small(on_cpu, is_large, asked, size):
    assert orfs_per_unit(asked, on_cpu, SimpleNamespace(is_large=is_large)) == size


@pytest.mark.parametrize(
    ("world", "devices", "seen", "chosen"),
    [
        (2, ("cuda:2", "cuda:3"), [0, 1, 2, 3], ("cuda:2", "cuda:3")),
        (1, ("cuda:2", "cuda:3"), [0, 1, 2, 3], ("cuda:2",)),
        (2, (), [0, 1, 2], ("cuda:0", "cuda:1")),
        (3, (), [], ("cpu",) * 3),
        (3, ("cpu",), [0], ("cpu",) * 3),
    ],
)
def test_ranks_get_the_devices_that_were_named(monkeypatch, world, devices, seen, chosen):
    monkeypatch.setattr(multi_gpu_inference, "detect_cuda_devices", lambda: seen)
    assert choose_devices(world, devices) == chosen


@pytest.mark.parametrize(("world", "devices"), [(3, ()), (2, ("cuda:1",)), (0, ())])
def test_more_ranks_than_gpus_are_refused(monkeypatch, world, devices):
    monkeypatch.setattr(multi_gpu_inference, "detect_cuda_devices", lambda: [0, 1])
    with pytest.raises(DeviceError, match=r"ranks|world_size"):
        choose_devices(world, devices)


@pytest.mark.parametrize(
    "wrong",
    [
        {"worker_timeout": 0}, {"dataloader_workers": -1},
        {"token_budget": 0}, {"dtype": "int8"},
        {"devices": ("cuda:0", "cuda:0")},
    ],
)  # fmt: skip
def test_nonsense_is_refused(wrong):
    with pytest.raises(ValueError, match=r"must be|takes one rank"):
        RuntimeConfig(**wrong)
