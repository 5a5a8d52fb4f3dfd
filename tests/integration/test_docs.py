"""The documentation says what is so: its commands run, its columns and options exist."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from runs_here import facts, write_dna

from virnucpro import __version__
from virnucpro.cli.main import COMMANDS, cli
from virnucpro.core.config import unknown_variables
from virnucpro.core.records import Status
from virnucpro.models.store import resolve_model
from virnucpro.reports.tables import CALL_COLUMNS, CHUNK_COLUMNS, REGION_COLUMNS
from virnucpro.scores.consensus import CONSENSUS_HEADER, RESULTS_HEADER

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def columns(heading):
    text = (DOCS / "outputs.md").read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    first = text.strip().split("\n\n")[0]
    names = [line.split("|")[1] for line in first.splitlines()[2:]]
    return tuple(re.findall(r"`(\w+)`", " ".join(names)))


def all_options():
    found = {"--version", "--help"}
    commands = [cli, *(cli.get_command(None, name) for name in COMMANDS)]
    while commands:
        command = commands.pop()
        commands += getattr(command, "commands", {}).values()
        for parameter in command.params:
            found |= {*parameter.opts, *parameter.secondary_opts}
    return found


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path):
    shutil.copy(ROOT / "examples" / "demo.fa", tmp_path)
    page = DOCS / "tutorial.md"
    script = "\n".join(["set -euo pipefail", *blocks(page, "sh")])
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "VIRNUCPRO_MODEL_DIR": str(tmp_path / "home"),
    }
    for command in (["bash", "-c", script], [sys.executable, "-c", *blocks(page, "python")]):
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "out" / "report.html").exists()
    assert "@article{virnucpro2025" in (tmp_path / "virnucpro.bib").read_text()


def test_every_column_key_and_status_is_described_in_order(predict, tmp_path):
    for heading, expected in (
        ("calls.tsv", CALL_COLUMNS), ("chunks.tsv", CHUNK_COLUMNS), ("regions.tsv", REGION_COLUMNS)
    ):  # fmt: skip
        assert columns(heading) == expected
    text = (DOCS / "outputs.md").read_text()
    assert all(f"| `{status}` |" in text for status in Status)
    named = re.findall(r"`(\w+)`", text.split("## The original's tables")[1].split("\n## ")[0])
    assert {*RESULTS_HEADER.split(), *CONSENSUS_HEADER.split()} <= set(named)
    fasta = write_dna(tmp_path / "in.fa", [400])
    predict(fasta, "-o", tmp_path / "out", code=0)
    keys = set(facts(tmp_path / "out"))
    assert keys | {"agreement"} == set(columns("run.json"))  # that one is for float8 only


def result(name):
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def test_figures_of_the_model_in_readme_are_those_of_its_evaluation():
    found = result("mini_evaluation")
    rows = [dict(zip(found["columns"], row, strict=True)) for row in found["rows"]]
    of = {(r["length_nt"], r["set_name"], r["group"]): r for r in rows if r["level"] == "set"}
    text = (ROOT / "README.md").read_text()
    for length in (150, 300, 500, 1000):
        known, novel = (of[length, f"dev_{kind}_virus", ""]["auroc"] for kind in ("known", "novel"))
        false, made_up = (of[length, "all", group]["virus"] for group in ("cellular", "null"))
        row = f"| {length:,} nt | {known:.3f} | {novel:.3f} | {false:.1%} | {made_up:.1%} |"
        assert row in text


def test_figures_of_speed_in_readme_are_those_of_the_benchmarks():
    text = " ".join((ROOT / "README.md").read_text().split())
    engine, scaling, cpu = result("kernels_h100"), result("scaling_h100"), result("mini_cpu")
    rate, job = (
        engine["esm2"]["chunks kernels"]["tok_s"],
        result("job_h100")["jobs"]["reads 1 GPU auto"],
    )
    two = scaling["scaling"]["speed-up"]
    assert f"{rate / 1000:.0f},000 tokens a second" in text
    assert f"{engine['esm2']['chunks over original']:.0f} times the original" in text
    assert f"{engine['esm2']['chunks over transformers']:.2f} times `transformers`" in text
    assert f"{two:.2f} times as fast as one" in text
    assert f"take {job['wall_s']:.0f} s there" in text
    assert f"{job['over_model']:.2f} times what the protein model alone takes" in text
    chunks = max(
        row["chunks_per_s"]
        for row in cpu["results"]
        if (row["threads"], row["dtype"]) == (2, "float32")
    )
    assert f"{chunks // 10 * 10:.0f} chunks of 500 nt a second on two CPU cores" in text


FOREIGN = {"--index-url", "--rm", "--build-arg"}


@each_page
def test_options_and_commands_on_a_page_exist(page):
    text = re.sub(r"^Made by .*$", "", page.read_text(), flags=re.MULTILINE)  # benchmarks' own
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z\d-]+", text)) <= all_options() | FOREIGN
    assert set(re.findall(r"(?:^|`)virnucpro ([a-z]\w+)", text, re.MULTILINE)) <= set(COMMANDS)
    assert not unknown_variables(dict.fromkeys(re.findall(r"`(VIRNUCPRO_[A-Z\d_]+)`", text), ""))


@each_page
def test_links_lead_to_files(page):
    for link in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
        assert (DOCS / link).exists(), link


def test_pages_and_navigation_agree():
    text = re.sub(r"!!python/\S+", "", (ROOT / "mkdocs.yml").read_text())
    listed = [name for item in yaml.safe_load(text)["nav"] for name in item.values()]
    assert sorted(listed) == [page.name for page in PAGES]


@pytest.mark.parametrize("name", ["make_performance", "make_model_card"])
def test_figures_are_those_of_the_result_files(name):
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    page, is_card = maker.PAGE.read_text(), name == "make_model_card"
    found = maker.tables(*maker.read_rows()) if is_card else maker.figures()
    assert page == maker.page_with(found, page), f"run docs/{name}.py"


def test_the_evaluated_model_is_the_bundled_one(tmp_path):
    data = result("mini_evaluation")
    assert data["model_digest"] == resolve_model("mini", None, tmp_path).digest
    assert data["windows"] == {
        "lengths": [150, 300, 500, 1000], "count": 2000, "null_count": 500, "seed": 0
    }  # fmt: skip


def test_pictures_are_small():
    assert all(picture.stat().st_size < 200_000 for picture in (DOCS / "img").glob("*"))


def test_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    assert citation["preferred-citation"]["doi"] == "10.1093/bib/bbaf224"
    assert f"\n## {__version__}\n" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="mkdocs is not installed")
@pytest.mark.slow
def test_the_site_builds(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "-q", "-d", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
