"""Scores of ORFs to calls of chunks and records; the original's tables, to the byte."""

import csv
import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from virnucpro.core.records import FRAMES, Record, Status
from virnucpro.pipeline.calls import Caller, ModelTables
from virnucpro.pipeline.input_pass import Rules, Shard, input_pass
from virnucpro.pipeline.output_dir import RunPaths
from virnucpro.scores import consensus
from virnucpro.scores.calibration import Calibration
from virnucpro.scores.consensus import ConsensusTable, format_rows
from virnucpro.scores.kinds import Kinds
from virnucpro.sequences.fasta import read_records
from virnucpro.sequences.orfs import OrfPolicy

GOLDEN = Path(__file__).parents[4] / "shared" / "golden"
RULES = Rules(100, OrfPolicy("open-frame"))
MODEL = SimpleNamespace(name="toy", calibration=None, groups=(), orf_policy=RULES.policy)
OPEN = "ATGGCCAAGGTTCTG" * 7  # no stop codon in F1


def shards_of(records, rules=RULES):
    return [event for event in input_pass(records, rules, 10) if isinstance(event, Shard)]


def record(name, letters=OPEN):
    return Record(name, name, letters, sample="s")


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="needs the golden files in ../shared")
@pytest.mark.parametrize("name", ["orfs_vanilla", "fixed500_vanilla"])
def test_golden_orfs_ids_and_tables(name, tmp_path):
    golden = np.load(GOLDEN / f"{name}.npz")
    records = read_records([GOLDEN / f"{name}_input.fa"])
    *units, shard = input_pass(records, Rules(500, RULES.policy), 10)
    orfs = [orf for unit in units for orf in zip(unit.dna, unit.protein, strict=True)]
    seen = [orfs[row] for row in shard.orfs["distinct"]]
    assert shard.orf_ids() == golden["ids"].tolist()
    expected = zip(golden["nucleotide"].tolist(), golden["protein"].tolist(), strict=True)
    assert [(dna.decode(), protein.decode()) for dna, protein in seen] == list(expected)
    paths = RunPaths(tmp_path / "out", "in", 100)
    paths.checkpoints.mkdir(parents=True)
    scores = np.full((len(seen), 3), np.nan, np.float32)
    scores[:, :2] = golden["scores"]
    with ModelTables(paths, MODEL) as tables:
        tables.add(shard, scores)
        tables.finish()
    assert paths.predictions.read_bytes() == (GOLDEN / f"{name}_scores.tsv").read_bytes()
    assert paths.consensus.read_bytes() == (GOLDEN / f"{name}_consensus.tsv").read_bytes()


def with_scores(shard, virus):
    """Scores (orfs, 3) where each ORF's P(virus) is given by its record's id."""
    owners = shard.chunks["record"][shard.orfs["chunk"]]
    p = np.array([virus[shard.records[i].seq_id] for i in owners], dtype=np.float32)
    return np.stack([1 - p, p, np.full(len(p), np.nan)], axis=1).astype(np.float32)


def test_a_pair_has_one_answer_and_each_mate_its_own(monkeypatch):
    monkeypatch.setattr(Calibration, "load", lambda path: Calibration(pair_gain=1.0))
    virus = {"a/1": 0.9, "a/2": 0.8, "b/1": 0.3, "b/2": 0.3, "c/1": 0.7, "d/1": 0.9, "d/2": 0.9}
    short = {"c/2": "AC", "e/1": "AC", "e/2": "N" * 200}
    records = [record(f"{name}/{mate}", short.get(f"{name}/{mate}", OPEN[:99]))
               for name in "abcde" for mate in (1, 2)]  # fmt: skip
    [shard] = shards_of(records)
    scores = with_scores(shard, virus)
    owners = shard.chunks["record"][shard.orfs["chunk"]]
    scores[np.flatnonzero(owners == 7)[0]] = np.nan  # an ORF of d/2
    called = Caller(MODEL, mates=2).call(shard, scores)
    rows = {row.seq_id: row for row in called.rows}
    for a, b in zip(called.rows[::2], called.rows[1::2], strict=True):
        assert (a.p_virus, a.call) == (b.p_virus, b.call)
    p = {name: row.p_record for name, row in rows.items()}
    assert p["a/1"] == pytest.approx(0.9) and p["a/2"] == pytest.approx(0.8)
    odds = 0.9 / 0.1 * 0.8 / 0.2
    assert rows["a/1"].p_virus == pytest.approx(odds / (1 + odds))
    assert rows["b/1"].p_virus == pytest.approx(0.09 / (0.09 + 0.49))
    assert (rows["a/1"].call, rows["b/1"].call) == ("virus", "non-virus")
    assert rows["c/1"].p_virus == p["c/1"] == pytest.approx(0.7)
    assert (rows["c/2"].status, p["c/2"]) == (Status.TOO_SHORT, None)
    for mate in ("d/1", "d/2"):
        row = rows[mate]
        assert (row.status, row.p_virus, row.p_record) == (Status.FAILED, None, None)
    assert called.missing == {"d/1": 0, "d/2": 1}
    assert rows["e/1"].p_virus is rows["e/2"].call is None
    own = Caller(MODEL).call(shard, scores).rows
    assert [row.p_record for row in own[:6]] == [row.p_record for row in called.rows[:6]]
    assert all(row.p_virus == row.p_record for row in own)
    chunks = {row.seq_id: row.p_virus for row in called.chunk_rows}
    assert chunks["a/1"] == p["a/1"] and chunks["a/2"] == p["a/2"]


def test_the_orf_with_the_most_virus_speaks_for_its_chunk():
    [shard] = shards_of([record("a", OPEN[:60]), record("b", OPEN[:100])])
    scores = with_scores(shard, {"a": 0.2, "b": 0.3})
    best = np.flatnonzero(shard.orfs["chunk"] == 1)[-1]
    scores[best, :2] = 0.4, 0.6
    called = Caller(MODEL).call(shard, scores)
    assert called.is_virus.tolist() == [False, False]  # another frame looks less viral by more
    row, (_, frame, start, end, _) = called.chunk_rows[1], shard.orfs[best].tolist()
    assert (row.frame, row.orf_start, row.orf_end) == (FRAMES[frame], start, end)
    lone = np.array([[0.7, 0.6, np.nan]]), np.array([100]), np.array([0]), np.array([100])
    [p], _ = Calibration().contigs(*lone)
    assert row.p_virus == pytest.approx(p, abs=1e-6)
    scores[shard.orfs["chunk"] == 1, 0] = 0.6
    assert Caller(MODEL).call(shard, scores).is_virus.tolist() == [False, True]  # a tie is virus


GROUPS = ("bacteria", "RNA virus: Potyviridae", "retro-transcribing virus: Retroviridae")


@pytest.mark.parametrize(
    ("p_virus", "groups", "expected"),
    [
        (0.95, (0.05, 0.9, 0.05), ("virus", "RNA virus", "Potyviridae")),
        (0.95, (0.6, 0.3, 0.1), ("virus", "RNA virus", "")),
        (0.95, (0.0, 0.5, 0.5), ("virus", "", "")),
        (0.95, (0.0, 0.1, 0.9), ("uncertain", "retro-transcribing virus", "Retroviridae")),
        (0.995, (0.0, 0.1, 0.9), ("virus", "retro-transcribing virus", "Retroviridae")),
        (0.2, (0.0, 0.9, 0.1), ("non-virus", "", "")),
    ],
)
def test_likely_viruses_have_a_kind_and_a_family_where_they_are_sure(
    p_virus, groups, expected, tmp_path
):
    path = tmp_path / "calibration.json"
    limits = Calibration(retro_above=0.98, kind_above=0.7, family_above=0.6)
    limits.save(path, "toy")
    model = SimpleNamespace(name="toy", calibration=path, groups=GROUPS, orf_policy=RULES.policy)
    [shard] = shards_of([record("a")])
    columns = Kinds(GROUPS).columns(np.tile(np.float32(groups), (len(shard.orfs), 1)))
    scores = np.hstack([with_scores(shard, {"a": p_virus}), columns])
    [row] = Caller(model).call(shard, scores).rows
    assert (row.call, row.class_hint, row.family) == expected
    assert (row.kind_score is not None) == bool(expected[1])


def written(chunks, scratch, block=consensus.SORT_BLOCK_CHUNKS):
    table, file = ConsensusTable(scratch, block), io.BytesIO()
    for name, flag in chunks:
        table.add([name], [flag])
    table.write(file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("score", "text"),
    [(1e-7, "1e-07"), (1e-4, "1e-04"), (9.9e-5, "9.9e-05"), (1, "1.0"), (0, "0.0"),
     (1e-40, "1e-40"), (0.99999994, "0.99999994"), (0.1, "0.1")],
)  # fmt: skip
def test_scores_are_the_shortest_text_that_is_the_float32(score, text):
    row = format_rows(["aF1"], np.array([[score, 0.5]], np.float32))
    assert row.split("\t")[2] == text


def test_a_tie_is_others_and_a_third_class_stays_out():
    scores = np.array([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]], np.float32)
    assert format_rows(["aF1", "aF2"], scores) == "aF1\tothers\t0.5\t0.5\naF2\tvirus\t0.2\t0.3\n"


@given(
    st.dictionaries(
        st.text(st.characters(exclude_characters="\0\t\n\r", codec="utf-8"), max_size=6),
        st.booleans(), max_size=60,
    ),
    st.integers(1, 7),
)  # fmt: skip
def test_blocks_on_disk_give_what_memory_gives(tmp_path_factory, chunks, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(consensus, "MERGE_FILES", 3)
        text = written(chunks.items(), tmp_path_factory.mktemp("sort"), block).decode()
    table = list(csv.reader(io.StringIO(text, newline=""), delimiter="\t"))
    assert table[1:] == [[name, str(flag)] for name, flag in sorted(chunks.items())]
