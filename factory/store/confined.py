"""One question in SQL from outside, answered without risk: a single SELECT in a read-only transaction.

The statement's type is checked first, for a clear message; the read-only transaction is what holds,
since `WITH d AS (DELETE ... RETURNING *) SELECT ...` is a SELECT to the parser. Files, extensions
and settings are out of reach by the connection's own configuration (factory.store.database).
Answers hold plain JSON values only, so that they are the same from a file and over a socket.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import duckdb

from factory.errors import InputError
from factory.printable import printable

MAX_ROWS = 100_000
MAX_CHARACTERS = 64 * 2**20
ALLOWED = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)


@dataclass(frozen=True, slots=True)
class Table:
    """The answer to a question; `truncated` where it had more rows than MAX_ROWS or was too long."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    truncated: bool = False


def check_select(sql: str, connection: duckdb.DuckDBPyConnection | None = None) -> None:
    """Raises InputError unless the text is one SELECT, WITH, EXPLAIN, DESCRIBE, SHOW or SUMMARIZE."""
    if connection is None:
        with duckdb.connect(":memory:") as parser:
            return check_select(sql, parser)
    try:
        sql.encode()  # DuckDB's own complaint about bytes that are no UTF-8 speaks of C++ types
        statements = connection.extract_statements(sql)
    except (duckdb.Error, UnicodeError) as error:
        raise refused(error) from error
    if len(statements) != 1:
        raise InputError(f"one SQL statement expected, not {len(statements)}")
    if statements[0].type not in ALLOWED:
        raise InputError(
            f"a {statements[0].type.name} statement is refused",
            hint="only SELECT, WITH, EXPLAIN, DESCRIBE, SHOW and SUMMARIZE",
        )
    return None


def run(
    cursor: duckdb.DuckDBPyConnection,
    sql: str,
    params: Sequence[Any] = (),
    limit_seconds: float | None = None,
) -> Table:
    """The answer, from a cursor used for nothing else; raises InputError for bad SQL and when time is up."""
    check_select(sql, cursor)
    timer = threading.Timer(limit_seconds or 0, cursor.interrupt)
    timer.daemon = True
    try:
        cursor.execute("BEGIN TRANSACTION READ ONLY")
        if limit_seconds is not None:
            timer.start()
        cursor.execute(sql, list(params))
        return _fetch(cursor)
    except duckdb.InterruptException as error:
        raise InputError("the query was interrupted", hint=f"the limit is {limit_seconds} seconds") from error
    except (duckdb.Error, UnicodeError) as error:
        raise refused(error) from error
    finally:
        timer.cancel()


def refused(error: Exception) -> InputError:
    """DuckDB's complaint on one line, without the picture of the statement."""
    return InputError(printable(str(error).split("\n\nLINE ")[0]))


def _fetch(cursor: duckdb.DuckDBPyConnection) -> Table:
    columns = tuple(str(column[0]) for column in cursor.description or ())
    rows: list[tuple[Any, ...]] = []
    size = 0
    while size < MAX_CHARACTERS and (batch := cursor.fetchmany(1000)):
        for row in batch:
            if len(rows) == MAX_ROWS:
                return Table(columns, tuple(rows), truncated=True)
            rows.append(tuple(_plain(value) for value in row))
        size += sum(len(value) for row in batch for value in row if isinstance(value, str))
    return Table(columns, tuple(rows), truncated=size >= MAX_CHARACTERS)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).hex()
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
