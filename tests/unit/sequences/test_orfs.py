"""ORFs: published cases, and every block equal to a slow reading of each chunk alone."""

from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virnucpro.core.records import FRAMES
from virnucpro.sequences.orfs import OrfPolicy, find_orfs

CASES = Path(__file__).parents[2] / "data" / "orf_cases.tsv"
OPEN = OrfPolicy("open-frame")
# The published rule drops ambiguous codons in these; here they keep their place as X.
DEPARTURES = {"ambig", "iupac", "allN"}

COMPLEMENT = dict(zip("ACGTRYKMBVDH", "TGCAYRMKVBHD", strict=True))
BASES = "TCAG"
TABLE = "FFLLSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG"
CODONS = {
    a + b + c: TABLE[16 * i + 4 * j + k]
    for i, a in enumerate(BASES)
    for j, b in enumerate(BASES)
    for k, c in enumerate(BASES)
}


def rows_of(chunks, policy):
    found = find_orfs(chunks, policy)
    columns = (found.chunk, found.frame, found.start, found.end, found.dna, found.protein)
    return [
        (int(chunk), FRAMES[frame], int(start), int(end), dna.decode(), protein.decode())
        for chunk, frame, start, end, dna, protein in zip(*columns, strict=True)
    ]


def slow_frames(sequence):
    """(frame, strand, offset, translation) of the six frames, base by base."""
    forward = sequence.upper().replace("U", "T")
    backward = "".join(COMPLEMENT.get(base, base) for base in reversed(forward))
    for number, frame in enumerate(FRAMES):
        strand, offset = (forward, backward)[number // 3], number % 3
        codons = [strand[i : i + 3] for i in range(offset, len(strand) - 2, 3)]
        yield frame, strand, offset, "".join(CODONS.get(codon, "X") for codon in codons)


def slow_run(translation):
    """(first, end) codon of the longest run without a stop or XXX, X outside too, leftmost."""
    outside = f"X{translation}X"
    ends = [
        at
        for at, letter in enumerate(translation)
        if letter == "*" or outside[at : at + 3] == "XXX"
    ]
    runs = [(a + 1, b) for a, b in pairwise([-1, *ends, len(translation)])]
    return max(runs, key=lambda run: (run[1] - run[0], -run[0]))


def slow_orfs(number, chunk, policy):
    found = []
    for frame, strand, offset, translation in slow_frames(chunk):
        if policy.name == "open-frame":
            first, end = 0, len(translation)
            if "*" in translation or not translation.strip("X"):
                continue
            dna = strand[offset : offset + 3 * end + 1]
        else:
            first, end = slow_run(translation)
            dna = strand[offset:]
        start, stop = offset + 3 * first, offset + 3 * end
        if frame[0] == "R":
            start, stop = len(strand) - stop, len(strand) - start
        found.append((number, frame, start, stop, dna, translation[first:end]))
    found = [orf for orf in found if orf[-1]]
    if policy.name == "longest" and any(len(orf[-1]) >= 5 for orf in found):
        found = [orf for orf in found if len(orf[-1]) >= 5]

    def content(orf):
        return -len(orf[-1]), orf[-1], orf[-2]

    kept = sorted(found, key=content if policy.keep < 6 else len)[: policy.keep]
    return [orf for orf in found if orf in kept]


def published_cases():
    sequences, expected = {}, defaultdict(list)
    for line in CASES.read_text().splitlines()[1:]:
        case, sequence, orf_id, nucleotide, protein = line.split("\t")
        sequences[case] = sequence
        if orf_id != "-":
            expected[case].append((orf_id, nucleotide, protein))
    return [(c, s, expected[c]) for c, s in sequences.items() if c not in DEPARTURES]


@pytest.mark.parametrize(("case", "sequence", "expected"), published_cases())
def test_open_frames_are_the_published_ones(case, sequence, expected):
    found = rows_of([sequence], OPEN)
    ids = [(f"{case}_chunk_1{frame}", dna, protein) for _, frame, *_, dna, protein in found]
    assert ids == expected


@pytest.mark.parametrize(
    ("sequence", "expected"),
    [
        (
            "ATGNNNGCTGCTA",
            "F1 ATGNNNGCTGCTA MXAA, F2 TGNNNGCTGCTA XXLL, F3 GNNNGCTGCT XXC, "
            "R2 AGCAGCNNNCAT SSXH, R3 GCAGCNNNCA AXX",
        ),
        (
            "ACGTRYKMACGT",
            "F1 ACGTRYKMACGT TXXR, F2 CGTRYKMACG RXX, F3 GTRYKMACGT XXT, "
            "R1 ACGTKMRYACGT TXXR, R2 CGTKMRYACG RXX, R3 GTKMRYACGT XXT",
        ),
        ("NNNNNN", ""),
        ("augSWN", "F1 ATGSWN MX, R1 NWSCAT XH"),
    ],
    ids=["ambig", "iupac", "allN", "rna"],
)
def test_an_ambiguous_codon_is_x_and_keeps_its_place(sequence, expected):
    found = rows_of([sequence], OPEN)
    shown = [f"{frame} {dna} {protein}" for _, frame, *_, dna, protein in found]
    assert ", ".join(shown) == expected


dna = st.text("ACGT", max_size=80)
stops = st.lists(st.sampled_from(["TAA", "TTA", "CTA", "GCT", "ATG", "T"]), max_size=30).map(
    "".join
)
mixed = st.text("ACGTacgtNNNRYUSWEé", max_size=80)
policies = st.builds(OrfPolicy, st.sampled_from(["open-frame", "longest"]), st.integers(1, 6))


@settings(max_examples=300, deadline=None)
@given(sequences=st.lists(dna | stops | mixed, max_size=6), policy=policies)
def test_a_block_reads_as_each_chunk_alone(sequences, policy):
    chunks = [s.translate(str.maketrans("Eé", "NN")) for s in sequences]
    expected = [row for i, chunk in enumerate(chunks) for row in slow_orfs(i, chunk, policy)]
    assert rows_of(sequences, policy) == expected


@settings(max_examples=200, deadline=None)
@given(st.text("ACGT", min_size=60, max_size=60), st.text("ACGTN", max_size=90), st.integers(0, 90))
def test_sixty_clear_bases_give_an_orf(clear, rest, place):
    sequence = rest[:place] + clear + rest[place:]
    assert len(find_orfs([sequence], OrfPolicy("longest", keep=1))) == 1


@pytest.mark.parametrize(("name", "keep"), [("best", 6), ("longest", 0), ("open-frame", 7)])
def test_a_policy_that_cannot_be_is_refused(name, keep):
    with pytest.raises(ValueError):
        OrfPolicy(name, keep)
