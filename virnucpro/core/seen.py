"""Number the distinct texts of a long stream in a fixed number of bytes each."""

from __future__ import annotations

from array import array
from hashlib import blake2b
from struct import Struct

_TWO_NUMBERS = Struct("<QQ")
_SHELVES = 1 << 8
_FIRST_PLACES = 8
_FREE = 0xFFFFFFFF


class SeenTable:
    """Gives each distinct text a number, in the order of first sight.

    Texts are told apart by 128 bits of BLAKE2b: among 10^9 texts the chance that any two
    collide is below 10^-20. Each of some shelves is a table of open addresses that grows by
    half when it is 7/10 full, so that an entry takes 29 to 43 bytes and growing needs room for
    one shelf more only.
    """

    def __init__(self) -> None:
        self._shelves = [_Shelf() for _ in range(_SHELVES)]
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, text: str) -> tuple[int, bool]:
        """The number of `text`, and whether it was new.

        >>> table = SeenTable()
        >>> [table.add(text) for text in ("a", "b", "a")]
        [(0, True), (1, True), (0, False)]
        """
        digest = blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).digest()
        low, high = _TWO_NUMBERS.unpack(digest)
        number = self._shelves[high % _SHELVES].number_of(low, high, self._count)
        is_new = number == self._count
        self._count += is_new
        return number, is_new


class _Shelf:
    """Keys of two numbers, each with the number of its text."""

    __slots__ = ("_high", "_low", "_numbers", "_places", "_used")

    def __init__(self) -> None:
        self._used = 0
        self._clear(_FIRST_PLACES)

    def number_of(self, low: int, high: int, new: int) -> int:
        """The number of a key; it is `new` from now on where there was none."""
        numbers, lows, highs = self._numbers, self._low, self._high
        place = low % self._places
        while (number := numbers[place]) != _FREE:
            if lows[place] == low and highs[place] == high:
                return number
            place = place + 1 if place + 1 < self._places else 0
        lows[place], highs[place], numbers[place] = low, high, new
        self._used += 1
        if 10 * self._used > 7 * self._places:
            self._grow()
        return new

    def _clear(self, places: int) -> None:
        self._places = places
        self._low, self._high = array("Q", bytes(8 * places)), array("Q", bytes(8 * places))
        self._numbers = array("I", b"\xff" * (4 * places))

    def _grow(self) -> None:
        rows = zip(self._low, self._high, self._numbers, strict=True)
        self._used = 0
        self._clear(self._places + self._places // 2)
        for low, high, number in rows:
            if number != _FREE:
                self.number_of(low, high, number)
