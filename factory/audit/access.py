"""Questions of the pages to the workspace, and verdicts for it, whoever holds its file.

While no run is under way the page holds the file itself, for writing, and answers other processes as a run
does. A run that wants in asks it to let go, which it does at once, and then it asks the run. A workspace
that cannot be written is read only.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import duckdb

from factory.errors import InputError, WorkspaceError
from factory.store import database, remote
from factory.store.confined import Limits, NoRoomError, Params, Table
from factory.store.remote import ClosingError, Server
from factory.store.verdicts import insert_verdicts

AWAY_SECONDS = 3.0  # what a run that asked for the file has to open it
PATIENCE_SECONDS = 5.0


class Access:
    """What pages ask; safe from several threads. A context manager that lets go of the file."""

    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace.resolve()
        self.is_read_only = False
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._server: Server | None = None
        self._changing = threading.Lock()
        self._is_over = False
        self._away_until = 0.0

    def table(self, sql: str, params: Params = (), limits: Limits | None = None) -> Table:
        """The answer to one SELECT; raises InputError, and WorkspaceError where nobody answers.

        One without limits, which is a page's own, waits for room that questions of people take up.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                if server := self._holding():
                    return server.table(sql, params, limits)
                return remote.ask(self.workspace, sql, params, limits=limits)
            except NoRoomError as error:
                if limits is not None:
                    raise
                self._wait(deadline, error)
            except (ClosingError, ConnectionError, database.HeldError) as error:
                self._wait(deadline, error)

    def select(self, sql: str, params: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """The rows of one SELECT as mappings; raises as `table` does."""
        found = self.table(sql, params)
        return [dict(zip(found.columns, row, strict=True)) for row in found.rows]

    def add_verdicts(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes verdicts; durable when it returns. Raises InputError for one that is wrong."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                if self._holding():
                    with self._changing:
                        if self._connection is not None:
                            return self._insert(rows)
                else:
                    remote.tell(self.workspace, "verdicts", [dict(row) for row in rows])
                    return None
            except (ConnectionError, database.HeldError) as error:
                self._wait(deadline, error)

    def close(self) -> None:
        """Lets go of the file for good: a question that is still under way does not open it again."""
        self._let_go(for_good=True)

    def _let_go(self, *, for_good: bool) -> None:
        with self._changing:
            self._is_over |= for_good
            server, connection = self._server, self._connection
            self._server = self._connection = None
            if server is not None:
                server.close()
            if connection is not None:
                connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _holding(self) -> Server | None:
        """The server of our own connection, opened if nobody holds the file; None while another does.

        Raises HeldError where it is held by one that does not answer, or by nobody yet.
        """
        if server := self._server:
            return server
        if remote.is_answered(self.workspace):
            return None
        with self._changing:
            if self._is_over:
                raise WorkspaceError("the page has ended", where=str(self.workspace))
            if self._server is None:
                if time.monotonic() < self._away_until:
                    raise database.HeldError("a run is about to open the workspace")
                self._open()
            return self._server

    def _open(self) -> None:
        does = {"verdicts": self._verdicts_of_others, "release": self._release}
        try:
            self._connection = database.open_for_writing(
                self.workspace, lambda: remote.is_answered(self.workspace)
            )
            self.is_read_only = False
        except database.HeldError:
            raise
        except WorkspaceError:
            self._connection = database.open_for_reading(self.workspace)
            self.is_read_only, does = True, {"release": self._release}
        self._server = Server(self._connection, self.workspace, does)

    def _insert(self, rows: Sequence[Mapping[str, Any]]) -> None:
        if self.is_read_only:
            raise WorkspaceError("verdicts cannot be written there", where=str(self.workspace))
        if self._connection is not None:
            insert_verdicts(self._connection, rows)

    def _verdicts_of_others(self, rows: Sequence[Mapping[str, Any]]) -> int:
        self.add_verdicts(rows)
        return len(rows)

    def _release(self, _given: object) -> bool:
        self._away_until = time.monotonic() + AWAY_SECONDS
        self._let_go(for_good=False)
        return True

    @staticmethod
    def _wait(deadline: float, error: Exception) -> None:
        if time.monotonic() > deadline:
            if isinstance(error, InputError | WorkspaceError):
                raise error
            raise WorkspaceError(f"the holder of the workspace does not answer: {error}") from error
        time.sleep(0.05)
