"""Suite `throughput`: one process, one device."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from bench_models import coding_contigs, proteins

from virnucpro.core.records import Chunk, Tokens
from virnucpro.encoders.load import load_encoder
from virnucpro.encoders.tokenizers import make_tokenizer
from virnucpro.engines.base import EngineOptions, choose_dtype, make_engine
from virnucpro.engines.plans import pack
from virnucpro.models.store import resolve_model
from virnucpro.sequences.orfs import OrfPolicy, find_orfs

BUDGET = 16_384


def embed(engine, items):
    start = time.perf_counter()
    for _ in engine.embed(items):
        pass
    return time.perf_counter() - start


@pytest.mark.throughput
class TestThroughput:
    suite = "throughput"

    def test_translation(self, figures, quick):
        """CPU time, so that other work on the machine does not count."""
        count = 10_000 if quick else 40_000
        texts = coding_contigs(2_000)
        chunks = [Chunk(f"c_{i}", text) for i, text in enumerate(texts)]
        find_orfs(chunks, OrfPolicy("longest"))
        start = time.process_time()
        for _ in range(count // len(chunks)):
            find_orfs(chunks, OrfPolicy("longest"))
        seconds = time.process_time() - start
        rate = count * len(texts[0]) / seconds / 1e6
        figures.note("six-frame translation to ORFs, one core", rate, "Mbp/s", "higher")

    @pytest.mark.parametrize(("name", "mean"), [("reads of 150 nt", 49), ("chunks of 500 nt", 166)])
    def test_packing(self, figures, name, mean):
        """Real tokens over token slots, of the plan for 20,000 proteins."""
        draw = np.random.default_rng(1)
        lengths = np.clip(draw.normal(mean, mean / 10, 20_000), 5, 168).astype(int) + 2
        batches = pack(lengths, BUDGET)
        share = 100 * lengths.sum() / (BUDGET * len(batches))
        figures.at_least(f"packing, {name}", share, 97.0, "%")

    @pytest.mark.parametrize("slot", ["dna", "protein"])
    def test_engines(self, figures, device, home, sequences, slot, request):
        model = resolve_model("500", None, home)
        spec = getattr(model, slot)
        texts = coding_contigs(sequences) if slot == "dna" else proteins(sequences)
        tokenizer = make_tokenizer(spec)
        items = [Tokens(str(i), tokenizer.encode(text)) for i, text in enumerate(texts)]
        tokens = sum(map(len, items))
        dtype = choose_dtype("auto", device)
        encoder = load_encoder(spec, device, dtype)
        rates = {}
        for kind in ("padded", "packed"):
            engine = make_engine(kind, encoder, device=device, options=EngineOptions(compile="off"))
            embed(engine, items)
            rates[kind] = tokens / embed(engine, items)
            figures.note(f"{slot}, {kind} engine", rates[kind], "tokens/s", "higher")
        if request.config.getoption("--bench-vanilla"):
            rate = self._one_by_one(spec, items, device)
            figures.note(f"{slot}, one sequence a call, float32", rate, "tokens/s", "higher")
            best = max(rates.values())
            figures.note(f"{slot}, against one sequence a call", best / rate, "x", "higher")

    @staticmethod
    def _one_by_one(spec, items, device):
        """How the original embeds."""
        encoder = load_encoder(spec, device, torch.float32)
        options = EngineOptions(compile="off", feeding_threads=0, token_budget=BUDGET)
        engine = make_engine("padded", encoder, device=device, options=options)
        few = items[:100]
        embed(engine, few[:1])
        return sum(map(len, few)) / sum(embed(engine, [item]) for item in few)
