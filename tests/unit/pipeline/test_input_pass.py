"""Records become rows, and distinct ORFs units, the same whatever reads them."""

import multiprocessing
import random

import pytest

from virnucpro.core.records import Record
from virnucpro.pipeline import input_pass as module
from virnucpro.pipeline import parallel_translate
from virnucpro.pipeline.input_pass import Rules, Unit, input_pass
from virnucpro.pipeline.parallel_translate import translate_blocks
from virnucpro.sequences.chunks import chunk_windows, even_windows
from virnucpro.sequences.orfs import OrfPolicy, find_orfs

CHUNK_NT = 90
RULES = Rules(CHUNK_NT, OrfPolicy("longest"))
LENGTHS = [100, 30, 700, 90, 60, 181, 0, 270, 65, 89, 333]


def dna(length, seed):
    return "".join(random.Random(seed).choices("ACGTacgt", k=length))


def record(name, letters):
    return Record(name, f"{name} of test", letters, sample="s")


@pytest.fixture
def records():
    """Short ones, one of many chunks, one of nothing known, and copies near and far."""
    made = [record(f"r{i}", dna(length, i)) for i, length in enumerate(LENGTHS)]
    made.insert(4, record("unknown", "N" * 100))
    made.insert(3, record("copy of r2", made[2].sequence))
    return [*made, record("late copy", made[2].sequence)]


def run(records, per_unit=7, workers=1, rules=RULES, **options):
    units, shards, waiting = [], [], []
    for event in input_pass(iter(records), rules, per_unit, workers, **options):
        if isinstance(event, Unit):
            units.append(event)
            waiting.append((event.number, len(event)))
            continue
        shards.append(event)
        assert event.units == waiting, "a shard comes right after its units"
        waiting = []
    assert waiting == []
    return units, shards


def expect_slow_reading(records, size, units, shards):
    """Every record, chunk and ORF of each shard is what the record alone gives."""
    size += size % 2  # mates stay together
    assert len(shards) == -(-len(records) // size)
    for k, shard in enumerate(shards):
        part = records[k * size : (k + 1) * size]
        assert [row.seq_id for row in shard.records] == [one.seq_id for one in part]
        assert [row.length for row in shard.records] == [len(one.sequence) for one in part]
        chunks, orfs = [], []
        for i, (one, row) in enumerate(zip(part, shard.records, strict=True)):
            windows = even_windows(len(one.sequence), CHUNK_NT) if row.status is None else []
            assert row.chunks == len(windows)
            for number, (start, end) in enumerate(windows):
                found = find_orfs([one.sequence[start:end]], RULES.policy)
                places = (found.frame.tolist(), found.start.tolist(), found.end.tolist())
                for orf in zip(*places, found.dna, found.protein, strict=True):
                    orfs.append((len(chunks), *orf))
                chunks.append((i, number, start, end, end - start))
        assert shard.chunks.tolist() == chunks
        assert [row[:4] for row in shard.orfs.tolist()] == [orf[:4] for orf in orfs]
        mine = [unit for unit in units if (unit.number, len(unit)) in shard.units]
        distinct = [pair for u in mine for pair in zip(u.dna, u.protein, strict=True)]
        assert len(set(distinct)) == len(distinct)
        assert [distinct[row] for row in shard.orfs["distinct"]] == [orf[4:] for orf in orfs]
        first = {orf[4:]: row for row, orf in reversed([*enumerate(orfs)])}
        rows = [row for unit in mine for row in unit.rows]
        assert dict(zip(distinct, rows, strict=True)) == first


@pytest.mark.parametrize(
    ("shard", "block", "per_unit"),
    [(100, 100, 1_000), (5, 2, 7), (3, 100, 7), (1, 1, 1), (4, 3, 6), (14, 8, 5)],
)
def test_rows_are_those_of_each_record_alone(records, monkeypatch, shard, block, per_unit):
    monkeypatch.setattr(module, "SHARD_RECORDS", shard)
    monkeypatch.setattr(module, "BLOCK_CHUNKS", block)
    units, shards = run(records, per_unit)
    expect_slow_reading(records, shard, units, shards)
    assert [unit.number for unit in units] == list(range(len(units)))
    for whole in shards:
        *full, last = [size for _, size in whole.units] or [per_unit]
        assert set(full) <= {per_unit} and 0 < last <= per_unit


def test_a_shard_with_many_chunks_ends_at_the_next_pair_of_records(monkeypatch):
    monkeypatch.setattr(module, "SHARD_CHUNKS", 5)
    lengths = [400, 100, 10 * CHUNK_NT, 60, 60]
    _, shards = run([record(f"r{i}", dna(n, i)) for i, n in enumerate(lengths)])
    assert [[row.seq_id for row in shard.records] for shard in shards] == [
        ["r0", "r1"], ["r2", "r3"], ["r4"],
    ]  # fmt: skip


def turned(letters):
    return letters.translate(str.maketrans("ACGTacgt", "TGCAtgca"))[::-1]


def orfs_of(letters, rules=RULES):
    """Both sequences of each ORF, in any order, and how many letters of its chunk are clear."""
    units, [shard] = run([record("a", letters)], rules=rules, per_unit=1_000)
    pairs = [pair for unit in units for pair in zip(unit.dna, unit.protein, strict=True)]
    clear = shard.chunks["clear"][shard.orfs["chunk"]].tolist()
    found = [pairs[row] for row in shard.orfs["distinct"].tolist()]
    return sorted(zip(found, clear, strict=True)), shard


@pytest.mark.parametrize("keep", [1, 6])
@pytest.mark.parametrize("length", [75, 91, 181, 332, 500, 1_234])
def test_both_strands_give_the_same_orfs(keep, length):
    rules = Rules(CHUNK_NT, OrfPolicy("longest", keep))
    for seed in range(20):
        letters = dna(length, seed)
        letters = letters[:40] + "N" * (seed % 5 * 4) + letters[40 + seed % 5 * 4 :]
        assert orfs_of(letters, rules)[0] == orfs_of(turned(letters), rules)[0]


def test_n_at_the_ends_is_no_part_of_a_chunk():
    plain, [bare] = orfs_of(dna(300, 1))[0], orfs_of(dna(300, 1))[1].records
    found, shard = orfs_of("N" * 50 + dna(300, 1) + "N" * 7)
    assert found == plain
    assert (bare.clear, shard.records[0].clear, shard.records[0].length) == (300, 300, 357)
    assert shard.chunks["start"][0] == 50 and shard.chunks["end"][-1] == 350


def test_chunks_count_their_clear_letters():
    letters = dna(300, 2)
    shard = orfs_of(letters[:100] + "N" * 100 + letters[200:])[1]
    expected = [min(100, end) - min(100, start) + max(0, end - 200) - max(0, start - 200)
                for _, _, start, end, _ in shard.chunks.tolist()]  # fmt: skip
    assert shard.chunks["clear"].tolist() == expected
    assert min(expected) < CHUNK_NT


@pytest.mark.parametrize("size", [480, 700])
def test_a_circle_gives_the_same_orfs_wherever_it_begins(size):
    circle = dna(size, 4)
    expected, shard = orfs_of(circle + circle[:30])
    assert shard.records[0].topology == "circular"
    assert shard.chunks["end"].max() > size + 30  # over the junction
    for shift in (1, 100, 333):
        begun = circle[shift:] + circle[:shift]
        for letters in (begun + begun[:55], turned(begun + begun[:21])):
            found, shard = orfs_of(letters)
            assert [pair for pair, _ in found] == [pair for pair, _ in expected]
            assert shard.records[0].topology == "circular"


def test_repeats_in_tandem_and_open_ends_are_no_circle():
    for letters in (dna(600, 5), dna(100, 6) * 7, "AC" * 300, "N" * 20 + dna(580, 7) + "N" * 20):
        assert orfs_of(letters)[1].records[0].topology == "linear"


def test_the_published_plan_knows_no_strand_no_n_and_no_circle():
    circle = dna(600, 8)
    letters = "NN" + circle + circle[:40]
    shard = orfs_of(letters, Rules(CHUNK_NT, OrfPolicy("open-frame")))[1]
    windows = [(start, end) for _, _, start, end, _ in shard.chunks.tolist()]
    assert windows == chunk_windows(len(letters), CHUNK_NT)


def rows(orfs):
    columns = orfs.chunk, orfs.frame, orfs.start, orfs.end
    return [column.tolist() for column in columns], orfs.dna, orfs.protein


def translated(blocks, policy, workers):
    found = translate_blocks(iter(blocks), policy, workers)
    return [(key, chunks, rows(orfs)) for key, chunks, orfs in found]


def expected(blocks, policy):
    return [(key, chunks, rows(find_orfs(chunks, policy))) for key, chunks in blocks]


@pytest.fixture(params=["open-frame", "longest"])
def policy(request):
    return OrfPolicy(request.param)


def test_any_number_of_workers_gives_the_same_orfs_in_the_same_order(policy, monkeypatch):
    chunks = [dna(60 + k % 40, k) for k in range(70)]
    blocks = [(f"block {k}", chunks[k : k + 5]) for k in range(0, 70, 5)]
    wanted = expected(blocks, policy)
    assert any(dna for *_, (_, dna, _) in wanted)
    monkeypatch.setattr(parallel_translate, "BLOCKS_BEFORE_POOL", 2)
    assert translated(blocks, policy, 3) == wanted
    monkeypatch.setattr(parallel_translate, "BLOCKS_BEFORE_POOL", 0)
    monkeypatch.setattr(parallel_translate, "find_orfs", None)  # in this process only
    assert translated(blocks, policy, 4) == wanted
    assert not multiprocessing.active_children()
