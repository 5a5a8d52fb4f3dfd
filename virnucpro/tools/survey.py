"""What an input holds, before a prediction starts: records, chunks, ORFs and tokens."""

from __future__ import annotations

import math
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
    """A random sample of a stream in which every item is equally likely.

    Its cost grows with the logarithm of the stream: most items are passed over unseen.

    Args:
        size: items to keep.
        seed: of the choice; the same stream gives the same sample.

    Source:
        Li (1994), Reservoir-sampling algorithms of time complexity O(n(1 + log(N/n))).
    """

    def __init__(self, size: int, seed: int = 0) -> None:
        self._size, self._random = size, random.Random(seed)
        self._weight, self.seen, self._next = 1.0, 0, 0
        self.items: list[str] = []

    def offer(self, record: Record, windows: list[tuple[int, int]]) -> None:
        """Let the chunks of a record take part."""
        while self._next < self.seen + len(windows):
            number = self._next - self.seen
            start, end = windows[number]
            self._keep(record.sequence[start:end])
        self.seen += len(windows)

    def _keep(self, chunk: str) -> None:
        if len(self.items) < self._size:
            self.items.append(chunk)
            self._next += 1
            if len(self.items) < self._size:
                return
            self._next -= 1
        else:
            self.items[self._random.randrange(self._size)] = chunk
        self._weight *= self._draw() ** (1.0 / self._size)
        self._next += 1 + math.floor(math.log(self._draw()) / math.log1p(-self._weight))

    def _draw(self) -> float:
        return self._random.random() or 0.5  # 0 has no logarithm


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What a model would find in an input.

    Attributes:
        records: records read.
        scored: records that are long and clear enough to be scored.
        nt: length of all records.
        chunks: chunks of the scored records.
        orfs: ORFs in them, from a sample; exact duplicates, which are computed once, count.
        dna_tokens: tokens for the DNA encoder, from a sample.
        protein_tokens: tokens for the protein encoder, from a sample.
        sample: chunks, each as likely as any other.
    """

    records: int
    scored: int
    nt: int
    chunks: int
    orfs: int
    dna_tokens: int
    protein_tokens: int
    sample: list[str] = field(repr=False)


def refuse_pipes(paths: Iterable[Path]) -> None:
    """See that inputs can be read again and again, once for every model.

    Raises:
        UsageError: one is standard input, a pipe or a device.
    """
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
    """Read all records once and count what the model would work on; holds a sample of chunks.

    Args:
        records: the input.
        model: decides chunk length, ORF policy and tokens.
        min_length: shorter records are not scored (nt).
    """
    sample, rules = EvenSample(SAMPLE_CHUNKS), Rules(model.chunk_nt, model.orf_policy, min_length)
    count = scored = nt = 0
    for number, record in enumerate(records):
        count += 1
        nt += len(record.sequence)
        if rules.status(record, number) is None:
            scored += 1
            sample.offer(record, chunk_windows(len(record.sequence), model.chunk_nt))
    random.Random(0).shuffle(sample.items)  # so that any first part of it is even too
    orfs, dna, protein = _per_chunk(sample.items, model)
    return Survey(
        records=count, scored=scored, nt=nt, chunks=sample.seen,
        orfs=round(orfs * sample.seen), dna_tokens=round(dna * sample.seen),
        protein_tokens=round(protein * sample.seen), sample=sample.items,
    )  # fmt: skip


def _per_chunk(sample: list[str], model: ModelSpec) -> tuple[float, float, float]:
    """ORFs, DNA tokens and protein tokens of a chunk, on average."""
    chunks = sample[:TOKEN_CHUNKS]
    if not chunks:
        return 0.0, 0.0, 0.0
    orfs = find_orfs(chunks, model.orf_policy)
    dna, protein = _tokens(model.dna, orfs.dna), _tokens(model.protein, orfs.protein)
    return len(orfs) / len(chunks), dna / len(chunks), protein / len(chunks)


def _tokens(spec: EncoderSpec, sequences: list[bytes]) -> int:
    from virnucpro.encoders.tokenizers import make_tokenizer

    tokenizer = make_tokenizer(spec)
    return sum(len(tokenizer.encode(sequence.decode("ascii"))) for sequence in sequences)
