"""Fit what a model's scores are like in each cellular class and in pairs, without training it.

`virnucpro train` ends with the same fit. Here a model that is there gets `pair_gain` and `mix` in
its calibration.json; the rest of the file stays, and its manifest is written for the new one.

    python benchmarks/fit_mix.py --data DIR --count 4000 virnucpro/models/mini
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from virnucpro.core.files import read_json, sha256_file, write_json
from virnucpro.models.store import load_model
from virnucpro.pipeline.direct import DirectScorer
from virnucpro.scores.calibration import Calibration
from virnucpro.scores.scorer import COLUMNS
from virnucpro.training.corpus import load_dev, split_by_target
from virnucpro.training.jobs import read_evaluation
from virnucpro.training.mix import fit_mix
from virnucpro.training.scoring import as_records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of the model; its calibration.json is rewritten")
    parser.add_argument("--data", type=Path, required=True, help="as recipes/mini.yaml wants it")
    parser.add_argument("--config", type=Path, default=Path("recipes/mini.yaml"))
    parser.add_argument("--count", type=int, default=4000, help="windows of each set and class")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    model = load_model(args.folder, args.folder.parent)
    direct = DirectScorer(model, args.device)

    def score(windows: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Scores of the one reading frame of each window; none for a window without any."""
        table = np.zeros((len(windows), COLUMNS), dtype=np.float32)
        first = 0
        for shard, scores in direct.shards(as_records(windows)):
            table[first + shard.chunks["record"][shard.orfs["chunk"]]] = scores
            first += len(shard.records)
        return table

    job = read_evaluation(args.config, args.data)
    sets = split_by_target(load_dev(job.data))
    path = args.folder / "calibration.json"
    before = Calibration.load(path)
    after = fit_mix(before, score, sets, model.groups, model.chunk_nt, args.count)
    after.save(path, read_json(path)["fitted_on"])
    manifest = read_json(args.folder / "model.json")
    manifest["files"][path.name] |= {"sha256": sha256_file(path), "size": path.stat().st_size}
    write_json(args.folder / "model.json", manifest)
    print(f"pair gain {after.pair_gain}; {path}")


if __name__ == "__main__":
    main()
