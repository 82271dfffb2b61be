"""The box for SQL: one question in the address, its answer as a table or, where it names samples, as their
list.

What is taken is decided in factory.audit.questions; each `$name` in a question has a field for its value. The
question runs again for each page of its answer, and a few run at once; those that come on top are asked to
wait.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from factory.audit.filters import Filters
from factory.audit.pages import access, render
from factory.audit.questions import LIMITS, MAX_CHARACTERS, check_question
from factory.audit.samples import rows_of
from factory.errors import FactoryError, InputError
from factory.store.confined import Table, names_of
from factory.store.questions import questions, read_parameters

PAGE: Final = 100
CELL: Final = 300  # characters
AT_ONCE: Final = 2
PREFIX: Final = "p."  # of parameters in the address
EXAMPLE: Final = (
    "SELECT refiner, action, reason, count(*) AS num_samples FROM decisions GROUP BY ALL ORDER BY ALL"
)
COLUMNS: Final = """SELECT c.table_name AS name, v.view_name IS NOT NULL AS is_view,
                           list(c.column_name ORDER BY c.column_index) AS columns
                    FROM duckdb_columns() c
                    LEFT JOIN duckdb_views() v ON v.view_name = c.table_name AND NOT v.internal
                    WHERE NOT c.internal GROUP BY ALL ORDER BY is_view, name"""

_turns = threading.BoundedSemaphore(AT_ONCE)


class Field(NamedTuple):
    """A parameter of the question, and what was typed for it; nothing is NULL."""

    name: str
    meaning: str
    required: bool
    value: str


class Shown(NamedTuple):
    """A page of an answer; `ids` are the samples of its rows, where a column names them."""

    columns: tuple[str, ...]
    rows: list[list[str]]
    first: int
    num_rows: int
    truncated: bool
    seconds: float
    key: int | None  # the column that names samples
    ids: list[str]


def sql(request: Request) -> Response:
    """The page."""
    given = request.query_params
    query, what = given.get("query", "").replace("\r\n", "\n").strip(), given.get("as", "table")
    shown, wrong, samples, fields = None, None, [], list[Field]()
    if query:
        try:
            check_question(access(request), query)
            fields = _fields(query, given)
            if all(each.value or not each.required for each in fields):
                shown = _answer(request, query, fields, _page_number(given.get("page", "")))
            if what == "samples" and shown and shown.ids:
                samples = rows_of(access(request), shown.ids)
        except FactoryError as error:
            wrong = error
    status = 200 if wrong is None else 400
    return render(
        request,
        "sql.jinja",
        status,
        query=query,
        example=EXAMPLE,
        shown=shown,
        wrong=wrong,
        samples=samples,
        filters=Filters(),
        fields=fields,
        questions=questions(),
        tables=access(request).select(COLUMNS),
        seconds=LIMITS.seconds,
        num_rows=LIMITS.rows,
        max_characters=MAX_CHARACTERS,
        address=lambda **changes: (
            "/sql?"
            + urlencode(
                {"query": query, "as": what} | {PREFIX + each.name: each.value for each in fields} | changes
            )
        ),
        page=PAGE,
    )


def _fields(query: str, given: Mapping[str, str]) -> list[Field]:
    """A field for each `$name` in the question; one of which its comments say nothing may be left out."""
    told = {each.name: each for each in read_parameters(query)}
    fields, names = [], names_of(query)
    for name in [*(each for each in told if each in names), *(each for each in names if each not in told)]:
        meaning, required = (told[name].meaning, told[name].required) if name in told else ("", False)
        fields.append(Field(name, meaning, required, given.get(PREFIX + name, "").strip()))
    return fields


def _answer(request: Request, query: str, fields: Sequence[Field], number: int) -> Shown:
    asks, begun = access(request), time.monotonic()
    if not _turns.acquire(timeout=LIMITS.seconds):
        raise InputError(f"{AT_ONCE} questions are under way", hint="wait until they are answered")
    try:
        table = asks.table(query, {each.name: each.value or None for each in fields}, LIMITS)
    finally:
        _turns.release()
    first = (number - 1) * PAGE
    rows = table.rows[first : first + PAGE]
    key = _sample_column(table)
    ids = [] if key is None else [str(row[key]) for row in rows if row[key] is not None]
    return Shown(
        table.columns,
        [[_cell(value) for value in row] for row in rows],
        first,
        len(table.rows),
        table.truncated,
        time.monotonic() - begun,
        key,
        ids,
    )


def _sample_column(table: Table) -> int | None:
    """The column whose values are ids of samples: `sample_id`, or an `id` that looks like one."""
    for name in ("sample_id", "id"):
        if name in table.columns:
            at = table.columns.index(name)
            values = [row[at] for row in table.rows[:PAGE] if row[at] is not None]
            prefix = "" if name == "sample_id" else "smp_"
            if values and all(isinstance(value, str) and value.startswith(prefix) for value in values):
                return at
    return None


def _cell(value: Any) -> str:
    if value is None:
        return "NULL"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= CELL else f"{text[:CELL]}… ({len(text):,} characters)"


def _page_number(text: str) -> int:
    is_number = text.isascii() and text.isdigit() and len(text) <= len(str(LIMITS.rows))
    return int(text) if is_number and 1 <= int(text) <= LIMITS.rows else 1


routes = [Route("/sql", sql)]
