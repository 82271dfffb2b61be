"""Who may come in: a browser on this machine that has shown the token once, and pages of our own only.

The token comes in the URL, as notebooks have it, and stays in a cookie that no script reads. Requests by
another name than the loopback's (DNS rebinding) and from other origins are refused before any page is
asked; answers carry headers that let a browser run nothing but our own script.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, RedirectResponse, Response

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

SAFE_METHODS = frozenset({"GET", "HEAD"})
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # none at all would take the origin from our own forms, too
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Door:
    """ASGI middleware around the pages; `port` is the one that the server listens at."""

    def __init__(self, app: App, token: str, port: int) -> None:
        self.app, self.token = app, token
        self.cookie = f"factory_audit_{port}"  # cookies do not know ports: two audits, two names
        self.hosts = frozenset(f"{name}:{port}" for name in ("127.0.0.1", "localhost"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        await (self._refusal(scope) or self.app)(scope, receive, _guarded(send))

    def _refusal(self, scope: Scope) -> Response | None:
        """What is answered in the page's place; None where the request may pass."""
        headers, method = Headers(scope=scope), scope["method"]
        host, origin = headers.get("host", ""), headers.get("origin")
        if host not in self.hosts:
            return _refused("the audit page answers at its own address only")
        if origin != f"http://{host}" and (origin is not None or method not in SAFE_METHODS):
            return _refused("a page of another origin asked")
        pairs = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        shown = [value for name, value in pairs if name == "token"]
        if shown and method in SAFE_METHODS and self._is_right(shown[-1]):
            rest = urlencode([pair for pair in pairs if pair[0] != "token"])
            answer = RedirectResponse(_path(scope) + (f"?{rest}" if rest else ""), status_code=303)
            answer.set_cookie(self.cookie, self.token, httponly=True, samesite="strict")
            return answer
        if not self._is_right(HTTPConnection(scope).cookies.get(self.cookie, "")):
            return _refused("open the address that `factory audit` printed: it holds the token")
        return None

    def _is_right(self, token: str) -> bool:
        return secrets.compare_digest(token.encode("utf-8", "replace"), self.token.encode())


def _path(scope: Scope) -> str:
    """The path that was asked for, which stays on this server: '//other.host/' would not."""
    return "/" + str(scope["path"]).lstrip("/\\")


def _refused(why: str) -> Response:
    return PlainTextResponse(f"Refused: {why}.\n", status_code=403)


def _guarded(send: Send) -> Send:
    async def forward(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(HEADERS)
        await send(message)

    return forward
