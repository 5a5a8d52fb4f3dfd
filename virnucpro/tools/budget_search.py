"""Find the token budget at which an encoder is fastest on a device, by trying budgets."""

import time
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch

from virnucpro.core.errors import DeviceError, InputError, UsageError
from virnucpro.encoders.load import load_encoder
from virnucpro.encoders.tokenizers import make_tokenizer
from virnucpro.engines.base import EngineOptions, choose_dtype
from virnucpro.engines.runner import BatchEngine
from virnucpro.models.specs import EncoderSpec
from virnucpro.sequences.chunks import chunk_windows
from virnucpro.sequences.fasta import read_records
from virnucpro.sequences.orfs import OrfPolicy, find_orfs
from virnucpro.tools.verify import fixed_sequences

BATCHES_TIMED = 2
MOST_SEQUENCES = 2_000
CHUNK_NT = 500
CLOSE_ENOUGH = 0.97  # of the best rate: beyond it a larger batch only takes memory


def sample_sequences(slot: str, test_file: Path | None = None) -> list[str]:
    """What to measure with: ORFs of a file, or the fixed ones of `verify`; `dna` or `protein`."""
    if test_file is None:
        dna, protein = fixed_sequences(64)
        return dna if slot == "dna" else protein
    found: list[str] = []
    records = read_records([test_file])
    while len(found) < MOST_SEQUENCES and (record := next(records, None)):
        windows = chunk_windows(len(record.sequence), CHUNK_NT)
        orfs = find_orfs([record.sequence[a:b] for a, b in windows], OrfPolicy("longest"))
        found += [orf.decode("ascii") for orf in getattr(orfs, slot)]
    if not found:
        raise InputError(test_file, "gives no ORF to measure with")
    return found[:MOST_SEQUENCES]


def try_budgets(
    spec: EncoderSpec, sequences: Sequence[str], budgets: Sequence[int], device: torch.device,
    dtype: str = "auto",
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Measure one budget after another, ascending; ends with the first that does not fit.

    A trial has its `token_budget` (slots of a batch), whether the device `fits` such batches,
    `tokens_per_s` (real ones), `efficiency` (their share of the slots) and, of a GPU, `peak_bytes`.

    Raises:
        DeviceError: not even the smallest fits.
    """
    encoder = load_encoder(spec, device, choose_dtype(dtype, device))
    tokenizer = make_tokenizer(spec)
    tokens = tokenizer.encode_batch(sequences)
    longest = max(map(len, tokens))
    if longest > budgets[-1]:
        raise UsageError(f"the longest sequence has {longest} tokens: raise --max-batch")
    cuda = torch.cuda if device.type == "cuda" else None
    able = [budget for budget in budgets if budget >= longest]
    for budget in able:
        wanted = int(BATCHES_TIMED * budget * len(tokens) / sum(map(len, tokens))) + 1
        items = list(islice(cycle(tokens), wanted))
        options = EngineOptions(token_budget=budget, feeding_threads=0)
        engine = BatchEngine("padded", encoder, device=device, options=options)
        for _ in engine.embed(items[: max(1, len(items) // BATCHES_TIMED)]):
            pass  # the first batch pays for what later ones find ready
        if cuda:
            cuda.reset_peak_memory_stats(device)
        start = time.perf_counter()
        for _ in engine.embed(items):
            pass
        seconds = time.perf_counter() - start
        peak = cuda.max_memory_allocated(device) if cuda else None
        fits = engine.stats.oom_halvings == 0
        if not fits and budget == able[0]:
            raise DeviceError("no batch fits; give a smaller --min-batch, or shorter sequences")
        yield {
            "token_budget": budget,
            "tokens_per_s": sum(map(len, items)) / seconds if fits else 0.0,
            "efficiency": engine.stats.efficiency,
            "peak_bytes": peak,
            "fits": fits,
        }
        if not fits:
            return
