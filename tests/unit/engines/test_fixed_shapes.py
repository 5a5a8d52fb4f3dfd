"""Batches brought to fixed shapes give the same vectors; compiling is decided by the work."""

import numpy as np
import pytest
import torch

from tests.unit.engines.toys import MeanEncoder, expected, make_items, vectors_of
from virnucpro.core.errors import DeviceError
from virnucpro.encoders.layouts import RectangleLayout
from virnucpro.engines.base import EngineOptions, make_engine
from virnucpro.engines.plans import PackedPlan, PaddedPlan, collate, segments
from virnucpro.engines.runner import Forward, compiling_pays


def fixed_vectors(layout, items):
    """A batch brought to a fixed shape, which holds what the encoder gives each item alone."""
    encoder = MeanEncoder()
    fixed = layout.fixed(collate(items), 1_024)
    vectors = encoder(fixed)[: len(items)].detach().numpy()
    np.testing.assert_allclose(vectors, expected(encoder, items), rtol=1e-5)
    return fixed


@pytest.mark.parametrize("lengths", [[300, 400, 200], [64] * 16, [1] * 20 + [900], [1000]])
def test_a_packed_batch_of_fixed_shape_gives_the_same_vectors(lengths):
    fixed = fixed_vectors(PackedPlan(pad_id=0), make_items(lengths))
    assert len(fixed.tokens) == 1_024
    assert len(fixed.cu_seqlens) == segments(1_024) + 1
    assert int(fixed.cu_seqlens.diff().max()) <= fixed.longest
    assert fixed.longest % 128 == 0


def test_batches_of_a_budget_have_few_shapes():
    packed, padded = PackedPlan(pad_id=0), PaddedPlan(pad_id=0)
    fixed = [
        fixed_vectors(packed, make_items(lengths))
        for lengths in ([200] * 5, [30] * 26 + [199], [90] * 10)
    ]
    assert len({(f.tokens.shape, f.cu_seqlens.shape, f.longest) for f in fixed}) == 1
    rectangle = fixed_vectors(padded, make_items([30, 28, 31] * 9))
    assert RectangleLayout.of(rectangle, 0).shapes == ((32, 32),)
    for layout in (packed, padded):  # mostly padding: better left as it is
        assert layout.fixed(collate(make_items([30] * 4)), 1_024) is None


def test_the_compiler_is_used_when_asked_and_changes_no_vector(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **how: calls.append(how))
    encoder, items = MeanEncoder(), make_items([100, 90, 60] * 20)
    options = EngineOptions(compile="on", token_budget=1_024)
    engine = make_engine("packed", encoder, device=torch.device("cpu"), options=options)
    found = vectors_of(engine.embed(items), len(items))
    assert calls == [{"dynamic": False}]
    assert engine.stats.compiled
    np.testing.assert_allclose(found, expected(encoder, items), rtol=1e-5)


class Uncompilable(MeanEncoder):
    """Fails while `broken` is set, as a compiler without a C compiler does."""

    broken = True

    def compile(self, **options):
        self._compiled_call_impl = None

    def forward(self, batch):
        if self.broken:
            self.broken = False
            raise RuntimeError("no C compiler")
        return super().forward(batch)


def test_a_failing_compiler_is_an_error_only_where_it_was_asked_for(caplog):
    items = make_items([64] * 16)
    ready = collate(items)
    insisting, tolerant = (Forward(Uncompilable(), torch.device("cpu")) for _ in range(2))
    insisting.compile(insist=True)
    with pytest.raises(DeviceError, match="no C compiler"):
        insisting(ready, fixed=True)
    tolerant.compile(insist=False)
    assert tolerant(ready, fixed=True).shape == (16, 4)
    assert not tolerant.compiles
    assert "no C compiler" in caplog.text


@pytest.mark.parametrize(
    ("tokens", "weights", "pays"),
    [
        (0, 2_839_000_000, False), (1_000_000, 2_839_000_000, False),
        (5_000_000, 2_839_000_000, True), (5_000_000, 117_000_000, False),
        (200_000_000, 117_000_000, True),
    ],
)  # fmt: skip
def test_compiling_is_for_long_jobs_of_large_encoders(tokens, weights, pays, caplog):
    caplog.set_level("INFO", "virnucpro.engines")
    assert compiling_pays(tokens, weights) is pays
    assert f"{tokens} tokens" in caplog.text
