"""The Unix socket of a workspace: one line in, an answer out, for the user's own processes alone.

What a line means is decided elsewhere (factory.store.remote).
"""

from __future__ import annotations

import contextlib
import os
import socketserver
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SOCKET = "factory.sock"
MAX_ADDRESS_BYTES = 100  # the kernel's limit is 108 on Linux, 104 on macOS
MAX_REQUEST_BYTES = 16 * 2**20  # a long corrected answer, where each character is twelve of JSON
SOCKET_SECONDS = 10.0


@contextlib.contextmanager
def address_of(workspace: Path) -> Iterator[str]:
    """A path of the socket that is short enough, through the folder's descriptor where need be.

    Raises OSError where the path is too long and there is no /proc.
    """
    path = str(workspace / SOCKET)
    if len(os.fsencode(path)) <= MAX_ADDRESS_BYTES:
        yield path
        return
    folder = os.open(workspace, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{SOCKET}"
    finally:
        os.close(folder)


class Sockets(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Bound to the workspace's socket; a stale one is replaced, for the database's lock is ours."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, workspace: Path, reply: Callable[[bytes, Any], None]) -> None:
        self.reply = reply
        (workspace / SOCKET).unlink(missing_ok=True)
        with address_of(workspace) as address:
            super().__init__(address, _Handler)

    def server_activate(self) -> None:
        """Narrows the mode before anyone can connect, which is possible from listen() on."""
        Path(str(self.server_address)).chmod(0o600)
        super().server_activate()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing to do: the asker went away, and the run's terminal is not the place to say so."""


class _Handler(socketserver.StreamRequestHandler):
    timeout = SOCKET_SECONDS
    server: Sockets

    def handle(self) -> None:
        self.server.reply(self.rfile.readline(MAX_REQUEST_BYTES), self.wfile)
