"""Run batches through a device: one computes while the one before it is fetched.

The host never waits for a batch before the next one is queued: copies come from page-locked
memory, results leave on a stream of their own, and a flag with them tells of NaN or Inf.
"""

import copy
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from virnucpro.core.errors import DeviceError, ModelError
from virnucpro.core.records import Tokens
from virnucpro.encoders.base import Encoder
from virnucpro.engines.base import Embedded, EngineOptions, EngineStats
from virnucpro.engines.feeding import Ahead
from virnucpro.engines.forward import Forward, Prepared, budget_by_memory, compiling_pays, probe
from virnucpro.engines.plans import PackedPlan, PaddedPlan, collate

log = logging.getLogger("virnucpro.engines")

_BATCHES_AHEAD = 3
_Batch = tuple[NDArray[np.int64], list[Tokens]]


@dataclass(frozen=True, slots=True)
class _Work:
    """A batch that is ready for the device; `fixed` if it was brought to a fixed shape."""

    rows: NDArray[np.int64]
    items: list[Tokens]
    ready: Prepared
    fixed: bool


@dataclass(frozen=True, slots=True)
class _Pending:
    """A batch whose vectors are on their way to the host."""

    work: _Work
    vectors: Tensor
    is_finite: Tensor
    fetched: torch.cuda.Event | None


class BatchEngine:
    """The engine behind `make_engine`; see `Engine` for what it promises."""

    def __init__(
        self, encoder: Encoder, layout: PackedPlan | PaddedPlan, device: torch.device,
        options: EngineOptions, float32_encoder: Callable[[], Encoder] | None,
    ) -> None:  # fmt: skip
        self.layout, self.device, self.options = layout, device, options
        self._make_exact = float32_encoder or (lambda: copy.deepcopy(encoder).float())
        self._forward = Forward(encoder, device, packed=layout.name == "packed")
        self._is_cuda = device.type == "cuda"
        self._pin = self._is_cuda if options.pin_memory is None else options.pin_memory
        self._pin = self._pin and torch.cuda.is_available()
        self._copies = torch.cuda.Stream(device) if self._is_cuda else None  # type: ignore[no-untyped-call]
        self._exact: Forward | None = None
        if options.compile == "on":
            self._forward.compile(insist=True)
        elif options.compile == "auto" and self._is_cuda:
            weights = sum(parameter.numel() for parameter in encoder.parameters())
            if compiling_pays(options.expected_tokens, weights):
                self._forward.compile(insist=False)
        budget = options.token_budget
        if budget is None and self._is_cuda:
            budget = budget_by_memory(*probe(self._forward))
        self.stats = EngineStats(
            layout=layout.name,
            device=str(device),
            dtype=self._forward.numbers,
            backend=self._forward.backend,
            token_budget=encoder.cpu_tokens if budget is None else budget,
            compiled=self._forward.compiles,
        )
        log.info(
            "Engine: %(layout)s on %(device)s, %(dtype)s, attention %(backend)s, "
            "%(token_budget)d tokens a batch, compiled %(compiled)s",
            self.stats.as_dict(),
        )

    def embed(self, items: Sequence[Tokens]) -> Iterator[Embedded]:
        """Yield the vectors of batch after batch, in any order, each item exactly once."""
        start = time.perf_counter()
        depth = _BATCHES_AHEAD if self.options.feeding_threads else 0
        batches = self._planned(items, np.arange(len(items)))
        waiting: _Pending | None = None
        with Ahead(map(self._prepare, batches), depth) as feed:
            while True:
                if waiting is not None and not feed.is_ready:
                    yield self._collect(waiting)  # nothing to queue yet: whoever waits gets it
                    waiting = None
                work = next(feed, None)
                if work is None:
                    break
                for launched in self._launch(work):
                    if waiting is not None:
                        yield self._collect(waiting)
                    waiting = launched
        if waiting is not None:
            yield self._collect(waiting)
        self.stats.seconds += time.perf_counter() - start
        if self._is_cuda:
            self.stats.gpu_bytes = torch.cuda.max_memory_reserved(self.device)

    def _planned(self, items: Sequence[Tokens], rows: NDArray[np.int64]) -> list[_Batch]:
        """Batches within the budget; too long and short ones are by themselves."""
        lengths = np.fromiter((len(item) for item in items), dtype=np.int64, count=len(items))
        if len(lengths) and lengths.min() < 1:
            raise ValueError(f"row {rows[lengths.argmin()]} has no tokens")
        budget = self.stats.token_budget
        is_alone = self.layout.slots(lengths) > budget
        is_short = lengths <= self._forward.encoder.short_tokens
        chosen = [np.array([i]) for i in np.flatnonzero(is_alone).tolist()]
        for kind in (~is_short, is_short):
            group = np.flatnonzero(kind & ~is_alone)
            chosen += [group[batch] for batch in self.layout.plan(lengths[group], budget)]
        return [(rows[batch], [items[i] for i in batch.tolist()]) for batch in chosen]

    def _prepare(self, batch_items: _Batch) -> _Work:
        rows, items = batch_items
        batch = collate(items)
        fixes = self._forward.compiles and max(map(len, items)) > self._forward.encoder.short_tokens
        fixed = self.layout.fixed(batch, self.stats.token_budget) if fixes else None
        ready = self._forward.prepare(batch if fixed is None else fixed, self._pin)
        return _Work(rows, items, ready, fixed is not None)

    def _launch(self, work: _Work) -> Iterator[_Pending]:
        """Queue a batch, in parts if it does not fit; every part is yielded before the next."""
        todo = [work]
        while todo:
            part = todo.pop()
            slots, n = part.ready.tokens.numel(), len(part.items)
            if self.stats.oom_halvings and n > 1 and slots > self.stats.token_budget:
                parts = self._planned(part.items, part.rows)
                if len(parts) == 1:
                    rows, items = parts[0]
                    parts = [(rows[: n // 2], items[: n // 2]), (rows[n // 2 :], items[n // 2 :])]
                todo += [self._prepare(some) for some in reversed(parts)]
                continue
            try:
                pending = self._queue(part)
            except torch.OutOfMemoryError:
                pending = None
            if pending is not None:
                yield pending
                continue
            # outside of `except`, whose traceback holds on to the tensors
            if n == 1:
                raise DeviceError(f"{self.device}: no memory for one sequence of {slots} tokens")
            if self._is_cuda:
                torch.cuda.empty_cache()
            self.stats.token_budget = max(1, min(self.stats.token_budget, slots) // 2)
            self.stats.oom_halvings += 1
            log.warning("Out of memory: token budget is now %d", self.stats.token_budget)
            todo.append(part)

    def _queue(self, work: _Work) -> _Pending:
        vectors = self._forward(work.ready, work.fixed)[: len(work.items)]
        is_finite = torch.isfinite(vectors).all()
        if self._copies is None:
            return _Pending(work, vectors, is_finite, None)
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
        return _Pending(work, host, flag, fetched)

    def _collect(self, pending: _Pending) -> Embedded:
        """Wait for a batch; compute it again in float32 if it holds NaN or Inf."""
        if pending.fetched is not None:
            pending.fetched.synchronize()
        work, stats = pending.work, self.stats
        vectors = pending.vectors if bool(pending.is_finite) else self._recompute(work)
        stats.sequences += len(work.items)
        stats.batches += 1
        stats.tokens += sum(len(item) for item in work.items)
        stats.slots += work.ready.tokens.numel()
        stats.compiled = self._forward.compiles
        return work.rows, np.array(vectors.numpy(), dtype=np.float32)

    def _recompute(self, work: _Work) -> Tensor:
        items = work.items
        self.stats.recomputed += 1
        log.warning("NaN or Inf in a batch of %d: computed again in float32", len(items))
        if self._exact is None:
            self._exact = Forward(self._make_exact(), self.device)
        vectors = self._in_float32(self._exact, items)
        if not bool(torch.isfinite(vectors).all()):
            bad = int(torch.isfinite(vectors).all(1).logical_not().nonzero()[0])
            raise ModelError(f"row {work.rows[bad]}: NaN or Inf even in float32")
        return vectors

    def _in_float32(self, exact: Forward, items: list[Tokens]) -> Tensor:
        """Vectors of a batch; one that float32 has no memory for is computed in halves."""
        ready = exact.prepare(collate(items), pin=False)
        try:
            return exact(ready, fixed=False).cpu()
        except torch.OutOfMemoryError as error:
            if len(items) == 1:
                problem = f"no memory for one sequence of {len(items[0])} tokens in float32"
                raise DeviceError(f"{self.device}: {problem}") from error
        if self._is_cuda:
            torch.cuda.empty_cache()
        middle = len(items) // 2
        halves = (items[:middle], items[middle:])
        return torch.cat([self._in_float32(exact, half) for half in halves])
