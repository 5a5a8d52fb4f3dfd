"""`virnucpro benchmark`: which tests a suite selects, and what its exit code says."""

import ast
import json
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from virnucpro.cli import benchmark as module
from virnucpro.cli.main import cli

ROOT = Path(__file__).resolve().parents[3]


def row(value=1.0, verdict="passed", name="figure"):
    return {
        "suite": "s", "name": name, "value": value, "unit": "x", "better": "higher",
        "requirement": "at least 1 x", "verdict": verdict,
    }  # fmt: skip


def benchmark(*options):
    return CliRunner().invoke(cli, ["benchmark", "--suite", "memory", *map(str, options)])


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """Run the command with figures that are given instead of measured."""

    def run(rows, *options, ended=0):
        def stand_in(command, **how):
            run.command = command
            report = next(word for word in command if word.startswith("--bench-report="))
            content = {"results": rows, "data_size": "tiny", "machine": {"device": "cpu"}}
            if rows is not None:
                Path(report.split("=", 1)[1]).write_text(json.dumps(content))
            return subprocess.CompletedProcess(command, ended)

        monkeypatch.setattr(subprocess, "run", stand_in)
        return benchmark("-o", tmp_path / "reports", *options)

    return run


@pytest.mark.parametrize(
    ("suite", "expected"), [("memory", "-m memory"), ("v2-throughput", "-k TestParameterTuning")]
)
def test_suite_selects_its_tests(suite, expected):
    words = " ".join(module._build_pytest_command(suite, Path("report.json"), has_gpu=True))
    assert f" {expected} " in words and "pytest tests/benchmarks" in words


def test_suite_all_takes_what_the_machine_can_run():
    on_gpu, on_cpu = (module._build_pytest_command("all", Path("r"), gpu) for gpu in (True, False))
    assert "-m gpu" in " ".join(on_gpu)
    assert "-k" not in on_cpu and on_cpu.count("-m") == 1  # of python, not a marker


def test_size_quick_and_baseline_reach_the_suites(measured):
    measured([row()], "--data-size", "medium")
    assert "--bench-size=medium" in measured.command
    measured([row()], "--data-size", "medium", "--quick", "--vanilla-baseline")
    assert {"--bench-size=tiny", "--bench-quick", "--bench-vanilla"} <= set(measured.command)


def test_every_class_that_a_suite_names_exists():
    trees = [ast.parse(p.read_text()) for p in (ROOT / "tests/benchmarks").glob("test_*.py")]
    classes = {node.name for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)}
    wanted = {value for flag, value in module.SUITES.values() if flag == "-k"}
    assert wanted <= classes and len(wanted) == 4


@pytest.mark.parametrize(
    ("rows", "ended", "code"),
    [
        ([row(), row(verdict="not applicable")], 0, 0),
        ([row(), row(verdict="missed")], 1, 1),
        (None, 5, 2),
        ([row()], 1, 2),
    ],
)
def test_the_exit_code_says_what_was_reached(measured, tmp_path, rows, ended, code):
    result = measured(rows, ended=ended)
    assert result.exit_code == code, result.output
    if rows:
        reports = sorted(path.suffix for path in (tmp_path / "reports").iterdir())
        assert reports == [".json", ".md"]
        assert all(text in result.output for text in ("at least 1 x", rows[-1]["verdict"]))


@pytest.mark.parametrize(("value", "code"), [(0.9, 0), (0.7, 1)])
def test_a_figure_much_worse_than_an_earlier_one_is_missed(measured, tmp_path, value, code):
    earlier = tmp_path / "earlier.json"
    earlier.write_text(json.dumps({"results": [row(1.0), row(5.0, name="gone")]}))
    result = measured([row(value)], "--compare-to", earlier)
    assert result.exit_code == code
    assert f"{value:.2f} x earlier" in result.output


def test_summary_takes_reports_that_lack_parts(capsys):
    for report in ({}, {"results": [{}]}, {"results": [row()], "performance": {}}, {"results": 3}):
        module._display_summary(report)
    module._display_summary({"results": [row()], "performance": {"speedups": {"a": 2.0}}})
    assert "speed-ups: a 2x" in capsys.readouterr().out


def test_a_suite_really_runs(tmp_path):
    result = benchmark("--suite", "v2-throughput", "--quick", "-o", tmp_path)
    assert result.exit_code == 0, result.output
    (report,) = tmp_path.glob("benchmark_*.json")
    rows = json.loads(report.read_text())["results"]
    assert {entry["suite"] for entry in rows} == {"v2-throughput"}
    rates = [entry["name"] for entry in rows if entry["unit"] == "tokens/s"]
    assert rates[0] == "0 threads that tokenise, 1024 tokens a batch" and len(rates) == 4
    assert report.with_suffix(".md").read_text().count("\n") >= len(rows) + 4
