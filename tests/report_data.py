"""Made-up run directories with everything that a report shows."""

import json
import random
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from virnucpro.core.records import Status
from virnucpro.reports.tables import (
    CALL_COLUMNS,
    CHUNK_COLUMNS,
    REGION_COLUMNS,
    CallRow,
    ChunkRow,
    RegionRow,
    header,
)

HOSTILE = (
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(2)>",
    "\"quoted'&amp;`${alert(3)}`",
    "<!--<script>",
    "naïve_\u2028_id",
)
SILENT = (Status.NO_ORF, Status.TOO_SHORT, Status.AMBIGUOUS, Status.FILTERED)
CHUNK_NT = 500


def make_run(
    folder: Path,
    records: int = 200,
    samples: int = 1,
    hostile: bool = False,
    seed: int = 7,
    lengths: tuple[int, int] | None = None,
) -> Path:
    """Write run.json, calls.tsv, chunks.tsv and viral regions of `records` made-up records.

    `lengths` are the shortest and the longest (nt); None spreads them as an assembly does.
    """
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"sample_{number + 1}" for number in range(samples)]
    if hostile:
        names[0] = HOSTILE[0]
    rows: list[CallRow] = []
    chunks: list[ChunkRow] = []
    regions: list[RegionRow] = []
    for number in range(records):
        seq_id = (
            HOSTILE[number]
            if hostile and number < len(HOSTILE)
            else f"NODE_{number + 1}_length_{rng.randrange(99)}_cov_{rng.random() * 40:.4f}"
        )
        length = int(10 ** rng.uniform(2.45, 4.7 if number % 40 == 0 else 3.6))
        length = rng.randint(*lengths) if lengths else length
        row, windows = _record(rng, seq_id, names[number % samples], length)
        rows.append(row)
        chunks += windows
        if row.call == "virus" and len(windows) > 3:
            start, end = windows[0].start, windows[2].end
            regions.append(
                RegionRow(seq_id, 1, start, end, row.length, 3, 0, 0.9, 6.0, "virus", row.sample)
            )
    _write(folder / "calls.tsv", CALL_COLUMNS, _ranked(rows))
    _write(folder / "chunks.tsv", CHUNK_COLUMNS, chunks)
    _write(folder / "regions.tsv", REGION_COLUMNS, regions)
    (folder / "run.json").write_text(json.dumps(_run(rows, names)), encoding="utf-8")
    return folder


def _write(
    path: Path, columns: tuple[str, ...], rows: Iterable[CallRow | ChunkRow | RegionRow]
) -> None:
    text = header(columns) + "".join(row.line() for row in rows)
    path.write_text(text, encoding="utf-8", newline="\n")


def _record(
    rng: random.Random, seq_id: str, sample: str, length: int
) -> tuple[CallRow, list[ChunkRow]]:
    count = max(1, -(-length // CHUNK_NT))
    status = rng.choice(SILENT) if rng.random() < 0.12 else Status.CALLED
    is_viral = rng.random() < 0.15
    spread = 3.5 / (1 + length / 800)
    p_virus = _logistic(rng.gauss(4.5 if is_viral else -4.5, 1.2 + spread))
    call = "virus" if p_virus > 0.7 else "non-virus" if p_virus < 0.4 else "uncertain"
    windows = []
    for chunk in range(count if status is Status.CALLED else 0):
        start = chunk * CHUNK_NT
        share = _logistic(rng.gauss(3.0 if is_viral else -3.0, 1.8))
        score = None if rng.random() < 0.1 else share
        frame = f"{rng.choice('FR')}{rng.randrange(1, 4)}"
        end = min(start + CHUNK_NT, length)
        windows.append(ChunkRow(seq_id, chunk + 1, start, end, frame, start, end, score, sample))
    scores = [window.p_virus for window in windows if window.p_virus is not None]
    scored, supporting = len(scores), sum(score >= 0.5 for score in scores)
    called = status is Status.CALLED
    row = CallRow(
        seq_id, length, count, scored, status, p_virus if called else None,
        call if called else None, "mini", sample, scored, supporting, scored - supporting,
    )  # fmt: skip
    return row, windows


def _ranked(rows: list[CallRow]) -> list[CallRow]:
    """The same rows, with the mean doubt of all that score as high as false discovery rate."""
    fdr: dict[str, float] = {}
    doubt = 0.0
    for row in sorted(rows, key=lambda row: -(row.p_virus or 0.0)):
        doubt += 1 - (row.p_virus or 0.0)
        fdr[row.seq_id] = doubt / (len(fdr) + 1)
    return [row if row.p_virus is None else replace(row, fdr=fdr[row.seq_id]) for row in rows]


def _logistic(value: float) -> float:
    return 1 / (1 + 2.718281828 ** -max(-30.0, min(30.0, value)))


def _run(rows: list[CallRow], names: list[str]) -> dict[str, object]:
    nt = sum(row.length for row in rows)
    orfs = sum(row.orfs for row in rows)
    return {
        "tool": "virnucpro", "format": 1, "version": "2.0.0", "status": "done",
        "started": "2026-03-01T10:00:00+0000", "seconds": 83.4, "python": "3.11.8",
        "host": "Linux-6.1-x86_64", "command": ["virnucpro", "predict", *names],
        "model": {"name": "mini", "digest": "ab" * 32, "chunk_nt": CHUNK_NT,
                  "orf_policy": "longest", "orf_keep": 1},
        "parameters": {"compute": {"device": "cpu", "dtype": "auto", "gpus": []}},
        "inputs": [{"path": f"reads/{name}.fa", "bytes": nt, "sha256": "cd" * 32}
                   for name in names],
        "samples": names,
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
