import json

import pytest
from click.testing import CliRunner
from tiny_home import make_tiny_home

from virnucpro.cli.info import doctor
from virnucpro.tools.health import check_all


@pytest.fixture
def home(tmp_path):
    return make_tiny_home(tmp_path / "home")


def by_title(home, output_dir):
    return {finding.title: finding for finding in check_all(home, output_dir)}


def test_a_sound_installation_has_packages_a_cpu_and_a_disk(home, tmp_path):
    found = by_title(home, tmp_path / "not" / "there" / "yet")
    for title in ("Python", "Packages", "CPU", "500", "DNABERT-S", "Output space"):
        assert found[title].ok, title
        assert not found[title].remedy
    assert "MB/s" in found["Output speed"].text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "home-sources"]


def test_changed_weights_are_found_and_have_a_remedy(home, tmp_path):
    path = home / "500" / "classifier.safetensors"
    path.write_bytes(path.read_bytes() + b"x")
    finding = by_title(home, tmp_path)["500"]
    assert finding.ok is False and "bytes" in finding.text
    assert finding.remedy == "virnucpro models fetch 500"


def test_a_damaged_record_is_a_problem_not_a_crash(home, tmp_path):
    (home / "500" / "model.json").write_text("{")
    assert by_title(home, tmp_path)["Model home"].ok is False


def test_the_command_ends_with_1_where_something_is_wrong(home, tmp_path, monkeypatch):
    monkeypatch.setenv("VIRNUCPRO_MODEL_DIR", str(home))
    (home / "500" / "classifier.safetensors").unlink()
    result = CliRunner().invoke(doctor, ["-o", str(tmp_path)])
    assert result.exit_code == 1
    assert "FAIL  500:" in result.output and "-> virnucpro models fetch 500" in result.output
    result = CliRunner().invoke(doctor, ["-o", str(tmp_path), "--json"])
    assert result.exit_code == 1
    findings = json.loads(result.output)
    assert {"title", "ok", "text", "remedy"} == set(findings[0])
