"""What a table accepts: its columns, read from the database, and how a value becomes one that it holds.

A row is checked where it is appended, so that a mistake of ours shows at the caller's line and
never in the writer's thread. A timestamp that must be there and is left out is the present, and later than
that of any row appended before by this process: DuckDB keeps no order of rows, but this one.
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


class _Present:
    """Each call gives a later time than the one before, in microseconds."""

    def __init__(self) -> None:
        self._last = datetime.min.replace(tzinfo=UTC)

    def __call__(self) -> datetime:
        self._last = max(datetime.now(UTC), self._last + timedelta(microseconds=1))
        return self._last


_present = _Present()


@dataclass(frozen=True, slots=True)
class Column:
    """One column: how its values are turned, and whether there must be one."""

    name: str
    type: str
    required: bool
    turn: Callable[[Any], Any]

    def missing(self) -> datetime:
        """What stands for a required value that was left out; raises ValueError where nothing can."""
        if self.type == "TIMESTAMP WITH TIME ZONE":
            return _present()
        raise ValueError(f"column '{self.name}' must have a value")


@dataclass(frozen=True, slots=True)
class Table:
    """A table's columns and the statement that fills it from `source`, where a batch of rows comes in."""

    name: str
    names: frozenset[str]
    columns: tuple[Column, ...]
    source: str
    insert: str
    schema: Any

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
                    values.append(column.missing() if column.required else None)
                elif column.turn is _text and type(value) is str and value.isascii() and "\x00" not in value:
                    values.append(value)
                else:
                    values.append(column.turn(value))
            return tuple(values)
        except (ValueError, TypeError) as error:
            error.add_note(f"in a row of table '{self.name}'")
            raise

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
    return {name: _table(name, tuple(found), name in keyed) for name, found in columns.items()}


def _table(name: str, columns: tuple[Column, ...], has_key: bool) -> Table:
    names = ", ".join(f'"{column.name}"' for column in columns)
    verb = "INSERT OR IGNORE" if has_key else "INSERT"
    source = f"incoming_{name}"
    insert = f'{verb} INTO "{name}" ({names}) SELECT {names} FROM {source}'  # noqa: S608 (names are the schema's)
    schema = pa.schema([(column.name, _ARROW[column.type]) for column in columns])
    return Table(name, frozenset(column.name for column in columns), columns, source, insert, schema)


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
    "TIMESTAMP WITH TIME ZONE": _time,
}
_ARROW = {
    "VARCHAR": pa.large_string(),
    "JSON": pa.large_string(),
    "INTEGER": pa.int32(),
    "BIGINT": pa.int64(),
    "DOUBLE": pa.float64(),
    "FLOAT[]": pa.list_(pa.float32()),
    "BOOLEAN": pa.bool_(),
    "TIMESTAMP WITH TIME ZONE": pa.timestamp("us", tz="UTC"),
}
