"""Run batches through a device: one computes while the one before it is fetched.

The host never waits for a batch before the next one is queued: copies come from page-locked
memory, results leave on a stream of their own, and a flag with them tells of NaN or Inf.
"""

import copy
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from itertools import chain, pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from virnucpro.core.errors import DeviceError, ModelError
from virnucpro.core.records import Tokens
from virnucpro.encoders.base import EVEN, Encoder, Layout, Tiled
from virnucpro.engines import base
from virnucpro.engines.base import Embedded, EngineKind, EngineOptions, EngineStats

log = logging.getLogger("virnucpro.engines")

LARGEST_BUDGET, SMALLEST_BUDGET = 65_536, 1_024
_PROBE_TOKENS, _PROBE_LENGTH = 4_096, 64
_USABLE = 0.7  # of the free memory: the allocator splits blocks, and other lengths need more
_BATCHES_AHEAD = 3
_NARROWEST = 0.75  # row of a rectangle, of its widest: what is shorter would be mostly padding

_Batch = tuple[NDArray[np.int64], list[Tokens]]  # rows, and what stands there
_Work = tuple[NDArray[np.int64], list[Tokens], Layout]  # the same, ready for the device
# The same with its vectors on their way to the host, whether they are finite, and what tells that
# both have come, None where they are there.
_Pending = tuple[_Work, Tensor, Tensor, torch.cuda.Event | None]


def budget_by_memory(bytes_per_token: float, free_bytes: int) -> int:
    """The largest power of two whose batch fits, the same on like devices, between two limits."""
    fitting = int(_USABLE * free_bytes / max(bytes_per_token, 1.0))
    power = 1 << max(fitting.bit_length() - 1, 0)
    return min(max(power, SMALLEST_BUDGET), LARGEST_BUDGET)


class BatchEngine:
    """An engine on `device`; `float32_encoder` makes what recomputes a batch with NaN or Inf."""

    def __init__(
        self, kind: EngineKind, encoder: Encoder, *, device: torch.device,
        options: EngineOptions | None = None, float32_encoder: Callable[[], Encoder] | None = None,
    ) -> None:  # fmt: skip
        self.encoder, self.device, self.options = encoder, device, options or EngineOptions()
        self._make_exact = float32_encoder or (lambda: copy.deepcopy(encoder).float())
        self._exact: BatchEngine | None = None
        self._is_cuda, pin = device.type == "cuda", self.options.pin_memory
        self._pin = (self._is_cuda if pin is None else pin) and torch.cuda.is_available()
        self._copies = torch.cuda.Stream(device) if self._is_cuda else None  # type: ignore[no-untyped-call]
        # A batch that becomes a rectangle is planned as one.
        self._is_packed = kind == "packed" and encoder.backend == Tiled.backend
        weights = str(next(encoder.parameters()).dtype).removeprefix("torch.")
        self.stats = EngineStats(kind, str(device), encoder.numbers or weights, encoder.backend, 0)
        budget = self.options.token_budget
        if budget is None and self._is_cuda:
            budget = budget_by_memory(*self._probe())
        self.stats.token_budget = encoder.cpu_tokens if budget is None else budget
        log.info(
            "Engine: %(layout)s on %(device)s, %(dtype)s, attention %(backend)s, "
            "%(token_budget)d tokens a batch",
            self.stats.as_dict(),
        )

    def _forward(self, ready: Layout) -> Tensor:
        """Vectors of a prepared batch: shape (rows, d), float32, on the device."""
        with torch.inference_mode(), torch.accelerator.device_index(self.device.index):
            return self.encoder.encode(ready.to(self.device))

    def _probe(self) -> tuple[float, int]:
        """Peak bytes for each token of a small batch on a CUDA device, and bytes that are free."""
        device = self.device
        letters = np.full(_PROBE_LENGTH, 5, dtype=np.int64)
        ready = self.encoder.lay_out([letters] * (_PROBE_TOKENS // _PROBE_LENGTH))
        try:
            self._forward(ready)
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
            held = torch.cuda.memory_allocated(device)
            self._forward(ready)
            torch.cuda.synchronize(device)
        except torch.OutOfMemoryError as error:
            raise DeviceError(f"{device}: no memory for {_PROBE_TOKENS} tokens at once") from error
        peak = torch.cuda.max_memory_allocated(device) - held
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(device)
        return peak / _PROBE_TOKENS, free

    def embed(self, items: Sequence[Tokens]) -> Iterator[Embedded]:
        """Yield the vectors of batch after batch, in any order, each item exactly once."""
        start = time.perf_counter()
        yield from self._run(self._planned(items, np.arange(len(items))))
        self.stats.seconds += time.perf_counter() - start
        if self._is_cuda:
            self.stats.gpu_bytes = torch.cuda.max_memory_reserved(self.device)

    def _planned(self, items: Sequence[Tokens], rows: NDArray[np.int64]) -> list[_Batch]:
        """Batches within the budget; too long and short ones are by themselves."""
        lengths = np.fromiter((len(item) for item in items), dtype=np.int64, count=len(items))
        if len(lengths) and lengths.min() < 1:
            raise ValueError(f"row {rows[lengths.argmin()]} has no tokens")
        is_short = lengths <= self.encoder.short_tokens
        budget, chosen = self.stats.token_budget, []
        for group in (np.flatnonzero(~is_short), np.flatnonzero(is_short)):
            if self._is_packed:
                batches = base.pack(lengths[group], budget)
            else:
                batches = [*base.rectangles(-(-lengths[group] // EVEN) * EVEN, budget, _NARROWEST)]
            chosen += [group[batch] for batch in batches]
        return [(rows[batch], [items[i] for i in batch.tolist()]) for batch in chosen]

    def _run(self, batches: list[_Batch]) -> Iterator[Embedded]:
        depth = _BATCHES_AHEAD if self.options.feeding_threads else 0
        with closing(base.ahead(map(self._prepare, batches), depth)) as feed:
            launched = chain.from_iterable(map(self._launch, feed))
            for pending, _ in pairwise(chain(launched, [None])):  # the next one is queued by then
                if pending is not None:
                    yield from self._collect(pending)

    def _prepare(self, batch: _Batch) -> _Work:
        ready = self.encoder.lay_out(batch[1])
        return *batch, ready.each(Tensor.pin_memory) if self._pin else ready

    def _launch(self, work: _Work) -> Iterator[_Pending]:
        """Queue a batch, in parts if it does not fit; every part is yielded before the next."""
        rows, items, ready = work
        slots, n, pending = ready.tokens.numel(), len(items), None
        is_large = self.stats.oom_halvings and n > 1 and slots > self.stats.token_budget
        with suppress(torch.OutOfMemoryError):  # whose traceback would hold on to the tensors
            pending = None if is_large else self._queue(work)
        if pending is not None:
            yield pending
            return
        if not is_large:
            if n == 1:
                what = f"one sequence of {slots} tokens in {self.stats.dtype}"
                raise DeviceError(f"{self.device}: no memory for {what}")
            if self._is_cuda:
                torch.cuda.empty_cache()
            self.stats.token_budget = max(1, min(self.stats.token_budget, slots) // 2)
            self.stats.oom_halvings += 1
            log.warning("Out of memory: token budget is now %d", self.stats.token_budget)
        parts = self._planned(items, rows)
        if len(parts) == 1:
            rows, items = parts[0]
            parts = [(rows[: n // 2], items[: n // 2]), (rows[n // 2 :], items[n // 2 :])]
        for part in parts:
            yield from self._launch(self._prepare(part))

    def _queue(self, work: _Work) -> _Pending:
        vectors = self._forward(work[2])
        is_finite = torch.isfinite(vectors).all()
        if self._copies is None:
            return work, vectors, is_finite, None
        host = torch.empty(vectors.shape, dtype=vectors.dtype, pin_memory=True)
        flag = torch.empty((), dtype=torch.bool, pin_memory=True)
        self._copies.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._copies):
            host.copy_(vectors, non_blocking=True)
            flag.copy_(is_finite, non_blocking=True)
            fetched = torch.cuda.Event()  # type: ignore[no-untyped-call]
            fetched.record(self._copies)
        vectors.record_stream(self._copies)
        is_finite.record_stream(self._copies)
        return work, host, flag, fetched

    def _collect(self, pending: _Pending) -> Iterator[Embedded]:
        """Wait for a batch; compute it again in float32 if it holds NaN or Inf."""
        (rows, items, ready), vectors, is_finite, fetched = pending
        if fetched is not None:
            fetched.synchronize()
        self.stats.count([len(item) for item in items], ready.tokens.numel())
        if bool(is_finite):
            yield rows, np.array(vectors.numpy(), dtype=np.float32)
            return
        if self.stats.dtype == "float32":
            bad = int(torch.isfinite(vectors).all(1).logical_not().nonzero()[0])
            raise ModelError(f"row {rows[bad]}: NaN or Inf even in float32")
        self.stats.recomputed += 1
        log.warning("NaN or Inf in a batch of %d: computed again in float32", len(items))
        if self._exact is None:
            how = EngineOptions(token_budget=self.stats.token_budget, feeding_threads=0)
            exact = self._make_exact()
            self._exact = BatchEngine("padded", exact, device=self.device, options=how)
        yield from self._exact._run(self._exact._planned(items, rows))
