"""`virnucpro benchmark`: run a suite of tests/benchmarks, and say what reached its requirement."""

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
from click import option

import virnucpro
from virnucpro.cli import options
from virnucpro.cli.options import flag
from virnucpro.core.device import detect_cuda_devices, parse_gpu_list
from virnucpro.core.errors import DeviceError, UsageError
from virnucpro.core.files import atomic_write, read_json, write_json

WORSE_BY = 0.25
SUITES = {
    **{name: ("-m", name) for name in ("scaling", "throughput", "memory", "equivalence")},
    "v2-validation": ("-k", "TestProductionValidation"),
    "v2-scaling": ("-k", "TestV2Scaling"),
    "v2-throughput": ("-k", "TestParameterTuning"),
    "v1-comparison": ("-k", "TestV1Comparison"),
}
V1_NOTES = """\
Note: v1.0 comparison requires 'v1.0' git tag in repository
Tests will skip gracefully if v1.0 tag is unavailable
That is about the code of 1.0; here both paths are in this checkout and no tag is needed."""
NO_PYTEST = "pytest is missing; in the checkout: python -m pip install -e . --group dev"
NO_CHECKOUT = f"""\
the benchmark suites are in the source tree (tests/benchmarks), not in the installed package.
Get it: clone the project's repository at version {virnucpro.__version__}, or unpack the source
archive (pip download --no-deps --no-binary :all: virnucpro=={virnucpro.__version__});
then in it: python -m pip install -e . --group dev && virnucpro benchmark"""


@click.command()
@option("--suite", type=click.Choice([*SUITES, "all"]), default="all")
@option("--data-size", type=click.Choice(["tiny", "small", "medium", "large"]), default="small",
        help="Sequences: 10, 100, 1,000 or 10,000.")  # fmt: skip
@option("--gpus", help="GPUs to measure on, such as 0,1; default: all.")
@flag("--quick", help="Fewest points and the tiny data: a minute or two.")
@option("--output-dir", "-o", type=options.NEW_FOLDER,
        help="For benchmark_*.json and .md; default: build/benchmarks here.")  # fmt: skip
@option("--compare-to", type=options.FILE,
        help="An earlier benchmark_*.json; a figure over 25% worse counts as missed.")  # fmt: skip
@flag("--vanilla-baseline",
      help="Throughput also measures one float32 sequence a call, as the original.")  # fmt: skip
def benchmark(
    suite: str, data_size: str, gpus: str | None, quick: bool, output_dir: Path | None,
    compare_to: Path | None, vanilla_baseline: bool,
) -> None:  # fmt: skip
    """Run the benchmark suites of a source checkout.

    \b
    scaling        merging on 1, 2, 4 and all CPUs, translation on 1, 3, 4 and all
    throughput     translation, packing and both engines on one device
    memory         stages that stream stay within their bounds
    equivalence    parallel, packed and padded paths give the same numbers
    v2-validation  production workload (PERF): the whole pipeline with --parallel
    v2-scaling     2-GPU scaling of the packed engine, at least 1.9x
    v2-throughput  DataLoader + packing sweep: reader processes and token budgets
    v1-comparison  conditional v1/v2 comparison: both paths of this checkout in one
                   run (no git tag is needed)
    all            every suite that this machine can run

    Where no GPU is, tiny models run on the CPU; a requirement that needs GPUs is then shown as
    not applicable, with its reason. Exit codes: 0 every requirement that applies is reached,
    1 one is missed or an assertion fails, 2 the suite could not run.

    \b
    virnucpro benchmark --suite v2-validation
    virnucpro benchmark --suite v1-comparison --data-size medium
    """  # noqa: D301 - backslash and b keep click from joining the lines
    root = Path(virnucpro.__file__).resolve().parents[1]
    is_checkout = (root / "tests" / "benchmarks").is_dir() and (root / "pyproject.toml").is_file()
    if not is_checkout or importlib.util.find_spec("pytest") is None:
        raise UsageError(NO_PYTEST if is_checkout else NO_CHECKOUT)
    try:
        folder = (output_dir or root / "build" / "benchmarks").absolute()
        folder.mkdir(parents=True, exist_ok=True)
        visible = detect_cuda_devices()
        visible = parse_gpu_list(gpus, visible) if gpus else visible
        earlier = _rows(read_json(compare_to)) if compare_to else []
    except (DeviceError, OSError) as error:  # 5 and 1 elsewhere, here the suite could not run
        raise UsageError(str(error)) from error
    if compare_to and not earlier:
        problem = "no figures in it; give an earlier benchmark_*.json"
        raise UsageError(f"--compare-to {compare_to}: {problem}")
    if suite in ("v1-comparison", "all"):
        click.echo(V1_NOTES)
    path = folder / f"benchmark_{time.strftime('%Y%m%d-%H%M%S')}_{os.getpid()}.json"
    command = _build_pytest_command(suite, path, bool(visible))
    command.append(f"--bench-size={'tiny' if quick else data_size}")
    command += ["--bench-quick"] * quick + ["--bench-vanilla"] * vanilla_baseline
    environment = dict(os.environ)
    if gpus:  # counted among those visible now
        names = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        chosen = [names[number] if names else str(number) for number in visible]
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(chosen)
    done = subprocess.run(command, cwd=root, env=environment, check=False)
    report = read_json(path)
    rows = _rows(report)
    known = {(row["suite"], row["name"]): row["value"] for row in earlier}
    for row in rows:
        if not (before := known.get((row["suite"], row["name"]))):
            continue
        row["ratio_to_earlier"] = ratio = round(row["value"] / before, 4)
        is_worse = {"higher": ratio < 1 - WORSE_BY, "lower": ratio > 1 + WORSE_BY}
        if is_worse.get(row["better"]):
            row |= {"verdict": "missed", "reason": f"{ratio:.2f} x the earlier figure"}
    if report:
        write_json(path, report)
        with atomic_write(path.with_suffix(".md"), "w") as file:
            file.write(_table(report))
    _display_summary(report)
    is_missed = any(row.get("verdict") == "missed" for row in rows)
    sys.exit(1 if is_missed else 0 if rows and done.returncode == 0 else 2)


def _build_pytest_command(suite: str, report: Path, has_gpu: bool) -> list[str]:
    """The pytest call of a suite; classes by -k, the older suites by marker."""
    command = [sys.executable, "-m", "pytest", "tests/benchmarks", "-q", "--no-header"]
    # the project's own options leave benchmarks out of the ordinary test run
    command += ["-o", "addopts=--strict-markers", "-p", "no:cacheprovider"]
    command += ["-o", "filterwarnings=default"]  # a warning of some library is no result
    command += SUITES.get(suite, ("-m", "gpu") if has_gpu else ())
    return [*command, f"--bench-report={report}"]


def _rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    rows = report.get("results")
    return rows if isinstance(rows, list) else []


def _display_summary(report: dict[str, Any]) -> None:
    """Print every figure against its requirement; parts that a report lacks are left out."""
    if not _rows(report):
        click.echo("No figures were measured.", err=True)
        return
    click.echo(_table(report))
    if speedups := report.get("performance", {}).get("speedups"):
        words = (f"{name} {value:.4g}x" for name, value in speedups.items())
        click.echo(f"speed-ups: {', '.join(words)}")


def _table(report: dict[str, Any]) -> str:
    """Every figure of a report in Markdown; parts that it lacks are left out."""
    words = map(str, report.get("machine", {}).values())
    lines = [", ".join([f"# Benchmark: {report.get('data_size', '?')} data", *words]), ""]
    lines += ["| suite | figure | value | requirement | verdict |", "|---|---|---|---|---|"]
    for row in _rows(report):
        value, earlier = row.get("value", ""), row.get("ratio_to_earlier")
        if isinstance(value, int | float):
            value = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
        value = f"{value} {row.get('unit', '')}"
        value += f" ({earlier:.2f} x earlier)" if earlier else ""
        verdict = ": ".join(str(row[key]) for key in ("verdict", "reason") if row.get(key))
        cells = [row.get("suite"), row.get("name"), value, row.get("requirement"), verdict]
        shown = (str(cell or "").strip().replace("|", "/") for cell in cells)
        lines.append(f"| {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"
