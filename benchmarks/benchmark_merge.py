"""Seconds to merge 20 pairs of feature files with 1, 2, 4 and 8 workers.

    python benchmarks/benchmark_merge.py --output benchmarks/results/merge.json

Both formats: files of ours, and files as the original writes them (each vector a tensor of its
own, DNA rows in another order than proteins). Needs torch, to write the latter.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from result_file import keep

from virnucpro.core.records import Embeddings
from virnucpro.pipeline.features import write_dna_features, write_protein_features
from virnucpro.pipeline.parallel_merge import parallel_merge_features

DNA_DIM, PROTEIN_DIM = 768, 2560
WORKERS = (1, 2, 4, 8)


def write_pairs(folder: Path, pairs: int, rows: int, published: bool) -> list[list[Path]]:
    """DNA files and protein files, `rows` vectors each."""
    folder.mkdir()
    draw = np.random.default_rng(1)
    dna_files, protein_files = [], []
    for number in range(1, pairs + 1):
        ids = [f"contig{number}_chunk_{row}F1" for row in range(rows)]
        dna = draw.standard_normal((rows, DNA_DIM), dtype=np.float32)
        protein = draw.standard_normal((rows, PROTEIN_DIM), dtype=np.float32)
        dna_files.append(folder / f"output_{number}_DNABERT_S.pt")
        protein_files.append(folder / f"output_{number}_ESM.pt")
        if published:
            import torch

            labelled = zip(ids, dna.tolist(), strict=True)
            data = [{"label": name, "mean_representation": row} for name, row in labelled]
            torch.save({"nucleotide": ids, "data": data}, dna_files[-1])
            tensors = [torch.tensor(row) for row in protein[::-1]]
            torch.save({"proteins": ids[::-1], "data": tensors}, protein_files[-1])
        else:
            write_dna_features(dna_files[-1], Embeddings(tuple(ids), dna))
            write_protein_features(protein_files[-1], Embeddings(tuple(ids), protein))
    return [dna_files, protein_files]


def main() -> None:
    """Write the pairs, merge them with each number of workers, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--rows", type=int, default=3000, help="sequences of a pair")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--commit", help="of the code; as git says if it is not given")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as temporary:
        for name in ("ours", "published"):
            files = write_pairs(Path(temporary, name), args.pairs, args.rows, name == "published")
            alone = 0.0
            for workers in WORKERS:
                seconds = []
                for _ in range(args.repeats):
                    with tempfile.TemporaryDirectory(dir=temporary) as out:
                        started = time.perf_counter()
                        merged, failed = parallel_merge_features(*files, Path(out), workers)
                        seconds.append(time.perf_counter() - started)
                    assert len(merged) == args.pairs and not failed
                median = statistics.median(seconds)
                alone = alone or median
                rows.append({"format": name, "workers": workers, "seconds": round(median, 2),
                             "times faster": round(alone / median, 2)})  # fmt: skip
                print(rows[-1], flush=True)
    result = {
        "title": "Merging",
        "about": f"{args.pairs} pairs of {args.rows} sequences, median of {args.repeats} merges",
        "merges": rows,
    }  # fmt: skip
    keep(result, args.output, args.commit)


if __name__ == "__main__":
    main()
