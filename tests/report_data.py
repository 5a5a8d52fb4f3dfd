"""Made-up run directories with everything that a report shows."""

import json
import random
from dataclasses import replace
from pathlib import Path

from virnucpro.core.records import Status
from virnucpro.reports.tables import (
    CALL_COLUMNS,
    CHUNK_COLUMNS,
    REGION_COLUMNS,
    SCHEMA,
    CallRow,
    ChunkRow,
    RegionRow,
    header,
)
from virnucpro.sequences.fasta import write_fasta

HOSTILE = (
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(2)>",
    "\"quoted'&amp;`${alert(3)}`",
    "<!--<script>",
    "naïve_\u2028_id",
)
SILENT = (Status.NO_ORF, Status.TOO_SHORT, Status.AMBIGUOUS, Status.FILTERED)
CHUNK_NT = 500


def make_run(folder, records=200, samples=1, hostile=False, lengths=None) -> Path:
    """Write tables, FASTA and run.json of made-up records of `lengths` (least, most) nt."""
    rng = random.Random(7)
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"sample_{number + 1}" for number in range(samples)]
    ids = [
        f"NODE_{i + 1}_length_{rng.randrange(99)}_cov_{rng.random():.4f}" for i in range(records)
    ]
    if hostile:
        names[0], ids[: len(HOSTILE)] = HOSTILE[0], HOSTILE
    rows: list[CallRow] = []
    chunks: list[ChunkRow] = []
    regions: list[RegionRow] = []
    for number, seq_id in enumerate(ids):
        length = int(10 ** rng.uniform(2.45, 4.7 if number % 40 == 0 else 3.6))
        length = rng.randint(*lengths) if lengths else length
        row, windows = _record(rng, seq_id, names[number % samples], length)
        rows.append(row)
        chunks += windows
        if row.call in ("virus", "non-virus") and len(windows) > 5:
            start, end = windows[0].start, windows[2].end
            place, odds = (start, end, (end - start) / length), round(6 + len(regions) / 7, 2)
            regions.append(RegionRow(seq_id, 1, *place, 3, 0, 0.9, odds, row.call, row.sample))
    # the mean doubt of all that score as high is their false discovery rate
    fdr, doubt = {}, 0.0
    for row in sorted(rows, key=lambda row: -(row.p_virus or 0.0)):
        doubt += 1 - (row.p_virus or 0.0)
        fdr[row.seq_id] = doubt / (len(fdr) + 1)
    rows = [
        row if row.p_virus is None
        else replace(row, fdr=fdr[row.seq_id], p_sample=row.p_virus**2,
                     class_hint="RNA virus" if row.call == "virus" else "")
        for row in rows
    ]  # fmt: skip
    viral = [(row.seq_id, row.length) for row in rows if row.call == "virus"]
    inside = [(f"{row.seq_id}|viral_region_1", row.end - row.start)
              for row in regions if row.call != "virus"]  # fmt: skip
    for name, sequences in (("viral", viral), ("regions", inside)):
        with (folder / f"{name}.fasta").open("w", encoding="utf-8", newline="\n") as file:
            write_fasta(file, ((seq_id, "ACGT" * (nt // 4)) for seq_id, nt in sequences))
    for name, columns, table in (
        ("calls", CALL_COLUMNS, rows), ("chunks", CHUNK_COLUMNS, chunks),
        ("regions", REGION_COLUMNS, regions),
    ):  # fmt: skip
        text = header(columns) + "".join(row.line() for row in table)
        (folder / f"{name}.tsv").write_text(text, encoding="utf-8", newline="\n")
    (folder / "run.json").write_text(json.dumps(_run(rows, names)), encoding="utf-8")
    return folder


def _record(rng, seq_id, sample, length) -> tuple[CallRow, list[ChunkRow]]:
    count = max(1, -(-length // CHUNK_NT))
    status = rng.choice(SILENT) if rng.random() < 0.12 else Status.CALLED
    called, is_viral = status is Status.CALLED, rng.random() < 0.15
    spread = 3.5 / (1 + length / 800)
    p_virus = _logistic(rng.gauss(4.5 if is_viral else -4.5, 1.2 + spread))
    call = "virus" if p_virus > 0.7 else "non-virus" if p_virus < 0.4 else "uncertain"
    windows = []
    for chunk in range(count if called else 0):
        start, end = chunk * CHUNK_NT, min((chunk + 1) * CHUNK_NT, length)
        share = _logistic(rng.gauss(3.0 if is_viral else -3.0, 1.8))
        score = None if rng.random() < 0.1 else share
        frame = f"{rng.choice('FR')}{rng.randrange(1, 4)}"
        windows.append(ChunkRow(seq_id, chunk + 1, start, end, frame, start, end, score, sample))
    scores = [window.p_virus for window in windows if window.p_virus is not None]
    scored, supporting = len(scores), sum(score >= 0.5 for score in scores)
    row = CallRow(
        seq_id, length, count, scored, status, p_virus if called else None,
        call if called else None, "mini", sample, scored, supporting, scored - supporting,
    )  # fmt: skip
    return row, windows


def _logistic(value: float) -> float:
    return 1 / (1 + 2.718281828 ** -max(-30.0, min(30.0, value)))


def _run(rows: list[CallRow], names: list[str]) -> dict[str, object]:
    nt = sum(row.length for row in rows)
    orfs = sum(row.orfs for row in rows)
    return {
        "tool": "virnucpro", "format": 1, "version": "2.0.0", "status": "done",
        "started": "2026-03-01T10:00:00+0000", "seconds": 83.4, "versions": {"python": "3.11.8"},
        "schema": SCHEMA,
        "host": "Linux-6.1-x86_64", "command": ["virnucpro", "predict", *names],
        "model": {"name": "mini", "digest": "ab" * 32, "chunk_nt": CHUNK_NT,
                  "orf_policy": "longest", "orf_keep": 1},
        "parameters": {"compute": {"device": "cpu", "dtype": "auto", "gpus": []},
                       "inputs": {"paired": False, "interleaved": False}},
        "inputs": [{"path": f"reads/{name}.fa", "bytes": nt, "sha256": "cd" * 32}
                   for name in names],
        "samples": names,
        "sample_summary": [{"sample": name, "records": 100, "scored": 100, "virus": 9,
                            "prevalence": 0.15, "low": 0.1, "high": 0.21, "expected_false": 0.1,
                            "compatible_with_none": False, "sure": 3, "note": ""}
                           for name in names],
        "calling": {"preset": None, "min_score": None, "max_fdr": None, "only_stricter": False},
        "stages": {
            "reading": {"seconds": 4.2, "orfs": orfs, "files": 1},
            "dna_features": {"seconds": 30.1, "files": 1, "tokens": orfs * 500},
            "protein_features": {"seconds": 41.7, "files": 1, "tokens": orfs * 168},
            "merging": {"seconds": 1.4, "files": 1, "failed": 0},
            "prediction": {"seconds": 4.9, "scored": orfs},
            "scoring": {"seconds": 1.1, "records": len(rows), "nt": nt, "chunks_scored": orfs},
        },
        "outputs": {},
    }  # fmt: skip
