"""run.json: whose directory this is, what ran, what it counted, and which files are ours."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from virnucpro.core.errors import OutputError, UsageError
from virnucpro.core.files import sha256_file, write_json
from virnucpro.pipeline.paths import RunPaths

FORMAT = 1
# all that a run leaves which ends before its inputs are read
BARELY_BEGUN = {".virnucpro.lock", ".checkpoints"}


class RunRecord:
    """The content of run.json while a run goes on.

    Attributes:
        data: what is written; see `docs/outputs.md` for the keys.
    """

    def __init__(self, paths: RunPaths, data: dict[str, Any]) -> None:
        self._paths, self.data = paths, data
        self._start = time.monotonic()

    def claim(self, *files: Path) -> None:
        """Write down that these files, or folders, are ours, before they are made."""
        known = set(self.data["files"])
        names = [self._name(path) for path in files]
        self.data["files"] += [name for name in names if name not in known]
        self.save()

    @contextmanager
    def stage(self, name: str) -> Iterator[dict[str, int]]:
        """Time a stage; what the body puts in the yielded dict becomes its counts."""
        counts: dict[str, int] = {}
        start = time.monotonic()
        yield counts
        seconds = round(time.monotonic() - start, 3)
        self.data["stages"][name] = {"seconds": seconds, **counts}

    def finish(self, status: str, outputs: list[Path], model_outputs: list[Path]) -> None:
        """Record the end of the run and the hash of each output file.

        Args:
            status: `done` or `partial`.
            outputs: every file that stays.
            model_outputs: those of them that a run with other thresholds can start from.
        """
        self.data["status"] = status
        self.data["seconds"] = round(time.monotonic() - self._start, 3)
        self.data["outputs"] = {self._name(path): sha256_file(path) for path in outputs}
        self.data["model_outputs"] = [self._name(path) for path in model_outputs]
        self.save()

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self._paths.output_dir))

    def save(self) -> None:
        """Write run.json."""
        write_json(self._paths.run_json, self.data)


def read_run(output_dir: Path) -> dict[str, Any] | None:
    """The run.json of `output_dir`, or None where there is none that is ours."""
    try:
        data = json.loads((output_dir / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    ours = isinstance(data, dict) and data.get("tool") == "virnucpro"
    return data if ours and isinstance(data.get("files"), list) else None


def is_complete(output_dir: Path, data: dict[str, Any], tables_key: str) -> bool:
    """Whether `data` tells of a finished run under this key with every output file whole."""
    if data.get("tables_key") != tables_key or data.get("status") not in ("done", "partial"):
        return False
    outputs = data.get("outputs")
    return isinstance(outputs, dict) and _are_whole(output_dir, outputs)


def has_whole_model_outputs(output_dir: Path, data: dict[str, Any], key: str) -> bool:
    """Whether all that depends on input and model alone was made under `key` and is whole."""
    names, outputs = data.get("model_outputs"), data.get("outputs")
    if data.get("key") != key or not isinstance(names, list) or not isinstance(outputs, dict):
        return False
    return _are_whole(output_dir, {str(name): outputs.get(name) for name in names})


def _are_whole(output_dir: Path, hashes: dict[str, Any]) -> bool:
    try:
        return bool(hashes) and all(
            sha256_file(output_dir / name) == sha for name, sha in hashes.items()
        )
    except OSError:
        return False


def open_output_dir(output_dir: Path, resume: bool, force: bool) -> None:
    """Make the directory, or check that what is in it may be used.

    Raises:
        UsageError: it is not empty and neither `resume` nor `force` allows to go on.
        OutputError: it cannot be made.
    """
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        content = [path for path in output_dir.iterdir() if path.name not in BARELY_BEGUN]
    except OSError as error:
        raise OutputError(f"{output_dir}: {error.strerror}") from error
    if not content:
        return
    run = read_run(output_dir)
    if run is None and not force:
        raise UsageError(
            f"{output_dir} is not empty and holds no run of ours; choose another --output-dir, "
            "or --force to write beside what is there"
        )
    if run is not None and force:
        _remove_ours(output_dir, run["files"])
    elif run is not None and not resume:
        raise UsageError(
            f"{output_dir} holds an earlier run (status: {run.get('status')}); "
            "--resume goes on with it, --force starts over"
        )


def _remove_ours(output_dir: Path, names: list[Any]) -> None:
    """Remove the files that run.json lists; a name that leaves the directory is passed over."""
    root = output_dir.resolve()
    for name in names:
        path = output_dir / str(name)
        if Path(str(name)).is_absolute() or ".." in Path(str(name)).parts:
            continue
        if path.is_symlink() or not path.resolve().is_relative_to(root) or path == output_dir:
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    (output_dir / "run.json").unlink(missing_ok=True)


@contextmanager
def locked(lock: Path) -> Iterator[None]:
    """Hold a kernel lock that goes with the process, against two runs in one directory.

    Raises:
        UsageError: another process holds it.
    """
    descriptor = os.open(lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(f"{lock.parent}: another run is working here") from error
        yield
    finally:
        with suppress(OSError):
            os.close(descriptor)
