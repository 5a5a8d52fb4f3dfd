import gzip
import json
import random
from dataclasses import replace

import pytest
from runs_here import predict_here, run, write_dna, write_reads
from runs_here import run as command

from virnucpro.core.records import Record
from virnucpro.models import specs
from virnucpro.models.store import resolve_model
from virnucpro.pipeline import run as runs
from virnucpro.pipeline.run import RATES, Rate, prepare, rate_keys, remember
from virnucpro.pipeline.settings import Compute, PredictionSettings
from virnucpro.sequences import streams
from virnucpro.sequences.chunks import chunk_windows
from virnucpro.sequences.orfs import OrfPolicy
from virnucpro.tools import estimate as costs
from virnucpro.tools.estimate import AROUND_S, estimate, survey


@pytest.fixture
def model(tiny_home):
    return resolve_model("500", None, tiny_home)


def records(lengths, seed=3):
    rng = random.Random(seed)
    return [
        Record(f"r{i}", f"r{i}", "".join(rng.choices("ACG", k=length)))
        for i, length in enumerate(lengths)
    ]


def write(path, found, form=">{0}\n{1}\n"):
    path.write_text(
        "".join(form.format(r.seq_id, r.sequence, "I" * len(r.sequence)) for r in found)
    )
    return path


def test_survey_counts_what_the_pipeline_would(model, tmp_path):
    lengths = [100, 500, 501, 2300, 2]
    found = survey([write(tmp_path / "in.fa", records(lengths))], model)
    assert (found.records, found.scored, found.nt) == (5, 4, sum(lengths)) and found.is_whole
    assert found.chunks == sum(len(chunk_windows(n, 500)) for n in lengths[:4]) == 9
    assert found.orfs > 0 and found.dna_tokens > found.orfs
    assert found.protein_tokens > 2 * found.orfs
    assert min(map(len, found.sample)) == 100
    short = [write(tmp_path / f"{i}.fa", records([100, 600])) for i in range(2)]
    assert survey(short, model, min_length=200).scored == 2
    found = survey([write(tmp_path / "empty.fa", [])], model)
    assert (found.records, found.chunks, found.orfs, found.sample) == (0, 0, 0, [])


FORMS = {"fasta": ">{0}\n{1}\n", "fastq": "@{0}\n{1}\n+\n{2}\n", "cr": ">{0}\r{1}\r"}


@pytest.mark.parametrize("kind", [*FORMS, "gzip", "bam", "one"])
def test_a_large_input_is_told_from_its_first_part(model, tmp_path, monkeypatch, kind):
    rng = random.Random(1)
    lengths = [200_000] if kind == "one" else [rng.randint(100, 400) for _ in range(4_000)]
    found = records(lengths, seed=9)
    path = write(tmp_path / "in", found, FORMS.get(kind, FORMS["fasta"]))
    monkeypatch.setattr(costs, "HEAD_BYTES", 600_000 if kind == "gzip" else 60_000)
    monkeypatch.setattr(streams, "BLOCK_BYTES", 5_000)
    monkeypatch.setattr(costs, "HEAD_READS", 500)
    if kind == "gzip":
        path.write_bytes(gzip.compress(path.read_bytes()))
    elif kind == "bam":
        path = write_reads(tmp_path / "in.bam", *((r.seq_id, 4, r.sequence) for r in found))
    told = survey([path], model)
    assert not told.is_whole
    if kind != "one":
        assert told.records == pytest.approx(len(lengths), rel=0.15)
    assert told.nt == pytest.approx(sum(lengths), rel=0.15)


def test_rates_come_from_runs_here_and_else_from_a_second_of_scoring(
    model, tiny_home, tmp_path, monkeypatch
):
    monkeypatch.setattr(runs, "ENOUGH_ORFS", 1)
    model = replace(model, orf_policy=OrfPolicy("longest"))
    fasta = write_dna(tmp_path / "in.fa", [400] * 30)
    found, home = survey([fasta], model), tmp_path / "home"
    told = estimate(found, model, ["cpu"], 1, home)
    assert told["measured"] and told["seconds"] > AROUND_S and told["memory"] > 10_000_000
    (tiny_home / RATES).unlink(missing_ok=True)
    assert predict_here(tiny_home, fasta, tmp_path / "out") == 0
    [(key, kept)] = json.loads((tiny_home / RATES).read_text()).items()
    (tiny_home / RATES).unlink()
    assert key in rate_keys(model, ["cpu"], 1, 400) and kept["orfs_per_s"] > 0
    short = survey([write_dna(tmp_path / "short.fa", [150] * 30)], model)
    # on a GPU, where nothing is timed, the rate of other lengths is better than none
    for device, own, is_timed in (("cpu", found, False), ("cuda:0", short, False),
                                  ("cpu", short, True)):  # fmt: skip
        kept_under = rate_keys(model, [device], 1, 400)[0]
        remember(home, kept_under, Rate(100.0, 2.0, 7, 8))
        told = estimate(own, model, [device], 1, home)
        assert told["measured"] == is_timed
        if not is_timed:
            assert told["seconds"] == pytest.approx(AROUND_S + 2 + own.orfs / 100)
            assert (told["memory"], told["gpu_memory"]) == (7, 8)
    remember(fasta, key, Rate(1.0, 1.0, 1))  # no folder can be made there
    assert estimate(found, model, ["cuda:1"], 1, home) is None


def test_a_large_model_that_never_ran_here_is_not_timed(model, tiny_home, tmp_path, monkeypatch):
    assert not model.is_large
    monkeypatch.setattr(specs, "_LARGE_BYTES", 10_000)
    monkeypatch.setenv("VIRNUCPRO_MODEL_DIR", str(tiny_home))
    fasta = write(tmp_path / "in.fa", records([400]))
    said = run("estimate", "-m", "500", "-d", "cpu", fasta, code=0).output
    assert "virnucpro predict -m 500 --sample-n 20\n" in said
    for device, per_unit in (("cpu", 100), ("cuda", 10_000)):
        settings = PredictionSettings(compute=Compute(device=device, elsewhere=True))
        assert prepare([fasta], tmp_path / "out", model, settings).per_unit == per_unit


def test_profile_recommends_a_budget_that_it_tried(home, tmp_path):
    report = tmp_path / "profile.json"
    sizes = ["--model", "esm2", "--min-batch", 512, "--max-batch", 2048]
    result = command("profile", "-d", "cpu", *sizes, "-o", report, code=0)
    found = json.loads(report.read_text())["encoders"]["esm2_t36_3B_UR50D"]
    assert [trial["token_budget"] for trial in found["trials"]] == [512, 1024, 2048]
    assert all(trial["tokens_per_s"] > 0 and trial["fits"] for trial in found["trials"])
    assert found["recommended"] in (512, 1024, 2048)
    assert f"--esm-batch-size {found['recommended']}" in result.output
