"""Options of the benchmark suites, the report they write, and the models they run."""

import json
import platform
from pathlib import Path

import pytest
import torch
from bench_models import Figures, make_home

from virnucpro import __version__

SIZES = {"tiny": 10, "small": 100, "medium": 1_000, "large": 10_000}
FIGURES = pytest.StashKey[list]()


def pytest_addoption(parser):
    group = parser.getgroup("virnucpro benchmark")
    group.addoption("--bench-size", choices=list(SIZES), default="tiny")
    group.addoption("--bench-report", type=Path, default=None)
    group.addoption("--bench-quick", action="store_true")
    group.addoption("--bench-vanilla", action="store_true")


def pytest_configure(config):
    config.stash[FIGURES] = []


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        for item in items:
            item.add_marker(pytest.mark.gpu)


def pytest_runtest_makereport(item, call):
    """A failed assertion is a requirement missed; any other error: the suite could not run."""
    found = call.excinfo
    if call.when == "call" and found is not None and found.errisinstance(AssertionError):
        said = str(found.value).splitlines() or ["assertion failed"]
        Figures(item.cls.suite, item.config.stash[FIGURES]).failed(item.name, said[0])


def pytest_sessionfinish(session):
    option, rows = session.config.getoption, session.config.stash.get(FIGURES, [])
    path, cuda = option("--bench-report"), torch.cuda.is_available()
    if path is None or not rows:
        return
    speedups = {r["name"]: r["value"] for r in rows if (r["unit"], r["better"]) == ("x", "higher")}
    report = {
        "format": 1,
        "version": __version__,
        "data_size": option("--bench-size"),
        "quick": option("--bench-quick"),
        "machine": {
            "device": torch.cuda.get_device_name(0) if cuda else "cpu",
            "gpus": f"{torch.cuda.device_count()} GPUs" if cuda else "no GPU",
            "cpus": f"{torch.get_num_threads()} threads",
            "torch": f"torch {torch.__version__}",
            "system": platform.platform(),
        },
        "results": rows,
        "performance": {"speedups": speedups},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1), encoding="utf-8")


@pytest.fixture
def figures(request):
    found = Figures(request.cls.suite, request.config.stash[FIGURES])
    yield found
    assert not found.missed, f"requirements missed: {found.missed}"


@pytest.fixture(scope="session", autouse=True)
def quick_workers():
    """Workers are spawned here, as in a run."""


@pytest.fixture(scope="session")
def quick(request):
    return request.config.getoption("--bench-quick")


@pytest.fixture(scope="session")
def sequences(request):
    return SIZES[request.config.getoption("--bench-size")]


@pytest.fixture(scope="session")
def gpus():
    return torch.cuda.device_count()


@pytest.fixture(scope="session")
def device(gpus):
    return torch.device("cuda", 0) if gpus else torch.device("cpu")


@pytest.fixture(scope="session")
def home(tmp_path_factory, gpus):
    """A model home: tiny weights on the CPU, weights of a real size on a GPU."""
    return make_home(tmp_path_factory.mktemp("models") / "home", real_size=bool(gpus))
