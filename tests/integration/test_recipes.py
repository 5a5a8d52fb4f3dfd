"""Recipes: what can be run is run, and of the rest the names are held to the real ones."""

import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from runs_here import run

from virnucpro import __version__
from virnucpro.cli.predict import predict

ROOT = Path(__file__).parents[2]
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


def test_nextflow_module_and_its_description_name_the_same_outputs():
    folder = RECIPES / "nextflow/modules/nf-core/virnucpro/predict"
    emitted = set(re.findall(r"emit: (\w+)", (folder / "main.nf").read_text()))
    described = yaml.safe_load((folder / "meta.yml").read_text())["output"]
    assert emitted == {name for output in described for name in output}
    environment = yaml.safe_load((folder / "environment.yml").read_text())
    assert environment["dependencies"] == [f"bioconda::virnucpro={__version__}"]


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


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.gpu"])
def test_docker_images_are_built_from_files_that_exist(name):
    text = (RECIPES / "docker" / name).read_text()
    assert ("torch" in text) == (name == "Dockerfile.gpu")
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE)
    assert all((ROOT / name).exists() for names in copied for name in names.split())
    assert re.search(r"^USER \d+$", text, re.MULTILINE), "the image must not run as root"


def test_galaxy_wrapper_uses_options_and_outputs_that_exist(tmp_path):
    tool = ElementTree.parse(RECIPES / "galaxy/virnucpro.xml").getroot()
    text = ElementTree.tostring(tool, encoding="unicode")
    assert options_in(text) - {"--version"} <= OPTIONS
    run("predict", ROOT / "examples/demo.fa", "-o", tmp_path / "out", "--sample-n", "1", code=0)
    made = [tmp_path / data.get("from_work_dir") for data in tool.findall("outputs/data")]
    assert made and all(path.exists() for path in made)
    assert tool.get("version") == f"{__version__}+galaxy0"
    assert tool.find("requirements/requirement").get("version") == __version__
