"""Whether faster numbers may be trusted: some sequences are scored both ways and compared.

Random weights say nothing of a trained network's large activations, and one user's sequences
nothing of another's: the sample is of the user's own.
"""

from __future__ import annotations

from collections.abc import Callable
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
    """What became of the scores of a sample.

    Attributes:
        sequences: how many there were.
        labels_agree: share of equal labels, at most 1.
        largest_difference: of a probability, at most 1.
    """

    sequences: int
    labels_agree: float
    largest_difference: float

    def as_dict(self) -> dict[str, Any]:
        """Every field, JSON-able."""
        return {name: getattr(self, name) for name in self.__slots__}


def agreement(
    exact: NDArray[np.float32],
    fast: NDArray[np.float32],
    classify: Callable[[NDArray[np.float32]], NDArray[np.floating[Any]]],
) -> Agreement:
    """Compare the scores of vectors computed twice.

    Args:
        exact: vectors of a sample in the numbers that are trusted, shape (n, d).
        fast: vectors of the same sequences in the others, shape (n, d).
        classify: vectors (n, d) to the probability of virus, shape (n,).

    Returns:
        How far they agree; labels are taken at 0.5.

    Raises:
        UsageError: too few sequences, or they do not agree well enough; says the figures.
    """
    if len(exact) < LEAST_SEQUENCES:
        raise UsageError(
            f"float8 is trusted after {LEAST_SEQUENCES} sequences scored both ways, and there "
            f"are {len(exact)}; leave it out"
        )
    slow, quick = (np.asarray(classify(vectors), dtype=np.float64) for vectors in (exact, fast))
    found = Agreement(
        sequences=len(slow),
        labels_agree=float(np.mean((slow >= 0.5) == (quick >= 0.5))),
        largest_difference=float(np.abs(slow - quick).max()),
    )
    agree = found.labels_agree >= LEAST_AGREEMENT
    if not (agree and found.largest_difference <= LARGEST_DIFFERENCE):
        raise UsageError(
            f"float8 changes too much here: of {found.sequences} sequences "
            f"{found.labels_agree:.2%} keep their label ({LEAST_AGREEMENT:.1%} must) and "
            f"probabilities move by up to {found.largest_difference:.3f} "
            f"({LARGEST_DIFFERENCE} may); leave it out"
        )
    return found
