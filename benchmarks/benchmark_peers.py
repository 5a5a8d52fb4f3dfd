"""The bundled model beside Jaeger, geNomad, DeepMicroClass and Deep6: same windows, cores, run.

    python -m venv DIR/jaeger && DIR/jaeger/bin/pip install "jaeger-bio[cpu]==1.26.5"
    python -m venv DIR/genomad && DIR/genomad/bin/pip install genomad==1.13.0 tensorflow keras
    python -m venv DIR/dmc && DIR/dmc/bin/pip install DeepMicroClass requests
    git clone https://github.com/janfelix/Deep6 DIR/Deep6  # commit 8edf0d7; runs in Jaeger's venv
    python -m benchmarks.benchmark_peers --data DATA \
        --jaeger DIR/jaeger/bin/jaeger --genomad DIR/genomad/bin/genomad \
        --deepmicroclass DIR/dmc/bin/DeepMicroClass --deep6 DIR/Deep6

All peers carry their weights and run on Python 3.11. A peer without its flag, or
that fails, is left out and the result says why. DATA holds `dev_known_virus.fa.xz`,
`dev_novel_virus.fa.xz`, `dev_cellular.fa.xz` and `meta.tsv.xz` (columns id, class, family, ...).

Windows of 500 nt are drawn as in training's evaluation (virus families by the square root of
their bases, random strand), and uniform random DNA. Every program gets a small file and a large
one, each in a process of its own that may use `--cores` cores, ours before every peer, for some
rounds; the result is written after each. "Steady" windows a second are the
windows that the large file has more, over the seconds that it takes more: start-up drops out.
Processor seconds (user and system, all processes) are the fair measure where other work shares
the cores; the load is written down. OpenMP's waiting threads sleep in every program, since where
they spin, waiting for a busy core is counted as work.

Scores: ours `p_virus` of calls.tsv; Jaeger its phage score less its best other score; geNomad its
virus score; DeepMicroClass the best virus class less the best other; Deep6 the sum of its virus
classes. Calls at each program's default: ours `call`, Jaeger `prediction`, the others their
greatest score. Jaeger is made for phages and windows of 2,000 nt; geNomad for contigs from 2,500
nt. The peers may have trained on the genomes that the windows come from.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.peer_tools import (
    LENGTH_NT,
    OURS,
    Scores,
    Tool,
    accuracy,
    draw_sequences,
    read_scores,
    tools_of,
    write_fasta,
)
from benchmarks.result_file import measured_on

ROOT = Path(__file__).resolve().parents[1]
DIRECT = "VirNucPro DirectScorer"
LIMIT_S = 1_200


@dataclass(slots=True)
class Runs:
    """What was measured of one tool: a figure a run, by size of the file."""

    failure: str = ""
    runs: list[dict[str, float]] = field(default_factory=list)
    scores: Scores = field(default_factory=dict)

    def median(self, windows: int, name: str) -> float:
        """The median of a figure over the runs of a size."""
        return statistics.median(r[name] for r in self.runs if r["windows"] == windows)


def timed(command: list[str], log: Path) -> dict[str, float]:
    """Run to the end: wall and processor seconds, peak memory, the load before.

    Raises:
        ChildProcessError: it failed or took too long; says how its output ends.
    """
    hidden = {"OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"}
    environment = {k: v for k, v in os.environ.items() if k not in hidden}
    environment["OMP_WAIT_POLICY"] = "PASSIVE"
    load = os.getloadavg()[0]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    with log.open("w") as text:
        try:
            done = subprocess.run(
                command, stdout=text, stderr=subprocess.STDOUT, env=environment, check=False,
                cwd=ROOT, timeout=LIMIT_S,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ChildProcessError(type(error).__name__) from error
    wall, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        tail = log.read_text(errors="replace").strip().splitlines()[-1:]
        raise ChildProcessError(f"exit status {done.returncode}: {' '.join(tail)[:200]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_s": wall, "cpu_s": cpu, "load_before": load}


def run_tool(tool: Tool, files: Mapping[int, Path], kept: Runs) -> None:
    """One round: every file once."""
    for windows, fasta in files.items():
        with TemporaryDirectory() as folder:
            out = Path(folder) / "out"
            try:
                row = timed(tool.command(fasta, out), Path(folder) / "log.txt")
                kept.scores = read_scores(tool, out)
            except ChildProcessError as error:
                kept.failure = str(error)
                return
        kept.runs.append({"windows": windows, **{k: round(v, 2) for k, v in row.items()}})
        print(tool.name, kept.runs[-1], flush=True)


def direct(fasta: Path, cores: int) -> None:
    """Print the speed of the models alone, loaded and warm, records in memory; a JSON line."""
    import torch

    from virnucpro.models.store import resolve_model
    from virnucpro.pipeline.stream import DirectScorer
    from virnucpro.sequences.fasta import read_records

    torch.set_num_threads(cores)
    records = list(read_records([fasta]))
    scorer = DirectScorer(resolve_model("mini", None, Path.home() / ".virnucpro"), "cpu")
    list(scorer.score(records[:100]))
    found: dict[str, float] = {"windows": len(records), "load_before": os.getloadavg()[0]}
    for name, work in (
        ("encoders_", lambda: list(scorer.vectors(records))),
        ("", lambda: list(scorer.score(records))),
    ):
        wall, cpu = time.monotonic(), time.process_time()
        work()
        found[f"{name}wall_s"] = round(time.monotonic() - wall, 2)
        found[f"{name}cpu_s"] = round(time.process_time() - cpu, 2)
    print(json.dumps(found))


def run_direct(fasta: Path, cores: int, kept: Runs) -> None:
    """One round of `direct`, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.benchmark_peers", "--cores", str(cores)]
    with TemporaryDirectory() as folder:
        log = Path(folder) / "log.txt"
        try:
            timed([*command, "--direct", str(fasta)], log)
        except ChildProcessError as error:
            kept.failure = str(error)
            return
        kept.runs.append(json.loads(log.read_text().splitlines()[-1]))
    print(DIRECT, kept.runs[-1], flush=True)


def speed(tool: str, kept: Runs, sizes: tuple[int, int]) -> dict[str, Any]:
    """Wall and processor figures; steady ones from the difference of the two sizes."""
    small, large = sizes
    wall, cpu = kept.median(large, "wall_s"), kept.median(large, "cpu_s")
    more_wall, more_cpu = wall - kept.median(small, "wall_s"), cpu - kept.median(small, "cpu_s")
    more = large - small
    return {
        "tool": tool,
        "wall_s": round(wall, 1),
        "cpu_s": round(cpu, 1),
        "windows_per_wall_s": round(large / wall, 1),
        "windows_per_cpu_s": round(large / cpu, 1),
        "steady_windows_per_wall_s": round(more / more_wall, 1) if more_wall > 0 else None,
        "steady_windows_per_cpu_s": round(more / more_cpu, 1) if more_cpu > 0 else None,
        "start_up_cpu_s": round(max(0.0, cpu - large * more_cpu / more), 1),
    }


def direct_speed(kept: Runs, windows: int) -> list[dict[str, Any]]:
    """The models alone: there is no start-up to take off."""
    rows = []
    for name, prefix in ((DIRECT, ""), (f"{DIRECT}, encoders only", "encoders_")):
        wall, cpu = kept.median(windows, f"{prefix}wall_s"), kept.median(windows, f"{prefix}cpu_s")
        rows.append(
            {
                "tool": name, "wall_s": round(wall, 1), "cpu_s": round(cpu, 1),
                "steady_windows_per_wall_s": round(windows / wall, 1),
                "steady_windows_per_cpu_s": round(windows / cpu, 1),
            }
        )  # fmt: skip
    return rows


def versions(tool: Tool, executable: str) -> dict[str, str]:
    """Versions of a tool's packages, asked of the Python beside its executable."""
    python = Path(executable).parent / "python"
    code = "import sys; from importlib.metadata import version as v; print(*map(v, sys.argv[1:]))"
    done = subprocess.run(
        [str(python), "-c", code, *tool.packages], capture_output=True, text=True, check=False
    )
    return dict(zip(tool.packages, done.stdout.split(), strict=False))


def prepare(options: argparse.Namespace, folder: Path) -> tuple[dict[int, Path], dict[str, int]]:
    """The two files by their windows, and the windows of each set."""
    sets = draw_sequences(options)
    files = {}
    for number, share in enumerate((options.small, 1.0)):
        path = folder / f"windows{number}.fa"
        files[write_fasta(path, sets, share, options.seed)] = path
    return files, {name: len(rows) for name, rows in sets.items()}


def run_round(options: argparse.Namespace, files: dict[int, Path], kept: dict[str, Runs]) -> None:
    """Ours before every peer, then our models alone."""
    ours, *peers = tools_of(options)
    for peer in peers:
        run_tool(ours, files, kept[ours.name])
        if not kept[peer.name].failure:
            run_tool(peer, files, kept[peer.name])
    run_direct(files[max(files)], options.cores, kept[DIRECT])


def report(
    options: argparse.Namespace, kept: dict[str, Runs], drawn: dict[str, int]
) -> dict[str, Any]:
    """The result file."""
    tools = tools_of(options)
    places = {tool.name: tool.command(Path(), Path())[0] for tool in tools}
    done = [t for t in tools if kept[t.name].runs and not kept[t.name].failure]
    sizes = (int(min(r["windows"] for r in kept[OURS].runs)), sum(drawn.values()))
    about = measured_on()
    names = ("windows", "random", "small", "rounds", "cores", "seed")
    words = ", ".join(f"{count} {name}" for name, count in drawn.items())
    flags = [f"--{name} {getattr(options, name)}" for name in names]
    peers = ("jaeger", "genomad", "deepmicroclass", "deep6")
    given = [f"--{peer} {peer.upper()}" for peer in peers if getattr(options, peer)]
    command = " ".join(["python -m benchmarks.benchmark_peers --data DATA", *given])
    return {
        "title": "Beside Jaeger, geNomad, DeepMicroClass and Deep6, on a CPU",
        "about": (
            f"Windows of {LENGTH_NT} nt ({words}), the same for every program, in one run on the "
            "same cores, shared with other work: the figures a processor second are the fair "
            "ones. Seconds are medians for all windows. Steady: start-up taken off; DirectScorer "
            "has none, its encoders are timed first, then all of it. Calls at each program's "
            "defaults; the peers are made for longer sequences, Jaeger for phages."
        ),
        "unit": "seconds; windows a second; shares of 1",
        **about,
        "machine": {**about["machine"], "cores_used": options.cores},
        "windows": drawn,
        "command": " ".join([command, *flags]),
        "versions": {t.name: versions(t, places[t.name]) for t in done},
        "left_out": {name: runs.failure for name, runs in kept.items() if runs.failure},
        "speed": [speed(t.name, kept[t.name], sizes) for t in done]
        + (direct_speed(kept[DIRECT], sizes[1]) if kept[DIRECT].runs else []),
        "accuracy": [accuracy(t.name, kept[t.name].scores) for t in done],
        "runs": {name: k.runs for name, k in kept.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the labelled windows' sources")
    parser.add_argument("--jaeger", default="", help="Jaeger's executable")
    parser.add_argument("--genomad", default="", help="geNomad's executable")
    parser.add_argument("--deepmicroclass", default="", help="DeepMicroClass's executable")
    parser.add_argument("--deep6", default="", help="folder of Deep6's repository")
    parser.add_argument("--windows", type=int, default=600, help="real ones, half of them viral")
    parser.add_argument("--random", type=int, default=200)
    parser.add_argument("--small", type=float, default=0.1, help="share of them in the small file")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--direct", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/peers.json")
    options = parser.parse_args()
    if options.direct:
        return direct(options.direct, options.cores)
    if not options.data:
        parser.error("--data is needed")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    places = {tool.name: tool.command(Path(), Path())[0] for tool in tools_of(options)}
    kept = {name: Runs("" if place else "no executable given") for name, place in places.items()}
    kept[DIRECT] = Runs()
    with TemporaryDirectory() as folder:
        files, drawn = prepare(options, Path(folder))
        for _ in range(options.rounds):
            run_round(options, files, kept)
            result = report(options, kept, drawn)
            options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
