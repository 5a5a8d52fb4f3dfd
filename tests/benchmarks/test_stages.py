"""Suites `scaling`, `throughput`, `memory` and `equivalence`: one stage at a time."""

import os
from unittest.mock import patch

import pytest
import torch
from bench_models import coding_contigs, proteins, seconds_of

from virnucpro.encoders.load import load_encoder
from virnucpro.encoders.tokenizers import make_tokenizer
from virnucpro.engines.base import EngineOptions, choose_dtype
from virnucpro.engines.runner import BatchEngine
from virnucpro.models.store import resolve_model
from virnucpro.pipeline import parallel_translate
from virnucpro.pipeline.input_pass import BLOCK_CHUNKS
from virnucpro.pipeline.parallel_translate import BLOCKS_BEFORE_POOL, translate_blocks
from virnucpro.sequences.orfs import OrfPolicy, find_orfs
from virnucpro.tools.verify import verify_paths

CPUS = os.cpu_count() or 1
LONGEST = OrfPolicy("longest")
PLAIN = EngineOptions()


def embed(engine, items):
    return seconds_of(lambda: [None for _ in engine.embed(items)])


def encoder_and_items(spec, device, texts, dtype="auto"):
    encoder = load_encoder(spec, device, choose_dtype(dtype, device))
    tokenizer = make_tokenizer(spec)
    return encoder, tokenizer.encode_batch(texts)


@pytest.mark.scaling
class TestWorkerScaling:
    suite = "scaling"

    def test_translation(self, figures, sequences, quick):
        blocks = BLOCKS_BEFORE_POOL * (2 if quick else 4) + sequences // 100
        work = [(None, coding_contigs(BLOCK_CHUNKS))] * blocks

        def translate(workers):
            return seconds_of(lambda: [None for _ in translate_blocks(work, LONGEST, workers)])

        alone = translate(1)
        figures.note(f"translating {blocks * BLOCK_CHUNKS} chunks, 1 worker", alone, "s", "lower")
        for n in sorted({parallel_translate.FEWEST_WORKERS, max(CPUS, 4)}):
            with patch.object(parallel_translate, "find_orfs", wraps=find_orfs) as here:
                ratio = alone / translate(n)
            done = blocks - here.call_count
            figures.at_least(f"translation, blocks done by {n} workers", done, 1)
            figures.note(f"translation, {n} workers against 1", ratio, "x", "higher")


@pytest.mark.throughput
class TestThroughput:
    suite = "throughput"

    @pytest.mark.parametrize("slot", ["dna", "protein"])
    def test_engines(self, figures, device, home, sequences, slot, request):
        spec = getattr(resolve_model("500", None, home), slot)
        texts = coding_contigs(sequences) if slot == "dna" else proteins(sequences)
        encoder, items = encoder_and_items(spec, device, texts)
        rates = {}
        for kind in ("padded", "packed"):
            engine = BatchEngine(kind, encoder, device=device, options=PLAIN)
            embed(engine, items)
            rates[kind] = sum(map(len, items)) / embed(engine, items)
            figures.note(f"{slot}, {kind} engine", rates[kind], "tokens/s", "higher")
        if request.config.getoption("--bench-vanilla"):  # how the original embeds
            encoder, few = encoder_and_items(spec, device, texts[:100], "float32")
            options = EngineOptions(feeding_threads=0, token_budget=16_384)
            engine = BatchEngine("padded", encoder, device=device, options=options)
            embed(engine, few[:1])
            rate = sum(map(len, few)) / sum(embed(engine, [item]) for item in few)
            figures.note(f"{slot}, one sequence a call, float32", rate, "tokens/s", "higher")
            name, ratio = f"{slot}, against one sequence a call", max(rates.values()) / rate
            figures.note(name, ratio, "x", "higher")


@pytest.mark.memory
class TestMemory:
    suite = "memory"

    def test_device(self, figures, device, home, sequences):
        spec = resolve_model("500", None, home).protein
        encoder, items = encoder_and_items(spec, device, proteins(sequences))
        engine = BatchEngine("packed", encoder, device=device, options=PLAIN)
        embed(engine, items)
        figures.at_most("batches halved for lack of memory", engine.stats.oom_halvings, 0)
        if device.type == "cuda":
            peak, total = torch.cuda.max_memory_allocated(), torch.cuda.mem_get_info()[1]
            figures.at_most("peak over the GPU's memory", peak / total, 0.95, "x")


@pytest.mark.equivalence
class TestEquivalence:
    suite = "equivalence"

    def test_engines(self, figures, device, home):
        torch.manual_seed(0)
        for check in verify_paths(resolve_model("500", None, home), device):
            if check.limit < float("inf"):
                figures.at_most(check.what, check.value, check.limit)
