"""Tiny models, quick workers and a log as imported, for every test; settles made-up cases."""

import functools
import logging
import os
import shutil
import time
from types import SimpleNamespace
from unittest import mock

import pytest
from hypothesis import settings
from runs import context

# The same cases in every run, so that a failure is the change's own; the fuzzers look for new
# ones, and so does HYPOTHESIS_PROFILE=explore.
settings.register_profile("same", derandomize=True)
settings.register_profile("explore", derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


@pytest.fixture(autouse=True)
def logger_as_imported():
    """A command that ran in this process has set up its log; the next test must not see that."""
    yield
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] == "virnucpro":
            logging.getLogger(name).setLevel(logging.NOTSET)
    logger = logging.getLogger("virnucpro")
    logger.propagate = True
    for handler in list(logger.handlers):
        if not type(handler).__module__.startswith("_pytest"):
            logger.removeHandler(handler)
            handler.close()


@pytest.fixture(scope="session", autouse=True)
def quick_workers():
    """Workers of this process are forked from one that has imported torch, which takes seconds."""
    from virnucpro.pipeline import workers

    quick = SimpleNamespace(get_context=lambda method: context())
    with mock.patch.object(workers, "multiprocessing", quick):
        yield


@pytest.fixture
def put(tmp_path):
    """`put(content, name)` writes text or bytes to a file of the test's own; gives its path."""

    def write(content, name="in.fa"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.fixture(scope="session")
def tiny_home(tmp_path_factory):
    """Tiny models, made once; torch and the pipeline are imported by who asks for them."""
    import torch
    from tiny_published import make_tiny_home

    torch.set_num_threads(1)
    return make_tiny_home(tmp_path_factory.mktemp("models") / "home")


@pytest.fixture
def predict(tiny_home):
    """`predict(file, ..., "-o", out)` in this process on tiny models; gives click's result."""
    from runs_here import predict_with

    return functools.partial(predict_with, tiny_home)


@pytest.fixture
def home(tiny_home, monkeypatch):
    monkeypatch.setenv("VIRNUCPRO_MODEL_DIR", str(tiny_home))


@pytest.fixture(scope="session")
def published_once(tmp_path_factory):
    from tiny_published import install_published

    folder = tmp_path_factory.mktemp("published")
    return install_published(folder / "home", folder / "sources")


@pytest.fixture
def published(published_once, tmp_path, monkeypatch):
    """A home of the command with small models in the published formats, to be changed at will."""
    for name in ("VIRNUCPRO_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VIRNUCPRO_MODEL_DIR", str(tmp_path / "home"))
    return shutil.copytree(published_once, tmp_path / "home")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Both sources of models on this machine, for the command and a home that nobody else has."""
    from fake_hub import serve_hub

    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with serve_hub(monkeypatch) as hub:
        for repository in ("zhihan1996/DNABERT-S", "facebook/esm2_t36_3B_UR50D"):
            config = b'{"hidden_size": 32}'
            hub.offer(
                repository, "a" * 40, config__json=config, model__safetensors=b"weights" * 100
            )
        hub.offer_500(monkeypatch)
        for name in ("VIRNUCPRO_OFFLINE", "HF_HUB_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("VIRNUCPRO_MODEL_DIR", str(tmp_path / "home"))
        yield hub


@pytest.fixture
def command(tiny_home, put):
    """`command(words)` on tiny models with units of three ORFs; its exit code is 0, or `code`."""
    from runs_here import run

    text = "prediction: {sequences_per_file: 3}\nprogress: {enabled: false}\n"
    env = {"VIRNUCPRO_MODEL_DIR": str(tiny_home)}
    return functools.partial(run, "-c", put(text, "settings.yaml"), env=env, code=0)
