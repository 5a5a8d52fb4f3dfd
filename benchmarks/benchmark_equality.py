"""How far our encoders are from the reference implementations, on the same random weights.

Largest absolute difference of any hidden state, float32, padded and packed, with one planted
outlier dimension; the tests hold the same figures under 1e-5.

Usage: python -m benchmarks.benchmark_equality [--output benchmarks/results/equality.json]
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from pathlib import Path

import numpy as np
import torch

from tests.checkpoints import (
    dnabert_config,
    dnabert_tensors,
    esm2_config,
    esm2_tensors,
    hidden_states,
    write_bin,
    write_safetensors,
)
from tests.unit.encoders import test_dnabert, test_esm2
from virnucpro.encoders.load import load_encoder
from virnucpro.models.specs import EncoderSpec


def load(kind, folder, dim):
    spec = EncoderSpec(kind=kind, name="tiny", path=folder, sha256="", dim=dim)
    return load_encoder(spec, torch.device("cpu"), torch.float32)


def row(encoder, items, theirs, name, reference):
    difference = test_esm2.largest_difference(hidden_states(encoder, items), theirs)
    largest = max(float(states.abs().max()) for states in theirs)
    return {
        "network": name,
        "reference": reference,
        "difference": difference,
        "largest_state": largest,
    }


def esm2_rows(folder):
    for name, shape in test_esm2.SHAPES.items():
        tensors = esm2_tensors(shape, seed=shape.dim)
        home = write_safetensors(folder / name, tensors, esm2_config(shape))
        encoder, items = load("esm2", home, shape.dim), test_esm2.proteins()
        for reference, hidden in (
            ("fair-esm 2.0.0", test_esm2.hidden_of_fair_esm),
            ("transformers EsmModel", test_esm2.hidden_of_transformers),
        ):
            yield row(encoder, items, hidden(shape, tensors, items), f"ESM-2 {name}", reference)


def dnabert_rows(folder):
    data = np.load(test_dnabert.REFERENCE)
    for name, (shape, seed) in test_dnabert.CASES.items():
        home = write_bin(folder / name, dnabert_tensors(shape, seed), dnabert_config(shape))
        bounds = np.cumsum(data[f"{name}/lengths"])[:-1]
        ids = np.split(data[f"{name}/ids"].astype(np.int64), bounds)
        hidden = [torch.from_numpy(h) for h in np.split(data[f"{name}/hidden"], bounds)]
        encoder = load("dnabert", home, shape.dim)
        yield row(encoder, ids, hidden, f"DNABERT-S {name}", "published code, frozen numbers")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/equality.json"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [*esm2_rows(Path(folder) / "esm"), *dnabert_rows(Path(folder) / "dna")]
    about = {
        "command": "python -m benchmarks.benchmark_equality",
        "unit": "largest absolute difference of hidden states, float32",
        "machine": {"processor": platform.processor() or platform.machine()},
        "torch": torch.__version__,
    }
    args.output.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")
    for found in rows:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
