"""Feed readers with files that a coverage-guided fuzzer makes up.

    python fuzz/run.py --cases 1000000 --output benchmarks/results/fuzz.json
    python fuzz/run.py --target fasta --cases 10000

Each target runs in processes of its own; a crash, a hang (10 s) or over 2 GiB of memory ends
such a process and is a finding, whose input is kept.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "fuzz")]
SECONDS_A_CASE, MEMORY_MIB, LONGEST_BYTES = 10, 2048, 4096
PYTHON_MODULES = ["virnucpro"]


def fuzz(name: str, cases: int, folder: Path) -> None:
    """Be the fuzzer of one target; does not return."""
    import atheris

    os.environ["OMP_NUM_THREADS"] = "1"
    with atheris.instrument_imports(include=PYTHON_MODULES):
        import targets
    target = targets.TARGETS[name]
    corpus, scratch = folder / "corpus", folder / "scratch"
    for place in (corpus, scratch):
        place.mkdir(parents=True)
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)

    def one(data: bytes) -> None:
        targets.run(target, scratch, data)

    options = [
        f"-runs={cases}", f"-timeout={SECONDS_A_CASE}", f"-rss_limit_mb={MEMORY_MIB}",
        f"-max_len={LONGEST_BYTES}", f"-artifact_prefix={folder}/finding-", "-seed=1",
        "-print_final_stats=1", "-verbosity=1", str(corpus),
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *options], one)
    atheris.Fuzz()


def campaign(name: str, cases: int) -> dict[str, Any]:
    """Run one target in a process and say what came of it."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        place = Path(folder) / "fuzz"
        command = [sys.executable, __file__, "--inside", str(place), "--target", name]
        started = time.monotonic()
        done = subprocess.run(
            [*command, "--cases", str(cases)], capture_output=True, text=True, errors="replace"
        )
        stats = _stats(done.stderr)
        findings = [path.read_bytes().hex() for path in sorted(place.glob("finding-*"))]
    seconds = round(time.monotonic() - started, 1)
    found = {"cases": stats.get("number_of_executed_units", 0), "seconds": seconds}
    found |= {"peak_rss_mib": stats.get("peak_rss_mb", 0), "exit": done.returncode}
    if done.returncode:
        found |= {"findings": findings, "output": done.stderr[-3000:]}
    return found


def _stats(text: str) -> dict[str, int]:
    pairs = [
        line.removeprefix("stat::").split(":") for line in text.splitlines() if "stat::" in line
    ]
    return {name.strip(): int(value) for name, value in pairs}


def main() -> int:
    """Run all targets, or one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target")
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        fuzz(arguments.target, arguments.cases, arguments.inside)
    import report
    import targets

    chosen = [targets.TARGETS[arguments.target]] if arguments.target else targets.TARGETS.values()
    weights = sum(target.weight for target in chosen)
    results = {}
    for target in chosen:
        share = -(-arguments.cases * target.weight // weights)
        results[target.name] = campaign(target.name, share)
        print(target.name, json.dumps(results[target.name])[:2000], flush=True)
    summary = {
        "limits": f"{SECONDS_A_CASE} s and {MEMORY_MIB} MiB a case, {LONGEST_BYTES} bytes",
        "cases": sum(found["cases"] for found in results.values()),
        "seconds": round(sum(found["seconds"] for found in results.values()), 1),
        "findings": sum(bool(found["exit"]) for found in results.values()),
        "targets": results,
    }
    about = "coverage-guided fuzzing (atheris) of every reader of files from outside"
    report.write_report(about, summary, arguments.output)
    return 1 if summary["findings"] else 0


if __name__ == "__main__":
    sys.exit(main())
