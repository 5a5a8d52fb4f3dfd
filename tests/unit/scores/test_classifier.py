"""Classifiers: the published formula, the encoders' width, and no file but the recorded one."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from virnucpro.core.errors import ModelError
from virnucpro.core.files import sha256_file
from virnucpro.models.classifier_file import MINI_KIND
from virnucpro.models.specs import EncoderSpec, ModelSpec
from virnucpro.scores.classifier import load_classifier
from virnucpro.sequences.orfs import OrfPolicy
from virnucpro.training.networks import MiniClassifier, save_classifier

SHAPES = {
    "hidden_layer.weight": (5, 12), "hidden_layer.bias": (5,), "bn1.weight": (5,),
    "bn1.bias": (5,), "bn1.running_mean": (5,), "bn1.running_var": (5,),
    "output_layer.weight": (2, 5), "output_layer.bias": (2,),
}  # fmt: skip


def weights():
    numbers = np.random.RandomState(3)
    tensors = {name: numbers.randn(*shape).astype(np.float32) for name, shape in SHAPES.items()}
    tensors["bn1.running_var"] = np.abs(tensors["bn1.running_var"]) + 0.1
    return tensors


def spec_of(path: Path, width: int = 12) -> ModelSpec:
    dna = EncoderSpec(kind="dnabert", name="dna", path=path, sha256="0", dim=4)
    protein = EncoderSpec(kind="esm2", name="protein", path=path, sha256="0", dim=width - 4)
    return ModelSpec(
        name="custom", dna=dna, protein=protein, classifier=path,
        classifier_sha256=sha256_file(path), orf_policy=OrfPolicy("open-frame"), chunk_nt=500,
    )  # fmt: skip


@pytest.fixture
def path(tmp_path):
    save_file(weights(), tmp_path / "classifier.safetensors")
    return tmp_path / "classifier.safetensors"


@pytest.fixture(params=[0, 4])
def mini(request, tmp_path):
    """A network of the bundled kind, and its file."""
    torch.manual_seed(5)
    network = MiniClassifier(12, 6, request.param).half().float().eval()
    save_classifier(network, MINI_KIND, torch.float16, tmp_path / "classifier.safetensors")
    return network, tmp_path / "classifier.safetensors"


def by_formula(x, w):
    """The network in float64, written out."""
    w = {name: array.astype(np.float64) for name, array in w.items()}
    hidden = x @ w["hidden_layer.weight"].T + w["hidden_layer.bias"]
    normed = (hidden - w["bn1.running_mean"]) / np.sqrt(w["bn1.running_var"] + 1e-5)
    active = np.maximum(normed * w["bn1.weight"] + w["bn1.bias"], 0)
    logits = active @ w["output_layer.weight"].T + w["output_layer.bias"]
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def test_scores_follow_the_published_formula_whatever_the_neighbours(path):
    vectors = np.random.RandomState(4).randn(40, 12).astype(np.float32)
    classifier = load_classifier(spec_of(path))
    scores = classifier.scores(vectors)
    assert (scores.dtype, scores.shape) == (np.float32, (40, 2))
    np.testing.assert_allclose(scores, by_formula(vectors, weights()), atol=1e-6)
    assert scores[:, 1].std() > 0.02
    alone = [classifier.scores(vectors[i : i + 1]) for i in range(40)]
    np.testing.assert_allclose(scores, np.concatenate(alone), atol=1e-6)
    assert classifier.scores(np.zeros((0, 12), np.float32)).shape == (0, 2)
    with pytest.raises(ModelError, match="width 12"):
        classifier.scores(np.zeros((3, 13), np.float32))


def test_a_bundled_classifier_has_a_third_class(mini):
    network, path = mini
    vectors = torch.randn(7, 12, generator=torch.Generator().manual_seed(2))
    scores = load_classifier(spec_of(path)).scores(vectors.numpy())
    assert scores.shape == (7, 3)
    with torch.no_grad():
        np.testing.assert_allclose(scores, network(vectors)[0].softmax(1).numpy(), atol=1e-6)
    with pytest.raises(ModelError, match="width 12; dna and protein give 13"):
        load_classifier(spec_of(path, 13))


@pytest.mark.parametrize(
    ("tensors", "kind", "message"),
    [
        (None, "", "refused: damaged"),
        ({"hidden_layer.bias": np.zeros(4, np.float32)}, "mlp", r"hidden_layer\.bias"),
        ({}, "mini", "not a VirNucPro classifier"),
        ({}, "forest", "of the unknown kind 'forest'"),
        ({"bn1.bias": np.full(5, np.inf, np.float32)}, "mini", "bn1.bias.* not finite"),
    ],
)
def test_an_odd_file_is_refused(path, tensors, kind, message):
    if tensors is None:
        path.write_bytes(b"no weights")
    else:
        save_file(weights() | tensors, path, metadata={"kind": kind})
    with pytest.raises(ModelError, match=message):
        load_classifier(spec_of(path))


def test_a_missing_or_changed_file_or_one_of_another_width_is_refused(path, tmp_path):
    spec = spec_of(path)
    with pytest.raises(ModelError, match="width 12; dna and protein give 3328"):
        load_classifier(spec_of(path, 3328))
    with pytest.raises(ModelError, match="missing"):
        load_classifier(replace(spec, classifier=tmp_path / "none"))
    save_file(weights() | {"bn1.bias": np.zeros(5, np.float32)}, path)
    with pytest.raises(ModelError, match="not the file that was installed"):
        load_classifier(spec)
