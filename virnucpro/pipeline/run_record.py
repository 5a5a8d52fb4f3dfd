"""run.json: whose directory this is, what ran, what it counted, and which files are ours."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from virnucpro.core.errors import DamagedError, UsageError
from virnucpro.core.files import sha256_file, write_json
from virnucpro.pipeline.paths import RunPaths

FORMAT = 1

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
        paths: of the run.
        data: what is written; see `docs/outputs.md` for the keys.
        is_new: no earlier run worked here, so that what lies here is not ours.

    Attributes:
        data: as given.
    """

    def __init__(self, paths: RunPaths, data: dict[str, Any], is_new: bool = False) -> None:
        self._paths, self.data, self._is_new = paths, data, is_new
        self._start = time.monotonic()

    def claim(self, *files: Path) -> None:
        """Write down that these files, or folders, are ours, before they are made.

        Raises:
            UsageError: the run is new here, and such a file lies here already: somebody else's.
        """
        self.data["files"] += map(self._name, self.check_free(*files))
        self.save()

    def check_free(self, *files: Path) -> list[Path]:
        """Those of these files, or folders, that are not yet known to be ours.

        Raises:
            UsageError: as `claim` does.
        """
        known = set(self.data["files"])
        claimed = [path for path in files if self._name(path) not in known]
        for path in claimed:
            if self._is_new and path.exists():
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

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self._paths.output_dir))

    def save(self) -> None:
        """Write run.json."""
        write_json(self._paths.run_json, self.data)


def refuse(path: Path) -> NoReturn:
    """Stop before a file is written over that no run of ours made.

    Raises:
        UsageError: names the file.
    """
    raise UsageError(
        f"{path} is there already and no file of an earlier run; move it away, or "
        "choose another --output-dir"
    )


def read_run(output_dir: Path) -> dict[str, Any] | None:
    """The run.json of `output_dir`, or None where there is none that is ours."""
    try:
        data = json.loads((output_dir / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    ours = isinstance(data, dict) and data.get("tool") == "virnucpro"
    ours = ours and all(isinstance(data.get(name), kind) for name, kind in _KINDS.items())
    return data if ours else None


def is_complete(
    output_dir: Path, data: dict[str, Any], tables_key: str, repair: bool = False
) -> bool:
    """Whether `data` tells of a run finished under this key, and its output files are all there.

    Raises:
        DamagedError: an output file fails its checksum, and `repair` is not set.
    """
    outputs = data.get("outputs")
    if data.get("tables_key") != tables_key or data.get("status") != "done":
        return False
    return isinstance(outputs, dict) and _are_whole(output_dir, outputs, repair)


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
