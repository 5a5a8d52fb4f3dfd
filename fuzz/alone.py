"""A record has the same call alone and among others, whatever the others hold.

    python fuzz/alone.py --records 100000 --stub --output benchmarks/results/alone_stub.json
    python fuzz/alone.py --records 2000 --output benchmarks/results/alone_mini.json

Records are made up: lengths about every boundary, lower case, unclear letters, gaps, digits and
blanks, protein, runs of N, twins. They are written to files, many and one at a time, and go
through the reader and the whole pipeline, with the bundled model or with scores made up from the
letters of each ORF. Statuses and counts must be equal, probabilities within 1e-6.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from virnucpro.models.store import resolve_model  # noqa: E402
from virnucpro.pipeline.direct import DirectScorer  # noqa: E402
from virnucpro.pipeline.worker_loop import Done, Item, Job, OnRows, Outcome  # noqa: E402
from virnucpro.sequences.fasta import read_records  # noqa: E402
from virnucpro.sequences.read_log import ReadLog  # noqa: E402

LENGTHS = (0, 1, 59, 60, 61, 150, 299, 300, 301, 499, 500, 501, 600, 601, 1000, 1400)
TOLERANCE = 1e-6


class MadeUpScores:
    """Scores every ORF by its letters alone."""

    loads = 0

    def run(self, job: Job, items: Iterable[Item], on_rows: OnRows) -> Iterator[Outcome]:
        """See `Executor`."""
        for key, (dna, protein) in items:
            pairs = zip(dna, protein, strict=True)
            seeds = [hash((d, p)) % 2**32 for d, p in pairs]
            virus = np.array(seeds, dtype=np.float64) / 2**32
            scores = np.stack([1 - virus, virus, np.zeros_like(virus)], axis=1)
            yield Done(key, scores.astype(np.float32), {}, 0)

    def close(self) -> None:
        """Nothing is held."""


def make_up(draw: random.Random, earlier: Sequence[str]) -> str:
    """Letters of one record, of lines and blanks as they come."""
    kind = draw.randrange(12)
    if kind == 0 and earlier:
        return draw.choice(earlier)
    length = draw.choice(LENGTHS) + (draw.randrange(40) if draw.random() < 0.5 else 0)
    text = "".join(draw.choices("ACGT", k=length))
    for _ in range(draw.randrange(4)):
        at = draw.randrange(length + 1)
        size = draw.choice((1, 2, 3, 7, 40, 200))
        letters = {
            1: "N", 2: "n", 3: "RYKMSWBDHV", 4: "-", 5: ".", 6: "*", 7: "U", 8: "acgt",
            9: "EFILPQZX", 10: "TAA", 11: "A",
        }.get(kind, "N")  # fmt: skip
        text = text[:at] + "".join(draw.choices(letters, k=size)) + text[at + size :]
    if length > 20 and draw.random() < 0.1:
        text = f"1 {text[:60]}\t61 {text[60:]}"
    if draw.random() < 0.3:
        width = draw.choice((1, 60, 61))
        text = "\n".join(text[i : i + width] for i in range(0, len(text), width))
    return text


def calls(scorer: DirectScorer, path: Path, entries: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """What becomes of each record of a file."""
    path.write_text("".join(f">{name}\n{text}\n" for name, text in entries))
    return {
        row.seq_id: (row.status, row.length, row.chunks, row.orfs, row.p_virus)
        for row in scorer.score(read_records([path], ReadLog(is_silent=True)))
    }


def differs(one: Sequence[Any], other: Sequence[Any]) -> bool:
    """Whether two calls of one record are not the same."""
    for a, b in zip(one, other, strict=True):
        if isinstance(a, float) and isinstance(b, float):
            if abs(a - b) > TOLERANCE:
                return True
        elif a != b:
            return True
    return False


def compare(records: int, per_run: int, stub: bool, seed: int = 1) -> dict[str, Any]:
    """Call made-up records together and alone.

    Returns:
        How many were compared, by status, and those that differ.
    """
    draw = random.Random(seed)
    model = resolve_model("mini", None, Path("none"))
    scorer = DirectScorer(model, executor=MadeUpScores() if stub else None)
    statuses: dict[str, int] = {}
    findings: list[dict[str, Any]] = []
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        path = Path(folder) / "in.fa"
        for first in range(0, records, per_run):
            texts: list[str] = []
            for _ in range(min(per_run, records - first)):
                texts.append(make_up(draw, texts))
            entries = [(f"r{first + i}", text) for i, text in enumerate(texts)]
            together = calls(scorer, path, entries)
            if list(together) != [name for name, _ in entries]:
                findings.append({"run": first, "problem": "records are lost or out of order"})
            for entry in entries:
                alone = calls(scorer, path, [entry])[entry[0]]
                among = together.get(entry[0])
                statuses[alone[0]] = statuses.get(alone[0], 0) + 1
                if among is None or differs(alone, among):
                    findings.append({"record": entry, "alone": alone, "among": among})
    return {"records": records, "a_run": per_run, "statuses": statuses, "findings": findings}


def main() -> int:
    """Run from the command line; exit code 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=2_000)
    parser.add_argument("--per-run", type=int, default=500)
    parser.add_argument("--stub", action="store_true", help="scores made up from letters")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path)
    asked = parser.parse_args()
    started = time.monotonic()
    found = compare(asked.records, asked.per_run, asked.stub, asked.seed)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout
    report = {
        "about": "the same call alone and among others",
        "command": " ".join(["python", *sys.argv]),
        "commit": commit.strip(),
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
        "scores": "made up" if asked.stub else "bundled model",
        "seconds": round(time.monotonic() - started, 1),
        **found,
    }
    text = json.dumps(report, indent=1, default=str)
    print(text)
    if asked.output:
        asked.output.write_text(text + "\n")
    return 1 if found["findings"] else 0


if __name__ == "__main__":
    sys.exit(main())
