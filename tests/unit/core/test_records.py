"""Records know their ids, and rows without ids cannot be made."""

import pickle

import numpy as np
import pytest

from virnucpro.core import errors
from virnucpro.core.records import Embeddings


@pytest.mark.parametrize("shape", [(1, 3), (3,), (3, 2, 1)])
def test_vectors_need_one_id_each(shape):
    with pytest.raises(ValueError, match="2 ids"):
        Embeddings(("a", "b"), np.zeros(shape, np.float32))


def test_errors_survive_a_process_boundary(tmp_path):
    for error in (
        errors.InputError("x.fa", "no header", 3),
        errors.WorkersFailedError([0, 2], 3, tmp_path),
        errors.Interrupted(15),
    ):
        copy = pickle.loads(pickle.dumps(error))
        assert (str(copy), copy.exit_code) == (str(error), error.exit_code)


def test_signals_give_their_exit_codes():
    assert [errors.Interrupted(number).exit_code for number in (2, 15)] == [130, 143]
