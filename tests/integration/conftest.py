"""Random DNA by its length."""

import pytest
from runs_here import dna


@pytest.fixture(scope="session")
def random_dna():
    return lambda length, seed=0: dna(seed, length)
