"""Pages and recipes say what is so: what can be run is run, and the names are the real ones."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from runs_here import facts, run, write_dna

from virnucpro import __version__
from virnucpro.cli.main import COMMANDS, cli
from virnucpro.cli.predict import predict
from virnucpro.core.config import unknown_variables
from virnucpro.core.records import Status
from virnucpro.models.store import resolve_model
from virnucpro.reports.summary import best_regions
from virnucpro.reports.tables import CALL_COLUMNS, CHUNK_COLUMNS, REGION_COLUMNS
from virnucpro.scores.consensus import CONSENSUS_HEADER, RESULTS_HEADER
from virnucpro.sequences.fasta import read_records

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


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
    for name in ("demo.fa", "make_samples.py"):
        shutil.copy(ROOT / "examples" / name, tmp_path)
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
        said = re.sub(r"^.* - INFO - ", "", done.stdout, flags=re.MULTILINE).splitlines()
        if command[0] == "bash":
            shown = "".join(blocks(page, "console")).splitlines()
            assert shown and set(shown) <= set(said)
    assert (tmp_path / "out" / "report.html").exists()
    first, second = (
        [record.header for record in read_records([tmp_path / f"viral_{mate}.fq.gz"])]
        for mate in (1, 2)
    )
    assert first == second and first
    (best, *_) = best_regions(tmp_path / "host" / "regions.tsv")[1]
    assert min(best[1].end, 11_000) - max(best[1].start, 5_000) > 3_000  # of the planted 6,000
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
    rare = {"agreement", "advice"}  # for float8, and for samples to be told of
    assert keys | rare == set(columns("run.json"))


FOREIGN = {"--index-url", "--rm", "--build-arg"}


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_options_and_commands_on_a_page_exist(page):
    text = re.sub(r"^Made by .*$", "", page.read_text(), flags=re.MULTILINE)  # benchmarks' own
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z\d-]+", text)) <= all_options() | FOREIGN
    assert set(re.findall(r"(?:^|`)virnucpro ([a-z]\w+)", text, re.MULTILINE)) <= set(COMMANDS)
    assert not unknown_variables(dict.fromkeys(re.findall(r"`(VIRNUCPRO_[A-Z\d_]+)`", text), ""))


@pytest.mark.parametrize("name", ["make_performance", "make_model_card"])
def test_figures_are_those_of_the_result_files(name):
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    page, is_card = maker.PAGE.read_text(), name == "make_model_card"
    found = maker.tables(*maker.read_rows()) if is_card else maker.figures()
    assert page == maker.page_with(found, page), f"run docs/{name}.py"


def test_the_evaluated_model_is_the_bundled_one(tmp_path):
    data = json.loads((ROOT / "benchmarks" / "results" / "mini_evaluation.json").read_text())
    assert data["model_digest"] == resolve_model("mini", None, tmp_path).digest
    assert data["windows"] == {
        "lengths": [150, 300, 500, 1000], "count": 2000, "null_count": 500, "seed": 0
    }  # fmt: skip


def test_every_extra_is_described():
    project = (ROOT / "pyproject.toml").read_text()
    extras = project.split("[project.optional-dependencies]\n")[1].split("\n[")[0]
    named = re.findall(r"^\| `virnucpro\[(\w+)\]`", (DOCS / "install.md").read_text(), re.MULTILINE)
    assert set(re.findall(r"^(\w+) =", extras, re.MULTILINE)) == set(named)


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


RECIPES = ROOT / "recipes"
OPTIONS = {name for option in predict.params for name in (*option.opts, *option.secondary_opts)}


def options_in(text):
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))


SNAKEMAKE = Path(sys.executable).with_name("snakemake")


@pytest.mark.skipif(not SNAKEMAKE.exists(), reason="Snakemake needs Python 3.11")
@pytest.mark.slow
def test_snakemake_workflow_runs_on_two_samples(tiny_home, tmp_path):
    records = (ROOT / "examples" / "demo.fa").read_text().split(">")[1:]
    for name, part in (("one", records[:2]), ("two", records[2:4])):
        (tmp_path / f"{name}.fa").write_text("".join(f">{record}" for record in part))
    work = tmp_path / "work"
    work.mkdir()
    samples = {name: str(tmp_path / f"{name}.fa") for name in ("one", "two")}
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"samples": samples, "model": "500", "threads": 1}))
    command = [
        str(SNAKEMAKE), "-s", str(RECIPES / "snakemake" / "Snakefile"), "--cores", "1",
        "--directory", str(work), "--configfile", str(config),
    ]  # fmt: skip
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"VIRNUCPRO_MODEL_DIR": str(tiny_home), "PATH": path}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len((work / "calls.tsv").read_text().splitlines()) == 1 + 4
    assert (work / "two" / "report.html").stat().st_size > 10_000


def test_recipes_use_options_that_exist():
    script = (RECIPES / "nextflow/modules/nf-core/virnucpro/predict/main.nf").read_text()
    wrapper = (RECIPES / "snakemake/wrapper/wrapper.py").read_text()
    config = (RECIPES / "nextflow/nextflow.config").read_text()
    used = options_in(script) | options_in(wrapper) | options_in(config)
    assert used - {"--version", "--gpus", "--nv"} <= OPTIONS
    assert "--output-dir" in used


def test_bioconda_recipe_asks_for_what_the_package_asks_for():
    tomllib = pytest.importorskip("tomllib", reason="tomllib came with Python 3.11")
    text = re.sub(r"\{%.*%\}\n", "", (RECIPES / "bioconda/meta.yaml").read_text())
    recipe = yaml.safe_load(re.sub(r"\{\{ *([^}]*?) *\}\}", lambda m: m[1].split("(")[0], text))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    renamed = {"torch": "pytorch", "huggingface-hub": "huggingface_hub"}
    wanted = {tuple(re.split(r"(?=>=)", need)) for need in project["dependencies"]}
    listed = {tuple(need.split(" ")) for need in recipe["requirements"]["run"]}
    assert {(renamed.get(name, name), bound) for name, bound in wanted} <= listed
    assert f'version = "{__version__}"' in (RECIPES / "bioconda/meta.yaml").read_text()


def test_galaxy_wrapper_uses_options_and_outputs_that_exist(tmp_path):
    tool = ElementTree.parse(RECIPES / "galaxy/virnucpro.xml").getroot()
    text = ElementTree.tostring(tool, encoding="unicode")
    assert options_in(text) - {"--version"} <= OPTIONS
    run("predict", ROOT / "examples/demo.fa", "-o", tmp_path / "out", "--sample-n", "1", code=0)
    made = [tmp_path / data.get("from_work_dir") for data in tool.findall("outputs/data")]
    assert made and all(path.exists() for path in made)
    assert tool.get("version") == f"{__version__}+galaxy0"
    assert tool.find("requirements/requirement").get("version") == __version__
