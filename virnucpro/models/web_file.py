"""One file over HTTPS: timeouts, a size limit, and a broken download goes on where it broke.

Room 4 (batch -> one vector per ORF). huggingface_hub starts a broken file over, which hurts at
10 GB a file; so it finds the files, and this module brings them.
"""

from __future__ import annotations

import hashlib
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from virnucpro.core.errors import ModelError

TIMEOUT_S = 30.0
PAUSE_S = 2.0
ATTEMPTS = 5
BLOCK_BYTES = 1 << 18
AGENT = {"User-Agent": "virnucpro"}


class BrokenDownloadError(ModelError):
    """A download that ended early; what has arrived is kept."""


def remote_size(url: str) -> int:
    """Bytes that `url` will give; 0 if the server does not say.

    Raises:
        ModelError: the server cannot be reached or has no such file.
    """
    with _open(urllib.request.Request(url, method="HEAD", headers=AGENT)) as reply:
        return int(reply.headers.get("Content-Length") or 0)


def download(
    url: str, target: Path, limit: int, on_bytes: Callable[[int], None] = lambda count: None
) -> None:
    """Download a file; what an earlier call left in `target` is kept and completed.

    Args:
        url: address of the file.
        target: the file; holds what has arrived even if the call fails.
        limit: the most bytes that the file may have.
        on_bytes: is told how many bytes have arrived since it was last told.

    Raises:
        ModelError: no connection, an error of the server, or too many bytes.
        OSError: `target` cannot be written.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _attempt(url, target, limit, on_bytes)
            return
        except BrokenDownloadError:
            if attempt == ATTEMPTS:
                raise
            time.sleep(PAUSE_S * attempt)


def _attempt(url: str, target: Path, limit: int, on_bytes: Callable[[int], None]) -> None:
    have = target.stat().st_size if target.exists() else 0
    wanted = {"Range": f"bytes={have}-"} if have else {}
    with _open(urllib.request.Request(url, headers=AGENT | wanted)) as reply:
        given = str(reply.headers.get("Content-Range") or "")
        goes_on = reply.status == http.client.PARTIAL_CONTENT and given.startswith(f"bytes {have}-")
        if reply.status == http.client.PARTIAL_CONTENT and not goes_on:
            raise ModelError(f"{url}: the server gave {given!r}, asked for bytes from {have} on")
        room = limit - have if goes_on else limit
        with target.open("ab" if goes_on else "wb") as file:
            _copy(reply, file, room, on_bytes)


def _copy(reply: Any, file: Any, room: int, on_bytes: Callable[[int], None]) -> None:
    expected = reply.headers.get("Content-Length")
    taken = 0
    while block := _read(reply):
        taken += len(block)
        if taken > room:
            raise ModelError(f"{reply.url}: gives more bytes than the file has")
        file.write(block)
        on_bytes(len(block))
    if expected is not None and taken < int(expected):
        raise BrokenDownloadError(f"{reply.url}: broke off; fetch again to go on")


def _read(reply: Any) -> bytes:
    try:
        block: bytes = reply.read(BLOCK_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise BrokenDownloadError(
            f"{reply.url}: broke off ({error}); fetch again to go on"
        ) from error
    return block


def _open(request: urllib.request.Request) -> Any:
    try:
        return urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        raise ModelError(f"{request.full_url}: {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ModelError(f"{request.full_url}: cannot be reached ({error})") from error


def git_blob(path: Path) -> str:
    """Git's name for the content of a file (SHA-1, hexadecimal)."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
