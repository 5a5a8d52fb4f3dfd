"""How many tokens a batch may hold, and whether compiling pays, by trying a small batch.

Room 5.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from virnucpro.batches.collate import Batch
from virnucpro.core.errors import DeviceError
from virnucpro.core.records import Tokens
from virnucpro.engines.forward import Forward

log = logging.getLogger("virnucpro.engines")

CPU_BUDGET = 4_096
LARGEST_BUDGET, SMALLEST_BUDGET = 65_536, 1_024
# One layer serves for all: 1 to 4 s a shape and the compiler's start; 1.22 x faster (H100).
COMPILE_SECONDS, COMPILE_GAIN = 12.0, 0.2
_PROBE_TOKENS, _PROBE_LENGTH, _PROBE_RUNS = 4_096, 64, 3
_USABLE = 0.7  # of the free memory: the allocator splits blocks, and other lengths need more


@dataclass(frozen=True, slots=True)
class Probe:
    """What a small batch cost.

    Attributes:
        bytes_per_token: memory in use at the peak, above weights and batch.
        seconds_per_token: in a batch of `_PROBE_TOKENS`.
        free_bytes: memory that nobody uses.
    """

    bytes_per_token: float
    seconds_per_token: float
    free_bytes: int


def probe(forward: Forward, collate: Callable[[Sequence[Tokens]], Batch]) -> Probe:
    """Run a small batch on a CUDA device and see what it takes.

    Raises:
        DeviceError: not even that fits.
    """
    device = forward.device
    length = _PROBE_LENGTH
    letters = np.full(length, 5, dtype=np.int64)
    items = [Tokens(str(i), letters) for i in range(_PROBE_TOKENS // length)]
    ready = forward.prepare(collate(items), pin=False, fixed=False)
    try:
        forward(ready, fixed=False)
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        start = time.perf_counter()
        for _ in range(_PROBE_RUNS):
            forward(ready, fixed=False)
        torch.cuda.synchronize(device)
    except torch.OutOfMemoryError as error:
        raise DeviceError(f"{device}: no memory for {_PROBE_TOKENS} tokens at once") from error
    seconds = (time.perf_counter() - start) / _PROBE_RUNS
    peak = torch.cuda.max_memory_allocated(device) - held
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    return Probe(peak / _PROBE_TOKENS, seconds / _PROBE_TOKENS, free)


def budget_by_memory(found: Probe) -> int:
    """The largest power of two whose batch fits into free memory, between the two limits.

    A power of two, so that runs on like devices lay out like batches.
    """
    fitting = int(_USABLE * found.free_bytes / max(found.bytes_per_token, 1.0))
    power = 1 << max(fitting.bit_length() - 1, 0)
    return min(max(power, SMALLEST_BUDGET), LARGEST_BUDGET)


def compiling_pays(tokens: int, found: Probe) -> bool:
    """Whether so many tokens take so long that compiling is repaid; logs why."""
    seconds = tokens * found.seconds_per_token
    pays = seconds * COMPILE_GAIN > COMPILE_SECONDS
    log.info(
        "torch.compile %s: %d tokens take about %.0f s, compiling would save about %.0f s of that"
        " and cost about %.0f s",
        "on" if pays else "off",
        tokens,
        seconds,
        seconds * COMPILE_GAIN,
        COMPILE_SECONDS,
    )
    return pays
