"""What a cluster would make of a study: a simulation of workers that claim, score, commit and die.

    python benchmarks/simulate_cluster.py --output benchmarks/results/simulated_cluster.json

Workers do as `virnucpro.pipeline.shared_run` says: they take free blocks in any order, commit unit
by unit, and take over a block whose holder has been silent for a lease once no block is free. Times
of units and of starting are measured ones (`benchmarks/results/job_h100.json`), as is the input
pass (`input.json`); all other figures are arguments. Units are there from the beginning; what
planning takes is told beside.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import simpy
from result_file import keep

from virnucpro.pipeline.shared_run import BEATS_A_LEASE, LONGEST_WAIT_S
from virnucpro.scores.scorer import COLUMNS

RESULTS = Path(__file__).parent / "results"
JOB, INPUT = RESULTS / "job_h100.json", RESULTS / "input.json"


@dataclass(frozen=True)
class Study:
    """What is simulated."""

    gpus: int
    reads: float
    unit_reads: int  # of a unit; a shard has 50,000 reads at most
    block_units: int  # that are claimed together
    unit_s: float  # seconds of a unit on one GPU
    spread: float = 0.05  # of that, as a share
    start_s: float = 22.5  # from the command to the first unit
    again_s: float = 60.0  # until a killed worker is started again
    claim_s: float = 0.02
    commit_s: float = 0.05
    killed_an_hour: float = 0.1
    lease_s: float = 120.0


class Simulation:
    """One study; `run` gives its figures."""

    def __init__(self, study: Study, seed: int = 0) -> None:
        self.study, self.draw, self.env = study, random.Random(seed), simpy.Environment()
        units = round(study.reads / study.unit_reads)
        size = study.block_units
        self.left = {b: min(size, units - b * size) for b in range(-(-units // size))}
        order = list(self.left)
        self.draw.shuffle(order)
        self.free = deque(order)
        self.orphans: deque[tuple[float, int]] = deque()  # may be taken from then on
        self.units, self.wasted = units, 0.0
        self.operations = self.kills = 0

    def run(self) -> dict[str, Any]:
        """Throughput, tail, recomputed share and operations."""
        self.first_idle = None
        processes = [self.env.process(self.worker()) for _ in range(self.study.gpus)]
        self.env.run(self.env.all_of(processes))
        study = self.study
        ideal = self.units * study.unit_s / study.gpus
        wall = self.ended
        beats = study.gpus * BEATS_A_LEASE / study.lease_s
        return {
            "wall_h": round(wall / 3600, 3),
            "share_of_ideal": round(ideal / wall, 4),
            "recomputed_share": round(self.wasted / (self.units * study.unit_s), 5),
            "tail_s": round(wall - self.first_idle, 1),
            "workers_killed": self.kills,
            "ledger_operations_a_second": round(self.operations / wall + beats, 1),
            "ledger_files": 2 * self.units + len(self.left) + self.kills,
        }

    def worker(self) -> Iterator[Any]:
        """One GPU, through as many lives as it takes; it ends with the last unit."""
        study, env = self.study, self.env
        yield env.timeout(study.start_s)
        dies = env.now + self.draw.expovariate(study.killed_an_hour / 3600)
        while self.left:
            block = self.take()
            if block is None:
                self.first_idle = self.first_idle or env.now
                yield env.timeout(LONGEST_WAIT_S)
                continue
            yield env.timeout(study.claim_s)
            while block in self.left:
                spent = study.unit_s * max(0.1, self.draw.gauss(1, study.spread)) + study.commit_s
                if env.now + spent > dies:
                    self.wasted += max(0.0, dies - env.now)
                    self.kills += 1
                    self.orphans.append((dies + study.lease_s, block))
                    yield env.timeout(max(0.0, dies - env.now) + study.again_s + study.start_s)
                    dies = env.now + self.draw.expovariate(study.killed_an_hour / 3600)
                    break
                yield env.timeout(spent)
                self.operations += 3  # the unit is read, the plan looked at, scores committed
                self.left[block] -= 1
                if not self.left[block]:
                    del self.left[block]
                    self.ended = env.now

    def take(self) -> int | None:
        """A free block, else one whose holder has been silent for a lease."""
        self.operations += 1
        if self.free:
            return self.free.popleft()
        if self.orphans and self.orphans[0][0] <= self.env.now:
            return self.orphans.popleft()[1]
        return None


def main() -> None:
    """Simulate, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    plan_mbp = json.loads(INPUT.read_text())["mbp_per_cpu_s"]
    parser.add_argument("--plan-mbp-s", type=float, default=plan_mbp, help="of a core that plans")
    parser.add_argument("--orf-bytes", type=float, default=90.0, help="of an ORF in the ledger")
    parser.add_argument("--dollars", type=float, default=2.0, help="of a GPU and hour")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    job = json.loads(JOB.read_text())["jobs"]["reads 1 GPU auto"]
    marks, stage = job["marks_s"], job["stages"]["scoring"]
    read_s = (marks["scored"] - marks["first unit"]) / stage["records"]
    orfs = stage["embedded"] / stage["records"]
    base = Study(1_000, 1e10, 50_000, 2, 50_000 * read_s, start_s=marks["first unit"])
    cases = {
        "1,000 GPUs, 10^10 reads": base,
        "lease 60 s": replace(base, lease_s=60.0),
        "lease 300 s": replace(base, lease_s=300.0),
        "1 unit a block": replace(base, block_units=1),
        "10 units a block": replace(base, block_units=10),
        "units of 10,000 ORFs": replace(
            base, unit_reads=round(10_000 / orfs), unit_s=10_000 / orfs * read_s, block_units=14
        ),
        "nobody killed": replace(base, killed_an_hour=1e-9),
        "half killed an hour": replace(base, killed_an_hour=0.5),
        "100 GPUs, 10^9 reads": replace(base, gpus=100, reads=1e9),
        "10 GPUs, 10^8 reads": replace(base, gpus=10, reads=1e8),
        "1,000 GPUs, 10^9 reads": replace(base, reads=1e9),
    }
    results = {}
    for name, study in cases.items():
        results[name] = {**asdict(study), **Simulation(study).run()}
        hours = study.gpus * results[name]["wall_h"]
        results[name] |= {
            "storage_tb": round(study.reads * orfs * (arguments.orf_bytes + 4 * COLUMNS) / 1e12, 3),
            "dollars_a_million_reads": round(hours * arguments.dollars / study.reads * 1e6, 4),
            "plan_core_h": round(study.reads * 150 / arguments.plan_mbp_s / 3.6e9, 2),
        }
        print(name, json.dumps(results[name]))
    summary = {
        "about": "simulated, from times of published-size models on one H100 and reads of 150 nt",
        "must": {"share_of_ideal": 0.9, "recomputed_share": 0.02},
        "plan_mbp_s": arguments.plan_mbp_s,
        "orf_bytes": arguments.orf_bytes,
        "dollars_a_gpu_hour": arguments.dollars,
        "cases": results,
    }
    keep(summary, arguments.output)


if __name__ == "__main__":
    main()
