"""Samples of one run: each by a name of its own, its records by their own ids."""

import pytest
from runs_here import dna, facts, predict_with, rows_of, run, write_fasta
from tiny_published import write_classifier


@pytest.fixture(scope="module")
def viral(tmp_path_factory):
    path = tmp_path_factory.mktemp("samples") / "viral.pth"
    return write_classifier(path, bias=[-4.0, 4.0])


@pytest.fixture
def predict(tiny_home, viral):
    """`predict(*words)` calls everything viral; the exit code must be 0."""

    def call(*words):
        done = predict_with(tiny_home, "-p", viral, *words, report=True)
        assert done.exit_code == 0, done.output
        return " ".join(done.output.split())

    return call


def keys(out, name="calls.tsv"):
    return [(row["sample"], row["id"]) for row in rows_of(out, name)]


def ids_of(path):
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    if path.suffix in (".fasta", ".fa"):
        return [line[1:].split()[0] for line in lines if line.startswith(">")]
    return list(dict.fromkeys(line.split("\t")[0] for line in lines))


def test_assemblies_are_called_by_their_folders_and_keep_their_ids(predict, tmp_path):
    names = ("NODE_1 a b", "NODE_2", "NODE_2", "")
    records = [(name, dna(seed, 600)) for seed, name in enumerate(names)]
    one = write_fasta(tmp_path / "sampleA" / "contigs.fa", *records)
    other = write_fasta(tmp_path / "sampleB" / "contigs.fa", *records, ("NODE_2__2", dna(5, 600)))
    empty, out = write_fasta(tmp_path / "a 1" / "contigs.fa"), tmp_path / "out"
    predict(one, other, empty, "-o", out)
    assert rows_of(out / "samples" / "a_1") == []
    summary = [(s["sample"], s["folder"], s["records"]) for s in facts(out)["sample_summary"]]
    assert summary == [("sampleA", "sampleA", 4), ("sampleB", "sampleB", 5), ("a 1", "a_1", 0)]
    own = ["NODE_1", "NODE_2", "NODE_2__2", "record_4"]
    expected = [("sampleA", name) for name in own]
    expected += [("sampleB", name) for name in (*own, "NODE_2__2__2")]
    assert keys(out) == keys(out, "chunks.tsv")[::3] == keys(out, "regions.tsv") == expected
    assert list(rows_of(out, "chunks.tsv")[0])[-1] == "sample"

    # a sample's own folder is that of a run of the sample alone
    for path, name in ((one, "sampleA"), (other, "sampleB")):
        alone = tmp_path / f"alone-{name}"
        predict(path, "-o", alone)
        for file in ("viral.fasta", "viral_regions.bed", "viral_chunks.bed", "viral.gff3"):
            assert (out / "samples" / name / file).read_text() == (alone / file).read_text()
        for table in ("calls.tsv", "regions.tsv"):
            own_rows = rows_of(out / "samples" / name, table)
            assert own_rows == [row for row in rows_of(out, table) if row["sample"] == name]
            assert own_rows == [{**row, "sample": name} for row in rows_of(alone, table)]


def test_files_without_a_sample_column_tell_the_samples_apart(predict, tmp_path):
    records = [("c1 first", dna(1, 600)), ("c2", dna(2, 600))]
    paths = [write_fasta(tmp_path / name / "x.fa", *records) for name in ("a", "b", "c")]
    out = tmp_path / "out"
    predict(*paths, "-o", out, "-k")
    assert [row["id"] for row in rows_of(out)] == ["c1", "c2"] * 3
    joint = ["c1", "c2", "c1__2", "c2__2", "c1__3", "c2__3"]
    for name in ("viral.fasta", "viral_regions.bed", "viral_chunks.bed", "viral.gff3"):
        assert ids_of(out / name) == joint, name
    assert (out / "viral.fasta").read_text().count(">c1__2 c1 first\n") == 1
    chunks = [f"{name}_chunk_{number}" for name in joint for number in (1, 2, 3)]
    assert ids_of(out / "x_chunked500.fa") == chunks
    merged = out / "x_merged"
    orfs = (merged / "prediction_results.txt").read_text().splitlines()[1:]
    assert list(dict.fromkeys(line.split("\t")[0][:-2] for line in orfs)) == chunks
    rows = (merged / "prediction_results_highestscore.csv").read_text().splitlines()[1:]
    assert [line.split("\t")[0] for line in rows] == sorted(chunks)


def test_mates_of_several_samples(predict, tmp_path):
    files = []
    for name in ("gut", "soil"):
        for mate in (1, 2):
            path = tmp_path / name / f"reads_R{mate}.fa"
            files.append(write_fasta(path, (f"x/{mate}", mate), (f"y/{mate}", mate + 2)))
    out = tmp_path / "out"
    predict(*files, "--paired", "-o", out)
    own = ["x/1", "x/2", "y/1", "y/2"]
    assert keys(out) == [(name, mate) for name in ("gut", "soil") for mate in own]
    later = ["x__2/1", "x__2/2", "y__2/1", "y__2/2"]
    assert ids_of(out / "viral.fasta") == [*own, *later]
    assert ids_of(out / "samples" / "soil" / "viral.fasta") == own


@pytest.mark.parametrize(
    ("files", "names"),
    [
        ("d1/x.fa x__2.fa d2/x.fa", "d1 x__2 d2"),
        ("x.fa x.fna x__2.fa", "x x__2 x__2__2"), ("x__2.fa x.fna x.fa", "x__2 x x__3"),
        ("p/gut/c.fa q/gut/c.fa gut.fa", "gut gut__2 gut__3"),
    ],
)  # fmt: skip
def test_names_are_unique_in_any_order(predict, tmp_path, files, names):
    paths = [write_fasta(tmp_path / file, ("a", 1)) for file in files.split()]
    predict(*paths, "-o", tmp_path / "out")
    assert keys(tmp_path / "out") == [(name, "a") for name in names.split()]
    folders = {path.name for path in (tmp_path / "out" / "samples").iterdir()}
    assert folders == set(names.split())


def test_one_file_given_twice_is_told(predict, tmp_path):
    path = write_fasta(tmp_path / "x.fa", ("a", 1))
    (tmp_path / "link.fa").symlink_to(path)
    said = predict(path, tmp_path / "link.fa", tmp_path / "." / "x.fa", "-o", tmp_path / "out")
    assert said.count("given twice") == 2
    assert keys(tmp_path / "out") == [("x", "a"), ("link", "a"), ("x__2", "a")]
    assert "given twice" not in predict(path, "-o", tmp_path / "once")
    again = run("predict", "--paired", path, path, "-o", tmp_path / "pair", code=2)
    assert "is given for both mates" in again.output


def test_the_report_keeps_contigs_of_one_name_apart(predict, tmp_path):
    one = write_fasta(tmp_path / "sampleA" / "c.fa", ("c", dna(1, 900)))
    two = write_fasta(tmp_path / "sampleB" / "c.fa", ("c", dna(2, 1600)))
    out = tmp_path / "out"
    predict(one, two, "-o", out)
    page = (out / "report.html").read_text()
    assert '"rows":{"id":["c","c"],"sample":[' in page
    tracks = page.split('"tracks":')[1].split('"regions"')[0]
    assert [tracks.count(f'"row":{row},') for row in (0, 1)] == [1, 1]
