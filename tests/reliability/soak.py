"""Kill real runs at random moments and resume them; the final tables must not differ by a byte.

python tests/reliability/soak.py --kills 200 --output benchmarks/results/soak-200.json
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

if __name__ == "__main__":
    HERE = Path(__file__).resolve()
    sys.path[:0] = [str(HERE.parents[2]), str(HERE.parents[1])]

from runs import Runs, are_gone, descendants, results, units

MODES = {
    "one process": (),
    "bundled model": ("-m", "mini"),
    "staged": ("--staged",),
    "packed, 2 ranks": ("--parallel", "--ranks", "2"),
    "packed DNA too": ("--parallel", "--ranks", "2", "--dnabert-v2"),
    "persistent workers": ("--persistent-models",),
}
WEIGHTS = {
    "one process": 40, "bundled model": 40, "staged": 10, "packed, 2 ranks": 4,
    "packed DNA too": 3, "persistent workers": 3,
}  # fmt: skip
IN_A_ROW = (1, 1, 1, 2, 3)


@dataclass
class Report:
    """What a soak did.

    Attributes:
        seed: of every random choice.
        kills: runs that were killed, by mode.
        missed: kills that came after the run had ended.
        at_stage: kills by the stage that was under way.
        resumed: runs brought to their end after one kill or more.
        problems: what went wrong; empty if nothing did.
        seconds: wall time.
    """

    seed: int
    kills: Counter[str] = field(default_factory=Counter)
    missed: int = 0
    at_stage: Counter[str] = field(default_factory=Counter)
    resumed: int = 0
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def as_dict(self) -> dict[str, object]:
        """JSON-able values."""
        return {**vars(self), "kills": dict(self.kills), "at_stage": dict(self.at_stage)}


class Soak:
    """Kills runs until enough have been killed.

    Args:
        runs: starts them.
        seed: of every random choice.
        weights: share of each mode.
    """

    def __init__(self, runs: Runs, seed: int, weights: Mapping[str, int]) -> None:
        self.runs, self.weights = runs, weights
        self.draw = random.Random(seed)
        self.report = Report(seed)
        self._expected: dict[str, tuple[dict[str, bytes], float]] = {}

    def go(self, kills: int) -> Report:
        """Kill that many runs and resume each to its end."""
        started = time.monotonic()
        while sum(self.report.kills.values()) < kills:
            mode = self.draw.choices(list(self.weights), list(self.weights.values()))[0]
            self.kill_and_resume(mode)
            if self.report.resumed % 50 == 0:
                print(json.dumps(self.report.as_dict()), flush=True)
        self.report.seconds = round(time.monotonic() - started, 1)
        return self.report

    def expected(self, mode: str) -> tuple[dict[str, bytes], float]:
        """Results and seconds of an undisturbed run."""
        if mode not in self._expected:
            out = self.runs.folder / f"undisturbed {mode}"
            started = time.monotonic()
            running = self.runs.finish(out, *MODES[mode])
            if running.code != 0:
                raise RuntimeError(f"an undisturbed run failed: {running.said}")
            self._expected[mode] = results(out), time.monotonic() - started
            shutil.rmtree(out)
        return self._expected[mode]

    def kill_and_resume(self, mode: str) -> None:
        """One run: killed once or a few times in a row, then resumed to its end."""
        tables, seconds = self.expected(mode)
        out = self.runs.folder / "soak"
        shutil.rmtree(out, ignore_errors=True)
        for _ in range(self.draw.choice(IN_A_ROW)):
            self._kill(mode, out, self.draw.uniform(0.02, seconds))
            self._look_for_torn(mode, out, tables)
        last = self.runs.finish(out, "--resume", *MODES[mode])
        self.report.resumed += 1
        if last.code != 0:
            self._problem(mode, f"resumed run ended with {last.code}: {last.said[-2000:]}")
            return
        found = results(out)
        for name, content in tables.items():
            if found[name] != content:
                self._problem(mode, f"{name} differs after a resume")
        self._look_for_leftovers(mode, out)

    def _kill(self, mode: str, out: Path, after: float) -> None:
        running = self.runs.start(out, "--resume", *MODES[mode])
        running.process.join(after)
        children = descendants(running.pid) if MODES[mode] else []
        if running.kill_after(0):
            self.report.kills[mode] += 1
            self.report.at_stage[stage_under_way(out)] += 1
        else:
            self.report.missed += 1
        if not are_gone(children, 20.0):
            self._problem(mode, "a child outlived its killed parent")

    def _look_for_torn(self, mode: str, out: Path, tables: Mapping[str, bytes]) -> None:
        """A file under its final name is whole, whenever one looks."""
        for name, content in tables.items():
            if (out / name).exists() and (out / name).read_bytes() != content:
                self._problem(mode, f"{name} is torn after a kill")

    def _look_for_leftovers(self, mode: str, out: Path) -> None:
        left = [path for path in out.rglob("*") if ".tmp" in path.name]
        if left:
            self._problem(mode, f"temporary files are left: {left}")

    def _problem(self, mode: str, text: str) -> None:
        self.report.problems.append(f"{mode}: {text}")


def stage_under_way(out: Path) -> str:
    """The first stage that run.json does not tell of; as far as the ledger and files show it."""
    if not (out / "run.json").exists():
        return "before the first stage"
    if (out / "calls.tsv").exists():
        return "after the final tables"
    found = units(out)
    order = ["tables", "calls", "scores", "protein features", "dna features", "reading", "inputs"]
    done = next((name for name in order if any(unit.startswith(name) for unit in found)), "")
    return f"after the first unit of {done}" if done else "in the first stage"


def main() -> int:
    """Run a soak from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    from tiny_home import make_tiny_home

    with tempfile.TemporaryDirectory() as name:
        runs = Runs(Path(name), make_tiny_home(Path(name) / "home"))
        report = Soak(runs, arguments.seed, WEIGHTS).go(arguments.kills)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout
    found = {
        "about": "real runs, on tiny weights and on the bundled model, killed at random moments",
        "command": " ".join(["python", *sys.argv]),
        "commit": commit.strip(),
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
        **report.as_dict(),
        "killed": sum(report.kills.values()),
    }
    text = json.dumps(found, indent=1)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n")
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
