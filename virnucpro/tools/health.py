"""Is this installation fit to run: packages, devices, weights, and the disk it writes to."""

import fcntl
import os
import platform
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from virnucpro.core.device import EXTRA_OF, usable_cpus, version_of
from virnucpro.core.errors import VirNucProError
from virnucpro.core.text import counted, gib, size
from virnucpro.models.store import list_models, resolve_model

PACKAGES = ("numpy", "safetensors", "threadpoolctl", "jinja2", "click")
LEAST_FREE = 1 << 30
WRITTEN_BYTES = 64 << 20
SLOW_BYTES_PER_SECOND = 20e6


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found; `ok` is None where it is only worth knowing."""

    title: str
    ok: bool | None
    text: str
    remedy: str = ""


def check_all(home: Path, output_dir: Path) -> Iterator[Finding]:
    """Every check; models lie in `home`, and results would go to `output_dir`."""
    yield Finding("Python", True, f"{platform.python_version()} on {platform.platform()}")
    versions = {name: version_of(name) for name in PACKAGES}
    missing = " ".join(name for name, version in versions.items() if not version)
    there = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    yield Finding("Packages", not missing, there, missing and f"pip install {missing}")
    for name, extra in EXTRA_OF.items():
        version = version_of("nvidia-ml-py" if name == "pynvml" else name)
        yield Finding(name, None, version or f"not installed; only virnucpro[{extra}] needs it")
    yield from devices()
    try:
        digest = resolve_model("mini", None, home).digest
        yield Finding("Model mini", True, f"whole, hash {digest[:12]}")
    except VirNucProError as error:
        yield Finding("Model mini", False, str(error), "install virnucpro again")
    try:
        records = list_models(home)
        yield Finding("Model home", None, f"{home}: {len(records)} installed")
    except VirNucProError as error:
        records = []
        yield Finding("Model home", False, str(error), f"remove that folder from {home}")
    for record in records:
        name = record.folder.name
        try:
            record.check()
            yield Finding(name, True, f"{record.kind}, {size(record.size)}, whole")
        except VirNucProError as error:
            yield Finding(name, False, str(error), f"virnucpro models fetch {name}")
    yield from _disk(output_dir)


def devices() -> Iterator[Finding]:
    """What there is to compute on: the CPU, and every GPU with its memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cpu = f"{counted(usable_cpus(), 'CPU')} usable, {gib(memory)} of memory"
    try:
        import torch
    except ModuleNotFoundError:
        yield Finding("CPU", True, cpu)
        return
    except ImportError as error:
        yield Finding("PyTorch", False, f"cannot be imported: {error}", "pip install torch")
        return
    from virnucpro.encoders.kernels import run_on

    built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for CPU only"
    threads = f"{torch.get_num_threads()} threads"
    yield Finding("PyTorch", None, f"{torch.__version__}, {built}, {threads}")
    gpus = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    for title in ("CPU", *(f"cuda:{number}" for number in gpus)):
        device, text = torch.device(title.lower()), cpu
        try:
            if device.type == "cuda":
                facts = torch.cuda.get_device_properties(device)
                free, whole = torch.cuda.mem_get_info(device)
                backend = "triton" if run_on(device, torch.float16, head_dim=64) else "sdpa"
                text = f"{facts.name}, {free / 2**30:.1f} of {gib(whole)} free, "
                text += f"compute {facts.major}.{facts.minor}, attention {backend}"
            ones = torch.ones(64, 64, device=device)
            right = float((ones @ ones).sum()) == 64.0**3
            remedy = "" if right else "the device computes wrong: do not use it"
        except RuntimeError as error:
            right, text = False, f"{text}; {str(error).splitlines()[0]}"
            remedy = "free the device (see nvidia-smi), or use --device cpu"
        yield Finding(title, right, text, remedy)
    if torch.version.cuda and not torch.cuda.is_available():
        text = "none seen; everything runs on the CPU"
        yield Finding("GPU", None, text, "if there is one: see that nvidia-smi lists it")


def _disk(folder: Path) -> Iterator[Finding]:
    """Space, and the bytes a second that reach the disk; files must lock and rename there."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    block = os.urandom(1 << 20)
    try:
        free, start = shutil.disk_usage(existing).free, time.monotonic()
        with TemporaryDirectory(prefix=".virnucpro-doctor-", dir=existing) as inside:
            probe = Path(inside, "probe")
            with probe.open("xb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for _ in range(WRITTEN_BYTES // len(block)):
                    file.write(block)
                file.flush()
                os.fsync(file.fileno())
            probe.replace(probe.with_name("renamed"))
            speed = WRITTEN_BYTES / (time.monotonic() - start)
    except OSError as error:
        remedy = "choose another --output-dir"
        yield Finding("Output", False, f"{existing}: {error.strerror}", remedy)
        return
    enough, is_fast = free >= LEAST_FREE, speed >= SLOW_BYTES_PER_SECOND
    remedy = "" if enough else "make room; feature files take about 15 kB a reading frame"
    yield Finding("Output space", enough, f"{existing}: {gib(free)} free", remedy)
    remedy = "" if is_fast else "slow: choose a local disk for --output-dir"
    yield Finding("Output speed", is_fast or None, f"{size(speed)}/s written", remedy)
