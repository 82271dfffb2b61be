"""Questions to a workspace from the command line: by SQL, by state of its runs, by lineage.

A `Reader` answers whether or not a run is under way: it asks the run over its socket, and opens the
file read-only where there is none. Lineage is in factory.store.trace. Nothing here writes.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from factory.errors import InputError
from factory.store import confined, database, remote
from factory.store.confined import Batches, Params, Table, check_select
from factory.store.schema import MIGRATIONS
from factory.store.trace import Node, Selects, Trace, outcomes_in, render, trace

if TYPE_CHECKING:
    import duckdb

__all__ = [
    "Node",
    "Reader",
    "RunStatus",
    "Table",
    "Trace",
    "check_select",
    "read",
    "render",
    "state_of",
    "status",
    "trace",
]

PATIENCE_SECONDS = 5.0  # a run that opens or closes the file holds it, but does not answer yet or any more


class Reader:
    """Reads a workspace; a context manager that holds the file only while no run does."""

    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace.resolve()
        self._connection: duckdb.DuckDBPyConnection | None = None

    @property
    def is_idle(self) -> bool:
        """Whether no run holds the workspace; known once something was asked."""
        return self._connection is not None

    def table(self, sql: str, params: Params = ()) -> Table:
        """The answer to one SELECT.

        Raises InputError for SQL that is wrong or no SELECT, WorkspaceError where there is no
        database or its holder does not answer.
        """
        for _ in self._tries():
            with contextlib.suppress(ConnectionError):
                return remote.ask(self.workspace, sql, params)
        with self._open().cursor() as cursor, self._explained():
            return confined.run(cursor, sql, params)

    @contextlib.contextmanager
    def stream(self, sql: str, params: Params = ()) -> Iterator[Batches]:
        """All rows of one SELECT as Arrow, however many; raises as `table` does, while they are read too."""
        with contextlib.ExitStack() as stack:
            found = None
            for _ in self._tries():
                with contextlib.suppress(ConnectionError):
                    found = stack.enter_context(remote.stream(self.workspace, sql, params))
                    break
            if found is None:
                cursor = stack.enter_context(self._open().cursor())
                stack.enter_context(self._explained())
                found = stack.enter_context(confined.stream(cursor, sql, params))
            yield found

    def _tries(self) -> Iterator[None]:
        """One round for each time to ask who holds the file, until we have opened it ourselves."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self._connection is None:
            yield
            try:
                self._connection = database.open_for_reading(self.workspace)
            except database.HeldError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Says of what is not there that the file is of an older version, where it is."""
        try:
            yield
        except InputError as error:
            if "does not exist" in error.what:
                version = database.stored_version(self._open(), self.workspace)
                if version < len(MIGRATIONS):
                    hint = f"the database has version {version}; `factory audit` and runs bring it up to date"
                    raise InputError(error.what, where=error.where, hint=hint) from error
            raise

    def _open(self) -> duckdb.DuckDBPyConnection:
        assert self._connection is not None  # noqa: S101 (what _tries ends with)
        return self._connection

    def select(self, sql: str, params: Params = ()) -> list[dict[str, Any]]:
        """The rows of one SELECT as mappings; raises as `table` does."""
        table = self.table(sql, params)
        return [dict(zip(table.columns, row, strict=True)) for row in table.rows]

    def close(self) -> None:
        """Lets go of the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read(workspace: Path, sql: str, params: Params = ()) -> Table:
    """The answer to one SELECT over a workspace; raises InputError or WorkspaceError."""
    with Reader(workspace) as reader:
        return reader.table(sql, params)


@dataclass(frozen=True, slots=True)
class RunStatus:
    """Where a run stands: its newest event of a stage, accepted samples by round, and what it spent."""

    run_id: str
    recipe: str
    control: str | None
    started_at: datetime
    round: int | None
    stage: str | None
    state: str | None  # of the stage: started, done, failed, cut off
    since: datetime | None
    accepted: tuple[tuple[int, int], ...]  # round, number of samples
    num_calls: int
    num_failed: int
    tokens: int
    dollars: float
    lost_tokens: int  # that may have been billed without an answer, beside the tokens
    lost_dollars: float


# Calls with what they lost, also in a file that no newer version has opened for writing yet.
CALLS = """(SELECT * FROM calls UNION ALL BY NAME
            SELECT NULL::BIGINT AS lost_tokens, NULL::DOUBLE AS lost_dollars WHERE false)"""
# Times as seconds since 1970, which are the same from a file and over a socket.
RUNS = """
    SELECT r.id, r.recipe, r.control, epoch(r.started_at) AS started, e.round, e.stage, e.status, e.since,
           coalesce(c.num_calls, 0) AS num_calls, coalesce(c.num_failed, 0) AS num_failed,
           coalesce(c.tokens, 0) AS tokens, coalesce(c.dollars, 0.0) AS dollars,
           coalesce(l.lost_tokens, 0) AS lost_tokens, coalesce(l.lost_dollars, 0.0) AS lost_dollars
    FROM runs r
    LEFT JOIN (
        SELECT run_id, epoch(max(created_at)) AS since,
               arg_max((round, stage, status), (created_at, rowid)) AS newest,
               newest[1] AS round, newest[2] AS stage, newest[3] AS status
        FROM stages WHERE stage <> 'promote_by_hand' GROUP BY run_id
    ) e ON e.run_id = r.id
    LEFT JOIN (
        SELECT run_id, sum(num_calls) AS num_calls, sum(num_failed) AS num_failed,
               sum(prompt_tokens + completion_tokens) AS tokens, sum(dollars) AS dollars
        FROM spend GROUP BY run_id
    ) c ON c.run_id = r.id
    LEFT JOIN (
        SELECT run_id, sum(lost_tokens) AS lost_tokens, sum(lost_dollars) AS lost_dollars
        FROM CALLS GROUP BY run_id
    ) l ON l.run_id = r.id
    ORDER BY r.started_at, r.id""".replace("CALLS", CALLS)
ACCEPTED = """
    SELECT run_id, round, count(*) AS num_samples FROM {outcomes}
    WHERE final AND action = 'keep' GROUP BY run_id, round ORDER BY run_id, round"""


def state_of(store: Selects, status: str | None) -> str | None:
    """What to say of a stage by its newest event: what began is cut off where no run holds the workspace."""
    is_idle = isinstance(store, Reader) and store.is_idle
    return "cut off" if status == "started" and is_idle else status


def status(store: Selects) -> tuple[RunStatus, ...]:
    """Every run of the workspace, the oldest first."""
    accepted: dict[str, list[tuple[int, int]]] = {}
    for row in store.select(ACCEPTED.format(outcomes=outcomes_in(store))):
        accepted.setdefault(row["run_id"], []).append((row["round"], row["num_samples"]))
    return tuple(
        RunStatus(
            row["id"],
            row["recipe"],
            row["control"],
            datetime.fromtimestamp(row["started"], UTC),
            row["round"],
            row["stage"],
            state_of(store, row["status"]),
            None if row["since"] is None else datetime.fromtimestamp(row["since"], UTC),
            tuple(accepted.get(row["id"], ())),
            int(row["num_calls"]),
            int(row["num_failed"]),
            int(row["tokens"]),
            float(row["dollars"]),
            int(row["lost_tokens"]),
            float(row["lost_dollars"]),
        )
        for row in store.select(RUNS)
    )
