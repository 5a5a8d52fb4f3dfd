"""float8 is trusted only where the scores of the user's own sequences stay what they were."""

from dataclasses import asdict

import numpy as np
import pytest

from virnucpro.core.errors import UsageError
from virnucpro.engines.agreement import agreement

EXACT = np.linspace(0, 1, 2_000, dtype=np.float32)


def test_scores_that_hardly_move_are_trusted_and_told():
    found = agreement(EXACT, EXACT + 0.0004)
    assert asdict(found) == {
        "sequences": 2_000,
        "labels_agree": pytest.approx(0.9995),
        "largest_difference": pytest.approx(0.0004, abs=1e-6),
    }


@pytest.mark.parametrize(
    ("fast", "figure"),
    [
        (np.where(EXACT < 0.003, EXACT + 0.03, EXACT), "up to 0.030"),
        (np.where(abs(EXACT - 0.5) < 0.002, 1 - EXACT, EXACT), "99.60% keep"),
        (np.full_like(EXACT, np.nan), "up to nan"),
    ],
    ids=["one probability", "labels", "nan"],
)
def test_scores_that_move_are_refused_with_the_figures(fast, figure):
    with pytest.raises(UsageError, match=figure) as caught:
        agreement(EXACT, fast)
    assert caught.value.exit_code == 2


def test_too_few_sequences_are_no_proof():
    assert agreement(EXACT[:512], EXACT[:512]).labels_agree == 1
    with pytest.raises(UsageError, match="there are 511"):
        agreement(EXACT[:511], EXACT[:511])
