"""Resume is one question: same key, outputs whole? Else run.

The ledger holds one small record per finished unit of work. A record is written after the
unit's outputs have their final names, and it names each output's size and SHA-256, so a record
never speaks for a torn or changed file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from virnucpro.core.files import atomic_write, digest_of, sha256_file, write_json

LEDGER_FORMAT = 1


def atomic_save(obj: Any, path: Path) -> None:
    """`torch.save` that leaves either the whole file or nothing under the final name."""
    import torch

    with atomic_write(path) as file:
        torch.save(obj, file)


class StageLedger:
    """Which units of work are finished, each with the key it was made under.

    Args:
        folder: where the records lie; made when the first unit is committed.
        reuse: answer `is_done` from the records; False means that all work starts over.
    """

    def __init__(self, folder: Path, reuse: bool = True) -> None:
        self.folder, self.reuse = folder, reuse

    def is_done(self, unit: str, key: str, outputs: Sequence[Path]) -> bool:
        """Whether `unit` was committed under `key` and every output is still whole.

        Args:
            unit: name of the piece of work, unique within the run.
            key: digest of everything that decides the outputs' bytes.
            outputs: the files it made, in the order given to `commit`.
        """
        if not self.reuse:
            return False
        record = self._read(unit)
        if record is None or record["key"] != key or len(record["outputs"]) != len(outputs):
            return False
        known = zip(record["outputs"], outputs, strict=True)
        return all(_is_whole(path, entry) for entry, path in known)

    def facts(self, unit: str) -> dict[str, Any]:
        """What `commit` was told about a finished unit; empty where there is no record."""
        record = self._read(unit) or {}
        facts = record.get("facts")
        return facts if isinstance(facts, dict) else {}

    def commit(
        self, unit: str, key: str, outputs: Sequence[Path], facts: dict[str, Any] | None = None
    ) -> None:
        """Record `unit` as finished; call it once the outputs have their final names.

        Args:
            unit: name of the piece of work.
            key: digest of everything that decides the outputs' bytes.
            outputs: the files it made.
            facts: JSON-able counts to be had again with `facts` in a resumed run.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        entries = [
            {"name": path.name, "size": path.stat().st_size, "sha256": sha256_file(path)}
            for path in outputs
        ]
        record = {"format": LEDGER_FORMAT, "unit": unit, "key": key, "outputs": entries}
        record["facts"] = facts or {}
        write_json(self._path(unit), record)

    def discard(self, unit: str) -> None:
        """Forget `unit`, so that it is done again."""
        self._path(unit).unlink(missing_ok=True)

    def _path(self, unit: str) -> Path:
        # Units may carry text from outside; a digest can never leave the folder.
        return self.folder / f"{digest_of(unit)[:32]}.json"

    def _read(self, unit: str) -> dict[str, Any] | None:
        try:
            record = json.loads(self._path(unit).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        fits = isinstance(record, dict) and record.get("format") == LEDGER_FORMAT
        fits = fits and record.get("unit") == unit and isinstance(record.get("outputs"), list)
        return record if fits and isinstance(record.get("key"), str) else None


def _is_whole(path: Path, entry: Any) -> bool:
    try:
        if path.name != entry["name"] or path.stat().st_size != entry["size"]:
            return False
        return bool(sha256_file(path) == entry["sha256"])
    except (OSError, KeyError, TypeError):
        return False
