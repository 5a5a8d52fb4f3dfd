"""What kind of virus: probabilities of the groups that a model was trained on, summed up.

A group is called `{kind}: {family}`, `virus: {name}` where its kind is open, or by its cellular
class.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

KINDS = (
    "bacteriophage", "archaeal virus", "eukaryotic DNA virus", "RNA virus",
    "retro-transcribing virus",
)  # fmt: skip
RETRO = KINDS.index("retro-transcribing virus")
LIKENESS = 3  # of two mates: as phages, as another kind of virus, as one host
COLUMNS = len(KINDS) + 4  # of each kind; index and probability of the likeliest host and family

Floats = NDArray[np.float64]


class Kinds:
    """The kinds and families of a model's groups, by their names in the order of its logits."""

    def __init__(self, groups: Sequence[str]) -> None:
        parts = [group.partition(": ") for group in groups]
        kinds = [KINDS.index(kind) if kind in KINDS else -1 for kind, _, _ in parts]
        self.of_group = np.array(kinds, dtype=np.int64)  # index of its kind, -1 for none, (groups,)
        self.families = [  # of each group, empty where it is no family
            name if k >= 0 and name.endswith("idae") else ""
            for k, (_, _, name) in zip(kinds, parts, strict=True)
        ]
        self._host_groups = [
            i for i, name in enumerate(groups) if ": " not in name and name not in ("virus", "null")
        ]
        self.hosts = [groups[i] for i in self._host_groups]  # the cellular classes

    def columns(self, probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probabilities of the groups (n, groups) to those of kinds and family (n, `COLUMNS`)."""
        found = np.zeros((len(probabilities), COLUMNS), dtype=np.float32)
        for kind in range(len(KINDS)):
            found[:, kind] = probabilities[:, self.of_group == kind].sum(axis=1)
        named = np.where([bool(name) for name in self.families], probabilities, 0.0)
        hosts = probabilities[:, self._host_groups or [0]]
        for first, among in ((-4, hosts), (-2, named)):
            best = among.argmax(axis=1)
            found[:, first], found[:, first + 1] = best, among[np.arange(len(best)), best]
        return found

    def of_records(
        self, columns: Floats, weight: NDArray[Any], record_of: NDArray[np.integer], count: int
    ) -> tuple[NDArray[np.int64], Floats, NDArray[np.int64], Floats, NDArray[np.int64]]:
        """Likeliest kind, family and host of `count` records, over their chunks.

        Of each chunk `columns` (chunks, `COLUMNS`), where NaN is no evidence, its weight, and the
        index of its record. Returns index of the kind and its share among kinds, index of the
        family's group and its mean probability, index of the host, each (count,); the shares of a
        record without evidence are 0, and its host is -1.
        """
        kinds, host, hosted, family, certain = self._means(columns, weight, record_of, count)
        hosts = np.where(hosted > 0, host, -1)
        return kinds.argmax(axis=1), kinds.max(axis=1), family, certain, hosts

    def alike(
        self, columns: Floats, weight: NDArray[Any], mate_of: NDArray[np.integer], pairs: int
    ) -> Floats:
        """How alike the mates of each pair are, 0 to 1: (pairs, `LIKENESS`).

        Arguments as for `of_records`; mates follow each other. NaN where not both have evidence.
        """
        kinds, host, hosted, *_ = self._means(columns, weight, mate_of, 2 * pairs)
        of_kinds = kinds[::2] * kinds[1::2]
        of_hosts = np.sqrt(hosted[::2] * hosted[1::2]) * (host[::2] == host[1::2])
        found = np.stack([of_kinds[:, 0], of_kinds[:, 1:].sum(axis=1), of_hosts], axis=1)
        is_known = np.bincount(mate_of, minlength=2 * pairs) > 0
        return np.where((is_known[::2] & is_known[1::2])[:, None], found, np.nan)

    def _means(
        self, columns: Floats, weight: NDArray[Any], record_of: NDArray[np.integer], count: int
    ) -> list[NDArray[Any]]:
        """Mean shares among kinds, (count, kinds); host, family, each with its mean, (count,)."""
        columns = np.nan_to_num(columns)
        total = np.maximum(np.bincount(record_of, weight, minlength=count), 1e-9)
        kinds = columns[:, : len(KINDS)]
        kinds = kinds / np.maximum(kinds.sum(axis=1, keepdims=True), 1e-9)
        sums = [np.bincount(record_of, weight * kind, minlength=count) for kind in kinds.T]
        found: list[NDArray[Any]] = [np.stack(sums, axis=1) / total[:, None]]
        groups = max(1, len(self.families))
        for first in (-4, -2):
            cells = record_of * groups + columns[:, first].astype(np.int64)
            cell, place = np.unique(cells, return_inverse=True)
            evidence = np.bincount(place, weight * columns[:, first + 1], minlength=len(cell))
            best, certain = np.zeros(count, dtype=np.int64), np.zeros(count)
            order = np.argsort(evidence, kind="stable")  # the greatest of each record is kept
            best[cell[order] // groups] = cell[order] % groups
            certain[cell[order] // groups] = evidence[order]
            found += [best, certain / total]
        return found
