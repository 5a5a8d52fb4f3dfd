"""What an input holds, before a prediction starts: records, chunks, ORFs and tokens."""

from __future__ import annotations

import random
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from virnucpro.core.errors import UsageError
from virnucpro.core.records import Record
from virnucpro.models.specs import EncoderSpec, ModelSpec
from virnucpro.pipeline.input_pass import Rules
from virnucpro.sequences.chunks import chunk_windows
from virnucpro.sequences.orfs import find_orfs
from virnucpro.sequences.unpack import STDIN

SAMPLE_CHUNKS = 20_000
TOKEN_CHUNKS = 2_000


class EvenSample:
    """A random sample of a stream in which every item is equally likely."""

    def __init__(self, size: int, seed: int = 0) -> None:
        self._size, self._random = size, random.Random(seed)
        self.seen, self.items = 0, list[str]()

    def offer(self, record: Record, windows: list[tuple[int, int]]) -> None:
        """Let the chunks of a record take part."""
        for start, end in windows:
            self.seen += 1
            if len(self.items) < self._size:
                self.items.append(record.sequence[start:end])
            elif (place := self._random.randrange(self.seen)) < self._size:
                self.items[place] = record.sequence[start:end]


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What a model would find in an input; ORFs and tokens are told from a sample."""

    records: int
    scored: int  # long and clear enough
    nt: int  # of all records
    chunks: int  # of the scored records
    orfs: int  # exact duplicates, which are computed once, count
    dna_tokens: int
    protein_tokens: int
    sample: list[str] = field(repr=False)  # each chunk as likely as any other


def refuse_pipes(paths: Iterable[Path]) -> None:
    """See that inputs can be read again and again, once for every model."""
    for path in paths:
        try:
            mode = path.stat().st_mode if str(path) != STDIN else stat.S_IFIFO
        except OSError:
            continue  # whoever reads it says what is wrong
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            name = "standard input" if str(path) == STDIN else str(path)
            raise UsageError(
                f"{name} can be read once only, and estimate reads its input for every model: "
                "store it in a file and give files"
            )


def survey(records: Iterable[Record], model: ModelSpec, min_length: int = 0) -> Survey:
    """Read all records once and count what the model would work on; holds a sample of chunks."""
    sample, rules = EvenSample(SAMPLE_CHUNKS), Rules(model.chunk_nt, model.orf_policy, min_length)
    count = scored = nt = 0
    for number, record in enumerate(records):
        count += 1
        nt += len(record.sequence)
        if rules.status(record, number) is None:
            scored += 1
            sample.offer(record, chunk_windows(len(record.sequence), model.chunk_nt))
    random.Random(0).shuffle(sample.items)  # so that any first part of it is even too
    chunks = sample.items[:TOKEN_CHUNKS]
    orfs = find_orfs(chunks, model.orf_policy)
    share = sample.seen / max(1, len(chunks))
    return Survey(
        records=count, scored=scored, nt=nt, chunks=sample.seen, orfs=round(len(orfs) * share),
        dna_tokens=round(_tokens(model.dna, orfs.dna) * share),
        protein_tokens=round(_tokens(model.protein, orfs.protein) * share), sample=sample.items,
    )  # fmt: skip


def _tokens(spec: EncoderSpec, sequences: list[bytes]) -> int:
    from virnucpro.encoders.tokenizers import make_tokenizer

    tokenizer = make_tokenizer(spec)
    return sum(len(tokenizer.encode(sequence.decode("ascii"))) for sequence in sequences)
