"""A run and its inputs in object storage: a real S3 server (moto's) that honours If-None-Match."""

import gzip
import shutil
import threading
import urllib.request
from pathlib import Path

import pytest
from runs_here import TINY, tables, write_dna

from virnucpro.core.storage import open_storage

obstore = pytest.importorskip(
    "obstore", reason="obstore is not installed: pip install 'virnucpro[cloud]'"
)
server = pytest.importorskip("moto.server", reason="moto is not installed: a test dependency")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture(scope="module")
def s3():
    """Environment of a bucket `reads` on a server of this process."""
    moto = server.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    moto.start()
    url = "http://{}:{}".format(*moto.get_host_and_port())
    urllib.request.urlopen(urllib.request.Request(f"{url}/reads", method="PUT")).close()
    yield {
        "AWS_ENDPOINT": url, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x",
    }  # fmt: skip
    moto.stop()


@pytest.fixture
def storage(request, s3, tmp_path, monkeypatch):
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    places = {
        "s3": f"s3://reads/{tmp_path.name}",
        "file": f"file://{tmp_path}/a",
        "": tmp_path / "b",
    }
    (tmp_path / "a").mkdir()
    return open_storage(str(places[request.param]))


@pytest.mark.parametrize("storage", ["s3", "file", ""], indirect=True)
def test_of_many_that_create_one_wins_and_nothing_is_torn(storage):
    assert storage.read("unit") is None and storage.names() == set()
    won = []

    def create(content):
        if storage.create("unit", content):
            won.append(content)

    threads = [threading.Thread(target=create, args=(bytes([k]) * 10_000,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [storage.read("unit")] == won
    storage.write("beat", b"1")
    storage.write("beat", b"2")
    assert storage.read("beat") == b"2" and storage.names() == {"unit", "beat"}
    storage.remove("unit", "beat")
    assert storage.names() == set() and storage.create("unit", b"again")


@pytest.mark.parametrize("storage", ["s3"], indirect=True)
def test_a_conflict_is_tried_again(storage, monkeypatch):
    """S3 answers 409 where two conditional puts meet, which says nothing of who won."""
    put, conflicts = obstore.put, [obstore.exceptions.AlreadyExistsError("409")]

    def meet(*given, **how):
        if conflicts:
            raise conflicts.pop()
        return put(*given, **how)

    monkeypatch.setattr(obstore, "put", meet)
    assert storage.create("unit", b"content") and storage.read("unit") == b"content"


def test_a_run_in_a_bucket_gives_the_tables_of_a_local_one(s3, command, tmp_path, monkeypatch):
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    fasta = write_dna(tmp_path / "in.fa", [900, 300, 40, 700, 500])
    command("predict", fasta, *TINY, "-o", tmp_path / "local", "-t", "1", "--no-report")
    open_storage("s3://reads/data").write("in.fa.gz", gzip.compress(fasta.read_bytes()))

    place = "s3://reads/run"
    assert (
        "s3://reads/data/absent"
        in command("plan", "s3://reads/data/absent", "-o", place, "-d", "cpu", code=3).output
    )
    planned = ["plan", "s3://reads/data/in.fa.gz", *TINY, "-o", place, "--no-report", "-d", "cpu"]
    command(*planned)
    assert "holds an earlier run" in command(*planned, code=2).output
    command("worker", place, "-t", "1", "-d", "cpu", "--lease", "1")
    command("finish", place)
    out = tmp_path / "out"
    for name in open_storage(place).names():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(open_storage(f"{place}/{name}".rpartition("/")[0]).read(path.name))
    assert tables(out) == tables(tmp_path / "local")
    assert not [name for name in open_storage(place).names() if name.startswith(".checkpoints")]
    assert "holds an earlier run" in command(*planned, code=2).output
    shutil.rmtree(out)
    assert not list(Path.cwd().glob("s3:*"))
