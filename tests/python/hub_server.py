"""A server on this machine that speaks the hub's protocol, and a client process that has no other.

Knows: what `huggingface_hub` asks for and what it reads of an answer. Must not know: the package under test.
"""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = 1000  # from this size on, files are given by another host, as the hub gives them
_DONE = "/done"  # what the client asks for behind each expression


@dataclass
class Repository:
    """Files of each revision. A repository that is `gated` lists its files and gives none."""

    revisions: dict[str, dict[str, bytes]]
    gated: bool = False
    broken: frozenset[str] = frozenset()
    """Files whose transfer stops half way, each time."""

    def commit(self, revision: str) -> str | None:
        """The commit that a branch, a tag or a commit names."""
        for name in self.revisions:
            commit = hashlib.sha1(name.encode()).hexdigest()
            if revision in (name, commit):
                return commit
        return None

    def files(self, revision: str) -> dict[str, bytes]:
        return next(files for name, files in self.revisions.items() if self.commit(name) == self.commit(revision))


@dataclass
class Hub:
    """A running server."""

    endpoint: str
    repositories: dict[str, Repository]
    log: list[tuple[str, str]] = field(default_factory=list)
    """Method and path of every request."""

    def taken(self) -> list[list[str]]:
        """For each expression that clients asked for since the last call, the files whose contents it took, sorted."""
        calls: list[set[str]] = [set()]
        for method, path in self.log:
            if path == _DONE:
                calls.append(set())
            elif method == "GET" and ("/resolve/" in path or path.startswith("/blobs/")):
                # /owner/name/resolve/commit/file, /blobs/owner/name/commit/file
                calls[-1].add(unquote(path).lstrip("/").split("/", 4)[-1])
        self.log.clear()
        return [sorted(files) for files in calls[:-1]]


@contextmanager
def serve(repositories: dict[str, Repository]) -> Iterator[Hub]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.hub = Hub(f"http://127.0.0.1:{server.server_port}", repositories)  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server.hub  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub: Hub = self.server.hub  # type: ignore[attr-defined]
        path = urlsplit(self.path).path
        hub.log.append((self.command, path))
        parts = unquote(path).strip("/").split("/")
        if path == _DONE:
            self._content(b"", {}, False)
            return
        if parts[0] == "blobs":
            repository, revision, name = hub.repositories["/".join(parts[1:3])], parts[3], "/".join(parts[4:])
            self._content(repository.files(revision)[name], {}, name in repository.broken)
            return
        api = parts[:2] == ["api", "models"]
        owner, name, *rest = parts[2:] if api else parts
        repository = hub.repositories.get(f"{owner}/{name}")
        if repository is None:
            self._error(401, "RepoNotFound", "Invalid username or password.")
            return
        revision = rest[1] if len(rest) > 1 else "main"
        commit = repository.commit(revision)
        if commit is None:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif api:
            self._api(repository, rest[0] if rest else "", commit)
        else:
            self._file(repository, f"{owner}/{name}", commit, "/".join(rest[2:]))

    def _api(self, repository: Repository, what: str, commit: str) -> None:
        files = repository.files(commit)
        if what == "tree":
            answer: Any = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in files.items()
            ]
        else:
            answer = {"id": "x/y", "modelId": "x/y", "sha": commit, "private": False, "gated": repository.gated}
            answer |= {"tags": [], "downloads": 0, "siblings": [{"rfilename": name} for name in files]}
        self._content(json.dumps(answer).encode(), {"Content-Type": "application/json"}, False)

    def _file(self, repository: Repository, repo: str, commit: str, name: str) -> None:
        files = repository.files(commit)
        if repository.gated:
            self._error(403, "GatedRepo", "Access to this model is restricted.")
        elif name not in files:
            self._error(404, "EntryNotFound", "Entry not found")
        else:
            data = files[name]
            headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'}
            if len(data) < LARGE:
                self._content(data, headers, name in repository.broken)
                return
            linked = {"X-Linked-Size": str(len(data)), "X-Linked-ETag": f'"{hashlib.sha256(data).hexdigest()}"'}
            host = f"http://localhost:{self.server.server_address[1]}"
            target = {"Location": f"{host}/blobs/{repo}/{commit}/{name}"}
            self._answer(302, b"", {**headers, **linked, **target})

    def _content(self, data: bytes, headers: dict[str, str], broken: bool) -> None:
        asked = self.headers.get("Range")
        first = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
        if asked:
            headers = {**headers, "Content-Range": f"bytes {first}-{len(data) - 1}/{len(data)}"}
        self._answer(206 if asked else 200, data[first:], {**headers, "Accept-Ranges": "bytes"}, broken)

    def _error(self, status: int, code: str, message: str) -> None:
        self._answer(status, message.encode(), {"X-Error-Code": code, "X-Error-Message": message})

    def _answer(self, status: int, data: bytes, headers: dict[str, str], broken: bool = False) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[: len(data) // 2] if broken else data)
        if broken:
            self.close_connection = True


# Reads a list of expressions and writes what each gives, or the name and text of its error.
_CLIENT = """
import json, os, shutil, sys, urllib.request
import gemma4
from gemma4.checkpoint import places

def found(*args, **kwargs):
    place = places.find(*args, **kwargs)
    name = lambda path: None if path is None else str(path).split("/snapshots/")[-1].split("/", 1)[1]
    if place.path.is_dir():
        return sorted(path.relative_to(place.path).as_posix() for path in place.path.rglob("*") if path.is_file())
    return [name(place.path), name(place.encoders)]

results = []
for code in json.load(sys.stdin):
    if "FRESH" in os.environ:
        shutil.rmtree(os.environ["HF_HOME"], ignore_errors=True)
    try:
        results.append({"value": eval(code)})
    except gemma4.Gemma4Error as error:
        results.append({"error": type(error).__name__, "text": str(error)})
    if "HUB" in os.environ:
        urllib.request.urlopen(os.environ["HUB"] + "/done").close()
print(json.dumps(results))
"""


def ask(hub: Hub, cache: Path, *code: str, **environment: str) -> list[dict[str, Any]]:
    """What expressions give in a process of their own whose hub is `hub` and whose cache is `cache`.

    `found(name, revision, mmproj)` gives the files of a directory, or [model, encoders]. Environment variables beside:
    `FRESH`, an empty cache for each expression; `HUB`, where the end of each is told.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    settings = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(cache), "HF_HUB_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _CLIENT], input=json.dumps(code), capture_output=True, text=True, timeout=120,
        env={**kept, **settings, **environment}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return results
