"""A studio and a browser that knows its token, without a socket between them."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.testclient import TestClient

from factory import KREA, SCHNELL, save_file, save_folder
from submerge.studio import Settings
from submerge.studio.server import studio

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PORT, TOKEN = 8765, "a-token-of-this-test"
HOST = f"http://127.0.0.1:{PORT}"
FIRST, SECOND = replace(SCHNELL, dtype="F32"), replace(KREA, dtype="F32")


def models_in(tmp_path: Path) -> Path:
    """A folder of two models, one in each layout."""
    models = tmp_path / "models"
    save_folder(models / "schnell", FIRST)
    save_file(models / "krea.safetensors", SECOND, "bfl")
    (models / "out").mkdir()
    return models


@contextmanager
def running(folder: Path, file: Path | None = None) -> Iterator[TestClient]:
    """A browser that knows the token, before a studio that is closed in the end."""
    kept = folder.parent / "studio.sqlite" if file is None else file
    app, close = studio(Settings(roots=[folder], file=kept), TOKEN, PORT)
    client = TestClient(app, base_url=HOST, follow_redirects=True)
    try:
        assert client.get("/", params={"token": TOKEN}).status_code == 200
        yield client
    finally:
        close()


def send(page: TestClient, path: str, status: int = 200, **given: Any) -> dict[str, Any]:
    answer = page.post(f"/api/{path}", json=given)
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


def project(page: TestClient, ident: int = 1) -> dict[str, Any]:
    found: dict[str, Any] = page.get(f"/api/projects/{ident}").json()
    return found


def pair(page: TestClient, folder: Path) -> dict[str, Any]:
    """Both models, half and half."""
    send(page, "projects/1/change", add=str(folder / "schnell"))
    return send(page, "projects/1/change", add=str(folder / "krea.safetensors"))


def ended(page: TestClient, ident: int) -> dict[str, Any]:
    """The try when it is over."""
    for _ in range(400):
        (one,) = (found for found in project(page)["tries"] if found["id"] == ident)
        if one["state"] not in ("queued", "running"):
            return dict(one)
        time.sleep(0.02)
    raise AssertionError(one)


class Served:
    """A studio on a socket, on a thread of this process; `address` lets a browser in."""

    def __init__(self, folder: Path) -> None:
        listening = socket.create_server(("127.0.0.1", 0))
        self.port = listening.getsockname()[1]
        file = folder.parent / "studio.sqlite"
        app, self._close = studio(Settings(roots=[folder], file=file), TOKEN, self.port)
        config = uvicorn.Config(app, log_level="error", lifespan="off", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([listening],))
        self._thread.start()
        self.host = f"http://127.0.0.1:{self.port}"
        self.address = f"{self.host}/?token={TOKEN}"

    def close(self) -> None:
        self._server.should_exit = True
        self._close()
        self._thread.join()
