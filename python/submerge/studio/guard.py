"""Who may speak to the studio: this machine's own browser, with the token it was started with.

Other pages in the same browser can send requests to the loopback address. They do not know the
token; their cookie is not sent along (`SameSite=Strict`); a name that they made point here is not
the host that is expected; and what they send says where it comes from (`Origin`).
"""

from __future__ import annotations

import hmac
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

__all__ = ["Guard"]

_HOSTS = ("127.0.0.1", "localhost", "[::1]")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_ALWAYS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)


class Guard:
    """An ASGI application around another: nothing passes without the token.

    The first request has it in its address, `/?token=...`; the answer is a cookie and the address
    without it, so that it stays in no history.
    """

    def __init__(self, inner: Any, token: str, port: int) -> None:
        self._inner, self._token, self._port = inner, token, port
        self._cookie = f"submerge-studio-{port}"

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[Any], Awaitable[None]],
    ) -> None:
        """Answer, or hand on what may pass."""
        if scope["type"] == "lifespan":
            await self._inner(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        refused = self._foreign(headers, scope["method"])
        if refused is not None:
            await _answer(send, 403, refused)
        elif scope["path"] == "/" and self._is_token(_given(scope)):
            cookie = f"{self._cookie}={self._token}; Path=/; HttpOnly; SameSite=Strict"
            await _answer(send, 303, "", ((b"location", b"/"), (b"set-cookie", cookie.encode())))
        elif not self._is_token(self._kept(headers)):
            await _answer(send, 401, "open the address that `submerge studio` printed")
        else:
            await self._inner(scope, receive, _with_headers(send))

    def _foreign(self, headers: MutableMapping[bytes, str], method: str) -> str | None:
        """Return why a request is not from this machine's own page, or None if it is."""
        hosts = [f"{host}:{self._port}" for host in _HOSTS]
        if headers.get(b"host", "") not in hosts:
            return "the host is not this machine's loopback address"
        origin = headers.get(b"origin")
        if origin is not None and origin.removeprefix("http://") not in hosts:
            return "the request comes from another page"
        if method not in ("GET", "HEAD") and (
            origin is None and headers.get(b"sec-fetch-site", "same-origin") != "same-origin"
        ):
            return "the request comes from another page"
        return None

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._token.encode())

    def _kept(self, headers: MutableMapping[bytes, str]) -> str:
        try:
            found = SimpleCookie(headers.get(b"cookie", "")).get(self._cookie)
        except CookieError:
            return ""
        return "" if found is None else str(found.value)


def _given(scope: MutableMapping[str, Any]) -> str:
    query: bytes = scope["query_string"]
    return parse_qs(query.decode("latin-1")).get("token", [""])[0]


def _with_headers(send: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
    async def sending(message: Any) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *_ALWAYS]
        await send(message)

    return sending


async def _answer(
    send: Callable[[Any], Awaitable[None]],
    status: int,
    text: str,
    headers: tuple[tuple[bytes, bytes], ...] = (),
) -> None:
    kind = (b"content-type", b"text/plain; charset=utf-8")
    start = {"type": "http.response.start", "status": status, "headers": [kind, *_ALWAYS, *headers]}
    await send(start)
    await send({"type": "http.response.body", "body": text.encode()})
