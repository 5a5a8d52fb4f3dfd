from pathlib import Path

import numpy as np
import pytest
import torch

from virnucpro.core.errors import ModelError
from virnucpro.encoders.base import collate
from virnucpro.encoders.small import (
    TowerConfig,
    TowerEncoder,
    load_small,
    save_tower,
    six_frames,
)
from virnucpro.encoders.tokenizers import LetterTokenizer
from virnucpro.models.specs import EncoderSpec

CONFIG = TowerConfig(width=24, dilations=(1, 2, 4))


def _tower(kind: str) -> TowerEncoder:
    torch.manual_seed(3)
    return TowerEncoder(kind, CONFIG).eval()


def _items(kind: str, lengths: list[int]) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    letters = 5 if kind == "mini-dna" else 21
    return [(rng.integers(0, letters, n)) for n in lengths]


@pytest.mark.parametrize("kind", ["mini-dna", "mini-protein"])
def test_vector_is_the_same_alone_and_among_others(kind):
    tower, items = _tower(kind), _items(kind, [500, 61, 5, 322, 17, 1, 498])
    with torch.no_grad():
        together = tower(collate(items))
        alone = torch.cat([tower(collate([item])) for item in items])
    assert together.dtype == torch.float32 and together.shape == (len(items), tower.dim)
    assert torch.isfinite(together).all()
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["mini-dna", "mini-protein"])
def test_each_letter_can_change_the_vector(kind):
    tower = _tower(kind)
    item = np.random.default_rng(2).integers(0, 4, 60)
    rows = np.tile(item, (61, 1))
    rows[np.arange(1, 61), np.arange(60)] = (item + 1) % 4
    with torch.no_grad():
        vectors = tower.embed(torch.from_numpy(rows), torch.full((61,), 60))
    assert ((vectors[1:] - vectors[0]).abs().amax(dim=1) > 0).all()


@pytest.mark.parametrize("length", [1, 5, 30, 31, 32])
def test_six_frames_read_both_strands_in_register(length):
    rng = np.random.default_rng(length)
    letters = "".join("ACGT"[k] for k in rng.integers(0, 4, length))
    turned = letters.translate(str.maketrans("ACGT", "TGCA"))[::-1]
    bases = torch.from_numpy(LetterTokenizer("mini-dna").encode(letters))[None]
    ids, counts = six_frames(bases, torch.tensor([length]))
    for frame in range(3):
        read = [letters[i : i + 3] for i in range(frame, length - 2, 3)]
        assert int(counts[0, frame]) == len(read)
        assert _letters(ids[0, frame]) == read
        back = len(turned) - frame - 3 * len(read)
        assert _letters(ids[0, frame + 3]) == [
            turned[i : i + 3] for i in range(back, back + 3 * len(read), 3)
        ]


def _letters(ids: torch.Tensor) -> list[str]:
    return ["ACGT"[i // 16] + "ACGT"[i // 4 % 4] + "ACGT"[i % 4] for i in ids.tolist() if i >= 0]


@pytest.mark.parametrize("kind", ["mini-dna", "mini-protein"])
def test_saved_tower_loads_as_it_was(kind, tmp_path):
    tower, path = _tower(kind), tmp_path / "tower.safetensors"
    save_tower(tower, path)
    loaded = load_small(_spec(kind, path, tower.dim), torch.device("cpu"), torch.float32).eval()
    batch = collate(_items(kind, [100, 40]))
    with torch.no_grad():
        torch.testing.assert_close(loaded(batch), tower(batch), atol=2e-2, rtol=2e-2)
    again = tmp_path / "again.safetensors"
    save_tower(loaded, again)
    assert again.read_bytes() == path.read_bytes()


def test_weights_of_another_kind_are_refused(tmp_path):
    path = tmp_path / "tower.safetensors"
    save_tower(_tower("mini-dna"), path)
    with pytest.raises(ModelError, match="mini-dna"):
        load_small(_spec("mini-protein", path, 48), torch.device("cpu"), torch.float32)
    path.write_bytes(b"no weights")
    with pytest.raises(ModelError):
        load_small(_spec("mini-dna", path, 96), torch.device("cpu"), torch.float32)


def _spec(kind: str, path: Path, dim: int) -> EncoderSpec:
    return EncoderSpec(kind=kind, name="t", path=path, sha256="", dim=dim)
