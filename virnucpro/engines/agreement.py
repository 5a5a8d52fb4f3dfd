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
        raise UsageError(
            f"--precision fp8 is trusted after {LEAST_SEQUENCES} sequences scored both ways, and "
            f"there are {len(exact)}; leave it out"
        )
    found = Agreement(
        sequences=len(exact),
        labels_agree=float(np.mean((exact >= 0.5) == (fast >= 0.5))),
        largest_difference=float(np.abs(exact - fast).max()),
    )
    agree = found.labels_agree >= LEAST_AGREEMENT
    if not (agree and found.largest_difference <= LARGEST_DIFFERENCE):
        raise UsageError(
            f"--precision fp8 changes too much here: of {found.sequences} sequences "
            f"{found.labels_agree:.2%} keep their label ({LEAST_AGREEMENT:.1%} must) and "
            f"probabilities move by up to {found.largest_difference:.3f} "
            f"({LARGEST_DIFFERENCE} may); leave it out"
        )
    return found
