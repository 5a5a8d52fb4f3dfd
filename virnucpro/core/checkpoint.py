"""Resume is one question: same key, outputs whole? Else run.

The ledger holds one small record per finished unit of work. A record is written after the
unit's outputs have their final names, and it names each output's size and SHA-256, so a record
never speaks for a torn or changed file. It is taken back before the outputs are made again, so
that a file that differs from its record was damaged and not merely replaced half way.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from virnucpro.core.errors import DamagedError
from virnucpro.core.files import atomic_write, digest_of, fsync_folder, sha256_file, write_json

logger = logging.getLogger("virnucpro.core")

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
        repair: a damaged unit is not done; False makes it an error.
    """

    def __init__(self, folder: Path, reuse: bool = True, repair: bool = False) -> None:
        self.folder, self.reuse, self.repair = folder, reuse, repair

    def is_done(self, unit: str, key: str, outputs: Sequence[Path]) -> bool:
        """Whether `unit` was committed under `key` and every output is still there and whole.

        Args:
            unit: name of the piece of work, unique within the run.
            key: digest of everything that decides the outputs' bytes.
            outputs: the files it made, in the order given to `commit`.

        Raises:
            DamagedError: an output fails its checksum, and `repair` is not set.
        """
        if not self.reuse:
            return False
        record = self._read(unit)
        names = [path.name for path in outputs]
        if record is None or record["key"] != key:
            return False
        if [entry["name"] for entry in record["outputs"]] != names:
            return False
        if not all(path.exists() for path in outputs):
            return False
        try:
            for path, entry in zip(outputs, record["outputs"], strict=True):
                _check(path, entry)
        except DamagedError as damage:
            if not self.repair:
                raise
            logger.warning("%s: %s; it is made again", damage.path, damage.problem)
            return False
        return True

    def facts(self, unit: str) -> dict[str, int]:
        """What `commit` was told about a finished unit; empty where there is no record."""
        record = self._read(unit) or {}
        facts = record.get("facts")
        named = facts.items() if isinstance(facts, dict) else ()
        return {name: number for name, number in named if isinstance(number, int)}

    def commit(
        self, unit: str, key: str, outputs: Sequence[Path], facts: dict[str, int] | None = None
    ) -> None:
        """Record `unit` as finished; call it once the outputs have their final names.

        Args:
            unit: name of the piece of work.
            key: digest of everything that decides the outputs' bytes.
            outputs: the files it made.
            facts: counts to be had again with `facts` in a resumed run.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        entries = [
            {"name": path.name, "size": path.stat().st_size, "sha256": sha256_file(path)}
            for path in outputs
        ]
        record = {"format": LEDGER_FORMAT, "unit": unit, "key": key, "outputs": entries}
        record["facts"] = facts or {}
        write_json(self._path(unit), record)

    def discard(self, unit: str, outputs: Sequence[Path] = ()) -> bool:
        """Forget `unit` and remove its outputs, so that it is done again from nothing.

        Returns:
            Whether there was anything to forget.
        """
        record = self._path(unit)
        was_known = record.exists()
        if was_known:
            record.unlink(missing_ok=True)
            fsync_folder(self.folder)
        for path in outputs:
            path.unlink(missing_ok=True)
        return was_known

    def _path(self, unit: str) -> Path:
        # Units may carry text from outside; a digest can never leave the folder.
        return self.folder / f"{digest_of(unit)[:32]}.json"

    def _read(self, unit: str) -> dict[str, Any] | None:
        try:
            record = json.loads(self._path(unit).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return None
        fits = isinstance(record, dict) and record.get("format") == LEDGER_FORMAT
        fits = fits and record.get("unit") == unit and _are_entries(record.get("outputs"))
        return record if fits and isinstance(record.get("key"), str) else None


def _are_entries(entries: Any) -> bool:
    """Whether a record's list of outputs is as `commit` writes it."""
    return isinstance(entries, list) and all(
        isinstance(entry, dict) and {"name", "size", "sha256"} <= entry.keys() for entry in entries
    )


def _check(path: Path, entry: dict[str, Any]) -> None:
    """Compare a file with its entry.

    Raises:
        DamagedError: it cannot be read, or its size or checksum differs.
    """
    try:
        size = path.stat().st_size
        if size != entry["size"]:
            raise DamagedError(path, f"holds {size} bytes where {entry['size']} were committed")
        if sha256_file(path) != entry["sha256"]:
            raise DamagedError(path, "fails its checksum")
    except OSError as error:
        raise DamagedError(path, f"cannot be read ({error.strerror or error})") from error
