"""A server on 127.0.0.1 that answers as the Hugging Face hub and raw GitHub files do."""

import hashlib
import io
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch
from tiny_published import classifier_state

from virnucpro.models import fetch, specs


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

    def __init__(self):
        self.repositories, self.main, self.stated, self.headers = {}, {}, {}, {}
        self.breaks, self.requests, self.answer = [], [], None

    def offer(self, repository, commit, **files):
        """Add a revision, which `main` means from now on; `__` stands for the dot of a name."""
        named = {name.replace("__", "."): data for name, data in files.items()}
        self.repositories.setdefault(repository, {})[commit] = named
        self.main[repository] = commit

    def offer_500(self, monkeypatch):
        buffer = io.BytesIO()
        torch.save(classifier_state(), buffer)
        data = buffer.getvalue()
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        monkeypatch.setitem(specs.CLASSIFIERS, "500", ("500_model.pth", blob))
        place = specs.CLASSIFIER_REPOSITORY, specs.CLASSIFIER_REVISION
        self.offer(*place, **{"500_model.pth": data})

    def files(self, repository, revision):
        commit = self.main.get(repository) if revision == "main" else revision
        return commit, self.repositories.get(repository, {}).get(commit, {})

    def find(self, path):
        """Bytes behind a path, and the commit that a file belongs to; None where there are none."""
        if path.startswith("/api/models/"):
            repository, _, revision = path.removeprefix("/api/models/").partition("/revision/")
            commit, files = self.files(repository, revision or "main")
            about = {"_id": "x", "id": repository, "sha": commit, "cardData": {"license": "mit"}}
            about["siblings"] = [self.sibling(name, data) for name, data in files.items()]
            data = json.dumps(about).encode() if files else None
            return data if self.answer is None else self.answer, ""
        owner, name, *rest = path.strip("/").replace("/resolve/", "/").split("/")
        commit, files = self.files(f"{owner}/{name}", rest[0]) if len(rest) == 2 else ("", {})
        return files.get(rest[-1]) if files else None, commit

    def sibling(self, name, data):
        stated = self.stated.get(name, data)
        blob = hashlib.sha1(b"blob %d\0" % len(stated) + stated).hexdigest()
        entry = {"rfilename": name, "size": len(data), "blobId": blob}
        if name.endswith((".safetensors", ".bin")):
            sha256 = hashlib.sha256(stated).hexdigest()
            entry["lfs"] = {"sha256": sha256, "size": len(data), "pointerSize": 100}
        return entry


class Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET(with_body=False)

    def do_GET(self, with_body=True):
        path, wanted = self.path.split("?")[0], self.headers.get("Range", "")
        self.hub.requests.append(f"{self.command} {path} {wanted}".strip())
        data, commit = self.hub.find(path)
        start = int(wanted[6:].split("-")[0]) if wanted else 0
        if data is None or start >= len(data) > 0:
            self.send_error(404 if data is None else 416)
            return
        body = data[start:]
        headers = {"Content-Length": str(len(body)), "Content-Type": "application/json"}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if commit:
            headers |= {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha256(data).hexdigest()}"'}
            headers |= self.hub.headers
        self.send_response(206 if start else 200)
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        if with_body:
            breaks = commit and self.hub.breaks and len(body) > self.hub.breaks[0]
            self.wfile.write(body[: self.hub.breaks.pop(0)] if breaks else body)


@contextmanager
def serve_hub(monkeypatch):
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OfHub", (Handler,), {"hub": hub}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    for source in ("HUB", "GITHUB"):
        monkeypatch.setattr(fetch, source, f"http://127.0.0.1:{server.server_address[1]}")
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
