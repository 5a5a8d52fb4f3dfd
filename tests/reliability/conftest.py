"""One folder of runs for all tests here: a tiny model home, an input, and undisturbed results."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from runs import Runs, results
from tiny_home import make_tiny_home


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return make_tiny_home(tmp_path_factory.mktemp("reliability") / "home")


@pytest.fixture(scope="session")
def quick_folder() -> Iterator[Path]:
    """A folder in memory where there is one, for tests that sync thousands of files."""
    memory = Path("/dev/shm")
    folder = memory if memory.is_dir() and os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=folder) as name:
        yield Path(name)


@pytest.fixture(scope="session")
def runs(home: Path, quick_folder: Path) -> Runs:
    folder = quick_folder / "runs"
    folder.mkdir()
    return Runs(folder, home)


@pytest.fixture(scope="session")
def undisturbed(runs: Runs) -> dict[str, bytes]:
    """What a run that nobody disturbs leaves."""
    out = runs.folder / "undisturbed"
    running = runs.finish(out)
    assert running.code == 0, running.said
    return results(out)
