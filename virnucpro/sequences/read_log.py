"""What was met while reading the inputs of a run, and ids that are unique in few bytes each."""

import logging
from array import array
from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from struct import Struct

from virnucpro.core.text import counted

logger = logging.getLogger("virnucpro.sequences")

# More than nearly all chromosomes have; beyond it the input is a compression bomb or no sequence.
MAX_RECORD_NT = 1_000_000_000
_SHELVES = 1 << 14
_NUMBERS_KEPT = 1024
_TWO_NUMBERS = Struct("<QQ")


class IdRegistry:
    """Knows every id given out so far and makes new ones unique, in 8 to 9 bytes an id.

    An id is kept as 78 bits of its hash: 14 choose a sorted shelf, 64 lie on it. Two ids of 20
    million share all with a chance below 1e-9; the later one would be renamed like a duplicate.
    """

    def __init__(self) -> None:
        self._shelves: defaultdict[int, array[int]] = defaultdict(partial(array, "Q"))
        self._numbers: dict[str, int] = {}

    def unique(self, seq_id: str, endings: tuple[str, ...] = ("",)) -> str:
        """The id itself if it is new with every ending, else the first such `{id}__2`, `__3`, ...

        >>> ids = IdRegistry()
        >>> [ids.unique(name) for name in ("a", "a", "b", "a", "a__2")]
        ['a', 'a__2', 'b', 'a__3', 'a__2__2']
        """
        if endings == ("",) and not self._find(seq_id, add=True):
            return seq_id

        def is_free(name: str) -> bool:
            return not any(self._find(name + ending, add=False) for ending in endings)

        name = seq_id
        if not is_free(seq_id):
            # Numbers are given out in order, so doubling and halving find the lowest in few steps
            # even where millions of records share one id; else the input brought such ids itself.
            taken, step = self._numbers.get(seq_id, 1), 1
            while not is_free(f"{seq_id}__{taken + step}"):
                taken, step = taken + step, 2 * step
            between = range(taken + 1, taken + step)
            free = taken + 1 + bisect_left(between, True, key=lambda n: is_free(f"{seq_id}__{n}"))
            if len(self._numbers) >= _NUMBERS_KEPT:
                self._numbers.clear()
            self._numbers[seq_id], name = free, f"{seq_id}__{free}"
        for ending in endings:
            self._find(name + ending, add=True)
        return name

    def _find(self, seq_id: str, *, add: bool) -> bool:
        """Whether an id is known."""
        digest = blake2b(seq_id.encode("utf-8", "surrogateescape"), digest_size=16).digest()
        number, key = _TWO_NUMBERS.unpack(digest)
        shelf = self._shelves[number % _SHELVES]
        index = bisect_left(shelf, key)
        is_known = index < len(shelf) and shelf[index] == key
        if add and not is_known:
            shelf.insert(index, key)
        return is_known


@dataclass(slots=True)
class ReadLog:
    """What was met while reading; hand the same one to several calls of a run."""

    records: int = 0
    duplicates: int = 0  # renamed because their id had been seen
    unnamed: int = 0  # without an id, called `record_{n}`
    gaps: int = 0  # letters left out of sequences, like the next two
    blanks: int = 0
    digits: int = 0
    marks: int = 0  # ids with a `>`, as of headers that were joined
    first_mark: str = ""
    cut_short: list[str] = field(default_factory=list)  # bgzip without its end block
    sample: str = ""  # that the next records belong to
    ids: IdRegistry = field(default_factory=IdRegistry)  # of the sample
    joint_ids: IdRegistry | None = None  # of all samples, where there are several
    digests: dict[str, str] = field(default_factory=dict)  # SHA-256 by path, as the bytes lie there
    bytes_read: int = 0  # of FASTA and FASTQ inputs, as they lie there
    max_record_nt: int = MAX_RECORD_NT  # a longer record ends the run
    is_silent: bool = False  # for inputs that are read again

    def wished_id(self, word: str) -> str:
        """Count a record; the id that it should get: its first word, or a number without one."""
        self.records += 1
        self.unnamed += not word
        return word or f"record_{self.records}"

    def ids_of(self, name: str, endings: tuple[str, ...] = ("",)) -> tuple[str, str]:
        """Id and joint id that a record gets, as `IdRegistry.unique`; a new name is counted."""
        seq_id = self.ids.unique(name, endings)
        self.duplicates += seq_id != name
        return seq_id, self.joint_ids.unique(seq_id, endings) if self.joint_ids else seq_id

    def count_bytes(self, count: int) -> None:
        """Count bytes that were read."""
        self.bytes_read += count

    def warn(self) -> None:
        """Say once, when all is read, what a user may not expect."""
        if self.is_silent:
            return
        if self.duplicates:
            count = counted(self.duplicates, "record")
            logger.warning("%s had an id that was taken; renamed to {id}__2 and on", count)
        if self.digits or self.blanks:
            logger.warning(
                "%d digits and %d blanks in lines of sequence were left out; "
                "lengths and positions count without them", self.digits, self.blanks,
            )  # fmt: skip
        if self.marks:
            logger.warning(
                "%d records have '>' in their id: were files joined without a line end, or a "
                "header written twice? First: %s", self.marks, self.first_mark,
            )  # fmt: skip
        for path in sorted(self.cut_short):
            logger.warning("%s: bgzip without its end block; is the file whole?", path)
