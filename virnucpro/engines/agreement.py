"""Whether faster numbers may be trusted: some of the user's sequences are scored both ways."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from virnucpro.core.errors import UsageError

LEAST_SEQUENCES = 512
LEAST_AGREEMENT = 0.999  # of the labels
LARGEST_DIFFERENCE = 0.02  # of a probability


@dataclass(frozen=True, slots=True)
class Agreement:
    """What became of the scores of a sample."""

    sequences: int
    labels_agree: float  # share, at most 1
    largest_difference: float  # of a probability


def agreement(exact: NDArray[np.floating[Any]], fast: NDArray[np.floating[Any]]) -> Agreement:
    """Compare P(virus) of the same sequences by trusted and by fast numbers, both (n,).

    A UsageError with the figures where they are too few, or do not agree well enough.
    """
    if len(exact) < LEAST_SEQUENCES:
        need = f"{LEAST_SEQUENCES} sequences scored both ways, and there are {len(exact)}"
        raise UsageError(f"--precision fp8 is trusted after {need}; leave it out")
    agree = float(np.mean((exact >= 0.5) == (fast >= 0.5)))
    largest = float(np.abs(exact - fast).max())
    if not (agree >= LEAST_AGREEMENT and largest <= LARGEST_DIFFERENCE):
        raise UsageError(
            f"--precision fp8 changes too much here: of {len(exact)} sequences {agree:.2%} keep "
            f"their label ({LEAST_AGREEMENT:.1%} must) and probabilities move by up to "
            f"{largest:.3f} ({LARGEST_DIFFERENCE} may); leave it out"
        )
    return Agreement(len(exact), agree, largest)
