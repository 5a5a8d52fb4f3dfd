"""Bytes under names, in a folder or in object storage: whole or not there, and whoever is first.

Several hosts may work here at once. What makes that safe is `create`, which only one can win: a
hard link in a folder, a conditional put (`If-None-Match: *`) in object storage.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import IO, Any, Protocol

from virnucpro.core.errors import DamagedError, InputError, OutputError
from virnucpro.core.files import BLOCK_BYTES, atomic_write, fsync_folder

_URL = re.compile(r"(s3|gs|file):/+(.+)", re.DOTALL)
_TRIES = 3


class Storage(Protocol):
    """Where names are plain words without a slash."""

    def read(self, name: str) -> bytes | None:
        """What lies under a name; None where nothing does."""

    def create(self, name: str, content: bytes) -> bool:
        """Put bytes there, durably, if nothing is; whether it was this call that did."""

    def write(self, name: str, content: bytes) -> None:
        """Put bytes there whatever is; another host sees them soon, and maybe half of them."""

    def remove(self, *names: str) -> None:
        """Leave nothing there, durably."""

    def names(self) -> set[str]:
        """All names in use."""


class Folder:
    """Files of one folder, which is made when the first is created."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, name: str) -> bytes | None:
        """See `Storage`."""
        path = self._folder / name
        try:
            return path.read_bytes() if path.is_file() else None
        except FileNotFoundError:  # since it was looked for
            return None
        except OSError as error:
            raise DamagedError(path, f"cannot be read ({error.strerror or error})") from error

    def create(self, name: str, content: bytes) -> bool:
        """See `Storage`."""
        path = self._folder / name
        self._folder.mkdir(parents=True, exist_ok=True)
        if path.exists():
            return False
        for tries_left in reversed(range(_TRIES)):
            try:
                with atomic_write(path, replace=False) as file:
                    file.write(content)
            except FileExistsError:
                return False
            except OutputError as error:
                # A run that began here meanwhile may have removed the temporary file.
                if not isinstance(error.__cause__, FileNotFoundError) or not tries_left:
                    raise
            else:
                break
        return True

    def write(self, name: str, content: bytes) -> None:
        """See `Storage`."""
        # In place: over NFS a file that was renamed may be seen a minute late, its content not.
        (self._folder / name).write_bytes(content)

    def remove(self, *names: str) -> None:
        """See `Storage`."""
        for name in names:
            (self._folder / name).unlink(missing_ok=True)
        if names:
            fsync_folder(self._folder)

    def names(self) -> set[str]:
        """See `Storage`."""
        with suppress(FileNotFoundError):
            return {path.name for path in self._folder.iterdir() if path.name[0] != "."}
        return set()


class Objects:
    """Objects below one URL, keys from the environment; an OutputError where it says no."""

    def __init__(self, url: str) -> None:
        self._obstore: Any = import_module("obstore")
        self._url = url
        with self._told(""):
            self._store = import_module("obstore.store").from_url(url)

    def read(self, name: str) -> bytes | None:
        """See `Storage`."""
        with self._told(name):
            try:
                return bytes(self._obstore.get(self._store, name).bytes())
            except FileNotFoundError:
                return None

    def create(self, name: str, content: bytes) -> bool:
        """See `Storage`."""
        for _ in range(_TRIES):
            with self._told(name):
                try:
                    self._obstore.put(self._store, name, content, mode="create")
                except self._obstore.exceptions.AlreadyExistsError:
                    found = self.read(name)
                    if found is not None:
                        return found == content  # the answer to a first try may have been lost
                    # 409: two such puts have met, and neither need have won
                else:
                    return True
        raise OutputError(f"{self._url}/{name}: neither there nor to be made; try again")

    def write(self, name: str, content: bytes) -> None:
        """See `Storage`."""
        with self._told(name):
            self._obstore.put(self._store, name, content)

    def remove(self, *names: str) -> None:
        """See `Storage`."""
        with self._told(""):
            self._obstore.delete(self._store, list(names))

    def names(self) -> set[str]:
        """See `Storage`."""
        with self._told(""):
            return {one["path"] for page in self._obstore.list(self._store) for one in page}

    def copy_to(self, name: str, file: IO[bytes]) -> None:
        """Copy an object into a file; bounded memory."""
        with self._told(name):
            reader = self._obstore.open_reader(self._store, name)
            while block := reader.read(BLOCK_BYTES):
                file.write(block)

    def copy_from(self, name: str, file: IO[bytes]) -> None:
        """Copy a file into an object; bounded memory."""
        with self._told(name):
            self._obstore.put(self._store, name, file)

    @contextmanager
    def _told(self, name: str) -> Iterator[None]:
        base: Any = self._obstore.exceptions.BaseError
        try:
            yield
        except (base, OSError) as error:
            reason = str(error).partition("\n")[0]
            raise OutputError(f"{self._url}/{name}: {reason}") from error


def open_storage(place: str) -> Storage:
    """A folder, or what is behind an s3://, gs:// or file:// URL."""
    url = url_of(place)
    return Objects(url) if url else Folder(Path(place))


def url_of(place: str | Path) -> str:
    """The URL that a place stands for, though a path has lost a slash of it; empty if it is none.

    >>> url_of("s3://bucket/a"), url_of(Path("s3://bucket/a")), url_of("a/s3")
    ('s3://bucket/a', 's3://bucket/a', '')
    """
    found = _URL.fullmatch(str(place))
    return f"{found[1]}://{'/' if found[1] == 'file' else ''}{found[2]}" if found else ""


def fetch(url: str, file: IO[bytes]) -> None:
    """Copy the object of a URL into a file; an InputError if it cannot be read."""
    base, _, name = url.rpartition("/")
    try:
        Objects(base).copy_to(name, file)
    except OutputError as error:
        raise InputError(url, str(error).removeprefix(f"{url}: ")) from error
