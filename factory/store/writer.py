"""The writer thread: takes what was appended, in order, and commits it in groups.

Everything that is queued when a group begins becomes one durable transaction, so whoever sees a
row sees all that was appended before it. A group begins after a twentieth of a second, 2,000 rows or
when somebody waits. The queue is bounded: who appends faster than the disk writes, waits. A
failure ends the thread and is raised to everyone who appends or waits from then on.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from factory.store.columns import Row, Table
from factory.store.database import unwritable

GROUP_SECONDS = 0.05
GROUP_ROWS = 2_000
QUEUE_ROWS = 20_000
DISK_ERRORS = (
    OSError,
    duckdb.FatalException,
    duckdb.IOException,
    duckdb.OutOfMemoryException,
    duckdb.TransactionException,
)


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows for one table, as one append brought them."""

    table: Table
    rows: list[Row]


@dataclass(frozen=True, slots=True)
class Statement:
    """An INSERT ... SELECT that runs where it stands in the order."""

    sql: str
    params: Sequence[Any]


Entry = Rows | Statement


class Incoming:
    """Where a table's rows come in: known to the connection once, with another batch for each group.

    To register each batch by itself took a quarter of the time of a group, and waits for the interpreter.
    """

    batch: Any = None  # an Arrow table
    is_registered = False

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """What DuckDB asks for when it reads (the Arrow PyCapsule interface)."""
        return self.batch.__arrow_c_stream__(requested_schema)


class Writer:
    """One thread over one connection; `on_commit` is told, in that thread, what became durable."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, path: Path, on_commit: Callable[[list[Entry]], None]
    ) -> None:
        self._connection = connection
        self._path = path
        self._on_commit = on_commit
        self._changed = threading.Condition()
        self._incoming: dict[str, Incoming] = {}
        self._queue: deque[Entry] = deque()
        self._num_rows = 0
        self._num_put = 0
        self._num_done = 0
        self._num_wanted = 0  # entries up to which somebody waits
        self._closing = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    def put(self, entry: Entry) -> None:
        """Queues an entry; waits only while the queue is full. Raises what stopped the writer."""
        size = len(entry.rows) if isinstance(entry, Rows) else 1
        with self._changed:
            if self._num_rows >= QUEUE_ROWS:
                self._changed.wait_for(lambda: self._num_rows < QUEUE_ROWS or self._stopped)
            self._check()
            self._queue.append(entry)
            before, self._num_rows = self._num_rows, self._num_rows + size
            self._num_put += 1
            if before == 0 or before < GROUP_ROWS <= self._num_rows:
                self._changed.notify_all()

    def flush(self) -> None:
        """Returns when all that was put before is durable; raises what stopped the writer."""
        with self._changed:
            wanted = self._num_put
            if self._num_done < wanted:
                self._num_wanted = max(self._num_wanted, wanted)
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._num_done >= wanted or self._stopped)
            if self._num_done < wanted or self._failure:
                self._check()

    def close(self) -> None:
        """Writes what is queued and ends the thread; raises what stopped it earlier."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        if self._failure:
            raise self._reason()

    @property
    def _stopped(self) -> bool:
        return self._closing or self._failure is not None

    def _check(self) -> None:
        if self._failure:
            raise self._reason()
        if self._closing:
            raise RuntimeError("the store is closed")

    def _reason(self) -> Exception:
        error: Exception = RuntimeError("the store's writer failed")
        if isinstance(self._failure, DISK_ERRORS):
            error = unwritable(self._path, self._failure)
        error.__cause__ = self._failure
        return error

    def _run(self) -> None:
        while group := self._take():
            try:
                self._write(group)
                self._on_commit(group)
            except BaseException as error:  # noqa: BLE001 (raised in the callers' threads)
                with self._changed:
                    self._failure = error
                    self._queue.clear()
                    self._changed.notify_all()
                return
            with self._changed:
                self._num_done += len(group)
                self._changed.notify_all()

    def _take(self) -> list[Entry]:
        """Everything queued, once a group is due; nothing when the store closes."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing)
            self._changed.wait_for(self._is_due, timeout=GROUP_SECONDS)
            group = list(self._queue)
            self._queue.clear()
            self._num_rows = 0
            self._changed.notify_all()
            return group

    def _is_due(self) -> bool:
        return self._num_rows >= GROUP_ROWS or self._num_wanted > self._num_done or self._closing

    def _write(self, group: list[Entry]) -> None:
        self._connection.begin()
        batches: dict[str, Rows] = {}
        for entry in group:
            if isinstance(entry, Rows):
                batches.setdefault(entry.table.name, Rows(entry.table, [])).rows.extend(entry.rows)
            else:
                self._insert(batches)
                self._connection.execute(entry.sql, entry.params)
        self._insert(batches)
        self._connection.commit()

    def _insert(self, batches: dict[str, Rows]) -> None:
        for batch in batches.values():
            incoming = self._incoming.setdefault(batch.table.name, Incoming())
            incoming.batch = batch.table.batch(batch.rows)
            if not incoming.is_registered:
                self._connection.register(batch.table.source, incoming)
                incoming.is_registered = True
            self._connection.execute(batch.table.insert)
            incoming.batch = None
        batches.clear()
