"""How often kind and family stand beside a call `virus`, and how often they are right.

Windows of 500 nt of the viral dev sets are called as `predict` does.

    python -m benchmarks.benchmark_kinds --data DIR --output benchmarks/results/kinds.json

DIR holds the files named under `data` in recipes/mini.yaml.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import numpy as np

import virnucpro
from virnucpro.models.store import resolve_model
from virnucpro.training.corpus import draw_windows, load_dev
from virnucpro.training.jobs import read_evaluation

ROOT = Path(__file__).resolve().parents[1]
LENGTH_NT = 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--count", type=int, default=2000, help="windows of each set")
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path(".bench/kinds"))
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    job = read_evaluation(ROOT / "recipes" / "mini.yaml", args.data)
    kind_of = {family: kind for kind, own in job.virus_kinds.items() for family in own}
    model = resolve_model("mini", None, Path("no-home"))
    trained = {
        group.removeprefix(f"{kind}: ") for group in model.groups for kind in job.virus_kinds
    }
    rng, found = np.random.default_rng(args.seed), []
    for name, corpus in load_dev(job.data).items():
        if "virus" not in name:
            continue
        windows = draw_windows(corpus, name, LENGTH_NT, args.count, rng)
        letters = np.frombuffer(b"ACGTN", dtype=np.uint8)[windows.bases]
        sequences = {f"w{i}": row.tobytes().decode() for i, row in enumerate(letters)}
        result = virnucpro.predict(sequences, output_dir=args.work / name, force=True)
        with result.calls.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file, delimiter="\t") if row["call"] == "virus"]
        truth = [windows.labels[int(row["id"][1:])].group for row in rows]
        kinds = [kind_of.get(g) or kind_of.get(g.split(" [")[0], "") for g in truth]
        kind_given = [
            row["kind"] == kind for row, kind in zip(rows, kinds, strict=True) if row["kind"]
        ]
        family_given = [
            g.startswith(row["family"]) for row, g in zip(rows, truth, strict=True) if row["family"]
        ]
        new = [row["family"] for row, g in zip(rows, truth, strict=True) if g not in trained]
        found.append({
            "set": name, "called": len(rows),
            "kind_given": len(kind_given) / len(rows), "kind_right": float(np.mean(kind_given)),
            "family_given": len(family_given) / len(rows),
            "family_right": float(np.mean(family_given)) if family_given else None,
            "of_new_families": len(new),
            "without_family": float(np.mean([not family for family in new])) if new else None,
        })  # fmt: skip
        print(found[-1], flush=True)
    called = sum(row["called"] for row in found)
    given = [row["called"] * row["kind_given"] for row in found]
    right = sum(n * row["kind_right"] for n, row in zip(given, found, strict=True)) / sum(given)
    result = {
        "command": f"python -m benchmarks.benchmark_kinds --data DIR --count {args.count} "
        f"--seed {args.seed} --output {args.output}",
        "model_digest": model.digest, "length_nt": LENGTH_NT,
        "all": {"kind_given": sum(given) / called, "kind_right": right}, "sets": found,
    }  # fmt: skip
    args.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
