"""Streams closed or full, no home directory, early signals, no network: never a traceback."""

import os
import pwd
import shlex
import socket
import subprocess
import sys
import threading
from pathlib import Path
from unittest import mock

import pytest
from runs_here import dna, run, write_fasta, write_reads

import virnucpro
from virnucpro.core.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
RUN = ["--no-report", "-t", "1", "--no-progress"]


@pytest.fixture(scope="module")
def fasta(tmp_path_factory):
    return write_fasta(tmp_path_factory.mktemp("terminal") / "in.fa", ("a", 1), ("b", 2))


def shell(folder, words, redirections="", code="-m virnucpro", **more):
    """Run the command in a shell in a folder; what it said on the streams that are left."""
    line = f"{shlex.quote(sys.executable)} {code} {shlex.join(map(str, words))} {redirections}"
    return subprocess.run(
        ["bash", "-c", line], env={**ENVIRONMENT, **more}, capture_output=True, text=True,
        timeout=120, check=False, cwd=folder,
    )  # fmt: skip


@pytest.mark.parametrize("redirections", ["<&- >&- 2>&-", "2>/dev/full >/dev/full"])
def test_a_run_that_nobody_hears_ends_well(fasta, tmp_path, redirections):
    done = shell(tmp_path, ["predict", fasta, "-o", tmp_path / "out", *RUN], redirections)
    assert (done.returncode, done.stderr) == (0, "")
    assert len((tmp_path / "out" / "calls.tsv").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("words", "code", "redirections"),
    [
        ("predict --no-such-flag", 2, "2>/dev/full >/dev/full"),
        ("-q predict no-such-file.fa", 3, "2>&-"),
        ("models fetch no-such-model", 4, "2>/dev/full >/dev/full"), ("report .", 2, "2>&-"),
    ],
)  # fmt: skip
def test_errors_keep_their_exit_code_where_nobody_hears_them(words, code, redirections, tmp_path):
    done = shell(tmp_path, words.split(), redirections, VIRNUCPRO_MODEL_DIR=str(tmp_path))
    assert done.returncode == code
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", ["--version", "predict --help", "models list"])
def test_an_answer_that_cannot_be_written_is_a_failure(tmp_path, words):
    done = shell(tmp_path, words.split(), "> /dev/full")
    assert done.returncode == 1
    assert done.stderr == "virnucpro: error: standard output: No space left on device\n"
    silent = shell(tmp_path, words.split(), ">/dev/full 2>&1")
    assert (silent.returncode, silent.stdout, silent.stderr) == (1, "", "")


@pytest.mark.parametrize("words", ["predict - -o out", "utils validate -"])
def test_a_closed_standard_input_is_bad_input(words, tmp_path):
    done = shell(tmp_path, words.split(), "<&-")
    assert done.returncode == 3
    assert "standard input: cannot be read" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "run.json").exists()


OPENS = """
import os, sys
from virnucpro.cli.main import main
try:
    main()
except SystemExit:
    pass
os.write(int(sys.argv[1].removeprefix("--numbers=")), b"%d" % os.open(os.devnull, os.O_RDONLY))
"""


def test_no_file_gets_the_number_of_a_closed_stream(tmp_path):
    script = tmp_path / "opens.py"
    script.write_text(OPENS)
    done = shell(tmp_path, ["--numbers=7"], "7>&1 >&- 2>&- <&-", code=str(script))
    assert int(done.stdout) > 2


def test_a_log_file_on_a_full_disk_ends_no_run(fasta, tmp_path, capfd):
    done = run("-l", "/dev/full", "predict", fasta, "-o", tmp_path / "out", *RUN, code=0)
    assert done.output.count("/dev/full ends here: No space left on device") == 1
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("predict FASTA -o out --no-report -t 1 --no-progress", 0),
        ("predict FASTA -o out -m 500", 4), ("models list", 0), ("models fetch 500 -y", 4),
        ("config show", 0), ("estimate FASTA -m mini --count-only", 0), ("utils list-devices", 0),
    ],
)  # fmt: skip
def test_no_home_directory_is_needed(fasta, tmp_path, monkeypatch, words, code):
    monkeypatch.setattr(pwd, "getpwuid", mock.Mock(side_effect=KeyError("uid not found")))
    for name in ("HOME", "VIRNUCPRO_MODEL_DIR", "VIRNUCPRO_MODELS_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VIRNUCPRO_OFFLINE", "1")
    done = run(*words.replace("FASTA", str(fasta)).split())
    assert done.exit_code == code, done.output
    assert code != 4 or "VIRNUCPRO_MODEL_DIR" in done.output
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize("words", ["models list", "predict FASTA", "doctor"])
@pytest.mark.parametrize("variable", ["VIRNUCPRO_MODEL_DIR", "VIRNUCPRO_LOGGING_FILE"])
def test_a_home_of_nobody_known_is_a_usage_error(fasta, tmp_path, words, variable):
    done = run(
        *words.replace("FASTA", str(fasta)).split(), env={variable: "~no-such-user/x"}, code=2
    )
    assert f"{variable}: " in done.output and "give the path in full" in done.output
    settings = tmp_path / "settings.yaml"
    settings.write_text("models: {home: '~no-such-user/x'}\n")
    done = run("-c", settings, "config", "show", code=2)
    assert "~no-such-user/x" in done.output


INTERRUPTED = """
import _signal, os, runpy, sys

_signal.signal(2, _signal.default_int_handler)  # a shell's background jobs ignore it

module, number = sys.argv[1], int(sys.argv[2])
del sys.argv[1:3]
sys.modules.pop("signal", None)

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            print("found", flush=True)
            os.kill(os.getpid(), number)

sys.meta_path.insert(0, Finder())
runpy.run_module("virnucpro", run_name="__main__")
"""


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("signal", "--version"), ("virnucpro.cli.main", "--version"), ("click.types", "doctor"),
        ("virnucpro.core.config", "predict FASTA"), ("numpy", "predict FASTA"),
    ],
)  # fmt: skip
def test_an_interrupt_while_importing_ends_without_a_traceback(tmp_path, fasta, module, words):
    script = tmp_path / "interrupted.py"
    script.write_text(INTERRUPTED)
    number, code = (15, 143) if module == "click.types" else (2, 130)
    words = words.replace("FASTA", str(fasta)).split()
    done = shell(tmp_path, [module, number, *words], code=str(script))
    assert "found" in done.stdout
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("virnucpro: stopped by a signal") and done.stderr.count("\n") == 1


@pytest.fixture
def server():
    """An address that nobody may ask for anything, and how often it was asked."""
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer():
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                asked.append(connection.recv(100))
                connection.sendall(b"HTTP/1.0 404 Not Found\r\nContent-Length: 0\r\n\r\n")
                connection.close()

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", asked
        listening.shutdown(socket.SHUT_RDWR)
    thread.join()


@pytest.fixture
def cram(tmp_path):
    """A CRAM file whose reference has moved, the reference, and its place by checksum."""
    pysam = pytest.importorskip("pysam")
    contig, reference, path = dna(5, 1000), tmp_path / "ref.fa", tmp_path / "reads.cram"
    reference.write_text(f">chr\n{contig}\n")
    write_reads(path, ("r", 0, contig[10:310]), reference=reference)
    with pysam.AlignmentFile(str(path), check_sq=False, reference_filename=str(reference)) as file:
        checksum = file.header["SQ"][0]["M5"]
    (tmp_path / "by_checksum").mkdir()
    (tmp_path / "by_checksum" / checksum).write_text(contig)
    reference.rename(tmp_path / "moved.fa")
    return path, tmp_path / "moved.fa", tmp_path / "by_checksum"


def predict(*words, **more):
    return run("predict", *words, *RUN, **more)


@pytest.mark.parametrize("offline", ["0", "1"])
@pytest.mark.parametrize(
    "path", ["{0}/%s", "URL={0}/%s", "|{0}/%s", "/nowhere/%s:{0}/%s", "{0}/%s:/nowhere/%s"]
)
def test_no_reference_is_asked_of_the_network(cram, server, tmp_path, monkeypatch, path, offline):
    address, asked = server
    monkeypatch.setenv("REF_PATH", path.format(address))
    monkeypatch.setenv("VIRNUCPRO_OFFLINE", offline)
    refused = predict(cram[0], "-o", tmp_path / "out", code=3)
    assert "--reference" in refused.output
    assert asked == []


def test_neither_by_other_ways(cram, server, tmp_path, monkeypatch):
    address, asked = server
    monkeypatch.setenv("REF_PATH", f"{address}/%s")
    remote = predict(cram[0], "-o", tmp_path / "out", "--reference", f"{address}/ref.fa")
    assert remote.exit_code == 3 and "ref.fa" in remote.output
    run("estimate", cram[0], "-m", "mini", "--count-only", code=3)
    for more in ({}, {"reference": f"{address}/ref.fa"}):
        with pytest.raises(InputError):
            virnucpro.predict(cram[0], **more)
    assert asked == []


def test_references_in_files_are_found(cram, server, tmp_path, monkeypatch):
    address, asked = server
    for name, path, flags in (
        ("found", f"{cram[2]}/%s:{address}/%s", []),
        ("given", f"{address}/%s", ["--reference", cram[1]]),
    ):
        monkeypatch.setenv("REF_PATH", path)
        predict(cram[0], "-o", tmp_path / name, "--min-score", "0", *flags, code=0)
    calls = [(tmp_path / name / "calls.tsv").read_text() for name in ("found", "given")]
    assert calls[0] == calls[1] and asked == []
