"""Which device to compute on. torch is imported inside: the room itself stays light."""

import logging
import math
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from virnucpro.core.errors import DeviceError, UsageError
from virnucpro.core.text import shown

if TYPE_CHECKING:
    import torch

logger = logging.getLogger("virnucpro.core")

# Made by NVIDIA's driver; the last one under WSL. Where none is, torch need not be asked.
DRIVER_FILES = ("/dev/nvidiactl", "/proc/driver/nvidia/version", "/dev/dxg")
_NUMBER = re.compile(r"[0-9]{1,4}")
# The extra that brings what may be installed beside the core
EXTRA_OF = {  # by the name that is imported
    "torch": "published", "tokenizers": "published", "h5py": "published",
    "huggingface_hub": "published", "pysam": "bam", "pynvml": "gpu",
    "ray": "ray", "obstore": "cloud", "pandas": "pandas",
}  # fmt: skip
PROC, GROUPS = Path("/proc/self"), Path("/sys/fs/cgroup")


def detect_cuda_devices() -> list[int]:
    """Indices of the CUDA devices that this process can see."""
    if not any(Path(name).exists() for name in DRIVER_FILES):
        return []
    try:
        import torch
    except ModuleNotFoundError:
        told = "a GPU is here, but torch is not: pip install 'virnucpro[published]'"
        logger.warning("%s; computing on the CPU", told)
        return []
    return list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []


def validate_and_get_device(name: str = "auto", fallback_to_cpu: bool = False) -> "torch.device":
    """The device of `device_name` as torch knows it."""
    found = device_name(name, fallback_to_cpu)  # one that is not there is told without torch, too
    import torch

    return torch.device(found)


def device_name(name: str = "auto", fallback_to_cpu: bool = False) -> str:
    """Turn `auto`, `cpu`, `cuda`, `cuda:N` or `N` into `cpu` or `cuda:N`, a device that exists."""
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
    """Read distinct numbers such as `2,3`; a DeviceError tells of a GPU that is not there."""
    parts = [part.strip() for part in text.split(",")]
    if not all(map(_NUMBER.fullmatch, parts)) or len(set(parts)) != len(parts):
        raise UsageError(f"--gpus {shown(text)}: give distinct device numbers, as in --gpus 0,1")
    wanted = [int(part) for part in parts]
    for number in wanted:
        if number not in devices:
            raise DeviceError(f"--gpus {shown(text)}: GPU {number} is not there (seen: {devices})")
    return wanted


def visible_cpus() -> int:
    """CPUs of this process's affinity; libraries count these."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usable_cpus() -> int:
    """CPUs that this process may use, by affinity, quotas of control groups and Slurm."""
    limits = [visible_cpus(), *(max(1, math.ceil(quota)) for quota in _quotas())]
    slurm = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if slurm.isdigit() and int(slurm) > 0:
        limits.append(int(slurm))
    return min(limits)


def _quotas() -> Iterator[float]:
    """CPUs that each control group of this process allows (cgroup-v2.rst, sched-bwc.rst)."""

    def text(path: Path) -> str:
        with suppress(OSError):
            return path.read_text(encoding="utf-8", errors="replace")
        return ""

    for line in text(PROC / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = GROUPS / ("cpu" if controllers else "")
        inside = PurePosixPath(path.replace("..", "").lstrip("/"))
        names = ("cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us")
        for group in (inside, *inside.parents):
            words = " ".join(text(mount / group / name) for name in names).split()
            if len(words) == 2 and all(word.isdigit() and int(word) for word in words):
                yield int(words[0]) / int(words[1])


def version_of(distribution: str) -> str:
    """The installed version; empty where there is none."""
    from importlib import metadata  # takes longer to load than `--version` to answer

    with suppress(metadata.PackageNotFoundError):
        return metadata.version(distribution)
    return ""
