"""From the model's calls to the final tables."""

from types import SimpleNamespace

from runs_here import peak_of

from virnucpro.core.checkpoint import Ledger
from virnucpro.core.records import Status
from virnucpro.pipeline.final_tables import write_final_tables
from virnucpro.pipeline.inputs import plan_sources
from virnucpro.pipeline.output_dir import RunPaths
from virnucpro.pipeline.run import summary_lines
from virnucpro.pipeline.settings import Calling
from virnucpro.reports.explain import advice
from virnucpro.reports.tables import CHUNK_COLUMNS, CONTIG_COLUMNS, CallRow, ChunkRow, header
from virnucpro.sequences.fasta import read_fasta


def make_run(tmp_path, samples, calling=None, mates=1):
    """`samples`: {stem: [(id, [p of each chunk, or None])]}; chunks are 500 nt side by side."""
    out = tmp_path / "out"
    (out / ".checkpoints").mkdir(parents=True)
    paths = RunPaths(out, "in", 500)
    inputs = []
    with paths.contigs.open("w") as calls, paths.chunks.open("w") as track:
        calls.write(header(CONTIG_COLUMNS))
        track.write(header(CHUNK_COLUMNS))
        for sample, contigs in samples.items():
            inputs.append(tmp_path / f"{sample}.fa")
            with inputs[-1].open("w") as fasta:
                for seq_id, scores in contigs:
                    fasta.write(f">{seq_id}\n{'ACGTA' * 100 * max(1, len(scores))}\n")
                    joint_id = seq_id if len(inputs) == 1 else f"{seq_id}__{len(inputs)}"
                    calls.write(call_row(seq_id, scores, sample).line(joint_id, -1))
                    track.writelines(row.line() for row in chunk_rows(seq_id, scores, sample))
    sources = plan_sources(inputs, {}, paired=False)
    return SimpleNamespace(
        sources=sources,
        paths=paths,
        folders=[out, *(paths.samples / one.folder for one in sources if len(sources) > 1)],
        settings=SimpleNamespace(calling=calling or Calling()),
        mates=mates,
        model=SimpleNamespace(calibration=None),
        ledger=Ledger(out, paths.ledger),
    )


def call_row(seq_id, scores, sample):
    known = [p for p in scores if p is not None]
    p = sum(known) / len(known) if known else None
    call = None if p is None else "virus" if p > 0.5 else "non-virus"
    status = Status.CALLED if known else Status.NO_ORF
    return CallRow(
        seq_id, 500 * len(scores), len(scores), len(known), status, p, call, "mini", sample,
        len(known), sum(p > 0.5 for p in known), sum(p < 0.5 for p in known),
    )  # fmt: skip


def chunk_rows(seq_id, scores, sample):
    for i, p in enumerate(scores):
        place = (seq_id, i + 1, 500 * i, 500 * i + 500)
        best = () if p is None else ("R1", 500 * i, 500 * i + 300, p)
        yield ChunkRow(*place, *best, sample=sample)


def lines(path):
    return [line.split("\t") for line in path.read_text().splitlines()[1:]]


def test_a_provirus_in_a_host_contig_is_counted_with_its_interval_and_sequence(tmp_path):
    host = [0.02] * 30 + [0.95, 0.97, None, 0.3, 0.96, 0.99] + [0.02] * 30
    contigs = [("host", host), ("phage", [0.99] * 2), ("dark", [None, None]), ("read", [0.99])]
    run = make_run(tmp_path, {"x": contigs}, Calling(min_score=0.98))
    fasta = tmp_path / "x.fa"
    letters = "".join("ACGT"[i % 7 % 4] for i in range(33_000))
    fasta.write_text(fasta.read_text().replace("ACGTA" * 6_600, letters))
    counts, (sample,) = write_final_tables(run)
    out = run.paths.output_dir
    found = [(row[0], int(row[2]), int(row[3]), row[10]) for row in lines(out / "regions.tsv")]
    assert found == [
        ("host", 15_000, 18_000, "non-virus"), ("phage", 0, 1_000, "virus"),
    ]  # fmt: skip
    assert counts == {
        "records": 4, "regions": 2, "with_regions": 1, "call:virus": 2, "call:non-virus": 1,
    }  # fmt: skip
    assert sample["with_regions"] == 1
    assert list(read_fasta(out / "regions.fasta")) == [
        ("host|viral_region_1 15001-18000/33000", letters[15_000:18_000])
    ]
    assert [name for name, _ in read_fasta(out / "viral.fasta")] == ["phage", "read"]
    assert len(lines(out / "calls.tsv")) == 4
    viral_chunks = (out / "viral_chunks.bed").read_text().splitlines()
    assert [line.split("\t")[:3] for line in viral_chunks] == [
        ["host", "15000", "15500"], ["host", "15500", "16000"], ["host", "17000", "17500"],
        ["host", "17500", "18000"], ["phage", "0", "500"], ["phage", "500", "1000"],
        ["read", "0", "500"],
    ]  # fmt: skip


def test_both_fasta_files_are_what_checkv_takes(tmp_path):
    """CheckV asks for ids up to the first blank that occur once, and letters behind each."""
    contigs = [("host", [0.02] * 30 + [0.99] * 4 + [0.02] * 30), ("phage", [0.99])]
    run = make_run(tmp_path, {"x": contigs, "y": contigs})
    write_final_tables(run)
    out = run.paths.output_dir
    text = (out / "viral.fasta").read_text() + (out / "regions.fasta").read_text()
    records = [record.partition("\n") for record in text.split(">")[1:]]
    assert [header.split()[0] for header, _, _ in records] == [
        "phage", "phage__2", "host|viral_region_1", "host__2|viral_region_1"
    ]  # fmt: skip
    assert all(set(letters) == set("ACGT\n") for _, _, letters in records)


def test_rates_belong_to_the_sample(tmp_path):
    rich = [(f"v{i}", [0.95]) for i in range(200)] + [("a", [0.8])]
    poor = [(f"h{i}", [0.03]) for i in range(2_000)] + [("b", [0.8])]
    run = make_run(tmp_path, {"rich": rich, "poor": poor})
    _, (first, second) = write_final_tables(run)
    rates = {row.seq_id: row.fdr for row in CallRow.read(run.paths.calls)}
    assert rates["a"] < 0.05 < 0.3 < rates["b"]
    assert first["prevalence"] > 0.9
    assert second["prevalence"] < 0.05
    assert (first["virus"], second["virus"], second["expected_false"]) == (201, 1, rates["b"])


def test_memory_stays_within_100_bytes_a_record(tmp_path):
    peaks = []
    for size in (1_500, 7_500):
        # none is viral: the ids of inputs that are read again have a test of their own
        contigs = [(f"read{i}", [i / size / 3]) for i in range(size)]
        run = make_run(tmp_path / str(size), {"x": contigs})
        peaks.append(peak_of(lambda run=run: write_final_tables(run))[1])
    assert (peaks[1] - peaks[0]) / 6_000 < 100


DATA = {
    "status": "done",
    "parameters": {"inputs": {"paired": False, "interleaved": False}},
    "seconds": 75.2,
    "stages": {
        "scoring": {"seconds": 1, "status:called": 26, "status:too_short": 1, "status:no_orf": 3},
        "tables": {"records": 30, "call:virus": 12, "call:non-virus": 13, "call:uncertain": 1},
    },
    "sample_summary": [
        {"sample": "a", "virus": 10, "expected_false": 0.01},
        {"sample": "b", "virus": 2, "expected_false": 0.07},
        {"sample": "c", "virus": 0, "expected_false": None},
    ],
}


def test_the_answer_the_silent_records_and_what_to_open(tmp_path):
    (tmp_path / "calls.tsv").touch()
    assert summary_lines(tmp_path, DATA) == [
        "30 records: 12 virus, 13 non-virus, 1 uncertain; "
        "about 2.0% of the viral ones expected to be false",
        "Not scored: 4 (1 too_short, 3 no_orf)",
        f"Done in 0:01:15: {tmp_path / 'calls.tsv'}",
    ]


def test_samples_that_hold_false_ones_are_named_with_what_helps(tmp_path):
    note = "compatible with no virus at all"
    facts = {"virus": 6, "sure": 2, "expected_false": 0.5}
    noted = [{"sample": f"s{i}", "note": note if i else "", **facts} for i in range(9)]
    command = advice(["x/virnucpro", "-v", "predict", "a.fa", "--resume", "-o", "out dir"])
    pairs = {"inputs": {"paired": True, "interleaved": False}}
    told = {"sample_summary": noted, "advice": command, "parameters": pairs}
    lines = summary_lines(tmp_path, DATA | told)
    assert lines[1:-2] == [
        *(f"s{i}: {note}" for i in range(1, 6)),
        "and 3 samples more, see run.json",
        "To keep what is sure, 9 of 27 viral pairs: "
        "virnucpro -v predict a.fa -o 'out dir' --resume --max-fdr 0.05",
    ]


def test_the_advice_after_a_plan_is_a_command_of_predict():
    words = ["virnucpro", "plan", "--block=2", "plan.fa", "-o", "run", "--force"]
    assert advice(words) == "virnucpro predict plan.fa -o run --resume --max-fdr 0.05"


def test_a_sample_like_one_without_viruses_is_told_whatever_the_thresholds_leave(tmp_path):
    few = [(f"h{i}", [0.03]) for i in range(2_000)] + [(f"v{i}", [0.6]) for i in range(3)]
    said, notes = "compatible with no virus at all", []
    for rows, limit in ((few, None), (few, 0.001), (few[:-3], None)):
        run = make_run(tmp_path / str(len(notes)), {"x": rows}, Calling(max_fdr=limit))
        notes.append(write_final_tables(run)[1][0]["note"])
    assert notes == [f"{said}: as few as 0 of its 3 viral records may be real", said, ""]
