"""A visitor of an audit page over real HTTP, without a browser: keeps cookies, follows nothing by itself."""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections.abc import Iterator, Mapping
from http.cookies import SimpleCookie
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlencode

from factory.audit.server import AuditServer


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


class Visitor:
    """Asks one server; `named` says who decides."""

    def __init__(self, server: AuditServer) -> None:
        self.server, self.cookies = server, dict[str, str]()

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        given = dict(headers or {})
        if self.cookies:
            given.setdefault("Cookie", "; ".join(f"{name}={value}" for name, value in self.cookies.items()))
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=30)
        try:
            connection.request(method, path, body, given)
            found = connection.getresponse()
            answer = Answer(found.status, found.headers, found.read())
        finally:
            connection.close()
        for line in answer.headers.get_all("Set-Cookie") or ():
            self.cookies.update({name: each.value for name, each in SimpleCookie(line).items()})
        return answer

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, headers=headers)

    def post(self, path: str, fields: Mapping[str, str], **headers: str) -> Answer:
        given = {
            "Origin": f"http://127.0.0.1:{self.server.port}",
            "Content-Type": "application/x-www-form-urlencoded",
            **headers,
        }
        return self.ask("POST", path, urlencode(fields).encode(), given)

    def enter(self) -> Visitor:
        answer = self.get(f"/?token={self.server.token}")
        assert answer.status == 303
        return self

    def named(self, name: str) -> Visitor:
        assert self.post("/review/name", {"reviewer": name}).status == 303
        return self


@contextlib.contextmanager
def served(workspace: Path) -> Iterator[AuditServer]:
    """A server of the workspace in a thread."""
    server = AuditServer(workspace)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join(timeout=20)
        assert not thread.is_alive()
