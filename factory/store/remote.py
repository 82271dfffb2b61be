"""Questions from other processes while a run holds the database: a Unix socket in the workspace.

One connection carries one line of JSON, {"sql", "params"}, and one line back, {"columns", "rows",
"truncated"}, {"error"}, or {"closing"} where another is to be asked. Only the user's own processes can
connect (mode 0600), only SELECT is answered, rows and seconds are limited. Where the file system knows no
sockets the run goes on without answering. It sees what is committed, at most a tenth of a second old. What a
holder does besides has a name: {"verdicts": [...]} writes what people said, {"release": null} asks one that
can wait to let go.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb

from factory.errors import FactoryError, InputError
from factory.store import confined
from factory.store.confined import Table

SOCKET = "factory.sock"
MAX_ADDRESS_BYTES = 100  # the kernel's limit is 108 on Linux, 104 on macOS
MAX_REQUEST_BYTES = 16 * 2**20  # a long corrected answer, where each character is twelve of JSON
QUERY_SECONDS = 30.0
SOCKET_SECONDS = 10.0


class ClosingError(InputError):
    """The holder lets go of the file: ask whoever has it next."""


class Server:
    """Answers for a database from threads of its own, until closed.

    `does` are what it does besides answering, by name: called with what came, whose answer goes back as JSON.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        workspace: Path,
        does: Mapping[str, Callable[[Any], Any]] | None = None,
    ) -> None:
        self._connection = connection
        self._does = does or {}
        self._workspace = workspace
        self._running: set[duckdb.DuckDBPyConnection] = set()
        self._changed = threading.Condition()
        self._closing = False
        self._sockets: _Sockets | None = None
        with contextlib.suppress(OSError):
            self._sockets = _Sockets(workspace, self.answer)
            threading.Thread(target=self._sockets.serve_forever, args=(0.05,), daemon=True).start()

    def answer(self, line: bytes) -> bytes:
        """The line that answers a line."""
        try:
            answer = self._answer(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError):
            answer = {"error": "the question is not a line of JSON with sql and params"}
        except ClosingError as error:
            answer = {"closing": str(error)}
        except FactoryError as error:
            answer = {"error": str(error)}
        return json.dumps(answer).encode() + b"\n"

    def _answer(self, question: dict[str, Any]) -> dict[str, Any]:
        if "sql" in question:
            table = self.table(str(question["sql"]), list(question["params"]))
            return {"columns": table.columns, "rows": table.rows, "truncated": table.truncated}
        (name, given), *_ = question.items()
        if name not in self._does:
            raise InputError(f"the process that holds the workspace does not do '{name}'")
        return {"done": self._does[name](given)}

    def table(self, sql: str, params: Sequence[Any] = ()) -> Table:
        """The answer to one SELECT; raises InputError, as ClosingError where the file is being let go."""
        with self._changed:
            if self._closing:
                raise ClosingError("the run is ending")
            cursor = self._connection.cursor()
            self._running.add(cursor)
        try:
            return confined.run(cursor, sql, params, QUERY_SECONDS)
        except InputError as error:
            if self._closing:
                raise ClosingError("the run is ending") from error
            raise
        finally:
            cursor.close()
            with self._changed:
                self._running.discard(cursor)
                self._changed.notify_all()

    def close(self) -> None:
        """Stops answering, queries under way included, and removes the socket."""
        with self._changed:
            self._closing = True
            for cursor in self._running:
                cursor.interrupt()
            self._changed.wait_for(lambda: not self._running, timeout=SOCKET_SECONDS)
        if self._sockets is not None:
            self._sockets.shutdown()
            self._sockets.server_close()
            (self._workspace / SOCKET).unlink(missing_ok=True)


def ask(
    workspace: Path, sql: str, params: Sequence[Any] = (), timeout_seconds: float = QUERY_SECONDS + 5
) -> Table:
    """The answer of the process that holds the workspace.

    Raises ConnectionError where none answers, InputError for what it refuses.
    """
    answer = _exchange(workspace, {"sql": sql, "params": list(params)}, timeout_seconds)
    return Table(tuple(answer["columns"]), tuple(tuple(row) for row in answer["rows"]), answer["truncated"])


def tell(workspace: Path, name: str, given: Any, timeout_seconds: float = SOCKET_SECONDS) -> Any:
    """Has the process that holds the workspace do something by its name; what came of it.

    Raises ConnectionError where none answers, InputError for what it refuses.
    """
    return _exchange(workspace, {name: given}, timeout_seconds)["done"]


def _exchange(workspace: Path, question: dict[str, Any], timeout_seconds: float) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client, _address(workspace) as address:
        client.settimeout(timeout_seconds)
        try:
            client.connect(address)
            client.sendall(json.dumps(question).encode() + b"\n")
            with client.makefile("rb") as file:
                line = file.readline()
        except OSError as error:
            raise ConnectionError(str(error)) from error
    if not line.endswith(b"\n"):
        raise ConnectionError("the run ended before it answered")
    answer: dict[str, Any] = json.loads(line)
    if "closing" in answer:
        raise ConnectionError(answer["closing"])
    if "error" in answer:
        raise InputError(answer["error"])
    return answer


def is_answered(workspace: Path) -> bool:
    """Whether a process holds the workspace and answers."""
    try:
        ask(workspace, "SELECT 1", timeout_seconds=1)
    except ConnectionError:
        return False
    return True


def holder_stays(workspace: Path) -> bool:
    """Whether a process holds the workspace and goes on doing so, now that it was asked to let go.

    False where none answers, too.
    """
    try:
        tell(workspace, "release", None)
    except InputError:
        return True
    except ConnectionError:
        pass
    return False


@contextlib.contextmanager
def _address(workspace: Path) -> Iterator[str]:
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


class _Sockets(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Bound to the workspace's socket; a stale one is replaced, for the database's lock is ours."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, workspace: Path, answer: Callable[[bytes], bytes]) -> None:
        self.answer = answer
        (workspace / SOCKET).unlink(missing_ok=True)
        with _address(workspace) as address:
            super().__init__(address, _Handler)

    def server_activate(self) -> None:
        """Narrows the mode before anyone can connect, which is possible from listen() on."""
        Path(str(self.server_address)).chmod(0o600)
        super().server_activate()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing to do: the asker went away, and the run's terminal is not the place to say so."""


class _Handler(socketserver.StreamRequestHandler):
    timeout = SOCKET_SECONDS
    server: _Sockets

    def handle(self) -> None:
        self.wfile.write(self.server.answer(self.rfile.readline(MAX_REQUEST_BYTES)))
