"""The server of the studio: one process, the loopback address, until it is interrupted."""

from __future__ import annotations

import os
import secrets
import socket
import sys
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from submerge.errors import SubmergeError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Settings", "default_file", "serve", "studio"]

_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a studio is served.

    Attributes:
        roots: folders that models are looked for in and saved into.
        file: the SQLite file of projects and tries, pictures lie in a folder beside it; None is
            one in the user's data folder.
        port: of the loopback address; 0 takes one that is free.
        open: whether to show the page in the browser.
    """

    roots: Sequence[str | os.PathLike[str]] = (".",)
    file: str | os.PathLike[str] | None = None
    port: int = 0
    open: bool = False


def default_file() -> Path:
    """Return the file of whoever does not name one: in the user's own data folder."""
    variable = "LOCALAPPDATA" if sys.platform == "win32" else "XDG_DATA_HOME"
    given = os.environ.get(variable, "")
    if Path(given).is_absolute():
        home = Path(given)
    elif sys.platform == "darwin":
        home = Path.home() / "Library" / "Application Support"
    else:
        home = Path.home() / ".local" / "share"
    return home / "submerge" / "studio.sqlite"


def studio(settings: Settings, token: str, port: int) -> tuple[Any, Callable[[], None]]:
    """Return the guarded application, and what ends it.

    Raises:
        RecipeError: a root is no folder.
        SubmergeError: the file cannot be used, or the extra is not installed.
        OSError: its folder cannot be made.
    """
    _require()
    from submerge.studio.app import application
    from submerge.studio.desk import Desk
    from submerge.studio.events import Events
    from submerge.studio.guard import Guard
    from submerge.studio.places import Places
    from submerge.studio.store import Store

    places = Places(settings.roots)
    store = Store(default_file() if settings.file is None else settings.file)
    desk = Desk(store, places, Events())
    return Guard(application(desk), token, port), desk.close


def serve(settings: Settings, say: Callable[[str], object] = print) -> None:
    """Serve the studio until it is interrupted; `say` is told the address.

    Raises:
        RecipeError, SubmergeError, OSError: as `studio`; the port is in use.
    """
    _require()
    import uvicorn

    with socket.socket() as listening:
        if os.name == "posix":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((_LOOPBACK, settings.port))
        port = listening.getsockname()[1]
        token = secrets.token_urlsafe(32)
        guarded, close = studio(settings, token, port)
        config = uvicorn.Config(
            guarded,
            log_level="error",
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
        address = f"http://{_LOOPBACK}:{port}/?token={token}"
        listening.listen()
        say(address)
        if settings.open:
            webbrowser.open(address)
        try:
            uvicorn.Server(config).run(sockets=[listening])
        finally:
            close()


def _require() -> None:
    try:
        import starlette  # noqa: F401 - asked for, not used
        import uvicorn  # noqa: F401 - the same
    except ImportError as error:
        raise SubmergeError(
            f"the studio needs starlette and uvicorn, which are not installed: {error}",
            hint="pip install 'submerge[studio]'",
        ) from error
