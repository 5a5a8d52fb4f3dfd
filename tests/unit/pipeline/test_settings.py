"""Which devices a run uses: those named by number, else the one named by a word."""

from unittest.mock import patch

import pytest
from virnucpro.pipeline.run_setup import device_kind

from virnucpro.core.errors import DeviceError
from virnucpro.pipeline.settings import Compute


@pytest.mark.parametrize(
    ("compute", "devices"),
    [
        (Compute(gpus=(3, 2)), ("cuda:3", "cuda:2")),
        (Compute(), ("cuda:0",)),
        (Compute(device="CPU"), ("cpu",)),
        (Compute(device="cuda:1"), ("cuda:1",)),
        (Compute(device="7", fallback_to_cpu=True), ("cpu",)),
    ],
)
def test_devices_are_those_that_were_named(compute, devices):
    with patch("virnucpro.core.device.detect_cuda_devices", return_value=[0, 1, 2, 3]):
        assert compute.devices == devices
        assert device_kind(compute) == devices[0][:4].rstrip(":")


def test_a_device_that_is_not_there_is_an_error():
    with pytest.raises(DeviceError, match="use --device cpu"):
        _ = Compute(device="cuda:1").devices
