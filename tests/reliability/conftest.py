"""One folder of runs for all tests here: an input, and undisturbed results."""

import os
import tempfile
from pathlib import Path

import pytest
from runs import Runs, results


@pytest.fixture(scope="session")
def quick_folder():
    """A folder in memory where there is one, for tests that sync thousands of files."""
    memory = Path("/dev/shm")
    folder = memory if memory.is_dir() and os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=folder) as name:
        yield Path(name)


@pytest.fixture(scope="session")
def runs(tiny_home, quick_folder):
    folder = quick_folder / "runs"
    folder.mkdir()
    return Runs(folder, tiny_home)


@pytest.fixture(scope="session")
def undisturbed(runs):
    out = runs.folder / "undisturbed"
    running = runs.finish(out)
    assert running.code == 0, running.said
    return results(out)
