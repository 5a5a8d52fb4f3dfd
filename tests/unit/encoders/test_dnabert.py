"""DNABERT-S computes what the published PyTorch code computes.

`dnabert_reference.npz` holds hidden states of the published network (bert_layers.py of
MAGICS-LAB/DNABERT_S, PyTorch attention, float32, one sequence a call) on the weights that
`tests/checkpoints.py` makes from the seeds below. The longest sequence is longer than the
network's initial table of distances.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.checkpoints import OUTLIER, dnabert_config, dnabert_tensors, hidden_states, write_bin
from virnucpro.encoders.dnabert import Dnabert, alibi_slopes
from virnucpro.encoders.load import load_encoder
from virnucpro.engines.plans import collate
from virnucpro.models.specs import DNABERT_S, DnabertShape, EncoderSpec

TOLERANCE = 1e-5
REFERENCE = Path(__file__).parents[2] / "data" / "dnabert_reference.npz"
CASES = {
    "heads12": (DnabertShape(layers=3, dim=96, heads=12, ffn=160, vocab=300), 712),
    "heads8": (DnabertShape(layers=2, dim=32, heads=8, ffn=64, vocab=50), 608),
}


@pytest.fixture(scope="module", params=CASES, ids=list(CASES))
def case(request, tmp_path_factory):
    """Our encoder, sequences, and the published network's hidden states."""
    shape, seed = CASES[request.param]
    folder = write_bin(
        tmp_path_factory.mktemp("dna"), dnabert_tensors(shape, seed), dnabert_config(shape)
    )
    spec = EncoderSpec(kind="dnabert", name="tiny", path=folder, sha256="", dim=shape.dim)
    encoder = load_encoder(spec, torch.device("cpu"), torch.float32)
    with np.load(REFERENCE) as data:
        bounds = np.cumsum(data[f"{request.param}/lengths"])[:-1]
        ids = np.split(data[f"{request.param}/ids"].astype(np.int64), bounds)
        hidden = np.split(data[f"{request.param}/hidden"], bounds)
        means = data[f"{request.param}/mean"]
    return encoder, [(x) for i, x in enumerate(ids)], hidden, means


def test_hidden_states_equal_the_published_network(case):
    encoder, items, hidden, _ = case
    assert all(np.abs(h[:, OUTLIER]).max() > 10 for h in hidden)  # the outlier is there
    for ours, theirs in zip(hidden_states(encoder, collate(items)), hidden, strict=True):
        assert float((ours - torch.from_numpy(theirs)).abs().max()) <= TOLERANCE


def test_vectors_are_means_over_all_tokens(case):
    encoder, items, _, means = case
    vectors = encoder(collate(items))
    assert vectors.dtype == torch.float32
    assert float((vectors - torch.from_numpy(means)).abs().max()) <= TOLERANCE


def test_the_layout_and_the_company_of_a_sequence_change_nothing(case):
    encoder, items, _, _ = case
    alone = torch.cat([encoder(collate([item])) for item in items])
    order = np.random.default_rng(1).permutation(len(items))
    vectors = encoder(collate([items[i] for i in order]))
    assert float((vectors - alone[order]).abs().max()) <= 3e-6


@pytest.mark.parametrize("heads", [1, 2, 3, 8, 12, 20])
def test_slopes_are_a_series_filled_up_from_the_next_longer_one(heads):
    slopes = alibi_slopes(heads)
    series = 1 << (heads.bit_length() - 1)
    assert len(slopes) == heads
    assert slopes[series - 1] == 2**-8
    assert slopes[:series] == pytest.approx([slopes[0] ** (i + 1) for i in range(series)])
    assert slopes[series:] == alibi_slopes(2 * series)[0::2][: heads - series]


def test_the_published_shape_has_the_published_parameter_count():
    with torch.device("meta"):
        count = sum(p.numel() for p in Dnabert(DNABERT_S).parameters())
    assert count / 1e6 == pytest.approx(117, rel=0.01)
