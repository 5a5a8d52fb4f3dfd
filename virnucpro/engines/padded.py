"""Batches as rectangles: sequences of one rounded length side by side.

Room 5. The layout of the file-wise engine, and of every encoder whose attention has no kernel
for packed tokens on the device at hand.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from virnucpro.core.records import Tokens
from virnucpro.encoders.batches import PaddedBatch
from virnucpro.encoders.layouts import bucket_width
from virnucpro.engines.plans import Lengths, batches_within, collate_padded, padded_cost


class PaddedPlan:
    """Plans and builds rectangles.

    Args:
        pad_id: token that fills rows.
    """

    name = "padded"

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id

    def plan(self, lengths: Lengths, budget: int) -> list[NDArray[np.int64]]:
        """Indices of each batch, widest first; every index appears exactly once.

        Full rectangles hold sequences of one rounded length, so that few shapes occur. What
        is left over of each length is put together, longest first.
        """
        widths = rounded(np.asarray(lengths, dtype=np.int64))
        batches: list[NDArray[np.int64]] = []
        rest = []
        for width in np.unique(widths)[::-1].tolist():
            members = np.flatnonzero(widths == width)
            rows = self.rows(width, budget)
            whole = len(members) - len(members) % rows if rows else 0
            batches += np.split(members[:whole], whole // rows) if whole else []
            rest.append(members[whole:])
        left = np.concatenate(rest) if rest else np.empty(0, dtype=np.int64)
        planned = batches_within(widths[left], budget, padded_cost)
        batches += [left[np.asarray(batch)] for batch in planned]
        return sorted(batches, key=lambda batch: -int(widths[batch[0]]))

    def rows(self, width: int, budget: int) -> int:
        """Rows of a full rectangle."""
        return budget // width

    def slots(self, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """Token slots that each sequence takes in a row of its own, shape (n,)."""
        return rounded(lengths)

    def collate(self, items: Sequence[Tokens]) -> PaddedBatch:
        """Stack `items` into a rectangle of rounded width."""
        batch = collate_padded(items, self.pad_id)
        width = int(bucket_width(batch.lengths).max())
        missing = width - batch.tokens.shape[1]
        tokens = torch.nn.functional.pad(batch.tokens, (0, missing), value=self.pad_id)
        return PaddedBatch(tokens, batch.lengths)

    def fixed(self, batch: PaddedBatch, budget: int) -> PaddedBatch | None:
        """The same rectangle with rows of padding up to a full one; None if too many."""
        rows, width = batch.tokens.shape
        missing = self.rows(width, budget) - rows
        if missing < 0 or missing * 4 > rows + missing:
            return None
        tokens = torch.nn.functional.pad(batch.tokens, (0, 0, 0, missing), value=self.pad_id)
        lengths = torch.nn.functional.pad(batch.lengths, (0, missing), value=width)
        return PaddedBatch(tokens, lengths)


def rounded(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Widths that stand for `lengths`: shape (n,) (tokens), as the encoders round them."""
    return bucket_width(torch.from_numpy(lengths)).numpy()
