"""How far float16 is from float32 at the full size of the published encoders, on a CPU.

Random weights, the same in both; one sequence a call in float32 against the engines in float16.
Relative norm of the worst single sequence by length. Needs 20 GiB of memory and half an hour on
two cores; the same comparison on a GPU is the section `exact` of `benchmark_engine.py`.

Usage: python -m benchmarks.benchmark_fidelity [--output benchmarks/results/fidelity.json]
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.engine_tools import differences
from virnucpro.encoders.transformer import Dnabert, Esm2
from virnucpro.engines.base import EngineOptions
from virnucpro.engines.runner import BatchEngine
from virnucpro.models.specs import DNABERT_S, ESM2_SIZES

CPU = torch.device("cpu")
RESIDUES = [*range(1, 14), 14, 15, 16, 20, 24, 32, 49, 100]
DNA_TOKENS = [*range(3, 16), 20, 36, 64, 104, 150]


def esm2_items():
    draw = np.random.default_rng(2)
    return [np.array([0, *draw.integers(4, 24, n), 2]) for n in RESIDUES]


def dnabert_items():
    draw = np.random.default_rng(2)
    return [np.array([1, *draw.integers(5, 4096, n - 2), 2]) for n in DNA_TOKENS]


def random_network(network):
    """Weights as transformers draws them: normal, 0.02 wide; no bias."""
    torch.manual_seed(0)
    for name, weight in network.named_parameters():
        if weight.ndim == 2:
            weight.data.normal_(0, 0.02)
        elif name.endswith("bias"):
            weight.data.zero_()
        else:
            weight.data.fill_(1.0)
    return network.eval().requires_grad_(False)


def half(network):
    """The same network in float16, one weight after another: two copies do not fit."""
    for weight in network.parameters():
        weight.data = weight.data.half()
    return network


def vectors(encoder, kind, items, budget):
    options = EngineOptions(token_budget=budget)
    batches = BatchEngine(kind, encoder, device=CPU, options=options).embed(items)
    return {row: vector for rows, found in batches for row, vector in zip(rows, found, strict=True)}


def compared(name, network, items, cases):
    """A row for each layout and for each way to batch."""
    encoder = random_network(network)
    reference = {row: encoder([item])[0].numpy() for row, item in enumerate(items)}
    encoder = half(encoder)
    for title, kind, budget, short in cases:
        type(encoder).short_tokens = short
        found = vectors(encoder, kind, items, budget)
        each = {
            len(item): differences({row: found[row]}, {row: reference[row]})["relative_norm"]
            for row, item in enumerate(items)
        }
        by_length = {f"{tokens} tokens": round(worst, 6) for tokens, worst in each.items()}
        yield {
            "network": name,
            "case": title,
            **differences(found, reference),
            "by_length": by_length,
        }
        print(name, title, max(each.values()), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/fidelity.json"))
    args = parser.parse_args()
    short = Esm2.short_tokens
    esm2_cases = [
        ("float16 packed", "packed", 512, short),
        ("float16 padded", "padded", 512, short),
        ("float16 packed, short proteins as long ones", "packed", 512, 0),
    ]
    dna_cases = [
        ("float16 packed", "packed", 512, Dnabert.short_tokens),
        ("float16 padded", "padded", 512, Dnabert.short_tokens),
    ]
    with torch.inference_mode():
        rows = list(compared("DNABERT-S", Dnabert(DNABERT_S), dnabert_items(), dna_cases))
        esm2 = Esm2(ESM2_SIZES["esm2_t36_3B_UR50D"])
        rows += compared("ESM-2 3B", esm2, esm2_items(), esm2_cases)
    about = {
        "title": "Fidelity of float16",
        "about": "Random weights at the published sizes; engines in float16 on a CPU",
        "date": time.strftime("%Y-%m-%d"),
        "command": "python -m benchmarks.benchmark_fidelity",
        "unit": "float16 against float32, worst single sequence",
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "torch": torch.__version__,
        },
    }
    args.output.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
