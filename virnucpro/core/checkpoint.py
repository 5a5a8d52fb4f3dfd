"""Resume is one question: was this unit of work committed under this key, and is it whole?

The ledger of a run holds one small file for each finished unit. It comes to be whole, and only if
there is none of its name: of two workers that did the same work the later one changes nothing.
"""

import hashlib
import json
import logging
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from virnucpro.core.errors import DamagedError
from virnucpro.core.files import atomic_write, sha256_file
from virnucpro.core.storage import Folder, Storage

logger = logging.getLogger("virnucpro.core")

LEDGER_FORMAT, CLAIMS = 3, "files.txt"
Outputs = dict[str, tuple[int, str]]  # by name: size (bytes) and SHA-256


def atomic_save(obj: Any, path: Path) -> None:
    """`torch.save` that leaves either the whole file or nothing under the final name."""
    import torch

    with atomic_write(path) as file:
        torch.save(obj, file)


class Entry(NamedTuple):
    """What the ledger says of a finished unit."""

    facts: dict[str, Any]
    payload: bytes
    outputs: Outputs  # by names relative to the root


class Ledger:
    """Which units of work are finished, each under the key that it was made under.

    Outputs lie in `root`, entries in `folder` or in `storage`. Without `reuse` all work starts
    over; with `repair` a damaged unit is not done, else it is an error.
    """

    def __init__(
        self, root: Path, folder: Path, reuse: bool = True, repair: bool = False,
        storage: Storage | None = None,
    ) -> None:  # fmt: skip
        self.root, self.folder, self.reuse, self.repair = root, folder, reuse, repair
        self.storage = storage or Folder(folder)

    def read(self, unit: str, key: str, repair: bool = False) -> Entry | None:
        """The entry committed under `key` if its files are there; None, or a DamagedError."""
        own = self.name(unit, key)
        try:
            if not self.reuse or (content := self.storage.read(own)) is None:
                return None
            entry = parse_entry(content, self.folder / own)
            if not all((self.root / name).is_file() for name in entry.outputs):
                return None
            for name, (size, sha256) in entry.outputs.items():
                check_file(self.root / name, size, sha256)
            return entry
        except DamagedError as damage:
            if not (repair or self.repair):
                raise
            logger.warning("%s: %s; it is made again", damage.path, damage.problem)
            self.storage.remove(own)
            return None

    def commit(
        self, unit: str, key: str, payload: bytes = b"", outputs: Sequence[Path] | Outputs = (),
        facts: dict[str, Any] | None = None,
    ) -> bool:  # fmt: skip
        """Record `unit` as finished under `key`; False changes nothing: it had been, by whoever.

        The result is the small `payload`, or files that have their final names: `outputs` are
        their paths, or what `describe` says of them. `facts` must be JSON-able. A payload may be
        lost with power until the next entry without one is there: it can be made again.
        """
        header = {
            "format": LEDGER_FORMAT, "unit": unit, "key": key, "facts": facts or {},
            "outputs": outputs if isinstance(outputs, dict) else self.describe(outputs),
        }  # fmt: skip
        text = json.dumps(header, default=str).encode()
        content = b"\n".join([_seal(text, payload), text, payload])
        return self.storage.create(self.name(unit, key), content, is_lasting=not payload)

    def describe(self, outputs: Sequence[Path]) -> Outputs:
        """Size and SHA-256 of files by their names, relative to the root."""
        return {self._relative(path): (path.stat().st_size, sha256_file(path)) for path in outputs}

    def discard(self, *units: str) -> None:
        """Forget what was committed of `units`, under whatever key; their outputs stay."""
        gone = {_digest(unit) for unit in units}
        self._forget(lambda digest: digest in gone)

    def keep_only(self, *units: str) -> None:
        """Forget every other unit."""
        kept = {_digest(unit) for unit in units}
        self._forget(lambda digest: digest not in kept)

    def _forget(self, is_it: Callable[[str], bool]) -> None:
        entries = (name for name in self.storage.names() if name.endswith(".entry"))
        self.storage.remove(*(name for name in entries if is_it(name.split("-")[0])))

    def claim(self, *paths: Path) -> None:
        """Write down that these files are ours, durably, before they are made."""
        self._write_claims([*self.claimed(), *map(self._relative, paths)])

    def disclaim(self, *paths: Path) -> None:
        """Strike files from the list, once they are removed: such a name is free again."""
        gone = {*map(self._relative, paths)}
        self._write_claims([name for name in self.claimed() if name not in gone])

    def _write_claims(self, names: list[str]) -> None:
        if (names := [*dict.fromkeys(names)]) != self.claimed():
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_write(self.folder / CLAIMS, "w") as file:
                file.writelines(json.dumps(name) + "\n" for name in names)

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def claimed(self) -> list[str]:
        """Names of the files that are ours, relative to the root and in it; a torn line is none."""
        names = []
        with suppress(OSError):
            for line in (self.folder / CLAIMS).read_bytes().splitlines():
                with suppress(ValueError):
                    path = Path(name := str(json.loads(line)))
                    if path.name and not path.root and ".." not in path.parts:
                        names.append(name)
        return names

    def name(self, unit: str, key: str) -> str:
        """What the entry of a unit is called where entries lie."""
        # Units may carry text from outside; a digest can never leave the folder.
        return f"{_digest(unit)}-{_digest(key)}.entry"


def parse_entry(content: bytes, path: Path) -> Entry:
    """An entry of a ledger; a DamagedError tells that it is not what was committed."""
    seal, text, payload = (*content.split(b"\n", 2), b"", b"")[:3]
    if _seal(text, payload) != seal:
        raise DamagedError(path, "fails its checksum")
    try:
        header = json.loads(text)
        if header["format"] != LEDGER_FORMAT:
            raise DamagedError(path, f"of format {header['format']}, not {LEDGER_FORMAT}")
        outputs = {name: (size, sha256) for name, (size, sha256) in header["outputs"].items()}
        return Entry(header["facts"], payload, outputs)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(path, f"cannot be read ({error})") from error


def _seal(text: bytes, payload: bytes) -> bytes:
    # a commit waits for it: a digest would take as long as writing to the disk
    return b"%08x" % zlib.crc32(payload, zlib.crc32(text))


def check_file(path: Path, size: int, sha256: str) -> None:
    """Raise a DamagedError if a file cannot be read, or is not what was committed."""
    try:
        found = path.stat().st_size
        if found != size:
            raise DamagedError(path, f"holds {found} bytes where {size} were committed")
        if sha256_file(path) != sha256:
            raise DamagedError(path, "fails its checksum")
    except OSError as error:
        raise DamagedError(path, f"cannot be read ({error.strerror or error})") from error


def _digest(unit: str) -> str:
    return hashlib.sha256(unit.encode("utf-8", "surrogateescape")).hexdigest()[:24]
