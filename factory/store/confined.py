"""One question in SQL from outside, answered without risk: a single SELECT in a read-only transaction.

The statement's type is checked first, for a clear message; the read-only transaction is what holds,
since `WITH d AS (DELETE ... RETURNING *) SELECT ...` is a SELECT to the parser. Files, extensions
and settings are out of reach by the connection's own configuration (factory.store.database).
A `Table` holds plain JSON values only, so that it is the same from a file and over a socket;
`stream` gives all rows of an answer as Arrow, with their types.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

import duckdb

from factory.errors import InputError
from factory.printable import printable

if TYPE_CHECKING:
    import pyarrow as pa

Params = Sequence[Any] | Mapping[str, Any]  # of ? and $1, or of $name

MAX_ROWS = 100_000
MAX_CHARACTERS = 64 * 2**20
BATCH_ROWS = 10_000
ALLOWED = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)


@dataclass(frozen=True, slots=True)
class Table:
    """The answer to a question; `truncated` where it had more rows than MAX_ROWS or was too long."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    truncated: bool = False


class Batches(NamedTuple):
    """All rows of an answer as Arrow record batches, to be read once; `schema` is theirs."""

    schema: pa.Schema
    batches: Iterator[pa.RecordBatch]


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


def names_of(sql: str) -> tuple[str, ...]:
    """The parameters that have names, as in `$name`, not ? or $1; raises as `check_select`."""
    with duckdb.connect(":memory:") as parser:
        check_select(sql, parser)
        names = parser.extract_statements(sql)[0].named_parameters
    return tuple(sorted(name for name in names if not name.isdigit()))


def run(
    cursor: duckdb.DuckDBPyConnection, sql: str, params: Params = (), limit_seconds: float | None = None
) -> Table:
    """The answer, from a cursor used for nothing else; raises InputError for bad SQL and when time is up."""
    with _confined(cursor, sql, limit_seconds):
        cursor.execute(sql, plain_params(params))
        return _fetch(cursor)


@contextlib.contextmanager
def stream(
    cursor: duckdb.DuckDBPyConnection, sql: str, params: Params = (), limit_seconds: float | None = None
) -> Iterator[Batches]:
    """All rows of the answer, from a cursor used for nothing else; raises as `run` does, also on the way."""
    with _confined(cursor, sql, limit_seconds):
        # Of an executed statement DuckDB would hold all rows; of a relation it reads as they are asked for.
        reader = cursor.sql(sql, params=plain_params(params)).to_arrow_reader(BATCH_ROWS)
        yield Batches(reader.schema, each_batch(reader))


def each_batch(reader: pa.RecordBatchReader, trouble: str | None = None) -> Iterator[pa.RecordBatch]:
    """The batches; what goes wrong on the way, told as `trouble` where it is given, raises InputError."""
    import pyarrow as pa

    while True:
        try:
            batch = reader.read_next_batch()
        except StopIteration:
            return
        except (pa.ArrowException, OSError) as error:
            raise (InputError(trouble) if trouble else refused(error)) from error
        yield batch


def plain_params(params: Params) -> list[Any] | dict[str, Any]:
    """Parameters as DuckDB and JSON take them."""
    return dict(params) if isinstance(params, Mapping) else list(params)


@contextlib.contextmanager
def _confined(cursor: duckdb.DuckDBPyConnection, sql: str, limit_seconds: float | None) -> Iterator[None]:
    """A read-only transaction for one SELECT, and DuckDB's complaints as InputErrors."""
    check_select(sql, cursor)
    timer = threading.Timer(limit_seconds or 0, cursor.interrupt)
    timer.daemon = True
    try:
        cursor.execute("BEGIN TRANSACTION READ ONLY")
        if limit_seconds is not None:
            timer.start()
        yield
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
            rows.append(tuple(plain_value(value) for value in row))
        size += sum(len(value) for row in batch for value in row if isinstance(value, str))
    return Table(columns, tuple(rows), truncated=size >= MAX_CHARACTERS)


def plain_value(value: Any) -> Any:
    """What JSON can hold of a value from DuckDB: times as ISO 8601, bytes as hexadecimal digits."""
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, Decimal):
        return int(value) if value.as_tuple().exponent == 0 else float(value)  # sums of integers, in Arrow
    if isinstance(value, (list, tuple)):
        return [plain_value(item) for item in value]
    if isinstance(value, dict):
        return {str(key): plain_value(item) for key, item in value.items()}
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).hex()
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
