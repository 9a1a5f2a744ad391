"""A stand-in for the hub on this machine, which huggingface_hub itself talks to."""

from __future__ import annotations

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubServer(ThreadingHTTPServer):
    """Serves one model repository at one commit.

    Attributes:
        gate: `closed` answers 401 to who has no token and 403 to who has one.
        asked: `METHOD path` of each request, in order.
    """

    daemon_threads = True

    def __init__(self, repository: str, files: Mapping[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repository, self.files = repository, dict(files)
        self.gate = "open"
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's own name
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(f"{self.command} {path}")
        repository = self.server.repository
        for start, answer in (
            (f"/api/models/{repository}/revision/", self._about),
            (f"/api/models/{repository}/tree/", self._tree),
            (f"/{repository}/resolve/", self._file),
        ):
            if path.startswith(start):
                revision, _, inside = path.removeprefix(start).partition("/")
                if revision in ("main", "v1", COMMIT):
                    answer(inside)
                else:
                    self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
                return
        self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _about(self, _: str) -> None:
        self._json({"id": self.server.repository, "sha": COMMIT})

    def _tree(self, _: str) -> None:
        self._json(
            [
                {"type": "file", "path": name, "size": len(body), "oid": _tag(body)[:40]}
                for name, body in self.server.files.items()
            ]
        )

    def _file(self, name: str) -> None:
        if self.server.gate == "closed":
            status = 403 if self.headers.get("Authorization") else 401
            self._send(status, b"{}", {"X-Error-Code": "GatedRepo"})
        elif name not in self.server.files:
            self._send(404, b"{}", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        else:
            body = self.server.files[name]
            self._send(200, body, {"ETag": f'"{_tag(body)}"', "X-Repo-Commit": COMMIT})

    def _json(self, found: object) -> None:
        self._send(200, json.dumps(found).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def _tag(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


@contextmanager
def hub_server(repository: str, files: Mapping[str, bytes]) -> Iterator[HubServer]:
    server = HubServer(repository, files)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
