"""Files appear whole under their final name, or not at all."""

import errno
import os
import pickle
from contextlib import nullcontext

import numpy as np
import pytest

from virnucpro.core import errors
from virnucpro.core.errors import OutputError, UsageError
from virnucpro.core.files import (
    atomic_write,
    locked,
    read_json,
    write_json,
)
from virnucpro.core.records import Embeddings


def test_failure_leaves_the_old_content_and_nothing_else(tmp_path):
    target = tmp_path / "table.tsv"
    target.write_text("old")
    with pytest.raises(RuntimeError, match="stop"), atomic_write(target, "w") as file:
        file.write("half")
        raise RuntimeError("stop")
    assert target.read_text() == "old"
    with atomic_write(target, "w") as file:
        file.write(b"caf\xe9\n".decode("utf-8", "surrogateescape"))
        assert target.read_text() == "old"
    assert target.read_bytes() == b"caf\xe9\n"  # an id with bytes outside UTF-8
    assert [path.name for path in tmp_path.iterdir()] == ["table.tsv"]


def test_missing_folder_is_an_output_error_that_names_the_file(tmp_path):
    target = tmp_path / "gone" / "table.tsv"
    with pytest.raises(OutputError, match=r"gone/table\.tsv"), atomic_write(target) as file:
        file.write(b"x")


def test_json_is_written_whole_and_read_without_trust(tmp_path):
    path = tmp_path / "run.json"
    write_json(path, {"b": 1, "a": [2]})
    assert path.read_text() == '{\n  "b": 1,\n  "a": [\n    2\n  ]\n}\n'
    assert read_json(path) == {"b": 1, "a": [2]}
    for text in ("", "{", "[1]", "[" * 100_000):
        path.write_text(text)
        assert read_json(path) == {}


def test_a_file_is_created_whole_or_the_one_that_is_there_stays(tmp_path):
    path = tmp_path / "unit"
    for content, outcome in (
        (b"first", nullcontext()),
        (b"second", pytest.raises(FileExistsError)),
    ):
        with outcome, atomic_write(path, replace=False) as file:
            file.write(content)
    assert path.read_bytes() == b"first"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(("number", "is_made"), [(errno.EPERM, True), (errno.ENOSPC, False)])
def test_without_hard_links_a_file_is_renamed_into_place(tmp_path, monkeypatch, number, is_made):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    outcome = nullcontext() if is_made else pytest.raises(OutputError, match="No space left")
    with outcome, atomic_write(tmp_path / "unit", replace=False) as file:
        file.write(b"content")
    assert len(list(tmp_path.iterdir())) == is_made


def test_a_lock_is_held_by_one(tmp_path):
    lock = tmp_path / "lock"
    with locked(lock), pytest.raises(UsageError, match="another run"), locked(lock):
        pass
    with locked(lock):
        pass


@pytest.mark.parametrize("shape", [(1, 3), (3,), (3, 2, 1)])
def test_vectors_need_one_id_each(shape):
    with pytest.raises(ValueError, match="2 ids"):
        Embeddings(("a", "b"), np.zeros(shape, np.float32))


def test_errors_survive_a_process_boundary(tmp_path):
    for error in (
        errors.InputError("x.fa", "no header", 3),
        errors.SequenceTooLongError(1, 2, 3),
        errors.WorkersFailedError([0, 2], 3, tmp_path),
        errors.Interrupted(15),
    ):
        copy = pickle.loads(pickle.dumps(error))
        assert (str(copy), copy.exit_code) == (str(error), error.exit_code)
