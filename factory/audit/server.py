"""Serves the audit page of a workspace on the loopback, until it is stopped.

`listen` takes a port before anything is said, so that the address that is printed is the one that answers.
"""

from __future__ import annotations

import secrets
import socket
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from factory.audit import compare, overview, review, sample, samples, sql_box
from factory.audit.access import Access
from factory.audit.door import Door
from factory.audit.pages import missing, overloaded, wrong
from factory.audit.threads import Threads
from factory.errors import FactoryError, InputError

HOST = "127.0.0.1"
TOKEN_BYTES = 32
PATIENCE_SECONDS = 3  # with pages under way when it ends


def application(access: Access, token: str, port: int) -> Starlette:
    """The pages behind their door."""
    threads = Threads()
    modules = (overview, samples, sample, sql_box, review, compare)
    app = Starlette(
        routes=[
            *(threads.within(route) for module in modules for route in module.routes),
            Mount("/static", StaticFiles(packages=[("factory.audit", "static")])),
        ],
        middleware=[Middleware(Door, token=token, port=port)],
        exception_handlers={
            FactoryError: threads.handler(wrong),
            MemoryError: overloaded,
            RuntimeError: overloaded,
            404: threads.handler(missing),
        },
    )
    app.state.access, app.state.threads = access, threads
    return app


@dataclass(slots=True)
class AuditServer:
    """A server that listens, with the address to open; `run` blocks until `stop` or Ctrl-C."""

    workspace: Path
    port: int = 0  # a free one
    token: str = field(default_factory=lambda: secrets.token_urlsafe(TOKEN_BYTES))
    _access: Access = field(init=False)
    _socket: socket.socket = field(init=False)
    _app: Starlette = field(init=False)
    _server: uvicorn.Server = field(init=False)

    def __post_init__(self) -> None:
        self._socket = _listen(self.port)
        self.port = int(self._socket.getsockname()[1])
        self._access = Access(self.workspace)
        self._app = application(self._access, self.token, self.port)
        self._server = uvicorn.Server(
            uvicorn.Config(
                self._app,
                log_config=None,  # its own would close the handlers of everybody else in this process
                log_level="warning",
                lifespan="off",
                timeout_graceful_shutdown=PATIENCE_SECONDS,
            )
        )

    @property
    def url(self) -> str:
        """The address with its token."""
        return f"http://{HOST}:{self.port}/?token={self.token}"

    def run(self) -> None:
        """Answers until stopped."""
        try:
            self._server.run([self._socket])
        finally:
            self._socket.close()
            self._app.state.threads.close()
            self._access.close()

    def stop(self) -> None:
        """Ends `run` from another thread."""
        self._server.should_exit = True


def _listen(port: int) -> socket.socket:
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((HOST, port))
        found.listen()  # who comes before the pages are ready waits for them
    except OSError as error:
        found.close()
        what = f"port {port} cannot be had: {error.strerror}"
        raise InputError(what, where="--port", hint="choose another, or leave it out") from error
    return found
