"""A workspace in a notebook: SQL in, Arrow, pandas or polars out, also while a run writes. Reads only.

Each question opens the file for itself and lets go of it, so that a run can start at any time; within
`with` the file stays open. pandas and polars are imported where they are asked for and are optional.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from factory.errors import InputError
from factory.store.queries import Reader
from factory.store.questions import find_question

if TYPE_CHECKING:
    import pyarrow as pa

    from factory.store.confined import Params


class Answer:
    """The rows of one question, held as an Arrow table."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def arrow(self) -> pa.Table:
        """The rows as DuckDB gave them."""
        return self._table

    def pandas(self) -> Any:
        """The rows as a pandas DataFrame; raises InputError where pandas is not installed.

        Sums of integers, which are wider than 64 bits in DuckDB, become floats as in DuckDB's own `df()`.
        """
        _find_library("pandas")
        return _without_wide_integers(self._table).to_pandas()

    def polars(self) -> Any:
        """The rows as a polars DataFrame, numbers as in `pandas`; raises InputError without polars."""
        return _find_library("polars").from_arrow(_without_wide_integers(self._table))

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __repr__(self) -> str:
        return f"Answer({len(self):,} rows of {', '.join(self._table.column_names)})"


class Workspace:
    """What `factory.open` gives; a context manager that holds the file while no run does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._reader: Reader | None = None

    def sql(self, query: str, params: Params = ()) -> Answer:
        """The answer to one SELECT, or to the ready question of that name; all its rows are held in memory.

        `params` are a list for `?` and a mapping for `$name`. Raises InputError for SQL that is wrong or no
        SELECT, WorkspaceError where there is no database.
        """
        if (question := find_question(query)) is not None:
            if params and not isinstance(params, Mapping):
                raise InputError(f"question '{query}' takes its parameters by name")
            query, params = question.sql, question.bind(dict(params))
        if self._reader is not None:
            return _answer(self._reader, query, params)
        with Reader(self.folder) as reader:
            return _answer(reader, query, params)

    def close(self) -> None:
        """Lets go of the file."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def __enter__(self) -> Self:
        self._reader = Reader(self.folder)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _answer(reader: Reader, query: str, params: Params) -> Answer:
    import pyarrow as pa

    with reader.stream(query, params) as (schema, batches):
        return Answer(pa.Table.from_batches(batches, schema))


def _find_library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise InputError(f"{name} is not installed", hint=f"pip install {name}, or use .arrow()") from error


def _without_wide_integers(table: pa.Table) -> pa.Table:
    import pyarrow as pa

    wide = pa.decimal128(38, 0)
    fields = [field.with_type(pa.float64()) if field.type == wide else field for field in table.schema]
    return table.cast(pa.schema(fields))
