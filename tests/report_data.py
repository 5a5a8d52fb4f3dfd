"""Made-up run directories with everything that a report shows."""

from __future__ import annotations

import json
import random
from pathlib import Path

HOSTILE = (
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(2)>",
    "\"quoted'&amp;`${alert(3)}`",
    "<!--<script>",
    "naïve_\u2028_id",
)
COLUMNS = (
    "id", "length", "chunks", "orfs", "status", "p_virus", "call", "model", "sample",
    "chunks_scored", "share_scored", "supporting", "opposing", "fdr", "class_hint",
)  # fmt: skip
BASE_COLUMNS = COLUMNS[:8]
SILENT = ("no_orf", "too_short", "ambiguous", "filtered")
CHUNK_NT = 500


def make_run(
    folder: Path,
    records: int = 200,
    samples: int = 1,
    hostile: bool = False,
    columns: tuple[str, ...] = COLUMNS,
    seed: int = 7,
) -> Path:
    """Write run.json, calls.tsv, chunks.tsv and viral regions of `records` made-up records."""
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"sample_{number + 1}" for number in range(samples)]
    if hostile:
        names[0] = HOSTILE[0]
    rows, chunks, regions = [], [], []
    for number in range(records):
        seq_id = (
            HOSTILE[number]
            if hostile and number < len(HOSTILE)
            else f"NODE_{number + 1}_length_{rng.randrange(99)}_cov_{rng.random() * 40:.4f}"
        )
        row, windows = _record(rng, seq_id, names[number % samples], number)
        rows.append(row)
        chunks += windows
        if row["call"] == "virus" and len(windows) > 3:
            regions.append((seq_id, 1, windows[0][2], windows[2][3]))
    _rank(rows)
    with (folder / "calls.tsv").open("w", encoding="utf-8") as file:
        file.write("\t".join(columns) + "\n")
        file.writelines("\t".join(str(row[name]) for name in columns) + "\n" for row in rows)
    with (folder / "chunks.tsv").open("w", encoding="utf-8") as file:
        file.write("id\tchunk\tstart\tend\tstrand\tframe\torf_start\torf_end\tp_virus\n")
        file.writelines("\t".join(map(str, chunk)) + "\n" for chunk in chunks)
    with (folder / "regions.tsv").open("w", encoding="utf-8") as file:
        file.write("id\tregion\tstart\tend\n")
        file.writelines("\t".join(map(str, region)) + "\n" for region in regions)
    (folder / "run.json").write_text(json.dumps(_run(rows, names)), encoding="utf-8")
    return folder


def _record(
    rng: random.Random, seq_id: str, sample: str, number: int
) -> tuple[dict[str, object], list[tuple[object, ...]]]:
    length = int(10 ** rng.uniform(2.45, 4.7 if number % 40 == 0 else 3.6))
    count = max(1, -(-length // CHUNK_NT))
    status = rng.choice(SILENT) if rng.random() < 0.12 else "called"
    is_viral = rng.random() < 0.15
    spread = 3.5 / (1 + length / 800)
    p_virus = _logistic(rng.gauss(4.5 if is_viral else -4.5, 1.2 + spread))
    call = "virus" if p_virus > 0.7 else "non-virus" if p_virus < 0.4 else "uncertain"
    windows: list[tuple[object, ...]] = []
    for chunk in range(count if status == "called" else 0):
        start = chunk * CHUNK_NT
        share = _logistic(rng.gauss(3.0 if is_viral else -3.0, 1.8))
        text = "" if rng.random() < 0.1 else f"{share:.4f}"
        strand = rng.choice("+-")
        frame = f"{'F' if strand == '+' else 'R'}{rng.randrange(1, 4)}"
        end = min(start + CHUNK_NT, length)
        windows.append((seq_id, chunk + 1, start, end, strand, frame, start, end, text))
    scored = sum(1 for window in windows if window[-1])
    supporting = sum(1 for window in windows if window[-1] and float(str(window[-1])) >= 0.5)
    called = status == "called"
    return {
        "id": seq_id, "length": length, "chunks": count, "orfs": scored, "status": status,
        "p_virus": f"{p_virus:.6g}" if called else "", "call": call if called else "",
        "model": "mini", "sample": sample, "chunks_scored": scored,
        "share_scored": f"{scored / count:.3f}",
        "supporting": supporting if called else "",
        "opposing": scored - supporting if called else "", "fdr": "", "class_hint": "",
    }, windows  # fmt: skip


def _rank(rows: list[dict[str, object]]) -> None:
    ranked = sorted((r for r in rows if r["p_virus"]), key=lambda r: -float(str(r["p_virus"])))
    doubt = 0.0
    for number, row in enumerate(ranked, start=1):
        doubt += 1 - float(str(row["p_virus"]))
        row["fdr"] = f"{doubt / number:.5f}"


def _logistic(value: float) -> float:
    return 1 / (1 + 2.718281828 ** -max(-30.0, min(30.0, value)))


def _run(rows: list[dict[str, object]], names: list[str]) -> dict[str, object]:
    nt = sum(int(str(row["length"])) for row in rows)
    orfs = sum(int(str(row["orfs"])) for row in rows)
    return {
        "tool": "virnucpro", "format": 1, "version": "2.0.0", "status": "done", "key": "0" * 64,
        "started": "2026-03-01T10:00:00+0000", "seconds": 83.4, "python": "3.11.8",
        "host": "Linux-6.1-x86_64", "command": ["virnucpro", "predict", *names],
        "model": {"name": "mini", "digest": "ab" * 32, "chunk_nt": CHUNK_NT,
                  "orf_policy": "longest", "orf_keep": 1},
        "parameters": {"compute": {"device": "cpu", "dtype": "auto", "gpus": []}},
        "inputs": [{"path": f"reads/{name}.fa", "bytes": nt, "sha256": "cd" * 32}
                   for name in names],
        "samples": names,
        "stages": {
            "chunking": {"seconds": 1.2, "records": len(rows), "nt": nt},
            "translation": {"seconds": 2.6, "orfs": orfs},
            "splitting": {"seconds": 0.4, "files": 1},
            "dna_features": {"seconds": 30.1, "files": 1, "tokens": orfs * 500},
            "protein_features": {"seconds": 41.7, "files": 1, "tokens": orfs * 168},
            "merging": {"seconds": 1.4, "files": 1, "failed": 0},
            "prediction": {"seconds": 4.9, "rows": orfs},
            "consensus": {"seconds": 1.1, "chunks_scored": orfs, "records": len(rows)},
        },
        "files": [], "outputs": {},
    }  # fmt: skip
