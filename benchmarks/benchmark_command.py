"""The command against an earlier release, in turn on the same cores: wall and processor time.

    python -m benchmarks.benchmark_command --data DIR \
        --against 'cd OLD; python -m virnucpro' --output benchmarks/results/command.json

One contig of 1.7 kb, `--version`, reads of 150 nt and contigs of 2 kb, drawn from the dev sets of
recipes/mini.yaml in DIR. Whole commands with the bundled model, start and tables included.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.result_file import keep
from virnucpro.training.corpus import draw_windows, load_dev
from virnucpro.training.jobs import read_evaluation

ROOT = Path(__file__).resolve().parents[1]
LETTERS = np.frombuffer(b"ACGTN", dtype=np.uint8)


def write_inputs(folder: Path, data: Path, reads: int, contigs: int) -> dict[str, Path]:
    """FASTA by name of the case."""
    sets = load_dev(read_evaluation(ROOT / "recipes/mini.yaml", data).data)
    files = {}
    for name, length, count in (
        ("one contig", 1_700, 1), ("reads", 150, reads), ("contigs", 2_000, contigs),
    ):  # fmt: skip
        rng = np.random.default_rng(length)
        share = -(-count // len(sets))
        drawn = [draw_windows(corpus, n, length, share, rng).bases for n, corpus in sets.items()]
        rows = np.concatenate(drawn)[:count]
        files[name] = folder / f"{name.replace(' ', '_')}.fa"
        text = (f">r{i}\n{LETTERS[row].tobytes().decode()}\n" for i, row in enumerate(rows))
        files[name].write_text("".join(text))
    return files


def seconds_of(command: str, environment: dict[str, str]) -> tuple[float, float]:
    """Wall and processor seconds of a command and all that it starts."""
    before, started = os.times(), time.perf_counter()
    subprocess.run(command, shell=True, check=True, capture_output=True, env=environment)
    wall, after = time.perf_counter() - started, os.times()
    used = after.children_user + after.children_system
    return wall, used - before.children_user - before.children_system


def main() -> None:
    """Run every case with both, in turn, and write the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--against", required=True, help="shell command of the other release")
    parser.add_argument("--reads", type=int, default=20_000)
    parser.add_argument("--contigs", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--commit", help="of the code; as git says if it is not given")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    ours = f"{sys.executable} -m virnucpro"
    cases: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as temporary:
        files = write_inputs(Path(temporary), args.data, args.reads, args.contigs)
        tasks = {"version": "--version"}
        tasks |= {name: f"predict {path} -o {{out}}" for name, path in files.items()}
        for name, task in tasks.items():
            rounds = args.rounds if name in ("reads", "contigs") else 3 * args.rounds
            taken: dict[str, list[tuple[float, float]]] = {"before": [], "now": []}
            for turn in range(rounds):
                for which, command in (("before", args.against), ("now", ours)):
                    out = Path(temporary, f"{name}{turn}{which}".replace(" ", "_"))
                    line = f"{command} {task.format(out=out)}"
                    taken[which].append(seconds_of(line, environment))
            wall, cpu = (
                {
                    which: statistics.median(pair[k] for pair in pairs)
                    for which, pairs in taken.items()
                }
                for k in (0, 1)
            )
            cases.append({
                "case": name,
                "wall s before": round(wall["before"], 2), "wall s": round(wall["now"], 2),
                "cpu s before": round(cpu["before"], 2), "cpu s": round(cpu["now"], 2),
                "wall": round(wall["before"] / wall["now"], 2),
                "cpu": round(cpu["before"] / cpu["now"], 2),
            })  # fmt: skip
            print(cases[-1], flush=True)
    result = {
        "title": "The whole command against release 2.0.0",
        "about": f"one contig of 1.7 kb, {args.reads} reads of 150 nt, {args.contigs} contigs of "
        f"2 kb, medians of {args.rounds} or more runs of each in turn; the last two columns say "
        "how many times less wall and processor time",
        "command": "python -m benchmarks.benchmark_command --data DIR --against "
        f"'cd OLD; python -m virnucpro' --reads {args.reads} --contigs {args.contigs} "
        f"--rounds {args.rounds} --output {args.output}",
        "commands": cases,
    }  # fmt: skip
    keep(result, args.output, args.commit)


if __name__ == "__main__":
    main()
