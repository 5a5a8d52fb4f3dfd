"""`virnucpro benchmark`: which tests a suite selects, and what its exit code says."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from virnucpro.cli import benchmark as module
from virnucpro.cli.main import cli

ROOT = Path(__file__).resolve().parents[3]
SUITE_OPTIONS = {
    "scaling": "-m scaling",
    "throughput": "-m throughput",
    "memory": "-m memory",
    "equivalence": "-m equivalence",
    "v2-validation": "-k TestProductionValidation",
    "v2-scaling": "-k TestV2Scaling",
    "v2-throughput": "-k TestParameterTuning",
    "v1-comparison": "-k TestV1Comparison",
}


def request(suite, has_gpu=False, quick=False, vanilla=False):
    return module.Request(suite, "small", quick, vanilla, has_gpu, Path("report.json"))


def row(value=1.0, verdict="passed", better="higher", name="figure"):
    return {
        "suite": "s", "name": name, "value": value, "unit": "x", "better": better,
        "requirement": "at least 1 x", "verdict": verdict,
    }  # fmt: skip


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """Run the command with figures that are given instead of measured."""

    def run(rows, *options, ended=0):
        def stand_in(command, root, visible):
            report = next(word for word in command if word.startswith("--bench-report="))
            content = {"results": rows, "data_size": "tiny", "machine": {"device": "cpu"}}
            if rows is not None:
                Path(report.split("=", 1)[1]).write_text(json.dumps(content))
            return ended

        monkeypatch.setattr(module, "_run", stand_in)
        words = ["benchmark", "--suite", "memory", "-o", str(tmp_path / "reports"), *options]
        return CliRunner().invoke(cli, words)

    return run


@pytest.mark.parametrize(("suite", "expected"), SUITE_OPTIONS.items())
def test_suite_selects_its_tests(suite, expected):
    command = " ".join(module._build_pytest_command(request(suite)))
    assert f" {expected} " in f"{command} "
    assert "pytest tests/benchmarks" in command


def test_suite_all_takes_what_the_machine_can_run():
    assert "-m gpu" in " ".join(module._build_pytest_command(request("all", has_gpu=True)))
    on_cpu = module._build_pytest_command(request("all"))
    assert "-k" not in on_cpu
    assert on_cpu.count("-m") == 1  # of python, not a marker


def test_size_quick_and_baseline_reach_the_suites():
    command = module._build_pytest_command(request("all", quick=True, vanilla=True))
    assert {"--bench-size=small", "--bench-quick", "--bench-vanilla"} <= set(command)


def test_every_class_that_a_suite_names_exists():
    trees = [ast.parse(p.read_text()) for p in (ROOT / "tests/benchmarks").glob("test_*.py")]
    classes = {node.name for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)}
    wanted = {value for flag, value in module.SUITES.values() if flag == "-k"}
    assert wanted <= classes
    assert len(wanted) == 4


def test_reached_requirements_exit_0_and_leave_two_reports(measured, tmp_path):
    result = measured([row(), row(verdict="not applicable")])
    assert result.exit_code == 0, result.output
    reports = sorted(path.suffix for path in (tmp_path / "reports").iterdir())
    assert reports == [".json", ".md"]
    assert "at least 1 x" in result.output
    assert "not applicable" in result.output


def test_missed_requirement_exits_1(measured):
    assert measured([row(), row(verdict="missed")], ended=1).exit_code == 1


@pytest.mark.parametrize(("rows", "ended"), [(None, 5), ([], 0), ([row()], 1), ([row()], None)])
def test_what_could_not_run_exits_2(measured, rows, ended):
    assert measured(rows, ended=ended).exit_code == 2


@pytest.mark.parametrize(("value", "code"), [(0.9, 0), (0.7, 1)])
def test_a_figure_much_worse_than_an_earlier_one_is_missed(measured, tmp_path, value, code):
    earlier = tmp_path / "earlier.json"
    earlier.write_text(json.dumps({"results": [row(1.0), row(5.0, name="gone")]}))
    result = measured([row(value)], "--compare-to", str(earlier))
    assert result.exit_code == code
    assert f"{value:.2f} x earlier" in result.output


@pytest.mark.parametrize("text", ["no JSON", "[1]", "{}", '{"results": []}'])
def test_an_earlier_report_without_figures_is_a_usage_error(measured, tmp_path, text):
    earlier = tmp_path / "earlier.json"
    earlier.write_text(text)
    result = measured([row()], "--compare-to", str(earlier))
    assert result.exit_code == 2
    assert "earlier.json" in result.output
    assert not list((tmp_path / "reports").iterdir()), "the suite ran first"


SUITE = """
import pytest
@pytest.mark.memory
class TestX:
    suite = "memory"
    def test_x(self, figures):
        figures.at_most("lost", 0, 0)
        {line}
"""


@pytest.mark.parametrize(
    ("line", "code"), [("assert 1 == 2, 'two are lost'", 1), ("raise OSError('no disk')", 2)]
)
def test_an_assertion_in_a_suite_is_a_missed_requirement(monkeypatch, tmp_path, line, code):
    folder = tmp_path / "tests" / "benchmarks"
    folder.mkdir(parents=True)
    for name in ("conftest.py", "bench_models.py", "bench_report.py"):
        shutil.copy(ROOT / "tests" / "benchmarks" / name, folder)
    (folder / "test_x.py").write_text(SUITE.format(line=line))
    options = f'markers = ["memory", "gpu"]\npythonpath = ["{ROOT}", "{ROOT}/tests"]\n'
    (tmp_path / "pyproject.toml").write_text(f"[tool.pytest.ini_options]\n{options}")
    monkeypatch.setattr(module, "_checkout", lambda: tmp_path)
    result = CliRunner().invoke(cli, ["benchmark", "--suite", "memory", "-o", str(tmp_path)])
    assert result.exit_code == code, result.output
    assert ("two are lost" in result.output) == (code == 1)


def test_summary_takes_reports_that_lack_parts(capsys):
    for report in ({}, {"results": [{}]}, {"results": [row()], "performance": {}}, {"results": 3}):
        module._display_summary(report)
    module._display_summary({"results": [row()], "performance": {"speedups": {"a": 2.0}}})
    assert "speed-ups: a 2x" in capsys.readouterr().out


def test_outside_a_checkout_the_command_says_where_to_get_one(monkeypatch):
    monkeypatch.setattr(module, "_checkout", lambda: None)
    result = CliRunner().invoke(cli, ["benchmark", "--suite", "memory"])
    assert result.exit_code == 2
    assert "clone the project's repository" in result.output


def test_absent_gpu_exits_2(monkeypatch):
    monkeypatch.setattr(module, "detect_cuda_devices", lambda: [0])
    result = CliRunner().invoke(cli, ["benchmark", "--suite", "memory", "--gpus", "7"])
    assert result.exit_code == 2
    assert "GPU 7 is not there" in result.output


def test_gpus_are_counted_among_the_visible_ones(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6,7")
    assert module._visible_names([2, 0]) == "7,4"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert module._visible_names([2, 0]) == "2,0"


def test_a_suite_really_runs(tmp_path):
    words = ["benchmark", "--suite", "v2-throughput", "--quick", "-o", str(tmp_path)]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 0, result.output
    (report,) = tmp_path.glob("benchmark_*.json")
    rows = json.loads(report.read_text())["results"]
    assert {entry["suite"] for entry in rows} == {"v2-throughput"}
    rates = [entry["name"] for entry in rows if entry["unit"] == "tokens/s"]
    assert rates == [
        f"{readers} reader processes, {budget} tokens a batch"
        for readers in (0, 1)
        for budget in (1024, 4096)
    ]
    assert report.with_suffix(".md").read_text().count("\n") >= len(rows) + 4
