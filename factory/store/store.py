"""The store: one process writes, everything is appended, every question is SQL.

`append` returns at once and keeps order; `flush` makes it durable; `select` and `stream` see all
that was appended before. Inserting a row whose primary key is there already changes nothing, which
is what makes running again harmless. While it is open it answers other processes' questions through
factory.store.remote. It knows tables, not what their rows mean.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import duckdb

from factory.errors import FactoryError
from factory.store import database
from factory.store.columns import read_tables
from factory.store.remote import Server, holder_stays
from factory.store.text import from_json, restore
from factory.store.verdicts import fresh_verdicts
from factory.store.writer import Entry, Rows, Statement, Writer
from factory.tokens import unpack
from factory.types import Completion

FIND = """
    SELECT response, finish_reason, reasoning, prompt_tokens, completion_tokens, latency_ms, logprobs
    FROM calls WHERE id = ? AND status = 'ok'"""

ANSWERED = "SELECT id FROM calls WHERE status = 'ok'"

_open_here: set[Path] = set()  # DuckDB's lock keeps other processes out, not this one
_open_lock = threading.Lock()


class Store:
    """The open database of a workspace. Make it with `Store.open`; it is a context manager."""

    def __init__(self, workspace: Path, connection: duckdb.DuckDBPyConnection) -> None:
        self.workspace = workspace
        self.path = workspace / database.FILE
        self._connection = connection
        self._tables = read_tables(connection)
        self._answered = {row["id"] for row in self._rows(ANSWERED, (), 1000)}
        self._queued_calls: dict[str, Completion] = {}
        self._writer = Writer(connection.cursor(), self.path, self._forget_queued)
        self._verdicts = threading.Lock()
        self._server = Server(connection, workspace, {"verdicts": self._add_verdicts})
        self._is_open = True

    @classmethod
    def open(cls, workspace: Path) -> Self:
        """The store of a workspace folder, made where there is none.

        Raises WorkspaceError: held by another process, newer version, or not writable.
        """
        workspace = workspace.resolve()
        with _open_lock:
            if workspace in _open_here:
                raise database.HeldError(f"the workspace {workspace} is open in this process already")
            connection = database.open_for_writing(workspace, lambda: holder_stays(workspace))
            try:
                store = cls(workspace, connection)
            except BaseException:
                connection.close()
                raise
            _open_here.add(workspace)
            return store

    def append(self, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Queues rows; JSON columns take Python values, a required timestamp left out is the present.

        Raises ValueError or TypeError for a row that the table cannot hold, and WorkspaceError once
        the disk refused an earlier one.
        """
        if not rows:
            return
        kind = self._tables[table]
        ready = [kind.row(row) for row in rows]
        if table == "calls":
            for row in rows:
                if row["status"] == "ok":
                    self._queued_calls[row["id"]] = _completion(row["id"], row)
                    self._answered.add(row["id"])
        self._writer.put(Rows(kind, ready))

    def execute_insert(self, sql: str, params: Sequence[Any] = ()) -> None:
        """Runs one INSERT ... SELECT after all that was appended before; durable when it returns."""
        self._writer.put(Statement(sql, params))
        self._writer.flush()

    def flush(self) -> None:
        """Returns when all that was appended before is on the disk; raises WorkspaceError if it cannot be."""
        self._writer.flush()

    def select(self, sql: str, params: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """All rows of a query, as DuckDB returns them (JSON columns are text); flushes first."""
        return list(self.stream(sql, params))

    def stream(
        self, sql: str, params: Sequence[Any] = (), batch_size: int = 1000
    ) -> Iterator[dict[str, Any]]:
        """The rows of a query one by one, `batch_size` of them in memory; flushes first."""
        self._writer.flush()
        yield from self._rows(sql, params, batch_size)

    def _rows(self, sql: str, params: Sequence[Any], batch_size: int) -> Iterator[dict[str, Any]]:
        with self._connection.cursor() as cursor:
            cursor.execute(sql, params)
            names = [str(column[0]) for column in cursor.description or ()]
            while rows := cursor.fetchmany(batch_size):
                for row in rows:
                    yield dict(zip(names, row, strict=True))

    def find_call(self, call_id: str) -> Completion | None:
        """The stored answer to a request, None where there is none; failed calls are none.

        An unknown id costs a look into a set, a known one a look into an index.
        """
        queued = self._queued_calls.get(call_id)
        if queued is not None or call_id not in self._answered:
            return queued
        # Without LIMIT and ORDER BY, which cost three times as much as the look-up itself.
        return _completion(call_id, next(self._rows(FIND, [call_id], 1)))

    @property
    def num_unsaved(self) -> int:
        """Answers that were appended and are not yet durable."""
        return len(self._queued_calls)

    def is_answered(self, call_id: str) -> bool:
        """Whether `find_call` would find it; reads nothing."""
        return call_id in self._answered

    def close(self) -> None:
        """Writes what is queued and lets go of the file; raises WorkspaceError if that fails."""
        if not self._is_open:
            return
        self._is_open = False
        try:
            self._server.close()
            self._writer.close()
        finally:
            self._connection.close()
            _open_here.discard(self.workspace)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except FactoryError:
            if error is None:  # else the first error says more
                raise

    def _add_verdicts(self, rows: list[dict[str, Any]]) -> int:
        """What people say while a run is under way; durable when it returns."""
        with self._verdicts:
            self.append("verdicts", fresh_verdicts(self._connection, rows))
            self.flush()
        return len(rows)

    def _forget_queued(self, group: list[Entry]) -> None:
        for entry in group:
            if isinstance(entry, Rows) and entry.table.name == "calls":
                for row in entry.rows:
                    self._queued_calls.pop(row[0], None)


def _completion(call_id: str, row: Mapping[str, Any]) -> Completion:
    packed = row.get("logprobs")
    return Completion(
        restore(row.get("response") or ""),
        row.get("finish_reason") or "stop",
        restore(row.get("reasoning") or ""),
        row["prompt_tokens"],
        row["completion_tokens"],
        row["latency_ms"],
        unpack(from_json(packed) if isinstance(packed, str) else packed),
        call_id,
    )
