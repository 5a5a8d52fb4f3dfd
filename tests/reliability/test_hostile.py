"""Files from outside are refused or read, never more: no crash, no pickle, no path, no network."""

import ast
import functools
import gzip
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import faults
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runs_here import peak_of, rows_of, write_fasta

from fuzz import alone, targets
from virnucpro.core.errors import InputError
from virnucpro.sequences.fasta import read_records

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "virnucpro"


@st.composite
def damaged(draw, seeds):
    """A whole file with a few bytes changed, taken out or put in; or any bytes at all."""
    data = bytearray(draw(st.sampled_from(seeds)))
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=300))
    for _ in range(draw(st.integers(0, 6))):
        place = draw(st.integers(0, len(data)))
        action = draw(st.sampled_from(["change", "cut", "insert", "end"]))
        if action == "change":
            data[place : place + 1] = draw(st.binary(min_size=1, max_size=1))
        elif action == "cut":
            del data[place : place + draw(st.integers(1, 40))]
        elif action == "insert":
            data[place:place] = draw(st.binary(max_size=12))
        else:
            del data[place:]
    return bytes(data)


# pysam tells of a file that it could not open once more, when its object goes
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", targets.TARGETS)
def test_damaged_files_are_refused_or_read(name):
    target = targets.TARGETS[name]
    seeds = target.seeds()

    @settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
    @given(damaged(seeds))
    def check(data):
        targets.run(target, Path(folder), data)

    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            targets.run(target, Path(folder), seed)
        check()


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (b">r\n" + b"ACGT" * 65_536 + b"\n", 200), (b"\n" * 262_144, 0),
        (bytes(262_144), "NUL byte"), (b">" + b"a" * 262_143, "header of more than"),
    ],
    ids=["records", "blank lines", "zeros", "one header"],
)  # fmt: skip
def test_a_gzip_bomb_is_met_by_streaming(tmp_path, block, expected):
    bomb = tmp_path / "bomb.fa.gz"
    with gzip.open(bomb, "wb", compresslevel=1) as file:
        for _ in range(200):
            file.write(block)
    assert bomb.stat().st_size * 50 < len(block) * 200

    def read():
        try:
            return sum(1 for _ in read_records([bomb]))
        except InputError as error:
            return str(error)

    found, peak = peak_of(read)
    assert found == expected or expected in str(found)
    assert peak < 16 * 2**20 < len(block) * 200 / 3


EVIL = ["../../up", "/etc/passwd", "a/../../b", "<script>x()</script>", "a|b;c", "-rf", "$(id)"]


def test_ids_become_neither_paths_nor_markup(predict, tmp_path):
    fasta = write_fasta(tmp_path / "<b>in.fa", *((f"{name} <i>x</i>", 1) for name in EVIL))
    predict(fasta, "-o", tmp_path / "out", report=True, code=0)
    names = {path.name for path in tmp_path.rglob("*")}
    assert not any(word in name for name in names for word in ("up", "passwd", "script", "(id"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["<b>in.fa", "out"]
    report = (tmp_path / "out" / "report.html").read_text()
    assert "<script>x()" not in report and "<i>x" not in report and "<b>in" not in report
    assert [row["id"] for row in rows_of(tmp_path / "out")] == EVIL


def calls(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


UNSAFE = {
    "pickle.load", "pickle.loads", "pickle.Unpickler", "Unpickler", "eval", "exec", "os.system",
    "marshal.loads", "joblib.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load",
    "shutil.unpack_archive", "torch.hub.load", "torch.jit.load",
}  # fmt: skip


def test_nothing_in_the_package_loads_without_trust_being_ruled_out():
    found = []
    for path in PACKAGE.rglob("*.py"):
        for name, call in calls(ast.parse(path.read_text(encoding="utf-8"))):
            options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            is_bad = name in UNSAFE or name.endswith(".extractall")
            is_bad |= name == "torch.load" and options.get("weights_only") != "True"
            is_bad |= options.get("allow_pickle", "False") != "False"
            is_bad |= "trust_remote_code" in options or options.get("shell", "False") != "False"
            found += [f"{path}:{call.lineno}: {name}"] if is_bad else []
    assert found == []


def test_a_whole_run_unpickles_nothing_and_opens_no_socket(runs, undisturbed, tiny_home, tmp_path):
    log = tmp_path / "events.txt"
    running = runs.finish(tmp_path / "out", fault=functools.partial(faults.write_down_events, log))
    assert running.code == 0, running.said
    events = [json.loads(line) for line in log.read_text().splitlines()]
    kinds = {kind for kind, _ in events}
    assert "open" in kinds  # the hook was at work
    watched = ("pickle.", "socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn")
    assert not [event for event in events if event[0].startswith((*watched, "os.fork"))]
    code = {text for kind, text in events if kind == "exec"}
    assert not [text for text in code if str(tiny_home) in text or str(tmp_path) in text]


def campaign(predictor, records=40):
    found = alone.campaign(predictor, records, per_run=120, whole_every=40)
    return found, found["first_findings"]


@pytest.mark.parametrize(("records", "is_stub"), [(240, True), (24, False)], ids=["stub", "mini"])
def test_a_record_is_called_alone_as_among_others(records, is_stub):
    found, findings = campaign(alone.Predictor(is_stub), records)
    assert findings == []
    assert found["records"] == records
    statuses = ("called", "too_short", "ambiguous", "not_dna")
    assert not is_stub or all(found[f"status_{name}"] for name in statuses)


def moved(rows):
    return [*rows[1:], rows[0]]


def without_calls(rows):
    return [*rows[:5], *(replace(row, status="no_orf", p_virus=None) for row in rows[5:])]


def drifting(rows):
    return [replace(r, p_virus=r.p_virus and r.p_virus + 2e-6 * i) for i, r in enumerate(rows)]


@pytest.mark.parametrize(
    "fault",
    [
        lambda rows: rows[:-1],
        lambda rows: [replace(row, length=row.length - 1) for row in rows],
        lambda rows: [replace(row, orfs=row.orfs + len(rows)) for row in rows],
        moved, without_calls, drifting,
    ],
    ids=["lost", "letters", "counts", "moved", "calls", "scores"],
)  # fmt: skip
def test_a_wrong_table_is_found(monkeypatch, fault):
    predictor = alone.Predictor(is_stub=True)
    whole = predictor.whole
    monkeypatch.setattr(predictor, "whole", lambda *run: fault(whole(*run)))
    assert campaign(predictor)[1]


def test_an_input_that_is_not_refused_is_found(monkeypatch):
    predictor = alone.Predictor(is_stub=True)
    whole = predictor.whole

    def lenient(*run):
        try:
            return whole(*run)
        except InputError:
            return []

    monkeypatch.setattr(predictor, "whole", lenient)
    assert any("not refused" in finding for finding in campaign(predictor)[1])
