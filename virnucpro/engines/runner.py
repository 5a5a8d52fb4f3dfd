"""Run batches through a device: one computes while the one before it is fetched.

The host never waits for a batch before the next one is queued: copies come from page-locked
memory, results leave on a stream of their own, and a flag with them tells of NaN or Inf. Where
compiling pays, one layer is compiled for all of its kind: a tenth of the time of a whole network.
"""

import copy
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from virnucpro.core.errors import DeviceError, ModelError
from virnucpro.core.records import Tokens
from virnucpro.encoders.attention import TransformerEncoder, pinned_kernels, prove_backend
from virnucpro.encoders.base import Batch, Encoder
from virnucpro.encoders.layouts import Layout, RectangleLayout, TiledLayout
from virnucpro.engines.base import Embedded, EngineOptions, EngineStats
from virnucpro.engines.feeding import Ahead
from virnucpro.engines.plans import PackedPlan, PaddedPlan, collate

log = logging.getLogger("virnucpro.engines")

MOST_SHAPES = 6  # the compiler keeps eight versions of one function
LARGEST_BUDGET, SMALLEST_BUDGET = 65_536, 1_024
# A minute of work for an H100 without compiling, at 4e14 operations a second. Compiling takes
# 1 to 4 s a shape beside the compiler's start, and makes the work 1.22 times as fast.
REPAID_FROM_OPERATIONS = 2.5e16
Prepared = Batch | Layout
_PROBE_TOKENS, _PROBE_LENGTH = 4_096, 64
_USABLE = 0.7  # of the free memory: the allocator splits blocks, and other lengths need more
_BATCHES_AHEAD = 3
_Batch = tuple[NDArray[np.int64], list[Tokens]]


class Forward:
    """Computes batches with an encoder that is on `device`; `packed` ones come end to end."""

    def __init__(self, encoder: Encoder, device: torch.device, packed: bool = False) -> None:
        self.encoder, self.device = encoder.eval(), device
        self._transformer = encoder if isinstance(encoder, TransformerEncoder) else None
        self.backend = "conv" if self._transformer is None else RectangleLayout.backend
        with self._on_device():
            if self._transformer and (packed or self._transformer.backend == TiledLayout.backend):
                self.backend = prove_backend(self._transformer)
        numbers = str(next(encoder.parameters()).dtype).removeprefix("torch.")
        self.numbers = encoder.numbers or numbers
        self._layers = list(getattr(encoder, "layers", [])) or [encoder]
        self._shapes: set[tuple[Any, ...]] = set()
        self.compiles = self._insist = False

    def compile(self, insist: bool) -> None:
        """Compile shapes as they occur; a failing compiler is left out, or an error if `insist`."""
        if self.backend == TiledLayout.backend:
            log.info("torch.compile left out: the Triton kernels are faster, and for any shape")
            return
        self.compiles, self._insist = True, insist
        for layer in self._layers:
            layer.compile(dynamic=False)

    def prepare(self, batch: Batch, pin: bool) -> Prepared:
        """Lay out a batch on the host for the kernels in use; page-locked if `pin`."""
        ready = self._transformer.lay_out(batch) if self._transformer else batch
        return ready.pin_memory() if pin else ready

    def __call__(self, ready: Prepared, fixed: bool) -> Tensor:
        """Vectors of a prepared batch: shape (rows, d), float32, on the device."""
        with torch.inference_mode(), self._on_device(), pinned_kernels():
            moved = ready.to(self.device, non_blocking=True)
            shapes, longest = getattr(moved, "shapes", ()), getattr(moved, "longest", 0)
            shape = (*moved.tokens.shape, shapes, longest)
            compiles = self.compiles and fixed
            if compiles and shape not in self._shapes and len(self._shapes) < MOST_SHAPES:
                log.info("Compiling for batches of shape %s", shape)
                self._shapes.add(shape)
            if compiles and shape in self._shapes:
                try:
                    return self._compute(moved)
                except torch.OutOfMemoryError:
                    raise
                except RuntimeError as error:
                    if self._insist:
                        raise DeviceError(f"torch.compile failed: {error}") from error
                    log.warning("torch.compile failed, going on without it: %s", error)
                    self.compiles = False
            # another engine may have had the layers compiled; asking for the stance takes seconds
            is_plain = getattr(self._layers[0], "_compiled_call_impl", None) is None
            with nullcontext() if is_plain else torch.compiler.set_stance("force_eager"):
                return self._compute(moved)

    def _compute(self, ready: Prepared) -> Tensor:
        if self._transformer is not None and isinstance(ready, Layout):
            return self._transformer.encode(ready)
        vectors: Tensor = self.encoder(ready)
        return vectors

    def _on_device(self) -> AbstractContextManager[object]:
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()


def probe(forward: Forward) -> tuple[float, int]:
    """Run a small batch on a CUDA device: peak bytes for each token, and bytes that are free."""
    device = forward.device
    letters = np.full(_PROBE_LENGTH, 5, dtype=np.int64)
    ready = forward.prepare(collate([letters] * (_PROBE_TOKENS // _PROBE_LENGTH)), pin=False)
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
    return peak / _PROBE_TOKENS, free


def budget_by_memory(bytes_per_token: float, free_bytes: int) -> int:
    """The largest power of two whose batch fits, the same on like devices, between two limits."""
    fitting = int(_USABLE * free_bytes / max(bytes_per_token, 1.0))
    power = 1 << max(fitting.bit_length() - 1, 0)
    return min(max(power, SMALLEST_BUDGET), LARGEST_BUDGET)


def compiling_pays(tokens: int, weights: int) -> bool:
    """Whether a job of so many tokens, on however many devices, repays compiling; logs why.

    Decided from the job alone, never from the clock: compiled numbers differ in the last bits,
    and a job that is stopped and resumed must get the same ones.
    """
    operations = 2.0 * weights * tokens  # a token takes about two for each weight
    pays = operations >= REPAID_FROM_OPERATIONS
    log.info(
        "torch.compile %s: %d tokens are %.1e operations, compiling is repaid from %.1e on",
        "on" if pays else "off", tokens, operations, REPAID_FROM_OPERATIONS,
    )  # fmt: skip
    return pays


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
