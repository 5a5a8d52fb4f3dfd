"""Kill real runs at random moments and resume them; the final tables must not differ by a byte.

python tests/reliability/soak.py --kills 200 --output benchmarks/results/soak-200.json
"""

import argparse
import json
import math
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

if __name__ == "__main__":
    HERE = Path(__file__).resolve()
    sys.path[:0] = [str(HERE.parents[2]), str(HERE.parents[1])]

from runs import Runs, are_gone, descendants, results

MODES = {  # options, and the share of kills
    "one process": ((), 40),
    "bundled model": (("-m", "mini"), 40),
    "staged": (("--staged",), 10),
    "packed, 2 ranks": (("--parallel", "--ranks", "2"), 4),
    "packed DNA too": (("--parallel", "--ranks", "2", "--dnabert-v2"), 3),
    "persistent workers": (("--persistent-models",), 3),
}


class Soak:
    """Kills runs until enough have been killed; `report` counts them and says what went wrong."""

    def __init__(self, runs: Runs, seed: int, modes=MODES):
        self.runs, self.modes = runs, modes
        self.draw, self.expected = random.Random(seed), {}
        self.report = {"seed": seed, "kills": Counter(), "missed": 0, "resumed": 0,
                       "problems": [], "seconds": 0.0}  # fmt: skip

    def go(self, kills: int, seconds: float = math.inf):
        started, shares = time.monotonic(), [MODES[mode][1] for mode in self.modes]
        while self.report["kills"].total() < kills and time.monotonic() - started < seconds:
            self.kill_and_resume(self.draw.choices(list(self.modes), shares)[0])
            if self.report["resumed"] % 50 == 0:
                print(json.dumps(self.report), flush=True)
        self.report["seconds"] = round(time.monotonic() - started, 1)
        return self.report

    def kill_and_resume(self, mode):
        options = MODES[mode][0]
        if mode not in self.expected:
            out, started = self.runs.folder / f"undisturbed {mode}", time.monotonic()
            running = self.runs.finish(out, *options)
            if running.code != 0:
                raise RuntimeError(f"an undisturbed run failed: {running.said}")
            self.expected[mode] = results(out), time.monotonic() - started
            shutil.rmtree(out)
        tables, seconds = self.expected[mode]
        out = self.runs.folder / "soak"
        shutil.rmtree(out, ignore_errors=True)
        for _ in range(self.draw.choice((1, 1, 1, 2, 3))):
            self.kill(mode, out, self.draw.uniform(0.02, seconds))
            for name, content in tables.items():  # whole under its name, whenever one looks
                if (out / name).exists() and (out / name).read_bytes() != content:
                    self.report["problems"].append(f"{mode}: {name} is torn after a kill")
        last = self.runs.finish(out, "--resume", *options)
        self.report["resumed"] += 1
        if last.code != 0:
            self.report["problems"].append(
                f"{mode}: resumed run ended with {last.code}: {last.said[-2000:]}"
            )
        elif results(out) != tables:
            self.report["problems"].append(f"{mode}: tables differ after a resume")
        elif left := [path for path in out.rglob("*") if ".tmp" in path.name]:
            self.report["problems"].append(f"{mode}: temporary files are left: {left}")

    def kill(self, mode, out, after):
        running = self.runs.start(out, "--resume", *MODES[mode][0])
        running.process.join(after)
        children = descendants(running.pid) if MODES[mode][0] else []
        if running.send(signal.SIGKILL):
            self.report["kills"][mode] += 1
        else:
            self.report["missed"] += 1
        running.process.join()
        if not are_gone(children, 20.0):
            self.report["problems"].append(f"{mode}: a child outlived its killed parent")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=math.inf, help="end earlier")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    from tiny_published import make_tiny_home

    from fuzz.report import write_report

    with tempfile.TemporaryDirectory() as name:
        runs = Runs(Path(name), make_tiny_home(Path(name) / "home"))
        report = Soak(runs, arguments.seed).go(arguments.kills, arguments.seconds)
    about = "real runs, on tiny weights and on the bundled model, killed at random moments"
    found = {**report, "killed": report["kills"].total()}
    write_report(about, found, arguments.output)
    return 1 if report["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
