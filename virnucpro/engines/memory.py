"""How many tokens a batch may hold, by trying a small one, and whether compiling pays.

Room 5.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from virnucpro.core.errors import DeviceError
from virnucpro.core.records import Tokens
from virnucpro.encoders.batches import Batch
from virnucpro.engines.forward import Forward

log = logging.getLogger("virnucpro.engines")

LARGEST_BUDGET, SMALLEST_BUDGET = 65_536, 1_024
# A minute of work for an H100 without compiling, at 4e14 operations a second. Compiling takes
# 1 to 4 s a shape beside the compiler's start, and makes the work 1.22 times as fast.
REPAID_FROM_OPERATIONS = 2.5e16
_PROBE_TOKENS, _PROBE_LENGTH = 4_096, 64
_USABLE = 0.7  # of the free memory: the allocator splits blocks, and other lengths need more


@dataclass(frozen=True, slots=True)
class Probe:
    """What a small batch cost.

    Attributes:
        bytes_per_token: memory in use at the peak, above weights and batch.
        free_bytes: memory that nobody uses.
    """

    bytes_per_token: float
    free_bytes: int


def probe(forward: Forward, collate: Callable[[Sequence[Tokens]], Batch]) -> Probe:
    """Run a small batch on a CUDA device and see what it takes.

    Raises:
        DeviceError: not even that fits.
    """
    device = forward.device
    length = _PROBE_LENGTH
    letters = np.full(length, 5, dtype=np.int64)
    items = [letters] * (_PROBE_TOKENS // length)
    ready = forward.prepare(collate(items), pin=False)
    try:
        forward(ready, fixed=False)
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        forward(ready, fixed=False)
        torch.cuda.synchronize(device)
    except torch.OutOfMemoryError as error:
        raise DeviceError(f"{device}: no memory for {_PROBE_TOKENS} tokens at once") from error
    peak = torch.cuda.max_memory_allocated(device) - held
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    return Probe(peak / _PROBE_TOKENS, free)


def budget_by_memory(found: Probe) -> int:
    """The largest power of two whose batch fits into free memory, between the two limits.

    A power of two, so that runs on like devices lay out like batches.
    """
    fitting = int(_USABLE * found.free_bytes / max(found.bytes_per_token, 1.0))
    power = 1 << max(fitting.bit_length() - 1, 0)
    return min(max(power, SMALLEST_BUDGET), LARGEST_BUDGET)


def compiling_pays(tokens: int, weights: int) -> bool:
    """Whether a job is so large that compiling is repaid; logs why.

    Decided from the job alone, never from the clock: compiled numbers differ in the last bits,
    and a job that is stopped and resumed must get the same ones.

    Args:
        tokens: of the whole job, on however many devices.
        weights: of the encoder; a token takes about two operations for each.
    """
    operations = 2.0 * weights * tokens
    pays = operations >= REPAID_FROM_OPERATIONS
    log.info(
        "torch.compile %s: %d tokens are %.1e operations, compiling is repaid from %.1e on",
        "on" if pays else "off",
        tokens,
        operations,
        REPAID_FROM_OPERATIONS,
    )
    return pays
