"""What a table accepts: its columns, read from the database, and how a value becomes one that it holds.

A row is checked where it is appended, so that a mistake of ours shows at the caller's line and
never in the writer's thread. A timestamp that must be there and is left out is the present, and later than
that of any row appended before, though the clock was set back: DuckDB keeps no order of rows, but this one.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import pyarrow as pa

from factory.store.text import escape, to_json

Row = tuple[Any, ...]
TIME = "TIMESTAMP WITH TIME ZONE"


class Present:
    """Each call gives a later time than the one before and than any that the tables hold, in microseconds."""

    def __init__(self, latest: datetime | None) -> None:
        self._last = latest or datetime.min.replace(tzinfo=UTC)

    def __call__(self) -> datetime:
        self._last = max(_now(), self._last + timedelta(microseconds=1))
        return self._last


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Column:
    """One column: how its values are turned, and whether there must be one."""

    name: str
    type: str
    required: bool
    turn: Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Table:
    """A table's columns and the statement that fills it from `source`, where a batch of rows comes in."""

    name: str
    names: frozenset[str]
    columns: tuple[Column, ...]
    source: str
    insert: str
    schema: Any
    present: Present

    def row(self, row: Mapping[str, Any]) -> Row:
        """The values in column order; raises ValueError or TypeError for what the table cannot hold."""
        if not row.keys() <= self.names:
            unknown = sorted(row.keys() - self.names)
            raise ValueError(f"table '{self.name}' has no column {unknown}; it has {sorted(self.names)}")
        given = row.get
        try:
            # A loop that calls nothing for plain text and for NULL: it runs forty times for each sample.
            values: list[Any] = []
            for column in self.columns:
                value = given(column.name)
                if value is None:
                    values.append(self._missing(column) if column.required else None)
                elif column.turn is _text and type(value) is str and value.isascii() and "\x00" not in value:
                    values.append(value)
                else:
                    values.append(column.turn(value))
            return tuple(values)
        except (ValueError, TypeError) as error:
            error.add_note(f"in a row of table '{self.name}'")
            raise

    def _missing(self, column: Column) -> datetime:
        """What stands for a required value that was left out; raises ValueError where nothing can."""
        if column.type == TIME:
            return self.present()
        raise ValueError(f"column '{column.name}' must have a value")

    def batch(self, rows: Sequence[Row]) -> Any:
        """The rows as an Arrow table."""
        columns = zip(*rows, strict=True)
        arrays = [
            pa.array(column, type=field.type) for column, field in zip(columns, self.schema, strict=True)
        ]
        return pa.table(arrays, schema=self.schema)


def read_tables(connection: duckdb.DuckDBPyConnection) -> dict[str, Table]:
    """Every table of the database."""
    keyed = {
        str(name)
        for (name,) in connection.execute(
            "SELECT table_name FROM duckdb_constraints() WHERE constraint_type = 'PRIMARY KEY'"
        ).fetchall()
    }
    columns: dict[str, list[Column]] = {}
    for table, name, kind, nullable in connection.execute(
        "SELECT c.table_name, c.column_name, c.data_type, c.is_nullable FROM duckdb_columns() c "
        "JOIN duckdb_tables() t USING (table_oid) ORDER BY c.table_name, c.column_index"
    ).fetchall():
        columns.setdefault(table, []).append(Column(name, kind, not nullable, _TURNS[kind]))
    present = Present(_latest(connection, columns))
    return {name: _table(name, tuple(found), name in keyed, present) for name, found in columns.items()}


def _latest(connection: duckdb.DuckDBPyConnection, columns: Mapping[str, list[Column]]) -> datetime | None:
    """The latest of the times that rows have because they were appended then; None where there are none."""
    found = []
    for table, of_table in columns.items():
        for column in of_table:
            if column.type == TIME and column.required:
                sql = f'SELECT max("{column.name}") FROM "{table}"'  # noqa: S608 (names are the schema's)
                found += [row[0] for row in connection.execute(sql).fetchall() if row[0] is not None]
    return max((time.astimezone(UTC) for time in found), default=None)


def _table(name: str, columns: tuple[Column, ...], has_key: bool, present: Present) -> Table:
    names = ", ".join(f'"{column.name}"' for column in columns)
    verb = "INSERT OR IGNORE" if has_key else "INSERT"
    source = f"incoming_{name}"
    insert = f'{verb} INTO "{name}" ({names}) SELECT {names} FROM {source}'  # noqa: S608 (names are the schema's)
    schema = pa.schema([(column.name, _ARROW[column.type]) for column in columns])
    return Table(name, frozenset(column.name for column in columns), columns, source, insert, schema, present)


def _integer(bits: int) -> Callable[[Any], int]:
    limit = 2 ** (bits - 1)

    def turn(value: Any) -> int:
        number = operator.index(value)
        if not -limit <= number < limit:
            raise ValueError(f"{number} needs more than {bits} bits")
        return number

    return turn


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"text expected, not {type(value).__name__}")
    return escape(value)


def _time(value: Any) -> datetime:
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise TypeError("a datetime with its time zone expected")
    return value.astimezone(UTC)


def _floats(value: Any) -> list[float]:
    return [float(number) for number in value]


_TURNS: dict[str, Callable[[Any], Any]] = {
    "VARCHAR": _text,
    "JSON": to_json,
    "INTEGER": _integer(32),
    "BIGINT": _integer(64),
    "DOUBLE": float,
    "FLOAT[]": _floats,
    "BOOLEAN": bool,
    TIME: _time,
}
_ARROW = {
    "VARCHAR": pa.large_string(),
    "JSON": pa.large_string(),
    "INTEGER": pa.int32(),
    "BIGINT": pa.int64(),
    "DOUBLE": pa.float64(),
    "FLOAT[]": pa.list_(pa.float32()),
    "BOOLEAN": pa.bool_(),
    TIME: pa.timestamp("us", tz="UTC"),
}
