"""Bytes under names, in a folder or in object storage: whole or not there, and whoever is first.

`create` can be won by one host only: a hard link in a folder, a conditional put in an object store.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import IO, Any, TypeAlias

from virnucpro.core.errors import DamagedError, InputError, OutputError
from virnucpro.core.files import BLOCK_BYTES, atomic_write, fsync_folder

_URL = re.compile(r"(s3|gs|file):/+(.+)", re.DOTALL)
_TRIES = 3


class Folder:
    """Files of one folder, made when the first is created; names are words without a slash."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, name: str) -> bytes | None:
        """What lies under a name; None where nothing does."""
        path = self._folder / name
        try:
            return path.read_bytes() if path.is_file() else None
        except FileNotFoundError:  # since it was looked for
            return None
        except OSError as error:
            raise DamagedError(path, f"cannot be read ({error.strerror or error})") from error

    def create(self, name: str, content: bytes, is_lasting: bool = False) -> bool:
        """Put bytes there if nothing is; whether it was this call that did.

        They are whole after a loss of power, or not there; with `is_lasting` there, and with them
        all that was created before.
        """
        path = self._folder / name
        self._folder.mkdir(parents=True, exist_ok=True)
        if path.exists():
            return False
        for tries_left in reversed(range(_TRIES)):
            try:
                with atomic_write(path, replace=False, is_lasting=is_lasting) as file:
                    file.write(content)
                break
            except FileExistsError:
                return False
            except OutputError as error:
                # A run that began here meanwhile may have removed the temporary file.
                if not isinstance(error.__cause__, FileNotFoundError) or not tries_left:
                    raise
        return True

    def write(self, name: str, content: bytes) -> None:
        """Put bytes there whatever is; another host sees them soon, and maybe half of them."""
        # In place: over NFS a file that was renamed may be seen a minute late, its content not.
        (self._folder / name).write_bytes(content)

    def remove(self, *names: str) -> None:
        """Leave nothing there, durably."""
        for name in names:
            (self._folder / name).unlink(missing_ok=True)
        if names:
            fsync_folder(self._folder)

    def names(self) -> set[str]:
        """All names in use."""
        with suppress(FileNotFoundError):
            return {path.name for path in self._folder.iterdir() if path.name[0] != "."}
        return set()


class _Objects:
    """The same below one URL, keys from the environment; an OutputError where it says no."""

    def __init__(self, url: str) -> None:
        self.obstore: Any = import_module("obstore")
        self._url = url
        with self.told(""):
            self.store = import_module("obstore.store").from_url(url)

    def read(self, name: str) -> bytes | None:
        with self.told(name):
            try:
                return bytes(self.obstore.get(self.store, name).bytes())
            except FileNotFoundError:
                return None

    def create(self, name: str, content: bytes, is_lasting: bool = True) -> bool:
        for _ in range(_TRIES):
            with self.told(name):
                try:
                    self.obstore.put(self.store, name, content, mode="create")
                    return True
                except self.obstore.exceptions.AlreadyExistsError:
                    found = self.read(name)
                    if found is not None:
                        return found == content  # the answer to a first try may have been lost
                    # 409: two such puts have met, and neither need have won
        raise OutputError(f"{self._url}/{name}: neither there nor to be made; try again")

    def write(self, name: str, content: bytes | IO[bytes]) -> None:
        with self.told(name):
            self.obstore.put(self.store, name, content)

    def remove(self, *names: str) -> None:
        with self.told(""):
            self.obstore.delete(self.store, list(names))

    def names(self) -> set[str]:
        with self.told(""):
            return {one["path"] for page in self.obstore.list(self.store) for one in page}

    @contextmanager
    def told(self, name: str) -> Iterator[None]:
        base: Any = self.obstore.exceptions.BaseError
        try:
            yield
        except (base, OSError) as error:
            reason = str(error).partition("\n")[0]
            raise OutputError(f"{self._url}/{name}: {reason}") from error


Storage: TypeAlias = Folder | _Objects


def open_storage(place: str) -> Storage:
    """A folder, or what is behind an s3://, gs:// or file:// URL."""
    url = url_of(place)
    return _Objects(url) if url else Folder(Path(place))


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
        objects = _Objects(base)
        with objects.told(name):
            reader = objects.obstore.open_reader(objects.store, name)
            while block := reader.read(BLOCK_BYTES):
                file.write(block)
    except OutputError as error:
        raise InputError(url, str(error).removeprefix(f"{url}: ")) from error


def send(file: IO[bytes], url: str, name: str) -> None:
    """Copy a file into an object below a URL; bounded memory."""
    _Objects(url).write(name, file)
