"""Does the bundled model give the same answer to the same sequence, however it is written?

Windows of the dev sets are scored as `predict` does, then again

- as their reverse complement: how many calls differ, and the largest step of p_virus;
- with 10%, 25% or 50% of their letters masked by N (one run at the start, in the middle or at the
  end, or three): how many of those that were called `virus` are called `non-virus`;
- without their first three letters: how often p_virus moves by more than 0.1;
- viral ones as circles that begin elsewhere: how many calls differ, and the largest step.

Usage: python -m benchmarks.benchmark_same_answer --data DIR [--count 100] [--seed 2]
       [--device auto] [--output FILE]

DIR holds the files named under `data` in recipes/mini.yaml.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from virnucpro.models.store import resolve_model
from virnucpro.pipeline.stream import DirectScorer
from virnucpro.training.corpus import Corpus, as_records, draw_windows, load_dev
from virnucpro.training.jobs import read_evaluation

ROOT = Path(__file__).resolve().parents[1]
STRAND_NT = (75, 150, 300, 500, 700, 1_300, 2_600)
MASKED_NT = (300, 500, 1_000)
PHASE_NT = (700, 1_000, 1_500, 2_200, 3_000)
CIRCLE_NT = (700, 1_500, 2_600)
SHARES = (0.1, 0.25, 0.5)
REPEAT_NT = 55

Rows = list[np.ndarray]


def windows(sets: dict[str, Corpus], lengths: Iterable[int], count: int, seed: int) -> Rows:
    """`count` windows of each set and length."""
    rng = np.random.default_rng(seed)
    drawn = [draw_windows(c, name, n, count, rng) for n in lengths for name, c in sets.items()]
    return [row for part in drawn for row in part.bases]


def turned(row: np.ndarray) -> np.ndarray:
    return np.where(row < 4, 3 - row, row)[::-1]


def masked(row: np.ndarray, share: float, how: str, rng: np.random.Generator) -> np.ndarray:
    """A copy with runs of N that take `share` of it."""
    out, size = row.copy(), int(share * len(row))
    if how == "three runs":
        for first in (np.arange(3) + rng.random(3)) / 3 * (len(row) - size // 3):
            out[int(first) : int(first) + size // 3] = 4
    else:
        first = {"start": 0, "middle": (len(row) - size) // 2, "end": len(row) - size}[how]
        out[first : first + size] = 4
    return out


def compared(score: Callable[[Rows], tuple], before: Rows, after: Rows) -> dict[str, float]:
    """How calls and p_virus of some sequences change; those without a score are left out."""
    (p, calls), (q, others) = score(before), score(after)
    scored = ~np.isnan(p) & ~np.isnan(q)
    step = np.abs(p - q)[scored]
    return {
        "sequences": int(scored.sum()),
        "calls_changed": int((calls != others)[scored].sum()),
        "largest_step": float(step.max()),
        "moved_by_over_0.1": round(float((step > 0.1).mean()), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    sets = load_dev(read_evaluation(ROOT / "recipes" / "mini.yaml", args.data).data)
    viral = {name: corpus for name, corpus in sets.items() if "virus" in name}
    model = resolve_model("mini", None, Path("no-home"))
    scorer = DirectScorer(model, args.device)

    def calls(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        found = list(scorer.score(as_records(rows)))
        return np.array([row.p_virus for row in found], float), np.array([r.call for r in found])

    found: dict[str, object] = {
        "command": f"python -m benchmarks.benchmark_same_answer --data DIR --count {args.count} "
        f"--seed {args.seed}",
        "model_digest": model.digest,
    }

    some = windows(sets, STRAND_NT, args.count, args.seed)
    found["reverse complement"] = compared(calls, some, [turned(row) for row in some])
    some = windows(sets, PHASE_NT, args.count, args.seed + 1)
    found["three letters less"] = compared(calls, some, [row[3:] for row in some])
    rng = np.random.default_rng(args.seed)
    some = windows(viral, CIRCLE_NT, args.count // 2, args.seed + 2)
    shifts = rng.integers(1, 700, len(some))
    circles = [np.concatenate([row, row[:REPEAT_NT]]) for row in some]
    begun = [np.roll(row, -shift) for row, shift in zip(some, shifts, strict=True)]
    begun = [np.concatenate([row, row[:REPEAT_NT]]) for row in begun]
    found["circle begun elsewhere"] = compared(calls, circles, begun)

    some = windows(viral, MASKED_NT, args.count, args.seed + 3)
    called = [r for r, c in zip(some, calls(some)[1], strict=True) if c == "virus"]
    rows = []
    for share in SHARES:
        for how in ("start", "middle", "end", "three runs"):
            after = calls([masked(row, share, how, rng) for row in called])[1]
            names, counts = np.unique(after.astype(str), return_counts=True)
            found_calls = dict(zip(names.tolist(), counts.tolist(), strict=True))
            rows.append({"share": share, "runs": how, "sequences": len(called)} | found_calls)
    found["masked by N"] = rows
    text = json.dumps(found, indent=1)
    print(text)
    if args.output:
        args.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
