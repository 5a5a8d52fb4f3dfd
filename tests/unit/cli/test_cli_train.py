import json
from pathlib import Path

import pytest
import yaml
from runs_here import rows_of
from runs_here import run as command
from training_data import TINY_RECIPE, write_labelled

from virnucpro.models.store import resolve_model

TINY = {
    "name": "tiny",
    "chunk_nt": 200,
    "dev_count": 40,
    "data": {"table": "labels.tsv", "train": ["virus.fa", "bacteria.fa"]},
    "recipe": TINY_RECIPE,
}
MLP = {
    "name": "tiny-mlp",
    "classifier": "mlp",
    "model": "300",
    "data": TINY["data"],
    "recipe": {"windows": 150, "dev_windows": 60, "hidden": 16, "epochs": 4, "batch": 32,
               "rate": 0.01},
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_labelled(tmp_path_factory.mktemp("labelled"))


def _run(*arguments, home: Path | None = None, code: int = 0):
    env = {"VIRNUCPRO_MODEL_DIR": str(home)} if home else {}
    return command("-q", *arguments, env=env, code=code)


def _config(folder: Path, value: dict) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(value))
    return path


@pytest.fixture(scope="module")
def tiny(data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    config = _config(folder, TINY)
    _run("train", "--config", config, "--data", data, "-o", folder / "tiny", "-d", "cpu")
    return folder / "tiny"


def _train(config, data, out, *more, **how):
    words = ["--config", config, "--data", data, "-o", out, "-d", "cpu", *more]
    return _run("train", *words, **how).output


def _rows(out: Path) -> list[dict[str, str]]:
    return rows_of(out, "evaluation.tsv")


def test_a_trained_model_tells_its_classes_apart(tiny, data, tmp_path):
    model = resolve_model("custom", tiny, tmp_path)
    assert (model.name, model.chunk_nt, model.orf_policy.name) == ("tiny", 200, "longest")
    assert model.calibration is not None
    groups = json.loads((tiny / "model.json").read_text())["model"]["groups"]
    assert {"bacteria", "null"} < set(groups)
    assert any(name.startswith("virus: virus group") for name in groups)
    done = _run("evaluate", data / "virus.fa", data / "bacteria.fa", "--labels",
                data / "labels.tsv", "-p", tiny, "-d", "cpu", "-o", tmp_path)  # fmt: skip
    assert "AUROC" in done.output
    row = next(r for r in _rows(tmp_path) if r["level"] == "set" and r["set_name"] == "virus")
    assert float(row["auroc"]) > 0.95 and float(row["coverage"]) == 1.0


def test_a_pause_is_told_and_the_same_command_goes_on_to_the_same_model(tiny, data, tmp_path):
    config, out = _config(tmp_path, TINY), tmp_path / "out"
    said = _train(config, data, out, "--seed", 0, "--stop-after", 0, code=6)
    assert "paused at step 1 of 16" in said and not (out / "model.json").exists()
    _train(config, data, out, "--seed", 0)
    names = ("dna.safetensors", "classifier.safetensors", "calibration.json", "model.json")
    assert all((tiny / n).read_bytes() == (out / n).read_bytes() for n in names)


def test_the_published_classifier_is_trained_on_frozen_encoders(tiny_home, data, tmp_path):
    config, out = _config(tmp_path, MLP), tmp_path / "out"
    assert "--steps" in _train(config, data, out, "--steps", 3, home=tiny_home, code=2)
    said = _train(config, data, out, "--stop-after", 0, home=tiny_home, code=6)
    assert "paused while embedding" in said
    assert "AUROC on held-out windows" in _train(config, data, out, home=tiny_home)
    model = resolve_model("custom", out, tiny_home)
    assert model.orf_policy.name == "open-frame" and model.chunk_nt == 300
    blocks = sorted((tmp_path / "out.run" / "ledger").iterdir())
    before = [path.stat().st_mtime_ns for path in blocks]
    assert len(before) == 2
    first = (out / "classifier.safetensors").read_bytes()
    _train(config, data, out, home=tiny_home)
    assert [path.stat().st_mtime_ns for path in blocks] == before
    assert (out / "classifier.safetensors").read_bytes() == first
    _run("predict", data / "virus.fa", "-p", out, "-d", "cpu", "--no-report", "-o",
         tmp_path / "calls", home=tiny_home)  # fmt: skip
    rows = rows_of(tmp_path / "calls")
    assert {r["model"] for r in rows} == {"tiny-mlp"} and any(r["status"] == "called" for r in rows)


def test_evaluation_is_the_product_path_and_agrees_with_its_files(data, tmp_path):
    _run("evaluate", f"virus={data / 'virus.fa'}", f"bacteria={data / 'bacteria.fa'}",
         "--windows", "--lengths", "150,300", "--count", 20, "--null-count", 4, "-d", "cpu",
         "-o", tmp_path)  # fmt: skip
    rows, whole = _rows(tmp_path), json.loads((tmp_path / "evaluation.json").read_text())
    assert whole["windows"] == {"lengths": [150, 300], "count": 20, "null_count": 4, "seed": 0}
    at = whole["columns"].index("auroc")
    assert [r["auroc"] for r in rows] == [str(r[at] or "") for r in whole["rows"]]
    assert {r["level"] for r in rows} == {"set", "class", "family", "null"}
    for row in rows:
        shares = [float(row[k]) for k in ("virus", "uncertain", "non_virus")]
        assert sum(shares) == pytest.approx(float(row["coverage"]), abs=1e-4)
    page = (tmp_path / "evaluation.html").read_text()
    assert page.count("<svg") >= 2 and "http" not in page.replace("http-equiv", "")


def test_decoys_are_measured_kind_by_kind_and_sets_without_some_records(tiny, data, tmp_path):
    kinds, out, decoys = tmp_path / "kinds.tsv", tmp_path / "out", data / "bacteria.fa"
    kinds.write_text("id\tkind\n" + "".join(f"bacteria{i}\tkind {i % 2}\n" for i in range(18)))
    viral, calls = f"virus={data / 'virus.fa'}", []
    for name in ("virus", "bacteria"):
        _run("predict", data / f"{name}.fa", "-p", tiny, "-d", "cpu", "--no-report",
             "-o", tmp_path / name)  # fmt: skip
        calls += rows_of(tmp_path / name)
    is_virus = {row["id"]: row["call"] == "virus" for row in calls}
    command = ["evaluate", "-p", tiny, "-d", "cpu", "-o", out]
    assert "go together" in _run(*command, viral, "--decoy-kinds", kinds, code=2).output
    panel = {"decoys": str(decoys), "decoy_kinds": str(kinds), "leave_out": ["virus0", "virus1"]}
    files = {"dev": ["virus.fa"], "table": "labels.tsv"}
    config = _config(tmp_path, {"data": files, "evaluate": panel})
    for given in (["--config", config, "--data", data],
                  [viral, "--decoys", decoys, "--decoy-kinds", kinds]):  # fmt: skip
        _run(*command, *given)
        rows = {(r["level"], r["set_name"], r["group"]): r for r in _rows(out)}
        whole = rows["set", "virus" if "--config" in given else "all", ""]
        shares = [is_virus[f"virus{i}"] for i in range(18)]
        assert float(whole["virus"]) == pytest.approx(sum(shares) / 18, abs=1e-4)
        assert whole["auroc"] == ""  # nothing to measure viruses against
        for kind in (0, 1):
            shares = [is_virus[f"bacteria{i}"] for i in range(kind, 18, 2)]
            row = rows["decoy", "bacteria", f"kind {kind}"]
            assert (row["count"], row["auroc"]) == ("9", "")
            assert float(row["virus"]) == pytest.approx(sum(shares) / 9, abs=1e-4)
        less = rows.get(("set", "virus (less)", ""), {}).get("count")
        assert less == ("16" if "--config" in given else None)
    page = (out / "evaluation.html").read_text()
    assert '<h2 id="decoys-title">' in page and ">kind 1</th>" in page
