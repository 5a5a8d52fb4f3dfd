"""Pairs as one fragment, and samples of known truth: prevalence, false discovery, no virus at all.

Windows of each dev set and cellular class are drawn and scored once, by the path of predictions
(the scores stay in --work); then

- pairs of 2 x 150 nt: AUROC and recall at 1% false positives of a mate alone and of the pair;
- thousands of samples are drawn from the scores, of five mixes of hosts, of each length and share
  of viruses (known and unknown families alike): the share and its interval, the `fdr` said of the
  calls against the true share of false ones, how often a sample is said to be compatible with no
  virus, and what a limit of the fdr would leave.

What the classes' scores are like is fitted on one half of the dev records, samples are drawn from
the other half.

Usage: python -m benchmarks.benchmark_fragments --data DIR [--samples 40] [--work .bench/fragments]
       [--fit] [--device cpu]

DIR holds the files named under `data` in recipes/mini.yaml. Writes pairs.json and prevalence.json.
Half a million chunks are scored, which takes a GPU a minute or two, and two cores an hour.
With --fit, the bundled model's calibration.json is fitted on the dev sets first, as `virnucpro
train` ends with, and its manifest is written for the new file.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.result_file import measured_on
from virnucpro.core.files import read_json, sha256_file, write_json
from virnucpro.models.specs import ModelSpec
from virnucpro.models.store import load_model
from virnucpro.pipeline.stream import DirectScorer
from virnucpro.scores.calibration import Calibration
from virnucpro.scores.composition import Composition, Mix
from virnucpro.scores.kinds import COLUMNS, RETRO, Kinds
from virnucpro.training import calibrate as fitting
from virnucpro.training.corpus import (
    VIRUS,
    Corpus,
    as_records,
    draw_windows,
    load_dev,
    split_by_target,
)
from virnucpro.training.evaluation import auroc, recall_at
from virnucpro.training.jobs import read_evaluation

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "virnucpro" / "models" / "mini"
# windows of each viral set, and of each cellular class
DRAWN = {"pairs": (6_000, 6_000), "150": (6_000, 6_000), "300": (6_000, 6_000),
         "500": (5_000, 4_000), "1000": (3_000, 2_000), "3000": (1_000, 800)}  # fmt: skip
MIXES = {
    "gut": {"bacteria": 0.85, "plasmid": 0.1, "vertebrate": 0.05},
    "soil": {"bacteria": 0.6, "eukaryote_microbial": 0.15, "fungi": 0.1, "plant": 0.1,
             "invertebrate": 0.05},
    "sea": {"eukaryote_microbial": 0.45, "bacteria": 0.4, "protozoa": 0.15},
    "tissue": {"vertebrate": 0.9, "organelle": 0.05, "bacteria": 0.05},
    "plant": {"plant": 0.7, "organelle": 0.2, "fungi": 0.1},
}  # fmt: skip
SHARES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
LIMITS = (1.0, 0.5, 0.2, 0.05)
SETS = ("dev_known_virus", "dev_novel_virus")
RATIO, POINTS = 1.4, 0.03  # within which an fdr is right

Table = dict[str, np.ndarray]


def score_windows(folder: Path, direct: DirectScorer, sets: dict[str, Corpus], seed: int) -> None:
    """Draw and score; one file for each length, which is not made again."""
    for key, (of_viruses, of_cells) in DRAWN.items():
        if (folder / f"{key}.npz").exists():
            continue
        rng = np.random.default_rng([seed, list(DRAWN).index(key)])
        parts: dict[str, list[Any]] = {}
        for name, corpus in sets.items():
            for kind in sorted({group.kind for group in corpus.groups}):
                own = corpus.of_groups(np.array([g.kind == kind for g in corpus.groups]))
                count = of_viruses if (own.targets == VIRUS).all() else of_cells
                each = 1
                if key == "pairs":
                    drawn = fitting.draw_mates(own, count, rng)
                    rows, each = drawn.bases.reshape(-1, fitting.MATE_NT), 2
                else:
                    drawn = draw_windows(own, name, int(key), count, rng)
                    rows = drawn.bases
                part = scored(direct, rows, each)
                n = len(drawn.records)
                part |= {"set": np.full(n, name), "kind": np.full(n, kind),
                         "record": np.array(drawn.records)}  # fmt: skip
                for column, values in part.items():
                    parts.setdefault(column, []).append(values)
        first = np.cumsum([0, *(len(kind) for kind in parts["kind"])])
        parts["of"] = [of + start for of, start in zip(parts["of"], first, strict=False)]
        print(key, "scored", flush=True)
        np.savez_compressed(
            folder / f"{key}.npz", **{k: np.concatenate(v) for k, v in parts.items()}
        )


def by_length(model: ModelSpec, device: str) -> fitting.Score:
    """Scores of windows (n, nt), each as one chunk; a third each where there is no ORF."""

    def score(bases: np.ndarray) -> np.ndarray:
        whole = replace(model, chunk_nt=max(model.chunk_nt, bases.shape[1]))
        direct = DirectScorer(whole, device)
        table = scored(direct, bases, 1)
        found = np.full((len(bases), 3 + COLUMNS), 1 / 3)
        found[table["of"]] = table["scores"]
        return found

    return score


def scored(direct: DirectScorer, rows: np.ndarray, each: int) -> Table:
    """Scores of the chunks, their letters, and the place and mate of each chunk's record."""
    found: dict[str, list[np.ndarray]] = {"scores": [], "clear": [], "of": [], "mate": []}
    first = 0
    for shard, scores in direct.shards(as_records(rows)):
        chunk = shard.orfs["chunk"]
        record = first + shard.chunks["record"][chunk].astype(np.int64)
        for name, values in (("scores", scores), ("clear", shard.chunks["clear"][chunk]),
                             ("of", record // each), ("mate", record % each)):  # fmt: skip
            found[name].append(values)
        first += len(shard.records)
    return {name: np.concatenate(values) for name, values in found.items()}


def called(key: str, table: Table, calibration: Calibration, kinds: Kinds) -> Table:
    """p_virus, whether it is called a virus, and likeliest host, of each record or pair."""
    n, clear = len(table["kind"]), table["clear"].astype(np.int64)
    is_pair, scores = key == "pairs", table["scores"].astype(np.float64)
    size = np.bincount(table["of"], clear, n) if is_pair else np.full(n, int(key))
    record_of = 2 * table["of"] + table["mate"] if is_pair else table["of"]
    found = fitting.score_records(calibration, kinds, scores, clear, record_of, size, is_pair)
    is_certain = (found.kind != RETRO) | (found.p >= calibration.retro_above)
    half = np.array([sum(map(ord, record)) % 2 for record in table["record"]])
    columns = {"p": found.p, "called": (found.call == "virus") & is_certain, "host": found.host,
               "likeliest": found.kind, "call": found.call, "kind": table["kind"],
               "set": table["set"], "half": half}  # fmt: skip
    is_known = ~np.isnan(found.p)
    return {name: values[is_known] for name, values in columns.items()}


def pairs(
    raw: Table, table: Table, calibration: Calibration, shares: dict[str, float]
) -> list[dict[str, Any]]:
    """AUROC and recall of first mates, and of pairs, each class by its bases."""
    first = raw["mate"] == 0
    odds = calibration.log_odds(raw["scores"][first].astype(np.float64), raw["clear"][first])
    alone = {"p": odds} | {name: raw[name][raw["of"][first]] for name in ("kind", "set")}
    rows = []
    for name, of in (("a mate", alone), ("the pair", table)):
        cells = np.flatnonzero(of["kind"] != "virus")
        weight = np.array([shares[kind] for kind in of["kind"][cells]])
        cells = np.random.default_rng(0).choice(cells, 40_000, p=weight / weight.sum())
        for of_set in SETS:
            x = np.concatenate([of["p"][of["set"] == of_set], of["p"][cells]])
            is_viral = np.arange(len(x)) < len(x) - len(cells)
            found = {"auroc": auroc(x, is_viral), "recall_1": recall_at(x, is_viral, 0.01)}
            rows.append({"what": name, "set": of_set, "viruses": int(is_viral.sum()),
                         **{k: round(v, 4) for k, v in found.items()}})  # fmt: skip
    return rows


def by_part(table: Table, shares: dict[str, float], half: int) -> list[fitting.Scored]:
    """Records of one half in each part of the mix."""
    rows = []
    label = np.where(table["kind"] == "virus", table["set"], table["kind"])
    for name in (*SETS, *shares):
        own = (label == name) & (table["half"] == half)
        columns = (table[column][own] for column in ("p", "call", "likeliest", "host"))
        rows.append(fitting.Scored(*columns, alike=None))
    return rows


def fitted(tables: dict[str, Table], half: int, shares: dict[str, float], hosts: int) -> Mix:
    """The mix of one half of the records, by the code that training fits it with."""
    lengths = sorted(set(tables) - {"pairs"}, key=int)
    rows = [by_part(tables[key], shares, half) for key in (*lengths, "pairs")]
    share = 0.5 * np.array([1 / len(SETS)] * len(SETS) + [*shares.values()])
    is_viral = np.arange(len(share)) < len(SETS)
    return fitting.mix_of(share, is_viral, [*map(int, lengths)], rows, hosts)


def draw(
    table: Table, half: int, mix: dict[str, float], share: float, count: int,
    rng: np.random.Generator,
) -> np.ndarray | None:  # fmt: skip
    """Rows of a sample; None where a class has no records of the length."""
    here = table["half"] == half
    viral = rng.binomial(count, share)
    wanted = {name: viral // 2 for name in SETS}
    wanted |= dict(
        zip(mix, rng.multinomial(count - 2 * (viral // 2), [*mix.values()]), strict=True)
    )
    chosen = []
    for name, n in wanted.items():
        rows = np.flatnonzero(here & (table["set" if name in SETS else "kind"] == name))
        if not len(rows) and n:
            return None
        chosen.append(rng.choice(rows, n) if n else rows[:0])
    return np.concatenate(chosen)


def simulated(
    key: str, table: Table, mixes: list[Mix], samples: int, sizes: tuple[int, ...]
) -> list[dict[str, Any]]:
    """One row for each mix of hosts, share of viruses and size of a sample."""
    rows, rng = [], np.random.default_rng(7)
    for host, classes in MIXES.items():
        for share in SHARES:
            for count in sizes:
                figures: list[list[float]] = []
                for number in range(samples):
                    half = number % 2
                    chosen = draw(table, half, classes, share, count, rng)
                    if chosen is None:
                        continue
                    p, is_viral = table["p"][chosen], table["kind"][chosen] == "virus"
                    composition = Composition(mixes[1 - half], key == "pairs")
                    nt = np.full(len(p), 300 if key == "pairs" else int(key))
                    composition.add(p, nt, table["host"][chosen])
                    sample = composition.estimate()
                    calls, fdr = table["called"][chosen], sample.fdr(p)
                    said = float(fdr[calls].max()) if calls.any() else 0.0
                    left = [calls & (fdr <= limit) for limit in LIMITS]
                    figures.append([
                        calls.sum(), (calls & ~is_viral).sum(), said * calls.sum(),
                        sample.prevalence, sample.low, sample.high,
                        *(x for kept in left for x in (kept.sum(), (kept & ~is_viral).sum())),
                    ])  # fmt: skip
                if figures:
                    rows.append({"length": key, "hosts": host, "share": share, "records": count}
                                | row_of(np.array(figures), share))  # fmt: skip
    return rows


def row_of(found: np.ndarray, share: float) -> dict[str, Any]:
    """Means over samples; rates are of all their calls together."""
    calls = max(1.0, found[:, 0].sum())
    true, said = found[:, 1].sum() / calls, found[:, 2].sum() / calls
    is_right = abs(true - said) <= POINTS or max(true, said) <= RATIO * min(true, said)
    limited = {
        f"fdr at most {limit}": {
            "calls": round(float(found[:, 6 + 2 * k].mean()), 1),
            "false": round(
                float(found[:, 7 + 2 * k].sum() / max(1.0, found[:, 6 + 2 * k].sum())), 3
            ),
        }
        for k, limit in enumerate(LIMITS)
    }
    return {
        "samples": len(found), "calls": round(float(found[:, 0].mean()), 1),
        "true_fdr": round(float(true), 4), "said_fdr": round(float(said), 4),
        "right": bool(is_right), "prevalence": round(float(found[:, 3].mean()), 4),
        "low": round(float(found[:, 4].mean()), 4), "high": round(float(found[:, 5].mean()), 4),
        "covered": round(float(((found[:, 4] <= share) & (share <= found[:, 5])).mean()), 3),
        "said_none": round(float((found[:, 4] == 0).mean()), 3), "limits": limited,
    }  # fmt: skip


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Over all samples of a share: how many settings are right, and what limits leave."""
    out = []
    for share in SHARES:
        own = [row for row in rows if row["share"] == share]
        found = {"share": share, "settings": len(own), "right": sum(row["right"] for row in own)}
        for name in ("said_none", "covered"):
            found[name] = round(float(np.mean([row[name] for row in own])), 3)
        viral = sum(row["calls"] * (1 - row["true_fdr"]) for row in own)
        for name in own[0]["limits"]:
            kept = np.array([[*row["limits"][name].values()] for row in own])
            calls, false = kept[:, 0].sum(), (kept[:, 0] * kept[:, 1]).sum()
            found[f"{name}: false"] = round(float(false / max(calls, 1e-9)), 3)
            found[f"{name}: viruses kept"] = round(float((calls - false) / max(viral, 1e-9)), 3)
        out.append(found)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=ROOT / ".bench" / "fragments")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--samples", type=int, default=40, help="of each setting")
    parser.add_argument("--sizes", default="500,2000", help="records of a sample")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--fit", action="store_true", help="write the bundled model's calibration")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    model = load_model(MODEL, args.work)
    job = read_evaluation(ROOT / "recipes" / "mini.yaml", args.data)
    sets = split_by_target(load_dev(job.data))
    score_windows(args.work, DirectScorer(model, args.device), sets, args.seed)
    raw = {key: dict(np.load(args.work / f"{key}.npz")) for key in DRAWN}
    cells = sets["dev_cellular"]
    bases = Counter[str]()
    for label, _, letters in cells.records():
        bases[label.kind] += len(letters)
    shares = {kind: bases[kind] / bases.total() for kind in sorted(bases)}
    kinds = Kinds(model.groups)
    path = MODEL / "calibration.json"
    calibration = Calibration.load(path)
    if args.fit:
        calibration = fitting.calibrated(
            by_length(model, args.device), load_dev(job.data), job, model.groups
        )
        calibration.save(path, ", ".join(sorted(sets)))
        manifest = read_json(MODEL / "model.json")
        manifest["files"][path.name] |= {
            "sha256": sha256_file(path), "size": path.stat().st_size,
        }  # fmt: skip
        write_json(MODEL / "model.json", manifest)
    tables = {key: called(key, table, calibration, kinds) for key, table in raw.items()}
    about = {
        "command": "python -m benchmarks.benchmark_fragments --data DIR",
        **measured_on(),
    }
    title = "Pairs of 2 x 150 nt, inserts of 350 nt"
    found = pairs(raw["pairs"], tables["pairs"], calibration, shares)
    save(args.output / "pairs.json", {"title": title, **about, "results": found})
    mixes = [fitted(tables, half, shares, len(kinds.hosts)) for half in (0, 1)]
    sizes = tuple(map(int, args.sizes.split(",")))
    rows = [row for key, table in tables.items()
            for row in simulated(key, table, mixes, args.samples, sizes)]  # fmt: skip
    said = {"title": "Samples of known truth", **about, "results": summary(rows)}
    flat = [row | {f"{k}: {n}": v for k, kept in row["limits"].items() for n, v in kept.items()}
            for row in rows]  # fmt: skip
    columns = [name for name in flat[0] if name != "limits"]
    said |= {"columns": columns, "rows": [[row[name] for name in columns] for row in flat]}
    save(args.output / "prevalence.json", said)


def save(path: Path, value: dict[str, Any]) -> None:
    """JSON with a line for each result."""
    long = {name: value.pop(name) for name in ("results", "rows") if name in value}
    parts = [json.dumps(value, indent=2)[:-2]]
    for name, rows in long.items():
        lines = ",\n    ".join(json.dumps(row) for row in rows)
        parts.append(f'  "{name}": [\n    {lines}\n  ]')
    path.write_text(",\n".join(parts) + "\n}\n")
    print(json.dumps(long["results"], indent=1))


if __name__ == "__main__":
    main()
