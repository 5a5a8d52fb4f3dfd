"""Speed of the six-frame ORF search on one core, beside plain Python in the same run.

Two sets of 500 nt chunks from a fixed seed: `random` (bases independent, almost no open frame)
and `half coding` (every second chunk has a frame without stops: many more results to build).
The plain version walks codon by codon with a dictionary and is checked to give the same ORFs.

Usage: OMP_NUM_THREADS=1 python -m benchmarks.benchmark_orfs [--mbp 10] [--output FILE]
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

from benchmarks.result_file import keep
from virnucpro.core.records import FRAMES
from virnucpro.sequences.orfs import OrfPolicy, find_orfs

CHUNK_NT = 500
PLAIN_SHARE = 10
ROUNDS = 5
ROOT = Path(__file__).resolve().parents[1]

BASES = "TCAG"
TABLE = "FFLLSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG"
CODONS = {
    a + b + c: TABLE[16 * i + 4 * j + k]
    for i, a in enumerate(BASES)
    for j, b in enumerate(BASES)
    for k, c in enumerate(BASES)
}
SENSE = [codon for codon, letter in CODONS.items() if letter != "*"]
COMPLEMENT = {"A": "T", "C": "G", "G": "C", "T": "A"}


def plain_orfs(chunk: str) -> list[tuple[int, int, int, bytes, bytes]]:
    """Frame, start, end, DNA and protein of open frames, codon by codon; plain letters only."""
    forward = chunk.upper()
    backward = "".join(COMPLEMENT[base] for base in reversed(forward))
    found = []
    for number in range(len(FRAMES)):
        strand, offset = (forward, backward)[number // 3], number % 3
        protein = ""
        for place in range(offset, len(strand) - 2, 3):
            letter = CODONS[strand[place : place + 3]]
            if letter == "*":
                break
            protein += letter
        else:
            end = offset + 3 * len(protein)
            bounds = (offset, end) if number < 3 else (len(strand) - end, len(strand) - offset)
            dna = strand[offset : end + 1]
            found.append((number, *bounds, dna.encode(), protein.encode()))
    return found


def make_chunks(count: int, coding_share: float) -> list[str]:
    draw = random.Random(7)
    chunks = []
    for _ in range(count):
        if draw.random() < coding_share:
            sequence = "".join(draw.choices(SENSE, k=CHUNK_NT // 3 + 1))[:CHUNK_NT]
        else:
            sequence = "".join(draw.choices("ACGT", k=CHUNK_NT))
        chunks.append(sequence)
    return chunks


def seconds_of(work) -> float:
    """The best of some rounds, in seconds of this process's processor time."""
    times = []
    for _ in range(ROUNDS):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def measure(name: str, chunks: list[str]) -> dict[str, object]:
    few = chunks[: len(chunks) // PLAIN_SHARE]
    policy = OrfPolicy("open-frame")
    found = find_orfs(few, policy)
    columns = (found.chunk, found.frame, found.start, found.end)
    rows = list(zip(*(c.tolist() for c in columns), found.dna, found.protein, strict=True))
    if rows != [(i, *orf) for i, chunk in enumerate(few) for orf in plain_orfs(chunk)]:
        raise SystemExit("plain and vectorised ORFs differ")
    mbp = len(chunks) * CHUNK_NT / 1e6
    plain = mbp / PLAIN_SHARE / seconds_of(lambda: [plain_orfs(chunk) for chunk in few])
    fast = mbp / seconds_of(lambda: find_orfs(chunks, policy))
    longest = {
        f"longest_keep_{keep}_mbp_per_s": round(
            mbp / seconds_of(lambda keep=keep: find_orfs(chunks, OrfPolicy("longest", keep))), 1
        )
        for keep in (1, 6)
    }
    return {
        "chunks": name,
        "mbp": mbp,
        "open_frames_per_chunk": round(len(found) / len(few), 3),
        "plain_python_mbp_per_s": round(plain, 2),
        "open_frame_mbp_per_s": round(fast, 1),
        "times_plain": round(fast / plain, 1),
        **longest,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mbp", type=float, default=10.0)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/orfs.json")
    options = parser.parse_args()
    count = int(options.mbp * 1e6 / CHUNK_NT)
    result = {
        "command": "OMP_NUM_THREADS=1 python -m benchmarks.benchmark_orfs",
        "unit": "Mbp of input a second of processor time, one core, best of 5 rounds",
        "results": [
            measure("random", make_chunks(count, 0.0)),
            measure("half coding", make_chunks(count, 0.5)),
        ],
    }
    keep(result, options.output)


if __name__ == "__main__":
    main()
