"""Ids that are unique within a run, remembered in few bytes each.

Room 1 (FASTA -> chunks -> ORFs).
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import defaultdict
from functools import partial
from hashlib import blake2b
from struct import Struct

_SHELVES = 1 << 14
_NUMBERS_KEPT = 1024
_TWO_NUMBERS = Struct("<QQ")


class IdRegistry:
    """Knows every id given out so far and makes new ones unique.

    An id is kept as 78 bits of its hash: 14 choose a sorted shelf, 64 lie on it. That is 8 to 9
    bytes an id and at most 3 MiB for the shelves. That two ids of a run of 20 million share all
    78 bits has a chance below 1e-9; the later one would be renamed like a duplicate.
    """

    def __init__(self) -> None:
        self._shelves: defaultdict[int, array[int]] = defaultdict(partial(array, "Q"))
        self._numbers: dict[str, int] = {}

    def unique(self, seq_id: str, endings: tuple[str, ...] = ("",)) -> str:
        """The id itself if it is new, else `{id}__2`, `{id}__3`, ...: one that is.

        Args:
            seq_id: the wished id.
            endings: what will follow it; it counts as new only if it is with every ending.

        >>> ids = IdRegistry()
        >>> [ids.unique(name) for name in ("a", "a", "b", "a", "a__2")]
        ['a', 'a__2', 'b', 'a__3', 'a__2__2']
        """
        if endings == ("",) and self._add(seq_id):
            return seq_id
        if not self._is_free(seq_id, endings):
            seq_id = f"{seq_id}__{self._free_number(seq_id, endings)}"
        for ending in endings:
            self._add(seq_id + ending)
        return seq_id

    def _free_number(self, seq_id: str, endings: tuple[str, ...]) -> int:
        """A free number from 2 on: the lowest, unless the input brought such ids itself.

        Numbers are given out in order, so doubling and halving find it in few steps even where
        millions of records share one id.
        """
        taken, step = self._numbers.get(seq_id, 1), 1
        while not self._is_free(f"{seq_id}__{taken + step}", endings):
            taken, step = taken + step, 2 * step
        free = taken + step
        while free - taken > 1:
            middle = (taken + free) // 2
            if self._is_free(f"{seq_id}__{middle}", endings):
                free = middle
            else:
                taken = middle
        if len(self._numbers) >= _NUMBERS_KEPT:
            self._numbers.clear()
        self._numbers[seq_id] = free
        return free

    def _is_free(self, seq_id: str, endings: tuple[str, ...]) -> bool:
        for ending in endings:
            shelf, key = self._place(seq_id + ending)
            index = bisect_left(shelf, key)
            if index < len(shelf) and shelf[index] == key:
                return False
        return True

    def _add(self, seq_id: str) -> bool:
        """Remember an id; False if it was known."""
        shelf, key = self._place(seq_id)
        index = bisect_left(shelf, key)
        if index < len(shelf) and shelf[index] == key:
            return False
        shelf.insert(index, key)
        return True

    def _place(self, seq_id: str) -> tuple[array[int], int]:
        """The shelf and the key of an id."""
        digest = blake2b(seq_id.encode("utf-8", "surrogateescape"), digest_size=16).digest()
        shelf, key = _TWO_NUMBERS.unpack(digest)
        return self._shelves[shelf % _SHELVES], key
