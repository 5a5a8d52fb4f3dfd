"""Work that fails costs the records it belongs to, says so, and is mended by a resume."""

from __future__ import annotations

import csv
import random
import zipfile
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from staged_files import embeddings
from tiny_home import make_tiny_home

from virnucpro.cli.main import cli
from virnucpro.core.errors import VirNucProError
from virnucpro.pipeline import feature_files, features
from virnucpro.scores import scorer

FINAL = ["calls.tsv", "chunks.tsv", "regions.tsv", "viral.fasta", "viral.gff3"]
FINAL += ["viral_regions.bed", "viral_chunks.bed"]
FINAL += [f"in_merged/prediction_results{end}" for end in (".txt", "_highestscore.csv")]
STAGED = ("--staged",)
FALLBACK = ("--parallel", "--v1-fallback")


class Runs:
    """Runs on one input; `run(out, *options)` gives the exit code and what was printed."""

    def __init__(self, root: Path) -> None:
        torch.set_num_threads(1)
        self.fasta, home = root / "in.fa", make_tiny_home(root / "home")
        draw = random.Random(7)
        lengths = [1400, 500, 700, 2100, 350, 900]
        entries = [f">c{i} text\n{''.join(draw.choices('ACGT', k=n))}\n" for i, n in
                   enumerate(lengths)]  # fmt: skip
        self.fasta.write_text("".join([*entries, ">short\nACGT\n"]))
        self.environment = {
            "VIRNUCPRO_MODEL_DIR": str(home),
            "VIRNUCPRO_PREDICTION_SEQUENCES_PER_FILE": "9",
        }
        self.undisturbed = root / "undisturbed"
        assert self(self.undisturbed)[0] == 0

    def __call__(self, out: Path, *options: str) -> tuple[int, str]:
        words = ["predict", str(self.fasta), "-m", "500", "--orf-policy", "longest", "-t", "1"]
        words += ["--no-progress", "--no-report", "--min-score", "0.2", "-o", str(out), *options]
        done = CliRunner().invoke(cli, words, env=self.environment)
        return done.exit_code, done.output


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return Runs(tmp_path_factory.mktemp("failures"))


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def is_mended(run, out):
    """Whether all tables have the bytes of a run that nobody disturbed."""
    assert not (out / "failed_files.txt").exists()
    return all((out / name).read_bytes() == (run.undisturbed / name).read_bytes() for name in FINAL)


def fail_second_unit(monkeypatch, place):
    """One of the units fails at this place of the work, however often it is tried."""
    if place == "merging":
        merge = features.merge_features

        def fail_file(file, *rest):
            if file.name.startswith("output_2"):
                raise RuntimeError("poison")
            return merge(file, *rest)

        monkeypatch.setattr(features, "merge_features", fail_file)
        return
    task = scorer.Scorer if place == "scoring" else features.EmbedTask
    prepare, units = task.prepare, []

    def fail(self, unit):
        if place in ("scoring", getattr(unit, "layout", None)):
            units.extend([unit] if unit not in units else [])
            if units.index(unit) == 1:
                raise RuntimeError("poison")
        return prepare(self, unit)

    monkeypatch.setattr(task, "prepare", fail)


@pytest.mark.parametrize(
    ("place", "options"),
    [("scoring", ()), ("dna", STAGED), ("protein", STAGED), ("merging", STAGED),
     ("protein", FALLBACK)],
)  # fmt: skip
def test_a_record_that_lacks_scores_is_failed_and_mended(
    run, tmp_path, monkeypatch, place, options
):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        fail_second_unit(patch, place)
        code, said = run(out, *options)
    assert code == 6, said
    whole = {row["id"]: row for row in rows_of(run.undisturbed / "calls.tsv")}
    failed = [row for row in rows_of(out / "calls.tsv") if row["status"] == "failed"]
    assert 0 < len(failed) < len(whole) - 1
    for row in rows_of(out / "calls.tsv"):
        if row in failed:
            assert row["p_virus"] == row["call"] == row["fdr"] == ""
            assert row["orfs"] == whole[row["id"]]["orfs"]
        else:
            assert row["p_virus"] == whole[row["id"]]["p_virus"]

    scored = (out / "in_merged" / "prediction_results.txt").read_text().splitlines()[1:]
    lost = {row["id"] for row in failed}
    assert any(line.split("_chunk_")[0] in lost for line in scored)  # lost in part only
    chunks = (out / "in_merged" / "prediction_results_highestscore.csv").read_text()
    assert not [name for name in lost if f"{name}_chunk_" in chunks]
    for row in rows_of(out / "chunks.tsv"):
        assert (row["p_virus"] == "") == (row["id"] in lost)
    for name in ("regions.tsv", "viral_regions.bed", "viral_chunks.bed", "viral.gff3"):
        assert not [line for line in (out / name).read_text().splitlines() if line[:2] in lost]

    missing = sum(int(row["orfs"]) for row in whole.values()) - len(scored)
    named = (out / "failed_files.txt").read_text()
    assert f"{len(failed)} records failed: {missing} ORFs without a score" in named
    assert all(len(line.split("|")) == 3 for line in named.splitlines())

    assert run(out, "--resume", *options)[0] == 0
    assert is_mended(run, out)


def test_what_failed_once_does_not_outlive_its_cause(run, tmp_path, monkeypatch):
    """Another input in the same place has other files, and the list of failures is its own."""
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        fail_second_unit(patch, "scoring")
        assert run(out)[0] == 6
    monkeypatch.setitem(run.environment, "VIRNUCPRO_PREDICTION_SEQUENCES_PER_FILE", "1000")
    assert run(out, "--force")[0] == 0
    assert not (out / "failed_files.txt").exists()


def test_a_list_of_failures_that_is_not_ours_is_left_alone(run, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "failed_files.txt").write_text("mine")
    code, said = run(out, "--force")
    assert code == 2 and "failed_files.txt is there already" in said
    assert (out / "failed_files.txt").read_text() == "mine"


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 0x04
    path.write_bytes(content)


def places_of_records(path):
    """The middle byte of each record's content in a zip file."""
    content, places = path.read_bytes(), []
    with zipfile.ZipFile(path) as archive:
        for record in archive.infolist():
            lengths = content[record.header_offset + 26 : record.header_offset + 30]
            before = (
                30 + int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")
            )
            places.append(record.header_offset + before + record.file_size // 2)
    return places


@pytest.mark.parametrize("which", [0, 1, 2], ids=["dna", "protein", "merged"])
def test_a_flipped_byte_ends_the_run_with_the_name_of_the_file(run, tmp_path, monkeypatch, which):
    out, merge, damaged = tmp_path / "out", features.merge_features, []

    def damage(*files):
        if which < 2 and not damaged:
            damaged.append(files[which])
            flip(files[which], places_of_records(files[which])[0])
        merged = merge(*files)
        if which == 2 and not damaged:
            damaged.append(merged)
            flip(merged, places_of_records(merged)[0])
        return merged

    with monkeypatch.context() as patch:
        patch.setattr(features, "merge_features", damage)
        code, said = run(out, "--staged")
    said = " ".join(said.split())
    assert code == 1
    assert f"{damaged[0]}: record" in said and "--force-resume" in said
    assert not (out / "calls.tsv").exists()
    assert run(out, "--force-resume", "--staged")[0] == 0
    assert is_mended(run, out)


def feature_file(folder, kind):
    rows = embeddings(["a_chunk_1F1", "b_chunk_1R2"], 4)
    if kind == "dna":
        path = folder / "output_1_DNABERT_S.pt"
        feature_files.write_dna_features(path, rows)
    elif kind == "protein":
        path = folder / "output_1_ESM.pt"
        feature_files.write_protein_features(path, rows)
    else:
        path = folder / "output_1_merged.pt"
        feature_files.write_merged(path, rows, "digest")
    return path


@pytest.mark.parametrize("kind", ["dna", "protein", "merged"])
def test_every_record_of_a_feature_file_is_asked_for_its_checksum(tmp_path, kind):
    path = feature_file(tmp_path, kind)
    places, whole = places_of_records(path), path.read_bytes()
    assert len(places) > 2
    for place in places:
        flip(path, place)
        done = CliRunner().invoke(cli, ["utils", "validate-checkpoints", str(tmp_path)])
        assert done.exit_code == 1 and f"bad   {path}: " in done.output
        path.write_bytes(whole)
    done = CliRunner().invoke(cli, ["utils", "validate-checkpoints", str(tmp_path)])
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("kind", ["dna", "protein", "merged"])
def test_no_flipped_byte_anywhere_changes_what_is_read(tmp_path, kind):
    """Torch takes a record that is marked as a folder for empty, and gives what memory holds."""
    path = feature_file(tmp_path, kind)
    read = {
        "dna": feature_files.read_dna_features,
        "protein": feature_files.read_protein_features,
        "merged": feature_files.read_merged,
    }[kind]
    whole, wanted = path.read_bytes(), read(path)
    directory = whole.index(b"PK\x01\x02")  # few bytes of the rest are no record's content
    refused = 0
    for place in (*range(0, directory, 7), *range(directory, len(whole))):
        content = bytearray(whole)
        content[place] ^= 0xFF
        path.write_bytes(content)
        try:
            found = read(path)
        except VirNucProError as error:
            assert error.exit_code == 1 and str(path) in str(error)
            refused += 1
            continue
        assert found.seq_ids == wanted.seq_ids
        assert found.vectors.tobytes() == wanted.vectors.tobytes()
    assert refused > 100
