"""The two small encoders of the bundled model: files, shapes, and the forward pass in numpy.

Whoever calls limits the BLAS to one thread, so that a vector depends on its batch alone.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from virnucpro.core.errors import ModelError
from virnucpro.encoders.tokenizers import BASE_PAD, RESIDUE_PAD, RESIDUES
from virnucpro.models.specs import EncoderSpec

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

CODON_N = 64
RESIDUE_ROWS = 22
ROWS = {"mini-dna": 72, "mini-protein": 24}  # of the stem's table; some are never looked up
CODE = "KNKNTTTTRSRSIIMIQHQHPPPPRRRRLLLLEDEDAAAAGGGGVVVV*Y*YSSSS*CWCLFLF"
RESIDUE_OF_CODON = np.array([RESIDUES.find(aa) if aa != "*" else 21 for aa in CODE])
EPSILON = 1e-5
LOWEST = -30.0  # stands for a position outside of a sequence where the largest is taken
_MOST = 8192  # of a size of a network; a damaged file must not ask for all memory


@dataclass(frozen=True, slots=True, kw_only=True)
class TowerConfig:
    """Shape of one tower."""

    width: int  # channels
    taps: int = 9  # letters (codons or residues) that one stem position sees
    stride: int = 3  # letters between two stem positions
    dilations: tuple[int, ...] = (1, 1, 2, 4)  # of the three taps of a residual block each
    hidden: int = 0  # channels inside a block; 0 means `width`

    def __post_init__(self) -> None:
        sizes = (self.width, self.taps, self.stride, *self.dilations)
        if not all(type(n) is int and 0 < n <= _MOST for n in sizes) or len(self.dilations) > 64:
            raise ValueError(f"sizes must be whole numbers from 1 to {_MOST}")
        if type(self.hidden) is not int or not 0 <= self.hidden <= _MOST:
            raise ValueError(f"hidden must be a whole number from 0 to {_MOST}")
        if self.taps % self.stride or (self.taps // self.stride) % 2 == 0:
            raise ValueError(f"taps must be an odd multiple of stride: {self.taps}, {self.stride}")

    def dim(self, kind: str) -> int:
        """Width of a vector of a kind of encoder."""
        return self.width * (4 if kind == "mini-dna" else 2)

    def shapes(self, kind: str) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor of a tower, by name."""
        width, hidden = self.width, self.hidden or self.width
        found: dict[str, tuple[int, ...]] = {
            "stem.weight": (self.taps, ROWS[kind], width), "stem.bias": (width,),
            "pool.norm.weight": (width,), "pool.norm.bias": (width,),
        }  # fmt: skip
        if kind == "mini-dna":
            found["stem.residue"] = (self.taps, RESIDUE_ROWS, width)
        for i in range(len(self.dilations)):
            found |= {
                f"blocks.{i}.norm.weight": (width,), f"blocks.{i}.norm.bias": (width,),
                f"blocks.{i}.up.weight": (hidden, width, 1, 3), f"blocks.{i}.up.bias": (hidden,),
                f"blocks.{i}.down.weight": (width, hidden), f"blocks.{i}.down.bias": (width,),
            }  # fmt: skip
        return found


def read_tower(spec: EncoderSpec) -> tuple[TowerConfig, dict[str, Floats]]:
    """Shape and tensors of a file of `small.save_tower`; a ModelError if not as `spec` says."""
    try:
        with safe_open(spec.path, framework="np") as file:
            facts = json.loads((file.metadata() or {})["tower"])
            if (kind := facts.pop("kind")) != spec.kind:
                raise ValueError(f"holds {kind!r:.40}, not {spec.kind}")
            if (dim := facts.pop("dim")) != spec.dim:
                raise ValueError(f"vectors have {dim} dimensions, not {spec.dim}")
            config = TowerConfig(**{**facts, "dilations": tuple(facts["dilations"])})
            if dim != config.dim(kind):
                raise ValueError(f"width {config.width} does not give {dim} dimensions")
            shapes = {f"tower.{name}": shape for name, shape in config.shapes(kind).items()}
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            if found != shapes:
                wrong = sorted(set(found.items()) ^ set(shapes.items()))[0]
                raise ValueError(f"{wrong[0]} is missing, unknown, or of another shape")
            tensors = {name: file.get_tensor(name).astype(np.float32) for name in shapes}
        for name, tensor in tensors.items():
            if not np.isfinite(tensor).all():
                raise ValueError(f"{name} has values that are not finite")
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"{error!s:.300}"
        raise ModelError(f"{spec.path}: not weights of the bundled kind ({problem})") from error
    return config, {name.removeprefix("tower."): tensor for name, tensor in tensors.items()}


def six_frames(xp: Any, bases: Any, lengths: Any, **where: Any) -> tuple[Any, Any]:
    """Codon ids (n, 6, P) of both strands' frames of bases (n, L), and codons of each frame (n, 6).

    Ids are 16 a + 4 b + c, 64 with an ambiguous base, -1 past the end. The reverse frames read the
    same codons backwards, complemented: codon p of frame f and codon `count - 1 - p` of frame f + 3
    cover the same three bases. `xp` is numpy, or torch with the `device`, which the arrays are of.
    """
    n, width = bases.shape
    codons = -(-width // 3)
    beyond = xp.full((n, 3 * codons + 2 - width), BASE_PAD, **where)
    padded = xp.concatenate([bases, beyond], 1)
    a, b, c = (padded[:, k : k + 3 * codons] for k in range(3))
    unclear = (a > 3) | (b > 3) | (c > 3)
    strands = (16 * a + 4 * b + c, 63 - (16 * c + 4 * b + a))
    forward, backward = (
        xp.where(unclear, CODON_N, ids).reshape(n, codons, 3).swapaxes(1, 2) for ids in strands
    )
    row, frame, place = (xp.arange(count, **where) for count in (n, 3, codons))
    counts = xp.clip(lengths[:, None] - frame, 0, None) // 3
    turned = xp.clip(counts[:, :, None] - 1 - place, 0, None)
    backward = backward[row[:, None, None], frame[:, None], turned]
    ids, counts = xp.concatenate([forward, backward], 1), xp.concatenate([counts, counts], 1)
    return xp.where(place < counts[:, :, None], ids, -1), counts


def merged(
    xp: Any, pooled: Callable[[Any, Any], Any], is_dna: bool, letters: Any, lengths: Any,
    **where: Any,
) -> Any:  # fmt: skip
    """Letters (n, L) with `lengths` (n,) to vectors (n, dim); arrays as of `six_frames`.

    `pooled` makes max and mean of letters (m, P), -1 for none, with m counts: of a protein, or of
    DNA those of the ORF's own codon frame, then of the five others.
    """
    if not is_dna:
        inside = xp.arange(letters.shape[1], **where) < lengths[:, None]
        return xp.concatenate([*pooled(xp.where(inside, letters, -1), lengths)], 1)
    ids, counts = six_frames(xp, letters, lengths, **where)
    both = pooled(ids.reshape(-1, ids.shape[2]), counts.reshape(-1))
    highest, mean = (part.reshape(len(letters), 6, -1) for part in both)
    others = [xp.amax(highest[:, 1:], 1), xp.mean(mean[:, 1:], 1)]
    return xp.concatenate([highest[:, 0], mean[:, 0], *others], 1)


class Norm:
    """Layer norm over channels."""

    def __init__(self, weights: Mapping[str, Floats], name: str) -> None:
        self._gain, self._shift = weights[f"{name}.weight"], weights[f"{name}.bias"]
        self._average = np.full(len(self._gain), 1 / len(self._gain), dtype=np.float32)

    def __call__(self, x: Floats, out: Floats) -> Floats:
        """Shape (positions, width) to the same, written to `out`."""
        np.subtract(x, (x @ self._average)[:, None], out=out)
        variance = np.einsum("ij,ij->i", out, out) / np.float32(x.shape[1])
        out *= (1 / np.sqrt(variance + np.float32(EPSILON)))[:, None]
        out *= self._gain
        out += self._shift
        return out


class SmallEncoder:
    """One of the two encoders, in float32; a ModelError as `read_tower`."""

    def __init__(self, spec: EncoderSpec) -> None:
        config, weights = read_tower(spec)
        self._config, self._is_dna, self.dim = config, spec.kind == "mini-dna", spec.dim
        self.pad_id = BASE_PAD if self._is_dna else RESIDUE_PAD
        self.per_letter = (2 if self._is_dna else 1) / config.stride  # positions to compute, about
        table = weights["stem.weight"].copy()
        if self._is_dna:
            table[:, :CODON_N] += weights["stem.residue"][:, RESIDUE_OF_CODON]
        self._rows = table.shape[1] + 1
        # the last row of each tap stands for no letter
        self._table = np.pad(table, ((0, 0), (0, 1), (0, 0))).reshape(-1, config.width)
        self._bias, self._pool = weights["stem.bias"], Norm(weights, "pool.norm")
        self._blocks = []
        for i, dilation in enumerate(config.dilations):
            name = f"blocks.{i}"
            up, down = weights[f"{name}.up.weight"], weights[f"{name}.down.weight"]
            taps = np.ascontiguousarray(up[:, :, 0].transpose(2, 1, 0).reshape(-1, len(up)))
            block = taps, weights[f"{name}.up.bias"], down.T.copy(), weights[f"{name}.down.bias"]
            self._blocks.append((dilation, Norm(weights, f"{name}.norm"), *block))
        self._held = threading.local()

    def embed(self, letters: Integers, lengths: Integers) -> Floats:
        """Letters (n, L) with `lengths` (n,) to vectors (n, dim)."""
        vectors: Floats = merged(np, self._pooled, self._is_dna, letters, lengths)
        return vectors

    def _pooled(self, ids: Integers, counts: Integers) -> tuple[Floats, Floats]:
        """Letters (n, P), -1 for none, with `counts` (n,) each to max and mean, both (n, width)."""
        taps, stride, (n, letters) = self._config.taps, self._config.stride, ids.shape
        left, places = (taps - stride) // 2, -(-letters // stride)
        right = (places - 1) * stride + taps - left - letters
        padded = np.pad(ids, ((0, 0), (left, right)), constant_values=-1)
        padded[padded < 0] = self._rows - 1
        x = self._scratch("x", n * places, self._config.width)
        x[:] = self._bias
        rows = self._scratch("h", *x.shape)
        for tap in range(taps):
            index = padded[:, tap : tap + (places - 1) * stride + 1 : stride].reshape(-1)
            np.take(self._table, index + tap * self._rows, axis=0, out=rows, mode="clip")
            x += rows
        width = x.shape[1]
        inside = np.arange(places) * stride < counts[:, None]
        outside = np.flatnonzero(~inside)  # of sequences shorter than the longest
        x[outside] = 0
        h = self._scratch("h", *x.shape)
        y = self._scratch("y", len(x), self._config.hidden or width)
        near = self._scratch("taps", n, places, 3 * width)  # before, at, after a position
        for dilation, norm, up, up_bias, down, down_bias in self._blocks:
            at = norm(x, out=h).reshape(n, places, width)
            h[outside] = 0
            d = min(dilation, places)
            near[:, d:, :width], near[:, :d, :width] = at[:, : places - d], 0
            near[:, :, width : 2 * width] = at
            near[:, : places - d, 2 * width :], near[:, places - d :, 2 * width :] = at[:, d:], 0
            np.matmul(near.reshape(len(x), -1), up, out=y)
            y += up_bias
            np.maximum(y, 0, out=y)
            y *= y
            np.matmul(y, down, out=h)
            h += down_bias
            x += h
        at = self._pool(x, out=h).reshape(n, places, width)
        h[outside] = LOWEST
        highest = at.max(axis=1)
        h[outside] = 0
        mean = at.sum(axis=1) / np.maximum(inside.sum(axis=1, dtype=np.float32), 1)[:, None]
        return highest, mean

    def _scratch(self, name: str, *shape: int) -> Floats:
        """An array of any content, until the thread's next one of this name; new memory is slow."""
        size, held = math.prod(shape), vars(self._held)
        if name not in held or held[name].size < size:
            held[name] = np.empty(size, dtype=np.float32)
        found: Floats = held[name][:size].reshape(shape)
        return found
