"""Sequence that no genome explains: random, shuffled, low complexity.

Arrays of bases 0..3 in, arrays of bases out; whole blocks of sequences at once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bases = NDArray[np.uint8]


def uniform(rng: np.random.Generator, n: int, length: int) -> Bases:
    """Each base with probability 1/4: shape (n, length)."""
    return rng.integers(0, 4, (n, length), dtype=np.uint8)


def skewed(rng: np.random.Generator, n: int, length: int) -> Bases:
    """Independent bases; each sequence has its own composition: shape (n, length)."""
    cumulative = rng.dirichlet([2.0] * 4, n).cumsum(axis=1)[:, None, :3]
    out: Bases = (rng.random((n, length, 1)) > cumulative).sum(axis=2).astype(np.uint8)
    return out


def markov(rng: np.random.Generator, windows: Bases, order: int) -> Bases:
    """A chain of `order` with each window's own transition counts, one per window.

    Order 1 keeps a window's dinucleotides, as a dinucleotide shuffle does, in expectation.
    """
    n, length = windows.shape
    clean = np.where(windows > 3, rng.integers(0, 4, windows.shape), windows).astype(np.int64)
    states = 4**order
    context = np.zeros((n, length - order), dtype=np.int64)
    for k in range(order):
        context = context * 4 + clean[:, k : length - order + k]
    rows = np.arange(n)[:, None]
    cell = ((rows * states + context) * 4 + clean[:, order:]).ravel()
    counts = np.bincount(cell, minlength=n * states * 4).reshape(n, states, 4) + 0.01
    cumulative = (counts / counts.sum(axis=2, keepdims=True)).cumsum(axis=2)[:, :, :3]
    out = np.empty((n, length), dtype=np.uint8)
    out[:, :order] = clean[:, :order]
    state = context[:, 0]
    draws = rng.random((length, n, 1))
    for i in range(order, length):
        base = (draws[i] > cumulative[rows[:, 0], state]).sum(axis=1)
        out[:, i] = base
        state = (state * 4 + base) % states
    return out


def block_shuffle(rng: np.random.Generator, windows: Bases, block: int) -> Bases:
    """The blocks of `block` bases of each window in random order."""
    n, length = windows.shape
    count = length // block
    blocks = windows[:, : count * block].reshape(n, count, block)
    order = rng.random((n, count)).argsort(axis=1)
    return np.take_along_axis(blocks, order[:, :, None], axis=1).reshape(n, count * block)


def dinucleotide_shuffle(rng: np.random.Generator, bases: Bases) -> Bases:
    """One sequence with exactly the same dinucleotides in random order.

    Source: the Euler-path method of Altschul and Erickson (1985), by last edges.
    """
    edges = [list(bases[1:][bases[:-1] == base]) for base in range(4)]
    last = int(bases[-1])
    while True:
        exits = {b: int(rng.integers(len(e))) for b, e in enumerate(edges) if e and b != last}
        if _reaches(last, {b: int(edges[b][i]) for b, i in exits.items()}):
            break
    queues = []
    for base, out in enumerate(edges):
        final = [out.pop(exits[base])] if base in exits else []
        queues.append(list(rng.permutation(np.array(out, dtype=np.uint8))) + final)
    path = [int(bases[0])]
    taken = [0] * 4
    for _ in range(len(bases) - 1):
        here = path[-1]
        path.append(int(queues[here][taken[here]]))
        taken[here] += 1
    return np.array(path, dtype=np.uint8)


def _reaches(last: int, step: dict[int, int]) -> bool:
    for base in step:
        here, hops = base, 0
        while here != last:
            if here not in step or hops > 4:
                return False
            here, hops = step[here], hops + 1
    return True


def low_complexity(rng: np.random.Generator, n: int, length: int) -> Bases:
    """Tandem repeats of units of 1 to 12 bases, homopolymers among them, with some noise."""
    unit = rng.integers(0, 4, (n, 12), dtype=np.uint8)
    size = rng.choice(np.arange(1, 13), n, p=_UNIT_SHARE)[:, None]
    out = np.take_along_axis(unit, np.arange(length)[None] % size, axis=1)
    noise = rng.random((n, 1)) * 0.15 * (rng.random((n, 1)) < 0.8)
    random = rng.integers(0, 4, (n, length), dtype=np.uint8)
    return np.where(rng.random((n, length)) < noise, random, out).astype(np.uint8)


_UNIT_SHARE = np.array([6, 4, 4, 3, 2, 2, 1, 1, 1, 1, 1, 1]) / 27


def null_bank(
    rng: np.random.Generator, windows: Bases, share: float = 1.0
) -> list[tuple[str, Bases]]:
    """Named blocks of null sequences to sample training windows from.

    Args:
        rng: source of randomness.
        windows: real windows to shuffle, shape (n, length).
        share: size over the default of about 60 Mbp.
    """
    length = windows.shape[1]

    def some(n: int) -> int:
        return max(8, int(n * share))

    def pick(n: int) -> Bases:
        return windows[rng.integers(0, len(windows), some(n))]

    return [
        ("uniform", uniform(rng, some(16_000), length)),
        ("skewed", skewed(rng, some(6_000), length)),
        ("markov1", markov(rng, pick(16_000), 1)),
        ("markov2", markov(rng, pick(6_000), 2)),
        ("shuffle1", block_shuffle(rng, pick(4_000), 1)),
        ("shuffle2", block_shuffle(rng, pick(3_000), 2)),
        ("low", low_complexity(rng, some(10_000), length)),
    ]
