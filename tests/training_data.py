"""Small labelled sequences for training and evaluation, and a recipe that learns them at once."""

from pathlib import Path

import numpy as np

# little T, so that some frames of 300 nt hold no stop codon
SHARES = {"virus": [0.45, 0.25, 0.25, 0.05], "bacteria": [0.15, 0.45, 0.35, 0.05]}
TINY_RECIPE = {
    "dna": {"width": 16, "dilations": [1]},
    "protein": {"width": 16, "taps": 6, "stride": 2, "dilations": [1]},
    "hidden": 16,
    "steps": 16,
    "null_bank_share": 0.001,
    "evaluate_every": 8,
    "buckets": [{"shortest": 150, "longest": 220, "batch": 64}],
}


def write_labelled(folder: Path, groups: int = 6, each: int = 3, length: int = 700) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(11)
    rows = ["id\tclass\tgroup"]
    for kind, share in SHARES.items():
        lines = []
        for number in range(groups * each):
            seq_id = f"{kind}{number}"
            letters = "".join("ACGT"[k] for k in rng.choice(4, length, p=share))
            lines.append(f">{seq_id} made up\n{letters}\n")
            rows.append(f"{seq_id}\t{kind}\t{kind} group {number % groups}")
        (folder / f"{kind}.fa").write_text("".join(lines))
    (folder / "labels.tsv").write_text("\n".join(rows) + "\n")
    return folder
