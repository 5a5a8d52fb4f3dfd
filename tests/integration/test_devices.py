"""Each process computes on the GPU that was named; the GPUs and the processes are stand-ins."""

import multiprocessing
import re
from unittest.mock import patch

import pytest
import stand_ins
from runs_here import predict_here, write_dna

from virnucpro.core import device
from virnucpro.core.errors import DeviceError, OutputError, WorkersFailedError
from virnucpro.pipeline import multi_gpu_inference, prediction, workers
from virnucpro.pipeline.multi_gpu_inference import choose_devices
from virnucpro.pipeline.runtime_config import RuntimeConfig
from virnucpro.pipeline.settings import Compute


def packed(*devices):
    """Arguments of `run_prediction` for the packed engine on these devices."""
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
    with patch("virnucpro.pipeline.prediction.merge", side_effect=OutputError("stop here")):
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
    "wrong",
    [
        {"worker_timeout": 0}, {"dataloader_workers": -1},
        {"token_budget": 0}, {"dtype": "int8"}, {"compile": "maybe"},
        {"devices": ("cuda:0", "cuda:0")},
    ],
)  # fmt: skip
def test_nonsense_is_refused(wrong):
    with pytest.raises(ValueError, match=r"must be|takes one rank"):
        RuntimeConfig(**wrong)
