"""One question in SQL from outside, answered without risk: a single SELECT in a read-only transaction.

The statement's type is checked first, for a clear message; the read-only transaction is what holds,
since `WITH d AS (DELETE ... RETURNING *) SELECT ...` is a SELECT to the parser. Files, extensions
and settings are out of reach by the connection's own configuration (factory.store.database).
A `Table` holds plain JSON values only, so that it is the same from a file and over a socket;
`stream` gives all rows of an answer as Arrow, with their types.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

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


class NoRoomError(InputError):
    """The memory that is free now is not enough; once other questions are answered it may be."""


class Batches(NamedTuple):
    """All rows of an answer as Arrow record batches, to be read once; `schema` is theirs."""

    schema: pa.Schema
    batches: Iterator[pa.RecordBatch]


class Limits(NamedTuple):
    """What an answer may take; `memory_share` of what the database may use, with others under way."""

    seconds: float = math.inf
    rows: int = MAX_ROWS
    characters: int = MAX_CHARACTERS
    memory_share: float = 1.0


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
    cursor: duckdb.DuckDBPyConnection,
    sql: str,
    params: Params = (),
    limit_seconds: float | None = None,
    limits: Limits | None = None,
) -> Table:
    """The answer, from a cursor used for nothing else.

    Raises InputError for bad SQL, and when time is up or too much memory is in use.
    """
    limits = limits or Limits()
    with _confined(cursor, sql, limits._replace(seconds=min(limit_seconds or math.inf, limits.seconds))):
        cursor.execute(sql, plain_params(params))
        return _fetch(cursor, min(limits.rows, MAX_ROWS), min(limits.characters, MAX_CHARACTERS))


@contextlib.contextmanager
def stream(
    cursor: duckdb.DuckDBPyConnection, sql: str, params: Params = (), limit_seconds: float | None = None
) -> Iterator[Batches]:
    """All rows of the answer, from a cursor used for nothing else; raises as `run` does, also on the way."""
    with _confined(cursor, sql, Limits(limit_seconds or math.inf)):
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
def _confined(cursor: duckdb.DuckDBPyConnection, sql: str, limits: Limits) -> Iterator[None]:
    """A read-only transaction for one SELECT, and DuckDB's complaints as InputErrors."""
    check_select(sql, cursor)
    watch = _Watch(cursor, limits.seconds, limits.memory_share)
    try:
        cursor.execute("BEGIN TRANSACTION READ ONLY")
        with watch:
            yield
    except duckdb.InterruptException as error:
        hint = watch.why or f"the limit is {limits.seconds:g} seconds"
        raise InputError("the query was interrupted", hint=hint) from error
    except MemoryError as error:
        raise NoRoomError("it needs more memory than the process may take") from error
    except duckdb.OutOfMemoryException as error:
        raise NoRoomError(refused(error).what) from error
    except (duckdb.Error, UnicodeError, OverflowError) as error:  # the last: an interval too long for Python
        raise refused(error) from error


def refused(error: Exception) -> InputError:
    """DuckDB's complaint on one line, without the picture of the statement."""
    return InputError(printable(str(error).split("\n\nLINE ")[0]))


class _Watch:
    """Interrupts a cursor's query when it takes too long, or too much memory; a context manager.

    One thread looks after all of them: a process at its limit of memory can start none.
    """

    EVERY_SECONDS = 0.05
    # Blocks of tables and indexes are given back when others need the room.
    IN_USE = """SELECT coalesce(sum(memory_usage_bytes), 0)::BIGINT FROM duckdb_memory()
                WHERE tag NOT IN ('BASE_TABLE', 'ART_INDEX', 'METADATA', 'EXTERNAL_FILE_CACHE')"""

    _under_way: ClassVar[set[_Watch]] = set()
    _changed: ClassVar[threading.Condition] = threading.Condition()
    _thread: ClassVar[threading.Thread | None] = None

    def __init__(self, cursor: duckdb.DuckDBPyConnection, seconds: float, memory_share: float) -> None:
        self.why = ""
        self._cursor, self._seconds, self._share = cursor, seconds, memory_share
        self._most, self._deadline = math.inf, math.inf

    def __enter__(self) -> None:
        if self._seconds == math.inf and self._share >= 1:
            return
        self._deadline = time.monotonic() + self._seconds
        if self._share < 1:
            self._other = self._cursor.cursor()
            most = _num_bytes(self._other.execute("SELECT current_setting('memory_limit')"))
            self._most = self._share * most
        with self._changed:
            if _Watch._thread is None:
                thread = threading.Thread(target=self._look_at_all, daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:  # the process is at its limit: a question is not run unwatched
                    raise NoRoomError("no memory is left for a further question") from error
                _Watch._thread = thread
            self._under_way.add(self)
            self._changed.notify()

    def __exit__(self, *_: object) -> None:
        with self._changed:  # so that it interrupts nothing that comes after
            self._under_way.discard(self)

    @classmethod
    def _look_at_all(cls) -> None:
        with cls._changed:
            while True:
                cls._look_once()  # a name here would hold the last one's connection for good
                cls._changed.wait(cls.EVERY_SECONDS if cls._under_way else None)

    @classmethod
    def _look_once(cls) -> None:
        for watch in cls._under_way:
            watch._look()

    def _look(self) -> None:
        if time.monotonic() > self._deadline:
            self._cursor.interrupt()
        elif self._most < math.inf and self._in_use() > self._most:
            self.why = "it needs more memory than questions may take"
            self._cursor.interrupt()

    def _in_use(self) -> float:
        """Bytes; as much as can be where there is none left for the question about it."""
        try:
            return int(_first(self._other.execute(self.IN_USE)))
        except (duckdb.Error, MemoryError):
            return math.inf


def _first(cursor: duckdb.DuckDBPyConnection) -> Any:
    (row,) = cursor.fetchall()
    return row[0]


def _num_bytes(cursor: duckdb.DuckDBPyConnection) -> float:
    """Of a size as DuckDB writes it, such as '2.9 GiB'."""
    number, unit = str(_first(cursor)).split()
    powers = {"bytes": 0, "KiB": 1, "MiB": 2, "GiB": 3, "TiB": 4}
    return float(number) * 1024.0 ** powers[unit]


def _fetch(cursor: duckdb.DuckDBPyConnection, max_rows: int, max_characters: int) -> Table:
    columns = tuple(str(column[0]) for column in cursor.description or ())
    rows: list[tuple[Any, ...]] = []
    size = 0
    while size < max_characters and (batch := cursor.fetchmany(1000)):
        for row in batch:
            if len(rows) == max_rows:
                return Table(columns, tuple(rows), truncated=True)
            rows.append(tuple(plain_value(value) for value in row))
        size += sum(len(value) for row in batch for value in row if isinstance(value, str))
    return Table(columns, tuple(rows), truncated=size >= max_characters)


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
