"""Questions from other processes while a run holds the database: a Unix socket in the workspace.

One connection carries one line of JSON, {"sql", "params"}, and one line back, {"columns", "rows",
"truncated"}, {"error"} or {"closing"}. Only the user's own processes can connect (mode 0600), only SELECT is
answered, rows and seconds are limited. Where the file system knows no sockets the run goes on
without answering. It sees what is committed, at most a tenth of a second old. What a holder does besides
has a name: {"verdicts": [...]} writes what people said, {"release": null} asks one that can wait to let go.
With {"arrow": true} beside the question, all rows follow the line {"arrow": true} as an Arrow stream, and
after its end mark one line, {"done"} or {"error"}: a stream of Arrow that is cut off looks like a whole one.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import duckdb

from factory.errors import FactoryError, InputError
from factory.store import confined
from factory.store.confined import Batches, Limits, Params, Table
from factory.store.sockets import SOCKET, SOCKET_SECONDS, Sockets, address_of

if TYPE_CHECKING:
    import pyarrow as pa

QUERY_SECONDS = 30.0
CUT_OFF = f"the answer ended before its last row: the run ended, or it took over {QUERY_SECONDS:.0f} seconds"
NO_QUESTION = {"error": "the question is not a line of JSON with sql and params"}


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
        self._sockets: Sockets | None = None
        with contextlib.suppress(OSError):
            self._sockets = Sockets(workspace, self._reply)
            threading.Thread(target=self._sockets.serve_forever, args=(0.05,), daemon=True).start()

    def answer(self, line: bytes) -> bytes:
        """The line that answers a line."""
        try:
            return _as_line(self._answer(json.loads(line)))
        except (ValueError, KeyError, TypeError, AttributeError):
            return _as_line(NO_QUESTION)
        except FactoryError as error:
            return _as_line(_told(error))

    def _reply(self, line: bytes, file: Any) -> None:
        try:
            question = json.loads(line)
            is_stream = isinstance(question, dict) and question.get("arrow") is True
        except ValueError:
            is_stream = False
        if is_stream:
            self._stream(question, file)
        else:
            file.write(self.answer(line))

    def _stream(self, question: dict[str, Any], file: Any) -> None:
        """Writes all rows, then a line with what came of it; or, before any row, that line alone."""
        answer: dict[str, Any] = {"done": True}
        try:
            sql, params = str(question["sql"]), confined.plain_params(question["params"])
            with (
                self._asking() as cursor,
                confined.stream(cursor, sql, params, QUERY_SECONDS) as batches,
            ):
                _write_arrow(file, batches)
        except (ValueError, KeyError, TypeError):
            answer = NO_QUESTION
        except FactoryError as error:
            answer = _told(error)
        file.write(_as_line(answer))

    def _answer(self, question: dict[str, Any]) -> dict[str, Any]:
        if "sql" in question:
            limits = Limits(*question.get("limits", ()))
            table = self.table(str(question["sql"]), confined.plain_params(question["params"]), limits)
            return {"columns": table.columns, "rows": table.rows, "truncated": table.truncated}
        (name, given), *_ = question.items()
        if name not in self._does:
            raise InputError(f"the process that holds the workspace does not do '{name}'")
        return {"done": self._does[name](given)}

    def table(self, sql: str, params: Params = (), limits: Limits | None = None) -> Table:
        """The answer to one SELECT; raises InputError, as ClosingError where the file is being let go."""
        with self._asking() as cursor:
            return confined.run(cursor, sql, params, QUERY_SECONDS, limits)

    @contextlib.contextmanager
    def _asking(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A cursor for one question; closing interrupts it."""
        with self._changed:
            if self._closing:
                raise ClosingError("the run is ending")
            cursor = self._connection.cursor()
            self._running.add(cursor)
        try:
            yield cursor
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
            deadline = time.monotonic() + SOCKET_SECONDS
            while self._running and time.monotonic() < deadline:
                for cursor in self._running:
                    cursor.interrupt()  # again and again: one that has not begun yet does not feel it
                self._changed.wait(0.05)
        if self._sockets is not None:
            self._sockets.shutdown()
            self._sockets.server_close()
            (self._workspace / SOCKET).unlink(missing_ok=True)


def ask(
    workspace: Path,
    sql: str,
    params: Params = (),
    timeout_seconds: float = QUERY_SECONDS + 5,
    limits: Limits | None = None,
) -> Table:
    """The answer of the process that holds the workspace.

    Raises ConnectionError where none answers, InputError for what it refuses.
    """
    question: dict[str, Any] = {"sql": sql, "params": confined.plain_params(params)}
    if limits is not None:
        question["limits"] = list(limits)
    answer = _exchange(workspace, question, timeout_seconds)
    return Table(tuple(answer["columns"]), tuple(tuple(row) for row in answer["rows"]), answer["truncated"])


@contextlib.contextmanager
def stream(workspace: Path, sql: str, params: Params = ()) -> Iterator[Batches]:
    """All rows of the answer, from the process that holds the workspace; raises as `ask` does.

    Raises InputError while rows are read, too, where they end before the last.
    """
    import pyarrow as pa

    question = {"sql": sql, "params": confined.plain_params(params), "arrow": True}
    with _sent(workspace, question, QUERY_SECONDS + 5) as file:
        _read_line(file)
        reader = pa.ipc.open_stream(file)
        yield Batches(reader.schema, _until_told(confined.each_batch(reader, CUT_OFF), file))


def _until_told(batches: Iterator[pa.RecordBatch], file: IO[bytes]) -> Iterator[pa.RecordBatch]:
    """The batches; raises InputError where the line after them is not there or says what went wrong."""
    yield from batches
    try:
        _read_line(file)
    except (ConnectionError, ValueError) as error:
        raise InputError(CUT_OFF) from error


def _write_arrow(file: Any, batches: Batches) -> None:
    """The line that announces a stream, and the stream with its end mark, also where rows break off."""
    import pyarrow as pa

    first = next(batches.batches, None)
    file.write(b'{"arrow": true}\n')
    with pa.ipc.new_stream(file, batches.schema) as writer:
        for batch in () if first is None else itertools.chain([first], batches.batches):
            writer.write_batch(batch)


def tell(workspace: Path, name: str, given: Any, timeout_seconds: float = SOCKET_SECONDS) -> Any:
    """Has the process that holds the workspace do something by its name; what came of it.

    Raises ConnectionError where none answers, InputError for what it refuses.
    """
    return _exchange(workspace, {name: given}, timeout_seconds)["done"]


def _exchange(workspace: Path, question: dict[str, Any], timeout_seconds: float) -> dict[str, Any]:
    with _sent(workspace, question, timeout_seconds) as file:
        return _read_line(file)


@contextlib.contextmanager
def _sent(workspace: Path, question: dict[str, Any], timeout_seconds: float) -> Iterator[IO[bytes]]:
    """What comes back after a line was sent; raises ConnectionError where nobody listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client, address_of(workspace) as address:
        client.settimeout(timeout_seconds)
        try:
            client.connect(address)
            client.sendall(json.dumps(question).encode() + b"\n")
        except OSError as error:
            raise ConnectionError(str(error)) from error
        with client.makefile("rb") as file:
            yield file


def _read_line(file: IO[bytes]) -> dict[str, Any]:
    try:
        line = file.readline()
    except OSError as error:
        raise ConnectionError(str(error)) from error
    if not line.endswith(b"\n"):
        raise ConnectionError("the run ended before it answered")
    answer: dict[str, Any] = json.loads(line)
    if answer.get("closing"):
        raise ConnectionError(answer["error"])  # whoever has the file next can be asked
    if "error" in answer:
        raise InputError(answer["error"])
    return answer


def _told(error: FactoryError) -> dict[str, Any]:
    return {"error": str(error), "closing": isinstance(error, ClosingError)}


def _as_line(answer: dict[str, Any]) -> bytes:
    return json.dumps(answer).encode() + b"\n"


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
