"""`virnucpro.predict` and `virnucpro.embed`."""

import sys
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
from runs_here import dna, write_fasta

import virnucpro
from virnucpro.core.errors import InputError, UsageError
from virnucpro.core.records import Record
from virnucpro.encoders import small_cpu
from virnucpro.reports.tables import CALL_COLUMNS, CallRow

TINY = {"model": "500", "orf_policy": "longest"}


@pytest.fixture
def fasta(tmp_path):
    records = [("a first", dna(0, 700)), ("b", dna(2, 200)), ("c", "ACG")]
    return write_fasta(tmp_path / "contigs.fa", *records)


def test_the_same_table_as_the_command(home, predict, fasta, tmp_path):
    result = virnucpro.predict(fasta, threads=1, min_score=0.0, **TINY)
    predict(fasta, "-o", tmp_path / "out", "--min-score", "0", code=0)
    assert result.calls.read_bytes() == (tmp_path / "out" / "calls.tsv").read_bytes()
    assert result.rows == list(CallRow.read(result.calls))
    assert (len(result), result.exit_code) == (3, 0)
    assert result.counts["call:virus"] == 2
    assert [chunk.seq_id for chunk in result.chunks()] == ["a", "a", "a", "b"]
    assert result.viral_fasta.read_text().startswith(">a first\n")
    assert result.samples[0]["sample"] == "contigs"
    relaxed = virnucpro.predict(fasta, threads=1, preset="relaxed", **TINY)
    assert {row.call for row in relaxed} == {"non-virus", None}


def test_results_stay_where_they_were_asked_for_and_else_go_with_the_result(
    home, fasta, tmp_path, monkeypatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    result = virnucpro.predict([fasta], threads=1, **TINY)
    folder = result.output_dir
    assert folder.parent == tmp_path and folder.exists()
    del result
    assert not folder.exists()
    result = virnucpro.predict(fasta, output_dir=tmp_path / "out", threads=1, **TINY)
    del result
    with pytest.raises(UsageError, match="--resume"):
        virnucpro.predict(fasta, output_dir=tmp_path / "out", **TINY)
    again = virnucpro.predict(fasta, output_dir=tmp_path / "out", resume=True, threads=1, **TINY)
    assert len(again) == 3
    fasta.write_bytes(b"no header")
    with pytest.raises(InputError):
        virnucpro.predict(fasta, **TINY)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["contigs.fa", "out"]


def test_rows_as_dictionaries_and_as_a_frame(home, fasta, monkeypatch):
    result = virnucpro.predict(fasta, threads=1, **TINY)
    first, _, last = result.to_dicts()
    assert tuple(first) == CALL_COLUMNS
    assert (first["id"], first["status"], last["p_virus"], last["call"]) == (
        "a", "called", None, None,
    )  # fmt: skip
    frame = SimpleNamespace(DataFrame=lambda rows, columns: (rows, columns))
    monkeypatch.setitem(sys.modules, "pandas", frame)
    assert result.to_pandas() == (result.to_dicts(), list(CALL_COLUMNS))
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"pip install 'virnucpro\[pandas\]'"):
        result.to_pandas()


def test_sequences_in_memory_are_called_as_those_of_a_file(home, fasta, tmp_path):
    one, two = dna(0, 700), dna(2, 200)
    from_file = virnucpro.predict(fasta, threads=1, min_score=0.0, **TINY)
    out = tmp_path / "out"
    options = {"threads": 1, "min_score": 0.0, "output_dir": out, **TINY}
    by_id = virnucpro.predict({"a": one, "b": f"{two[:90]}\n{two[90:]}", "c": "ACG"}, **options)
    records = [Record("a", "a first", one), Record("b", "b", two), Record("c", "c", "ACG")]
    with virnucpro.Session(TINY["model"], threads=1) as session:
        plain = session.predict(records, orf_policy="longest", min_score=0.0)
    scores = [(row.seq_id, row.length, row.p_virus, row.call) for row in from_file]
    for result in (by_id, plain):
        assert [(row.seq_id, row.length, row.p_virus, row.call) for row in result] == scores
    assert plain.viral_fasta.read_text().startswith(">a first\n")
    assert len(virnucpro.predict({"a": one, "b": two, "c": "ACG"}, resume=True, **options)) == 3
    for name in ("a\n>x", "a b", ""):
        with pytest.raises(UsageError, match="one word"):
            virnucpro.predict({name: one}, **TINY)


@pytest.mark.parametrize("in_notebook", [False, True])
def test_the_report_is_shown(home, fasta, monkeypatch, in_notebook):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setitem(sys.modules, "ipykernel", sys) if in_notebook else None
    page = virnucpro.predict(fasta, threads=1, **TINY).report()
    assert opened == ([] if in_notebook else [(page.output_dir / "report.html").as_uri()])
    shown = page._repr_html_()  # of a result that nothing else holds any more
    assert shown.startswith('<iframe srcdoc="&lt;!doctype html&gt;') and "<html" not in shown


def test_vectors_are_the_same_however_sequences_are_given(home, fasta):
    from_file = virnucpro.embed(fasta, **TINY)
    one, two = dna(0, 700), dna(2, 200)
    by_id = virnucpro.embed({"a": one, "b": two, "c": "ACG"}, **TINY)
    plain = virnucpro.embed([one, Record("b", "b", two)], **TINY)
    assert from_file.seq_ids == by_id.seq_ids
    assert from_file.seq_ids[:2] == ("a_chunk_1F1", "a_chunk_1F2")
    assert plain.seq_ids[0] == "sequence_1_chunk_1F1"
    assert plain.seq_ids[-1] == "b_chunk_1R3"
    np.testing.assert_allclose(from_file.vectors, by_id.vectors, atol=1e-6)
    np.testing.assert_allclose(from_file.vectors, plain.vectors, atol=1e-6)
    assert from_file.vectors.shape == (24, 72)
    assert from_file.vectors.dtype == np.float32


def test_one_vector_a_record_is_the_mean_of_its_orfs(home, fasta):
    orfs, records = virnucpro.embed(fasta, **TINY), virnucpro.embed(fasta, per="record", **TINY)
    assert records.seq_ids == ("a", "b")
    np.testing.assert_allclose(records.vectors[0], orfs.vectors[:18].mean(axis=0), atol=1e-6)
    assert virnucpro.embed([], per="record", **TINY).vectors.shape == (0, 72)


@pytest.mark.parametrize(
    "wrong",
    [
        {"preset": "conservativ"}, {"expected_length": 5}, {"sample_n": 0}, {"threads": 0},
        {"min_length": -4}, {"orf_policy": "x"}, {"min_score": 2.0},
    ],
)  # fmt: skip
def test_values_that_the_command_refuses_are_refused(home, fasta, wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(UsageError, match=f"{name} must .*{value}"):
        virnucpro.predict(fasta, **wrong)
    with virnucpro.Session() as session, pytest.raises(TypeError, match="'min_scor'"):
        session.predict(fasta, min_scor=0.9)
    with pytest.raises(UsageError, match="no input"):
        virnucpro.predict([], **TINY)
    with pytest.raises(UsageError, match="orf_policy"):
        virnucpro.embed(fasta, orf_policy="x")
    with pytest.raises(UsageError, match="per must be orf or record"):
        virnucpro.embed(fasta, per="contig")


def test_rows_and_chunks_outlive_the_result_they_come_from(home, fasta, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert [row.seq_id for row in virnucpro.predict(fasta, threads=1, **TINY)] == ["a", "b", "c"]
    chunks = virnucpro.predict(fasta, threads=1, **TINY).chunks()
    assert next(chunks).seq_id == "a"
    assert [chunk.seq_id for chunk in chunks] == ["a", "a", "b"]
    rows = iter(virnucpro.predict(fasta, threads=1, **TINY))
    assert len(list(tmp_path.glob("virnucpro-*"))) == 1
    del rows
    assert list(tmp_path.glob("virnucpro-*")) == []


@pytest.mark.parametrize("sequences", [["ACG"], ["ACG", dna(0)], [dna(0), "A"]])
@pytest.mark.parametrize("per", ["orf", "record"])
def test_vectors_stay_float32_where_a_record_has_none(home, sequences, per, monkeypatch):
    monkeypatch.setattr("virnucpro.pipeline.input_pass.SHARD_RECORDS", 1)
    found = virnucpro.embed(sequences, per=per, **TINY)
    assert found.vectors.dtype == np.float32
    assert found.vectors.shape == (len(found.seq_ids), 72)


def test_a_session_loads_each_encoder_once_for_all_its_runs(fasta, tmp_path):
    loaded = mock.patch.object(small_cpu, "read_tower", wraps=small_cpu.read_tower)
    with virnucpro.Session("mini") as session, loaded as loads:
        first = session.predict(fasta, output_dir=tmp_path / "one", threads=1)
        second = session.predict(fasta, output_dir=tmp_path / "two", threads=1)
    assert loads.call_count == 2  # encoders, not encoders times runs
    assert first.calls.read_bytes() == second.calls.read_bytes()


def test_open_frame_scores_every_open_frame_whatever_the_model_keeps(home):
    open_everywhere = {"a": "ACG" * 100}
    assert len(virnucpro.embed(open_everywhere)) == 1  # the bundled model keeps the longest
    found = virnucpro.embed(open_everywhere, orf_policy="open-frame")
    frames = ("F1", "F2", "F3", "R1", "R2", "R3")
    assert found.seq_ids == tuple(f"a_chunk_1{frame}" for frame in frames)
    assert len(virnucpro.embed(open_everywhere, orf_policy="longest")) == 1
