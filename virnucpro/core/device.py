"""Which device to compute on. torch is imported inside: the room itself stays light."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from virnucpro.core.errors import DeviceError, UsageError
from virnucpro.core.text import shown

if TYPE_CHECKING:
    import torch


# Made by NVIDIA's driver; the last one under WSL. Where none is, torch need not be asked.
DRIVER_FILES = ("/dev/nvidiactl", "/proc/driver/nvidia/version", "/dev/dxg")
_NUMBER = re.compile(r"[0-9]{1,4}")


def detect_cuda_devices() -> list[int]:
    """Indices of the CUDA devices that this process can see."""
    if not any(Path(name).exists() for name in DRIVER_FILES):
        return []
    import torch

    return list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []


def validate_and_get_device(name: str = "auto", fallback_to_cpu: bool = False) -> torch.device:
    """The device of `device_name` as torch knows it; same arguments, same errors."""
    import torch

    return torch.device(device_name(name, fallback_to_cpu))


def device_name(name: str = "auto", fallback_to_cpu: bool = False) -> str:
    """Turn `auto`, `cpu`, `cuda`, `cuda:N` or `N` into `cpu` or `cuda:N`, a device that exists.

    Args:
        name: what the user asked for; `auto` is the first GPU, else the CPU.
        fallback_to_cpu: answer with the CPU where a named GPU is missing.

    Raises:
        UsageError: the name is none of these.
        DeviceError: there is no such GPU.
    """
    text = name.strip().lower()
    if text == "cpu":
        return "cpu"
    devices = detect_cuda_devices()
    if text == "auto":
        return f"cuda:{devices[0]}" if devices else "cpu"
    number = text.removeprefix("cuda").removeprefix(":") or "0"
    if not _NUMBER.fullmatch(number):
        raise UsageError(f"device {shown(name)}: use auto, cpu, cuda, cuda:N or N")
    if int(number) in devices:
        return f"cuda:{int(number)}"
    if fallback_to_cpu:
        return "cpu"
    seen = ", ".join(f"cuda:{d}" for d in devices) or "none"
    raise DeviceError(f"device {shown(name)} is not there (GPUs seen: {seen}); use --device cpu")


def parse_gpu_list(text: str, devices: list[int]) -> list[int]:
    """Read a list such as `2,3` and check it against the GPUs that are there.

    Raises:
        UsageError: not a list of distinct numbers.
        DeviceError: a GPU is not there.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(map(_NUMBER.fullmatch, parts)) or len(set(parts)) != len(parts):
        raise UsageError(f"--gpus {shown(text)}: give distinct device numbers, as in --gpus 0,1")
    wanted = [int(part) for part in parts]
    missing = [number for number in wanted if number not in devices]
    if missing:
        raise DeviceError(f"--gpus {shown(text)}: GPU {missing[0]} is not there (seen: {devices})")
    return wanted


def usable_cpus() -> int:
    """CPUs that this process may use: affinity and a Slurm allocation are respected."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    slurm = os.environ.get("SLURM_CPUS_PER_TASK", "")
    return min(cpus or 1, int(slurm)) if slurm.isdigit() and int(slurm) > 0 else cpus or 1
