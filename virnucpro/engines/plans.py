"""Group token sequences into batches that fit a token budget, and lay them out."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from virnucpro.core.errors import InputError
from virnucpro.core.records import Tokens
from virnucpro.encoders.base import Batch
from virnucpro.encoders.layouts import bucket_width

Lengths = Sequence[int] | NDArray[np.integer]
Counts = NDArray[np.int64]


TOKENS_PER_SEQUENCE = 32  # rows of a fixed shape hold at most budget / 32 sequences
LONGEST_STEP = 128  # rows of queries that an attention kernel takes at once


class PackedPlan:
    """Batches as one row of tokens: sequences end to end, nothing between them."""

    name = "packed"

    def __init__(self, pad_id: int) -> None:
        self.pad_id, self._longest = pad_id, LONGEST_STEP

    def plan(self, lengths: Lengths, budget: int) -> list[Counts]:
        """Indices of each batch, longest first; every index appears exactly once."""
        return pack(lengths, budget)

    def slots(self, lengths: Counts) -> Counts:
        """Token slots that each sequence takes, shape (n,)."""
        return lengths

    def fixed(self, batch: Batch, budget: int) -> Batch | None:
        """The row filled up to `budget` with padding; None if over a quarter is missing."""
        real = len(batch.tokens)
        missing = budget - real
        if missing < 0 or missing * 4 > budget:
            return None
        self._longest = max(self._longest, -(-batch.longest // LONGEST_STEP) * LONGEST_STEP)
        tail = [*range(real + self._longest, budget, self._longest), budget] if missing else []
        empty = segments(budget) - len(batch) - len(tail)
        if empty < 0:
            return None
        ends = torch.tensor(tail + [budget] * empty, dtype=torch.int32)
        tokens = torch.nn.functional.pad(batch.tokens, (0, missing), value=self.pad_id)
        return Batch(tokens, torch.cat([batch.cu_seqlens, ends]), self._longest)


class PaddedPlan:
    """Batches as rectangles, for encoders whose attention has no kernel for packed tokens."""

    name = "padded"

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id

    def plan(self, lengths: Lengths, budget: int) -> list[Counts]:
        """Batches widest first, each of one rounded length; what is left over comes together."""
        widths = self.slots(np.asarray(lengths, dtype=np.int64))
        batches: list[Counts] = []
        rest = []
        for width in np.unique(widths)[::-1].tolist():
            members = np.flatnonzero(widths == width)
            rows = budget // width
            whole = len(members) - len(members) % rows if rows else 0
            batches += np.split(members[:whole], whole // rows) if whole else []
            rest.append(members[whole:])
        left = np.concatenate(rest) if rest else np.empty(0, dtype=np.int64)
        batches += [left[np.asarray(batch)] for batch in batches_within(widths[left], budget)]
        return sorted(batches, key=lambda batch: -int(widths[batch[0]]))

    def slots(self, lengths: Counts) -> Counts:
        """Token slots that each sequence takes in a row of its own, shape (n,)."""
        return bucket_width(torch.from_numpy(lengths)).numpy()

    def fixed(self, batch: Batch, budget: int) -> Batch | None:
        """The rectangle with rows of padding up to a full one; None if too many, or it is none."""
        width, *others = torch.unique(bucket_width(batch.cu_seqlens.diff().long())).tolist()
        missing = budget // width - len(batch)
        if others or missing < 0 or missing * 4 > len(batch) + missing:
            return None
        tokens = torch.nn.functional.pad(batch.tokens, (0, missing * width), value=self.pad_id)
        ends = len(batch.tokens) + width * torch.arange(1, missing + 1, dtype=torch.int32)
        return Batch(tokens, torch.cat([batch.cu_seqlens, ends]), width)


def segments(budget: int) -> int:
    """Segments of a row of fixed shape: sequences, and room for a quarter of padding."""
    return max(1, budget // TOKENS_PER_SEQUENCE) + budget // (4 * LONGEST_STEP) + 2


def batches_within(lengths: Lengths, budget: int) -> Iterator[list[int]]:
    """Rectangles, longest first, none of more than `budget` slots, as text-embeddings-inference.

    >>> list(batches_within([5, 3, 2], budget=6))
    [[0], [1, 2]]
    """
    batch: list[int] = []
    for i in _longest_first(np.asarray(lengths, dtype=np.int64)).tolist():
        if int(lengths[i]) > budget:
            raise _too_long(i, int(lengths[i]), budget)
        if batch and (len(batch) + 1) * int(lengths[batch[0]]) > budget:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def pack(lengths: Lengths, budget: int) -> list[Counts]:
    """Fill batches of `budget` tokens, longest sequences first, each where it first fits.

    Equal lengths keep their order, so the plan is reproducible. An InputError tells of a sequence
    over `budget`.

    >>> [batch.tolist() for batch in pack([5, 3, 2, 1], budget=6)]
    [[0, 3], [1, 2]]
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    if not len(sizes):
        return []
    if sizes.min() < 1:
        raise ValueError("every sequence needs at least one token")
    order = _longest_first(sizes)
    if sizes[order[0]] > budget:
        raise _too_long(order[0], sizes[order[0]], budget)
    free: Counts = np.empty(0, dtype=np.int64)  # tokens of each batch, in the order of opening
    homes = []
    distinct, counts = np.unique(sizes, return_counts=True)
    for tokens, count in zip(distinct[::-1].tolist(), counts[::-1].tolist(), strict=True):
        capacity = free // tokens
        taken = np.clip(count - (np.cumsum(capacity) - capacity), 0, capacity)
        left, each = count - int(taken.sum()), budget // tokens
        fresh = np.full(-(-left // each), each, dtype=np.int64)
        if len(fresh):
            fresh[-1] = left - each * (len(fresh) - 1)
        taken = np.concatenate([taken, fresh])
        free = np.pad(free, (0, len(fresh)), constant_values=budget) - taken * tokens
        homes.append(np.repeat(np.arange(len(taken)), taken))
    home = np.concatenate(homes)
    by_home = np.argsort(home, kind="stable")
    edges = np.flatnonzero(np.diff(home[by_home])) + 1
    return list(np.split(order[by_home], edges))


def collate(items: Sequence[Tokens]) -> Batch:
    """Join sequences end to end."""
    lengths = [len(item) for item in items]
    bounds = np.cumsum([0, *lengths], dtype=np.int32)
    tokens = np.concatenate(items).astype(np.int64, copy=False)
    return Batch(torch.from_numpy(tokens), torch.from_numpy(bounds), max(lengths))


def _longest_first(lengths: Counts) -> Counts:
    """Indices by falling length; equal lengths keep their order."""
    return np.argsort(-lengths, kind="stable")


def _too_long(index: int, tokens: int, budget: int) -> InputError:
    return InputError(f"sequence {index}", f"{tokens} tokens; raise the batch size ({budget})")
