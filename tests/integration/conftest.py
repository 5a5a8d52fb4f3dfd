"""A home of tiny models, made once, and the command run in this process."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from tiny_home import make_tiny_home

from virnucpro.cli.main import cli


@pytest.fixture(scope="session")
def tiny_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return make_tiny_home(tmp_path_factory.mktemp("models") / "home")


@pytest.fixture
def predict(tiny_home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """`predict(file, ..., "-o", out)` on tiny weights; every chunk gets an ORF."""
    monkeypatch.setenv("VIRNUCPRO_MODEL_DIR", str(tiny_home))

    def run(*arguments: object, stdin: bytes | None = None, policy: str = "longest") -> Result:
        words = ["predict", "-m", "500", "--orf-policy", policy, "-t", "1", "--no-progress"]
        return CliRunner().invoke(cli, [*words, *map(str, arguments)], input=stdin)

    return run


@pytest.fixture(scope="session")
def random_dna() -> Callable[..., str]:
    def make(length: int, seed: int = 0) -> str:
        return "".join(random.Random(seed).choices("ACGT", k=length))

    return make
