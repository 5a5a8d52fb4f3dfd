"""The wheel: built, installed in a clean environment, and used there."""

import ast
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not importlib.util.find_spec("hatchling"), reason="needs hatchling"),
]


def run(*command, cwd=ROOT, **options):
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-1000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """An environment with the wheel; its dependencies are those of this environment."""
    folder = tmp_path_factory.mktemp("clean") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    (site,) = folder.glob("lib/python*/site-packages")
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python"]
    run(*pip, "install", "--no-deps", "--no-index", "--quiet", wheel)
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder / "bin"


def read(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith((".py", "METADATA"))]
        return {name: archive.read(name).decode() for name in names}


def test_everything_that_is_imported_is_asked_for(wheel):
    texts = read(wheel)
    [metadata] = [text for name, text in texts.items() if name.endswith("METADATA")]
    asked = set(map(plain, re.findall(r"^Requires-Dist: ([\w.-]+)", metadata, re.MULTILINE)))
    imported = {"virnucpro"}
    for node in (node for code in texts.values() if code is not metadata
                 for node in ast.walk(ast.parse(code))):  # fmt: skip
        if isinstance(node, ast.ImportFrom):
            imported.add(str(node.module))
        elif isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
    # triton comes with PyTorch where there is a GPU; it is looked for, not needed
    ours = {"virnucpro", "triton", *sys.stdlib_module_names}
    homes = importlib.metadata.packages_distributions()
    roots = {name.split(".")[0] for name in imported} - ours
    missing = [root for root in roots if not set(map(plain, homes.get(root, [root]))) & asked]
    assert missing == []


def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_wheel_holds_code_templates_licences_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert "virnucpro/reports/templates/report.html" in names
    assert any(name.endswith("licenses/NOTICE") for name in names)
    assert not [name for name in names if name.split("/")[0] in ("tests", "docs", "benchmarks")]
    assert wheel.stat().st_size < 60_000_000


LIGHT = (
    "import sys; sys.path.insert(0, __file__.rsplit('/', 1)[0])\n"
    + """
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "tokenizers", "h5py", "huggingface_hub", "pysam"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""
)


def test_the_core_alone_predicts_reports_and_says_what_is_missing(installed, tmp_path):
    light = tmp_path / "light"
    light.mkdir()
    (light / "sitecustomize.py").write_text(LIGHT)
    environment = {**os.environ, "PYTHONPATH": str(light)}
    command = installed / "virnucpro"

    def virnucpro(*words, code=0):
        done = subprocess.run(
            [command, *words], cwd=tmp_path, env=environment, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr[-2000:]
        return done.stdout + done.stderr

    demo = str(ROOT / "examples" / "demo.fa")
    virnucpro("predict", demo, "-o", "out")
    virnucpro("predict", demo, "-o", "kept", "-k")
    one, kept = ((tmp_path / name / "calls.tsv").read_text() for name in ("out", "kept"))
    assert one.count("\tvirus\t") >= 10 and one == kept
    (tmp_path / "out" / "report.html").unlink()
    virnucpro("report", "out")
    assert "called viral" in (tmp_path / "out" / "report.html").read_text()
    assert "all well" in virnucpro("doctor")
    assert "mini: 29 records" in virnucpro("estimate", demo)
    script = "import virnucpro, sys; print(len(virnucpro.predict(sys.argv[1])))"
    alone = subprocess.check_output(
        [installed / "python", "-c", script, demo], env=environment, cwd=tmp_path, text=True
    )
    assert alone.split() == ["29"]
    assert "pip install 'virnucpro[published]'" in virnucpro(
        "predict", demo, "-o", "x", "--parallel", code=2
    )
    assert not (tmp_path / "x").exists()
