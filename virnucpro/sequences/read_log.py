"""What was met while reading the inputs of a run.

Room 1 (FASTA -> chunks -> ORFs).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from virnucpro.sequences.ids import IdRegistry

logger = logging.getLogger("virnucpro.sequences")

# More than nearly all chromosomes have: beyond it the input is a compression bomb or no sequence
# (nt).
MAX_RECORD_NT = 1_000_000_000


@dataclass(slots=True)
class ReadLog:
    """What was met while reading; hand the same one to several calls of a run.

    Attributes:
        records: records read.
        duplicates: records that were renamed because their id had been seen.
        unnamed: records without an id, called `record_{n}`.
        gaps: gap letters left out of sequences.
        blanks: blanks left out of sequences.
        digits: digits left out of sequences.
        cut_short: bgzip inputs without the block that ends them.
        ids: the ids given out.
        digests: hex SHA-256 of each input that was read to its end, by its path as given; of
            its bytes as they lie there, packed where it is.
        max_record_nt: a longer record ends the run.
        is_silent: do not warn; for inputs that are read again.
    """

    records: int = 0
    duplicates: int = 0
    unnamed: int = 0
    gaps: int = 0
    blanks: int = 0
    digits: int = 0
    cut_short: list[str] = field(default_factory=list)
    ids: IdRegistry = field(default_factory=IdRegistry)
    digests: dict[str, str] = field(default_factory=dict)
    max_record_nt: int = MAX_RECORD_NT
    is_silent: bool = False

    def wished_id(self, word: str) -> str:
        """Count a record; the id that it should get: its first word, or a number without one."""
        self.records += 1
        if word:
            return word
        self.unnamed += 1
        return f"record_{self.records}"

    def unique(self, name: str, endings: tuple[str, ...] = ("",)) -> str:
        """The id that a record gets, as `IdRegistry.unique`; a new name is counted."""
        seq_id = self.ids.unique(name, endings)
        if seq_id != name:
            self.duplicates += 1
        return seq_id

    def warn(self) -> None:
        """Say once, when all is read, what a user may not expect."""
        if self.is_silent:
            return
        if self.duplicates:
            logger.warning(
                "%d records had an id that was taken; renamed to {id}__2 and on", self.duplicates
            )
        if self.digits or self.blanks:
            logger.warning(
                "%d digits and %d blanks in lines of sequence were left out; "
                "lengths and positions count without them", self.digits, self.blanks,
            )  # fmt: skip
        for path in self.cut_short:
            logger.warning("%s: bgzip without its end block; is the file whole?", path)
