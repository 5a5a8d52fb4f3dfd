"""What an engine is asked for, how its batches are made, and the engine of a bundled encoder.

Batches are prepared off the device's thread, each once and in order, by threads and not processes:
numpy and the tokenizers let go of the interpreter.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice, repeat, takewhile
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from virnucpro.core.records import Tokens
from virnucpro.encoders.small_cpu import SmallEncoder
from virnucpro.encoders.tokenizers import rows_of

if TYPE_CHECKING:
    import torch

EngineKind = Literal["padded", "packed"]
# Indices of some items, shape (batch,), and their vectors, shape (batch, d) float32.
Embedded = tuple[NDArray[np.int64], NDArray[np.float32]]
# names in torch; of fp8, for what is not quantised
DTYPES = {n: n for n in ("float32", "float16", "bfloat16")} | {"fp8": "float16"}
Given = TypeVar("Given")
Made = TypeVar("Made")
Counts = NDArray[np.int64]
_POSITIONS = 1024  # of a piece: its widest array takes about 3 MB


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How an encoder runs; decides time and memory, never a score beyond the tolerance."""

    engine: EngineKind | None = None  # None means packed on a GPU
    # float16 on CUDA, float32 elsewhere; or float32, float16, bfloat16; or fp8: ESM-2 in float8
    # where it runs, all else in float16
    dtype: str = "auto"
    tokenizer_threads: int | None = None  # side by side; None means all for a GPU, else one
    plain_attention: bool = False  # plain kernels in place of the packed ones
    token_budget: int | None = None  # token slots of a batch; None means by free memory
    feeding_threads: int = 1  # lay out batches ahead of the device; 0: each when it is due
    pin_memory: bool | None = None  # page-locked batches; None means on CUDA


@dataclass(slots=True)
class EngineStats:
    """What an engine did."""

    layout: str  # padded or packed
    device: str
    dtype: str  # numbers it computed with
    backend: str  # how attention was computed, as the encoder names it
    token_budget: int  # token slots of a batch, after halving
    sequences: int = 0
    batches: int = 0
    tokens: int = 0  # real ones
    slots: int = 0  # for tokens, padding included
    oom_halvings: int = 0  # of the budget, for lack of memory
    recomputed: int = 0  # batches computed again in float32 because of NaN or Inf
    seconds: float = 0.0  # from sequences given to vectors got, all calls together
    gpu_bytes: int = 0  # most memory that was held on the GPU

    @property
    def efficiency(self) -> float:
        """Real tokens over token slots, at most 1."""
        return self.tokens / self.slots if self.slots else 1.0

    def count(self, lengths: Sequence[int], slots: int) -> None:
        """Add a batch of sequences of so many tokens."""
        self.sequences += len(lengths)
        self.batches += 1
        self.tokens += sum(lengths)
        self.slots += slots

    def as_dict(self) -> dict[str, Any]:
        """Every field and the efficiency, JSON-able."""
        return {**asdict(self), "efficiency": round(self.efficiency, 5)}


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """One of `DTYPES` by its name; `auto` is float16 on CUDA and float32 elsewhere."""
    import torch

    if name == "auto":
        name = "float16" if device.type == "cuda" else "float32"
    chosen: torch.dtype = getattr(torch, DTYPES[name])
    return chosen


def rectangles(widths: Counts, budget: int, narrowest: float = 0.0) -> Iterator[Counts]:
    """Indices of each batch, widest rows first, so many that all as wide as the first fit `budget`.

    Equal widths keep their order; rows under `narrowest` of the first begin another batch.
    """
    order = np.argsort(-widths, kind="stable")
    falling = -widths[order]
    first = 0
    while first < len(order):
        width = -int(falling[first])
        last = first + max(1, budget // max(1, width))
        if narrowest:
            last = min(last, int(np.searchsorted(falling, -narrowest * width, side="right")))
        yield order[first:last]
        first = last


def pack(lengths: Counts, budget: int) -> list[Counts]:
    """Fill batches of `budget` tokens, longest sequences first, each where it first fits.

    Equal lengths keep their order, so the plan is reproducible; what is over `budget` goes alone.
    """
    if not len(lengths):
        return []
    free: Counts = np.empty(0, dtype=np.int64)  # tokens of each batch, in the order of opening
    homes = []
    distinct, counts = np.unique(lengths, return_counts=True)
    for tokens, count in zip(distinct[::-1].tolist(), counts[::-1].tolist(), strict=True):
        capacity = np.maximum(free, 0) // tokens
        taken = np.clip(count - (np.cumsum(capacity) - capacity), 0, capacity)
        left, each = count - int(taken.sum()), max(1, budget // tokens)
        fresh = np.full(-(-left // each), each, dtype=np.int64)
        if len(fresh):
            fresh[-1] = left - each * (len(fresh) - 1)
        taken = np.concatenate([taken, fresh])
        free = np.pad(free, (0, len(fresh)), constant_values=budget) - taken * tokens
        homes.append(np.repeat(np.arange(len(taken)), taken))
    home = np.concatenate(homes)
    by_home = np.argsort(home, kind="stable")
    edges = np.flatnonzero(np.diff(home[by_home])) + 1
    return np.split(np.argsort(-lengths, kind="stable")[by_home], edges)


def spread(
    make: Callable[[Given], Made], given: Iterable[Given], threads: int, waiting: int | None = None
) -> Generator[Made, None, None]:
    """`map` over threads: same order, at most `waiting` pieces of work at once, or two a thread.

    `given` is read from the calling thread only, which also does the work if `waiting` is 0, or not
    said and there is but one thread.
    """
    most = (2 * threads if threads > 1 else 0) if waiting is None else waiting
    if not most:
        yield from map(make, given)
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="feeding")
    begun: deque[Future[Made]] = deque()
    try:
        for element in given:
            begun.append(pool.submit(make, element))
            if len(begun) >= most:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def ahead(source: Iterable[Made], depth: int) -> Generator[Made, None, None]:
    """Run `source` in a thread, at most `depth` elements ahead; 0 runs it in this one.

    An error in `source` is raised here, after the elements before it. To close it ends the thread
    and closes the source.
    """
    given = iter(source)
    # elements as lists of one; the end is empty
    drawn = spread(lambda _: list(islice(given, 1)), repeat(None), 1, depth and depth + 1)
    try:
        for element in takewhile(bool, drawn):
            yield element[0]
    finally:
        drawn.close()
        if isinstance(given, Generator):
            given.close()


class LightEngine:
    """Vectors of a bundled encoder, as `runner.BatchEngine` gives them, on `threads` of a CPU.

    Pieces follow from the sequences, and the BLAS has one thread: any `threads`, the same bytes.
    """

    def __init__(self, encoder: SmallEncoder, threads: int) -> None:
        self._encoder, self._threads = encoder, threads
        self.stats = EngineStats(
            layout="padded", device="cpu", dtype="float32", backend="numpy",
            token_budget=int(_POSITIONS / encoder.per_letter),
        )  # fmt: skip

    def embed(self, items: Sequence[Tokens]) -> Iterator[Embedded]:
        """Yield the vectors of piece after piece, long sequences first, each item once."""
        lengths = np.array([len(item) for item in items], dtype=np.int64)

        def vectors(rows: NDArray[np.int64]) -> Embedded:
            some, width = [items[row] for row in rows], max(1, lengths[rows[0]])
            letters = rows_of(some, self._encoder.pad_id, width)
            return rows, self._encoder.embed(letters, lengths[rows])

        pieces = rectangles(lengths, self.stats.token_budget)
        with threadpool_limits(1, "blas"):
            for rows, found in spread(vectors, pieces, self._threads):
                own = lengths[rows].tolist()
                self.stats.count(own, len(rows) * max(1, own[0]))
                yield rows, found
