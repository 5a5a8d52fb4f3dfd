"""A server on 127.0.0.1 that answers as the Hugging Face hub and raw GitHub files do."""

import hashlib
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from tiny_published import classifier_state

from virnucpro.models import fetch, published


class FakeHub:
    """Repositories by name: {revision: {file: bytes}}; `main` may be any of them.

    Attributes:
        repositories: content, by repository and commit.
        main: commit that `main` means, by repository.
        stated: bytes whose hashes the hub states, where they differ from what it sends.
        breaks: bytes after which the next downloads break off, one by one.
        answer: raw JSON in place of what the hub says of a repository.
        headers: of files, in place of the usual ones; None leaves one out.
        requests: what was asked for, as "METHOD path range".
    """

    def __init__(self) -> None:
        self.repositories, self.main, self.stated, self.headers = {}, {}, {}, {}
        self.breaks, self.requests = [], []
        self.answer, self.url = None, ""

    def offer(self, repository: str, commit: str, **files: bytes) -> None:
        """Add a revision, which `main` means from now on; `__` stands for the dot of a name."""
        named = {name.replace("__", "."): data for name, data in files.items()}
        self.repositories.setdefault(repository, {})[commit] = named
        self.main[repository] = commit

    def offer_500(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Add a small classifier in the place of the published one."""
        buffer = io.BytesIO()
        torch.save(classifier_state(), buffer)
        data = buffer.getvalue()
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        entry = published.PublishedClassifier(chunk_nt=500, file="500_model.pth", blob=blob)
        monkeypatch.setitem(published.CLASSIFIERS, "500", entry)
        self.offer(
            published.CLASSIFIER_REPOSITORY, published.CLASSIFIER_REVISION, **{entry.file: data}
        )

    def serves_the_command(self, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
        """Let `virnucpro models` ask this hub, and use a home of its own."""
        for name in ("VIRNUCPRO_OFFLINE", "HF_HUB_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("VIRNUCPRO_MODEL_DIR", str(home))
        monkeypatch.setattr(fetch, "HUB", self.url)
        monkeypatch.setattr(fetch, "GITHUB", self.url)

    def info(self, repository: str, revision: str) -> bytes | None:
        commit = self.main.get(repository, "") if revision == "main" else revision
        files = self.repositories.get(repository, {}).get(commit)
        if files is None:
            return None
        siblings = [self._sibling(name, data) for name, data in files.items()]
        return json.dumps(
            {"_id": "x", "id": repository, "modelId": repository, "sha": commit,
             "siblings": siblings, "tags": [], "downloads": 0, "private": False,
             "cardData": {"license": "mit"}}
        ).encode()  # fmt: skip

    def _sibling(self, name: str, data: bytes) -> dict[str, object]:
        stated = self.stated.get(name, data)
        blob = hashlib.sha1(b"blob %d\0" % len(stated) + stated).hexdigest()
        entry: dict[str, object] = {"rfilename": name, "size": len(data), "blobId": blob}
        if name.endswith((".safetensors", ".bin")):
            sha256 = hashlib.sha256(stated).hexdigest()
            entry["lfs"] = {"sha256": sha256, "size": len(data), "pointerSize": 100}
        return entry

    def content(self, path: str) -> tuple[bytes, str] | None:
        """Bytes and commit of `/owner/name/[resolve/]revision/file`."""
        owner, name, *rest = path.strip("/").split("/")
        if rest and rest[0] == "resolve":
            rest = rest[1:]
        if len(rest) != 2:
            return None
        data = self.repositories.get(f"{owner}/{name}", {}).get(rest[0], {}).get(rest[1])
        return None if data is None else (data, rest[0])


def _handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(with_body=False)

        def do_GET(self) -> None:
            self.answer(with_body=True)

        def answer(self, with_body: bool) -> None:
            path = self.path.split("?")[0]
            hub.requests.append(f"{self.command} {path} {self.headers.get('Range', '')}".strip())
            if path.startswith("/api/models/"):
                repository, _, revision = path.removeprefix("/api/models/").partition("/revision/")
                data = hub.info(repository, revision or "main")
                data = hub.answer if hub.answer is not None else data
                found = None if data is None else (data, "")
            else:
                found = hub.content(path)
            if found is None:
                self.send_error(404)
            else:
                self.send(*found, with_body)

        def send(self, data: bytes, commit: str, with_body: bool) -> None:
            start = int(self.headers.get("Range", "bytes=0-")[6:].split("-")[0])
            if start >= len(data) > 0:
                self.send_error(416)
                return
            body = data[start:]
            self.send_response(206 if start else 200)
            headers: dict[str, str | None] = {
                "Content-Length": str(len(body)), "Content-Type": "application/json"
            }  # fmt: skip
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            if commit:
                headers["X-Repo-Commit"] = commit
                headers["ETag"] = f'"{hashlib.sha256(data).hexdigest()}"'
                headers |= hub.headers
            for name, value in headers.items():
                if value is not None:
                    self.send_header(name, value)
            self.end_headers()
            if with_body:
                self.wfile.write(self.cut(body, commit))

        def cut(self, body: bytes, commit: str) -> bytes:
            is_cut = commit and hub.breaks and len(body) > hub.breaks[0]
            return body[: hub.breaks.pop(0)] if is_cut else body

    return Handler


@contextmanager
def serve_hub() -> Iterator[FakeHub]:
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
