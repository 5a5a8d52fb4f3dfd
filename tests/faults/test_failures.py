"""Work that fails costs the records it belongs to, says so, and is mended by a resume."""

import functools
import zipfile
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from runs import results
from runs_here import dna, facts, predict_with, rows_of, write_fasta
from staged_files import embeddings

from virnucpro.core.errors import OutputError, VirNucProError
from virnucpro.core.text import counted
from virnucpro.pipeline import features, prediction
from virnucpro.scores import scorer


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_home):
    """A run that nobody disturbs: `out`; `predict(out, *options)` does the same again."""
    folder = tmp_path_factory.mktemp("failures")
    lengths = enumerate([1400, 500, 700, 2100, 350, 900])
    records = [(f"c{i} text", dna(20 + i, n)) for i, n in lengths]
    fasta = write_fasta(folder / "in.fa", *records, ("short", "ACGT"))

    def predict(out, *options, size="9"):
        words = [fasta, "--min-score", "0.2", "-o", out, *options]
        settings = {"VIRNUCPRO_PREDICTION_SEQUENCES_PER_FILE": size}
        done = predict_with(tiny_home, *words, **settings)
        return done.exit_code, " ".join(done.output.split())

    assert predict(folder / "whole")[0] == 0
    return SimpleNamespace(out=folder / "whole", predict=predict)


def expect_mended(whole, out, *options):
    assert whole.predict(out, *options)[0] == 0
    assert not (out / "failed_files.txt").exists()
    assert results(out) == results(whole.out)


def fail_second_unit(monkeypatch, place):
    """One of the units fails at this place of the work, however often it is tried."""
    owner, name = {
        "merging": (features, "merge_features"), "scoring": (scorer.Scorer, "prepare"),
    }.get(place, (features.EmbedTask, "prepare"))  # fmt: skip
    work, units = getattr(owner, name), []

    @functools.wraps(work)
    def fail(*given):
        unit = given[0] if place == "merging" else given[1]
        if getattr(unit, "layout", place) == place and unit not in units:
            units.append(unit)
        if unit in units[1:2]:
            raise RuntimeError("poison | in\nit")
        return work(*given)

    monkeypatch.setattr(owner, name, fail)


@pytest.mark.parametrize(
    ("place", "options"),
    [("scoring", []), ("dna", ["--staged"]), ("protein", ["--staged"]), ("merging", ["--staged"]),
     ("protein", ["--parallel", "--v1-fallback"])],
)  # fmt: skip
def test_a_record_that_lacks_scores_is_failed_and_mended(
    whole, tmp_path, monkeypatch, place, options
):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        fail_second_unit(patch, place)
        code, said = whole.predict(out, *options)
    assert code == 6, said
    undisturbed = {row["id"]: row for row in rows_of(whole.out)}
    lost = {row["id"] for row in rows_of(out) if row["status"] == "failed"}
    assert 0 < len(lost) < len(undisturbed) - 1
    for row in rows_of(out):
        before = undisturbed[row["id"]]
        assert row["orfs"] == before["orfs"]
        p = "" if row["id"] in lost else before["p_virus"]
        assert row["p_virus"] == p and (p or row["call"] == row["fdr"] == "")

    scored = (out / "in_merged" / "prediction_results.txt").read_text().splitlines()[1:]
    assert any(line.split("_chunk_")[0] in lost for line in scored)  # lost in part only
    chunks = (out / "in_merged" / "prediction_results_highestscore.csv").read_text()
    assert not [name for name in lost if f"{name}_chunk_" in chunks]
    assert all((row["p_virus"] == "") == (row["id"] in lost) for row in rows_of(out, "chunks.tsv"))
    for name in ("regions.tsv", "viral_regions.bed", "viral_chunks.bed", "viral.gff3"):
        assert not [line for line in (out / name).read_text().splitlines() if line[:2] in lost]

    missing = sum(int(row["orfs"]) for row in undisturbed.values()) - len(scored)
    named = (out / "failed_files.txt").read_text()
    assert f"{counted(len(lost), 'record')} failed: {counted(missing, 'ORF')} without" in named
    assert all(len(line.split("|")) == 3 for line in named.splitlines())
    assert named.splitlines()[0].endswith("poison / in it")
    assert facts(out)["status"] == "partial"
    with monkeypatch.context() as patch:  # all is scored, and then it ends
        patch.setattr(prediction, "_write_tables", Mock(side_effect=OutputError("full")))
        assert whole.predict(out, "--resume", *options)[0] == 1
    expect_mended(whole, out, "--resume", *options)


def places_of_records(path):
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
    content, places = path.read_bytes(), []
    for record in records:
        name, extra = (
            int.from_bytes(content[record.header_offset + at :][:2], "little") for at in (26, 28)
        )
        places.append(record.header_offset + 30 + name + extra + record.file_size // 2)
    return places


@pytest.mark.parametrize("which", [0, 1, 2], ids=["dna", "protein", "merged"])
def test_a_flipped_byte_ends_the_run_with_the_name_of_the_file(whole, tmp_path, monkeypatch, which):
    out, merge, damaged = tmp_path / "out", features.merge_features, []

    def damage(path):
        if not damaged:
            damaged.append(path)
            content = bytearray(path.read_bytes())
            content[places_of_records(path)[0]] ^= 0x04
            path.write_bytes(content)

    def merge_damaged(*files):
        if which < 2:
            damage(files[which])
        merged = merge(*files)
        if which == 2:
            damage(merged)
        return merged

    with monkeypatch.context() as patch:
        patch.setattr(features, "merge_features", merge_damaged)
        code, said = whole.predict(out, "--staged")
    assert code == 1
    assert f"{damaged[0]}: record" in said and "--force-resume" in said
    assert not (out / "calls.tsv").exists()
    expect_mended(whole, out, "--force-resume", "--staged")


def write_merged(path, rows):
    features.write_merged(path, rows, "digest")


KINDS = {
    "DNABERT_S": (features.write_dna_features, features.read_dna_features),
    "ESM": (features.write_protein_features, features.read_protein_features),
    "merged": (write_merged, features.read_merged),
}


@pytest.mark.parametrize("kind", KINDS)
def test_no_flipped_byte_anywhere_changes_what_is_read(tmp_path, kind):
    """Torch takes a record that is marked as a folder for empty, and gives what memory holds."""
    (write, read), path = KINDS[kind], tmp_path / f"output_1_{kind}.pt"
    write(path, embeddings(["a_chunk_1F1", "b_chunk_1R2"], 4))
    whole, wanted, refused = path.read_bytes(), read(path), 0
    directory = whole.index(b"PK\x01\x02")  # few bytes of the rest are no record's content
    for place in (*range(0, directory, 7), *range(directory, len(whole))):
        content = bytearray(whole)
        content[place] ^= 0xFF
        path.write_bytes(content)
        try:
            found = read(path)
        except VirNucProError as error:
            assert error.exit_code == 1 and str(path) in str(error)
            refused += 1
        else:
            assert found.seq_ids == wanted.seq_ids
            assert found.vectors.tobytes() == wanted.vectors.tobytes()
    assert refused > 100
