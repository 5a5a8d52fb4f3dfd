"""Write files whole or not at all, and name their content by hash."""

import errno
import fcntl
import hashlib
import json
import logging
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from virnucpro.core.errors import OutputError, UsageError

logger = logging.getLogger("virnucpro.core")

BLOCK_BYTES = 1 << 20
_NO_LINKS_HERE = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_NO_LOCKS_HERE = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
_CANNOT_SYNC_FOLDERS = {errno.EINVAL, errno.EOPNOTSUPP}  # some network file systems


@contextmanager
def atomic_write(
    path: Path,
    mode: str = "wb",
    temporary: Path | None = None,
    replace: bool = True,
    is_lasting: bool = True,
) -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`; give it the final name once it is whole.

    Nobody's file is written over, and no link followed. Text is UTF-8 with LF line ends;
    `temporary` names the file that only a killed run can have left. The name outlasts a loss of
    power, if `is_lasting`. An OutputError tells of a disk that is full, read-only or gone; a
    FileExistsError of a file, where `replace` is False.
    """
    text = {"encoding": "utf-8", "errors": "surrogateescape", "newline": "\n"}
    options = {} if "b" in mode else text
    # a hidden name that nobody can have foreseen
    beside = temporary or path.with_name(f".{path.name}.tmp-{secrets.randbelow(10**9)}")
    try:
        if temporary:
            temporary.unlink(missing_ok=True)
        with beside.open(mode.replace("w", "x"), **options) as file:  # type: ignore[call-overload]
            yield file
            file.flush()
            os.fsync(file.fileno())
        if replace:
            beside.replace(path)
        else:
            try:
                os.link(beside, path)
            except OSError as error:
                if error.errno in _NO_LINKS_HERE:
                    beside.replace(path)
                elif beside.stat().st_nlink < 2:  # else NFS has done it, and lost its first answer
                    raise
            beside.unlink(missing_ok=True)  # before the folder is synced: one sync for both
        if is_lasting:
            fsync_folder(path.parent)
    except OSError as error:
        if isinstance(error, FileExistsError) and not replace:
            raise
        raise OutputError(f"{path}: could not be written ({error.strerror or error})") from error
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def fsync_folder(folder: Path) -> None:
    """Make names in `folder` durable; file systems that cannot sync a folder are left as is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC_FOLDERS:
            raise
    finally:
        os.close(descriptor)


def make_writable(folder: Path) -> None:
    """Make a folder, and see that files can be made in it, before long work that ends there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        problem = f"{folder}: cannot be written ({error.strerror}); choose another place"
        raise OutputError(problem) from error


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's content, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def digest_of(*parts: Any) -> str:
    """Hex SHA-256 of JSON-able values in canonical form (sorted keys, no blanks)."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_write(path, "w") as file:
        json.dump(value, file, indent=2, default=str)
        file.write("\n")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty where there is none that can be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


@contextmanager
def locked(lock: Path) -> Iterator[None]:
    """Hold a kernel lock, which goes with the process; a UsageError if another process holds it."""
    if lock.is_symlink():
        raise UsageError(f"{lock} is a link, and no lock of ours; move it away")
    with os.fdopen(os.open(lock, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o644)) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not lock.exists() or not os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                raise BlockingIOError  # whoever held it has just taken it away
        except BlockingIOError as error:
            raise UsageError(f"{lock.parent}: another run is working here") from error
        except OSError as error:
            if error.errno not in _NO_LOCKS_HERE:
                raise
            logger.warning("%s: no file locks here; start no second run in it", lock.parent)
        yield
