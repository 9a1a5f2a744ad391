"""The desk over HTTP: JSON in, JSON out, events as a stream, and the files of the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Route

from submerge import documents
from submerge.errors import RecipeError, SubmergeError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from starlette.requests import Request

    from submerge.studio.desk import Desk

__all__ = ["application"]

_PAGE = Path(__file__).with_name("page")
_FILES = {"studio.css": "text/css", "studio.js": "text/javascript", "curve.js": "text/javascript"}
_LARGEST = 4_000_000


def application(desk: Desk) -> Starlette:
    """Return the ASGI application of a desk; who may speak to it is the guard's business."""
    d = desk
    routes = [
        Route("/", _page("studio.html", "text/html")),
        *(Route(f"/{name}", _page(name, kind)) for name, kind in _FILES.items()),
        _get("/api/state", lambda _: d.state()),
        _get("/api/browse", lambda r: d.browse(r.query_params.get("path"))),
        _get("/api/inspect", lambda r: d.inspect(r.query_params.get("path", ""))),
        _get("/api/projects/{id:int}", lambda r: d.project(_id(r))),
        _post("/api/projects", lambda _, given: d.new_project(given)),
        _post("/api/projects/{id:int}/name", lambda r, given: d.rename(_id(r), given)),
        _post("/api/projects/{id:int}/delete", lambda r, _: d.delete(_id(r))),
        _post("/api/projects/{id:int}/settings", lambda r, given: d.settings(_id(r), given)),
        _post("/api/projects/{id:int}/change", lambda r, given: d.change(_id(r), given)),
        _post("/api/projects/{id:int}/go", lambda r, given: d.go(_id(r), given)),
        _post("/api/projects/{id:int}/start", lambda r, given: d.start(_id(r), given)),
        _post("/api/tries/{id:int}/cancel", lambda r, _: d.cancel(_id(r))),
        _post("/api/tries/{id:int}/restore", lambda r, given: d.restore(_id(r), given)),
        _post("/api/tries/{id:int}/forget", lambda r, _: d.forget(_id(r))),
        Route("/api/tries/{id:int}/files/{name:path}", _made(desk)),
        Route("/api/events", _events(desk)),
    ]
    return Starlette(routes=routes)


def _id(request: Request) -> int:
    return int(request.path_params["id"])


def _get(path: str, answer: Callable[[Request], Any]) -> Route:
    async def endpoint(request: Request) -> Response:
        return await run_in_threadpool(_told, lambda: answer(request))

    return Route(path, endpoint)


def _post(path: str, answer: Callable[[Request, Mapping[str, Any]], Any]) -> Route:
    async def endpoint(request: Request) -> Response:
        body = b""
        async for piece in request.stream():
            body += piece
            if len(body) > _LARGEST:
                return _json({"error": f"the request is larger than {_LARGEST} bytes"}, 413)
        return await run_in_threadpool(_told, lambda: answer(request, _read(request, body)))

    return Route(path, endpoint, methods=["POST"])


def _read(request: Request, body: bytes) -> Mapping[str, Any]:
    """Return what was sent; only JSON, which no form of another page can send."""
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise RecipeError("request: expected content of the type `application/json`")
    try:
        given = json.loads(body or b"{}")
    except ValueError as error:
        raise RecipeError(f"request: expected JSON, {error}") from error
    if not isinstance(given, dict):
        raise RecipeError("request: expected a JSON object")
    return given


def _told(answer: Callable[[], Any]) -> Response:
    """Answer with JSON; what is wrong is told in the words of the error."""
    try:
        return _json({} if (found := answer()) is None else found)
    except RecipeError as error:
        return _json({"error": error.message, "hint": error.hint}, 400)
    except SubmergeError as error:
        return _json({"error": error.message, "hint": error.hint}, 422)
    except OSError as error:
        return _json({"error": str(error), "hint": None}, 422)


def _json(found: Mapping[str, Any], status: int = 200) -> Response:
    return Response(documents.text(found, indent=None), status, media_type="application/json")


def _page(name: str, kind: str) -> Callable[[Request], Response]:
    # A function that is no coroutine answers on a thread of the pool, as reading a file should.
    def endpoint(_: Request) -> Response:
        return FileResponse(_PAGE / name, media_type=kind)

    return endpoint


def _made(desk: Desk) -> Callable[[Request], Response]:
    """Return what answers with a file that came of a try."""

    def endpoint(request: Request) -> Response:
        try:
            path = documents.beside(desk.folder(_id(request)), request.path_params["name"])
        except RecipeError as error:
            return _json({"error": error.message}, 404)
        return FileResponse(path) if path.is_file() else _json({"error": "no such file"}, 404)

    return endpoint


def _events(desk: Desk) -> Callable[[Request], Any]:
    async def endpoint(_: Request) -> Response:
        return StreamingResponse(desk.events.stream(), media_type="text/event-stream")

    return endpoint
