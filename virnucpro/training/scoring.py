"""Bases through a model, by the path that predictions take; the one place that knows that path."""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from virnucpro.core.records import Record
from virnucpro.models.specs import ModelSpec
from virnucpro.pipeline.stream import DirectScorer

Rows = Iterable[NDArray[np.uint8]]  # sequences of bases 0..3, 4 for N

_LETTERS = np.frombuffer(b"ACGTN", dtype=np.uint8)


def as_records(rows: Rows) -> Iterator[Record]:
    """Bases as records named by their place."""
    for number, bases in enumerate(rows):
        letters = _LETTERS[bases].tobytes().decode("ascii")
        yield Record(f"r{number}", f"r{number}", letters)


class ModelOnDevice:
    """A model on one device, loaded when first used."""

    def __init__(self, model: ModelSpec, device: str) -> None:
        self.model, self._scorer = model, DirectScorer(model, device)

    def calls(self, rows: Rows) -> tuple[NDArray[np.float64], NDArray[np.str_]]:
        """p_virus and call of n sequences, each (n,); NaN and empty where nothing was scored."""
        found = list(self._scorer.score(as_records(rows)))
        p = [np.nan if row.p_virus is None else row.p_virus for row in found]
        return np.array(p, dtype=np.float64), np.array([r.call or "" for r in found], dtype="<U9")

    def vectors(self, rows: Rows) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Merged vectors of the sequences' m ORFs (m, d), and the sequence of each (m,)."""
        vectors = [np.empty((0, self.model.dim), dtype=np.float32)]
        of = [np.empty(0, dtype=np.int64)]
        first = 0
        for shard, found in self._scorer.vectors(as_records(rows)):
            vectors.append(found)
            of.append(first + shard.chunks["record"][shard.orfs["chunk"]].astype(np.int64))
            first += len(shard.records)
        return np.concatenate(vectors), np.concatenate(of)
