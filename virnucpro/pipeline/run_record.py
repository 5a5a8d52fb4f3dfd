"""run.json: whose directory this is, what ran, what it counted, and which files are ours."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from virnucpro.core.errors import DamagedError
from virnucpro.core.files import read_json, sha256_file, write_json
from virnucpro.pipeline.our_files import CHECKPOINTS, refuse, refuse_link_on_the_way
from virnucpro.reports.html import REPORT_FILES

FORMAT = 1
COPY = f"{CHECKPOINTS}/run_record.json"

# What later code relies on, in a file that anyone may have edited.
_KINDS = {
    "files": list,
    "inputs": list,
    "samples": list,
    "stages": dict,
    "outputs": dict,
    "model_outputs": list,
}


class RunRecord:
    """The content of run.json while a run goes on.

    Args:
        output_dir: of the run.
        data: what is written; see `docs/outputs.md` for the keys.
        lists_all: whatever a run of ours made here is in `files`, so that the rest is not ours.

    Attributes:
        data: as given.
    """

    def __init__(self, output_dir: Path, data: dict[str, Any], lists_all: bool = True) -> None:
        self.data, self._output_dir, self._lists_all = data, output_dir, lists_all
        self._start = time.monotonic()

    def claim(self, *files: Path) -> None:
        """Write down that these files, or folders, are ours, before they are made.

        Raises:
            UsageError: such a file lies here already and is somebody else's, or the way to it
                leads through a link.
        """
        self.data["files"] += map(self._name, self.check_free(*files))
        self.save()

    def check_free(self, *files: Path) -> list[Path]:
        """Those of these files, or folders, that are not yet known to be ours.

        Raises:
            UsageError: as `claim` does.
        """
        for folder in {Path(self._name(path)).parent for path in files}:
            refuse_link_on_the_way(self._output_dir, str(folder))
        known = set(self.data["files"])
        claimed = [path for path in files if self._name(path) not in known]
        for path in claimed:
            if self._lists_all and (path.is_symlink() or path.exists()):
                refuse(path)
        return claimed

    @contextmanager
    def stage(self, name: str) -> Iterator[dict[str, int]]:
        """Time a stage; what the body puts in the yielded dict becomes its counts."""
        counts: dict[str, int] = {}
        start = time.monotonic()
        yield counts
        seconds = round(time.monotonic() - start, 3)
        self.data["stages"][name] = {"seconds": seconds, **counts}

    def note_engines(self, slot: str, engines: Iterable[Mapping[str, Any]]) -> None:
        """Record how a slot was embedded: layout, dtype and attention backend, and on what."""
        for engine in engines:
            facts = [str(engine.get(name, "?")) for name in ("layout", "dtype", "backend")]
            self.data.setdefault("engines", {})[slot] = " ".join(facts)
            devices = self.data.setdefault("devices", [])
            memory = max(self.data.get("gpu_bytes", 0), int(engine.get("gpu_bytes", 0)))
            self.data["gpu_bytes"] = memory
            if (device := str(engine.get("device"))) not in devices:
                devices.append(device)

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

    def close(self, pages: Iterable[Path]) -> None:
        """Record the report's hashes, forget files that are gone, and keep a copy of run.json.

        A file that is gone is nobody's: whoever makes one of that name makes it for himself.
        """
        self.data["outputs"] |= {self._name(path): sha256_file(path) for path in pages}
        self.data["files"] = [
            name for name in self.data["files"] if (self._output_dir / str(name)).exists()
        ]
        for path in (self._output_dir / "run.json", self._output_dir / COPY):
            if path.parent.is_dir() and read_json(path) != self.data:
                write_json(path, self.data)

    def save(self) -> None:
        """Write run.json; what a finished run kept for itself is out of date from now on."""
        write_json(self._output_dir / "run.json", self.data)
        (self._output_dir / COPY).unlink(missing_ok=True)

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self._output_dir))


def read_run(output_dir: Path) -> dict[str, Any] | None:
    """What is known of the run in `output_dir`; None where there is none of ours.

    That is run.json, or, where it was lost, the copy that a finished run keeps for itself.
    """
    return _read(output_dir / "run.json") or _read(output_dir / COPY)


def _read(path: Path) -> dict[str, Any] | None:
    data = {} if path.is_symlink() else read_json(path)
    ours = data.get("tool") == "virnucpro"
    ours = ours and all(isinstance(data.get(name), kind) for name, kind in _KINDS.items())
    return data if ours else None


def is_complete(
    output_dir: Path, data: dict[str, Any], tables_key: str, repair: bool = False
) -> bool:
    """Whether `data` tells of a run finished under this key, and its output files are all there.

    Raises:
        DamagedError: an output file fails its checksum, and `repair` is not set.
    """
    if data.get("tables_key") != tables_key or data.get("status") != "done":
        return False
    hashes = {name: sha256 for name, sha256 in data["outputs"].items() if name not in REPORT_FILES}
    return _are_whole(output_dir, hashes, repair)


def has_whole_report(output_dir: Path, data: dict[str, Any]) -> bool:
    """Whether the report is there, and as the run wrote it."""
    pages = [(output_dir / name, data["outputs"].get(name)) for name in REPORT_FILES]
    return all(path.is_file() and sha256_file(path) == sha256 for path, sha256 in pages)


def has_whole_model_outputs(
    output_dir: Path, data: dict[str, Any], key: str, repair: bool = False
) -> bool:
    """Whether all that depends on input and model alone was made under `key` and is whole.

    Raises:
        DamagedError: one of these files fails its checksum, and `repair` is not set.
    """
    names, outputs = data.get("model_outputs"), data.get("outputs")
    if data.get("key") != key or not isinstance(names, list) or not isinstance(outputs, dict):
        return False
    hashes = {name: sha256 for name, sha256 in outputs.items() if name in names}
    return len(hashes) == len(names) and _are_whole(output_dir, hashes, repair)


def _are_whole(output_dir: Path, hashes: dict[str, Any], repair: bool) -> bool:
    if not hashes or not all((output_dir / name).is_file() for name in hashes):
        return False
    for name, sha256 in hashes.items():
        if sha256_file(output_dir / name) != sha256:
            if not repair:
                raise DamagedError(output_dir / name, "fails its checksum")
            return False
    return True
