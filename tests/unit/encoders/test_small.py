"""The bundled model's networks in numpy: the vectors of torch, the same bytes with any threads."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

from virnucpro.core.errors import ModelError
from virnucpro.encoders.small import TowerEncoder, load_small, save_tower
from virnucpro.encoders.small_cpu import SmallEncoder, TowerConfig, six_frames
from virnucpro.encoders.tokenizers import LetterTokenizer
from virnucpro.engines.base import LightEngine
from virnucpro.models.specs import EncoderSpec

SHAPES = {
    "deep": TowerConfig(width=24, dilations=(1, 2, 4)),
    "wide": TowerConfig(width=16, taps=12, stride=4, dilations=(1, 8), hidden=40),
}
LENGTHS = [*range(1, 40), 59, 60, 61, 149, 150, 151, 299, 300, 498, 500, 511]


def saved(kind: str, shape: str, folder: Path) -> EncoderSpec:
    torch.manual_seed(3)
    tower = TowerEncoder(kind, SHAPES[shape]).eval()
    with torch.no_grad():
        for parameter in tower.parameters():  # norms and biases too
            parameter.add_(0.1 * torch.randn_like(parameter))
    save_tower(tower, folder / "weights.safetensors")
    return EncoderSpec(
        kind=kind, name="x", path=folder / "weights.safetensors", sha256="", dim=tower.dim
    )


def items(kind: str, lengths: list[int]) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.integers(0, 5 if kind == "mini-dna" else 21, n) for n in lengths]


def vectors(engine: LightEngine, letters: list[np.ndarray], dim: int) -> np.ndarray:
    found = np.full((len(letters), dim), np.nan, np.float32)
    for rows, some in engine.embed(letters):
        assert np.isnan(found[rows]).all()
        found[rows] = some
    return found


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["mini-dna", "mini-protein"])
def test_vectors_are_those_of_torch_at_every_length(kind, shape, tmp_path):
    spec, letters = saved(kind, shape, tmp_path), items(kind, LENGTHS)
    network = load_small(spec, torch.device("cpu"), torch.float32)
    with torch.no_grad():
        alone = [network([one]).numpy() for one in letters]
    found = vectors(LightEngine(SmallEncoder(spec), 2), letters, spec.dim)
    np.testing.assert_allclose(found, np.concatenate(alone), atol=2e-5, rtol=1e-5)


def test_threads_change_no_byte_and_pieces_cover_each_sequence_once(tmp_path):
    spec = saved("mini-dna", "deep", tmp_path)
    letters = items("mini-dna", [500, 3, 150] * 40 + [1, 9_000])
    one, many = (LightEngine(SmallEncoder(spec), threads) for threads in (1, 3))
    found = [vectors(engine, letters, spec.dim).tobytes() for engine in (one, many)]
    assert found[0] == found[1]
    assert one.stats.batches > 3 and one.stats.sequences == len(letters)
    assert one.stats.tokens == sum(map(len, letters)) <= one.stats.slots
    assert vectors(one, [], spec.dim).shape == (0, spec.dim)


def test_a_file_of_another_shape_or_with_odd_numbers_is_refused(tmp_path):
    spec = saved("mini-dna", "deep", tmp_path)
    with safe_open(spec.path, "np") as file:
        facts, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    bias, text = "tower.stem.bias", "missing, unknown, or of another shape"
    odd = {
        f"{bias} is {text}": {bias: np.zeros(3, np.float16)},
        "tower.more is missing, unknown": {"tower.more": np.zeros(3, np.float16)},
        f"{bias} has values that are not finite": {bias: np.full(24, np.inf, np.float16)},
    }
    for message, change in odd.items():
        save_file(tensors | change, spec.path, facts)
        with pytest.raises(ModelError, match=message):
            SmallEncoder(spec)
    save_file(tensors, spec.path, facts)
    with pytest.raises(ModelError, match="mini-dna"):
        load_small(replace(spec, kind="mini-protein"), torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("length", [1, 5, 30, 31, 32])
def test_six_frames_read_both_strands_in_register(length):
    rng = np.random.default_rng(length)
    letters = "".join("ACGT"[k] for k in rng.integers(0, 4, length))
    turned = letters.translate(str.maketrans("ACGT", "TGCA"))[::-1]
    bases = LetterTokenizer("mini-dna").encode(letters)[None]
    ids, counts = six_frames(np, bases, np.array([length]))
    for frame in range(3):
        read = [letters[i : i + 3] for i in range(frame, length - 2, 3)]
        assert int(counts[0, frame]) == len(read)
        assert triplets(ids[0, frame]) == read
        back = len(turned) - frame - 3 * len(read)
        assert triplets(ids[0, frame + 3]) == [
            turned[i : i + 3] for i in range(back, back + 3 * len(read), 3)
        ]


def triplets(ids):
    return ["ACGT"[i // 16] + "ACGT"[i // 4 % 4] + "ACGT"[i % 4] for i in ids.tolist() if i >= 0]
