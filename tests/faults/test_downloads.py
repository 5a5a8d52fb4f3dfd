"""Whatever a server sends or an earlier try left behind, a fetch works or says why it does not."""

import json

import pytest
from runs_here import run

from virnucpro.models import fetch, store

REPOSITORY, COMMIT = "zhihan1996/DNABERT-S", "a" * 40


def fetched(name):
    """Fetch a model; the message if that is refused, and nothing if it worked."""
    done = run("models", "fetch", name)
    assert done.exit_code in (0, 4), done.output
    return done.output.splitlines()[-1] if done.exit_code else ""


@pytest.mark.parametrize("name", ["DNABERT-S", "500"])
@pytest.mark.parametrize("longer", [0, 1, 5000], ids=["as long", "longer", "much longer"])
def test_what_a_broken_download_left_never_stands_in_the_way(hub, tmp_path, name, longer):
    hub.breaks = [300] * 50
    assert "fetch" in fetched(name)
    for path in tmp_path.glob("home/.partial/**/*"):
        if path.suffix in (".pth", ".safetensors", ".incomplete"):
            path.write_bytes(b"x" * (longer + (700 if name == "DNABERT-S" else 20_000)))
    hub.breaks.clear()
    assert fetched(name) == fetched(name) == ""


HEADERS = {
    "length of letters": {"Content-Length": "abc"},
    "endless length": {"Content-Length": "9" * 5000},
    "no length": {"Content-Length": None},
    "no hash": {"ETag": None},
    "no commit": {"X-Repo-Commit": None},
    "odd commit": {"X-Repo-Commit": "../../etc"},
    "compressed, it says": {"Content-Encoding": "gzip"},
    "elsewhere": {"Location": "file:///etc/passwd"},
}


@pytest.mark.parametrize("name", ["DNABERT-S", "500"])
@pytest.mark.parametrize("case", HEADERS)
def test_odd_headers_are_an_error_or_do_not_matter(hub, tmp_path, name, case):
    hub.headers = HEADERS[case]
    why = fetched(name)
    hub.headers = {}
    assert "error: " in why or why == ""
    assert fetched(name) == ""
    for manifest in store.list_models(tmp_path / "home"):
        manifest.check(full=True)


FILE = {"rfilename": "model.safetensors", "size": 700, "blobId": "0" * 40}
ANSWERS = {
    "no object": [1], "nothing": None, "text": "x", "empty": {}, "no commit": {"siblings": []},
    "commit of a number": {"sha": 5, "siblings": []}, "files of a number": {"siblings": 5},
    "a file without a name": {"siblings": [{}]},
    "size of text": {"siblings": [FILE | {"size": "many"}]},
    "licence of a list": {"siblings": [FILE], "cardData": {"license": [[]]}},
    "nested": None,
}  # fmt: skip


@pytest.mark.parametrize("case", ANSWERS)
def test_odd_json_is_an_error(hub, tmp_path, case):
    value = ANSWERS[case]
    if isinstance(value, dict):
        value = {"id": REPOSITORY, "sha": COMMIT} | value
    hub.answer = b"[" * 100_000 if case == "nested" else json.dumps(value).encode()
    why = fetched("DNABERT-S")
    assert "error: " in why and "zhihan1996/DNABERT-S" in why
    assert len(why) < 1000
    assert store.list_models(tmp_path / "home") == []
    hub.answer = None
    assert fetched("DNABERT-S") == ""


@pytest.mark.parametrize("sha", ["main", COMMIT[:39], "../../etc", "b" * 40])
def test_a_commit_that_was_not_asked_for_is_refused(hub, sha):
    hub.answer = json.dumps({"id": REPOSITORY, "sha": sha, "siblings": [FILE]}).encode()
    done = run("models", "fetch", "DNABERT-S", "--revision", COMMIT, code=4)
    assert "asked for" in done.output


def test_a_server_that_sends_without_end_is_stopped(hub, monkeypatch):
    assert fetched("DNABERT-S") == fetched("esm2_t36_3B_UR50D") == ""
    monkeypatch.setattr(fetch, "_MAX_CLASSIFIER_BYTES", 100)
    for headers in ({}, {"Content-Length": None}):
        hub.headers = headers
        assert "gives more than 100 bytes" in fetched("500")
