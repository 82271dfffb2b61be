"""The process in which SQL that a model wrote is executed: line by line a question, line by line its answer.

Questions and answers are JSON. A question may name a reference, whose result is compared here, so that no
result has to leave. One DuckDB in memory for each schema, without files, extensions, settings or
Python objects, and a read-only transaction for each query. DuckDB's own limit does not count what a single
function allocates, nor does its interrupt reach into one, so the operating system limits this process's
memory and `factory.sql_sandbox`, which starts it, its time. It ends with its input. Run as a file, it imports
nothing of ours.
"""

from __future__ import annotations

import json
import math
import re
import resource
import signal
import sys
from collections import defaultdict
from collections.abc import Sequence
from decimal import Decimal
from itertools import accumulate, pairwise
from typing import IO, Any, Final

import duckdb

MAX_BYTES: Final = 3 * 2**30  # of address space; a database takes about 100 MiB of it
MAX_OPEN: Final = 4  # databases at a time
MAX_ROWS: Final = 10_000  # counted of an answer; more are not compared
REL_TOLERANCE, ABS_TOLERANCE = 1e-6, 1e-9  # of numbers that are not both whole
MAX_MATCHED: Final = 100  # rows that are nearly the same and find one another by search
MAX_ERROR_CHARS: Final = 500
CONFIG: Final[dict[str, str | bool | int | float | list[str]]] = {
    "threads": 1,
    "memory_limit": "256MB",
    "max_temp_directory_size": "0B",  # nothing is spilled to disk
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "python_enable_replacements": "false",  # SQL must not see Python variables
}
# DESCRIBE, SHOW and SUMMARIZE are SELECT to the parser.
BEGINNING: Final = re.compile(r"(?:\s|\(|--[^\n]*|/\*(?>.*?\*/))*+(?:select|with|from)\b", re.I | re.S)


# Python has fewer dates than DuckDB, and less depth.
FAILURES: Final = (duckdb.Error, ValueError, OverflowError, MemoryError, RecursionError)
Cell = tuple[str, Any]  # a text and 0, or no text and a number
Row = list[Cell]


class NotSelect(Exception):
    """The text is not exactly one SELECT."""


class BadReference(Exception):
    """What a query was to be compared with cannot be executed, or gives nothing or too much to compare."""


def open_database(script: str) -> duckdb.DuckDBPyConnection:
    """A locked database in memory after `script`; raises duckdb.Error."""
    connection = duckdb.connect(":memory:", config=CONFIG)
    try:
        connection.execute("SET GLOBAL TimeZone = 'UTC'")
        connection.execute("SET lock_configuration = true")
        connection.execute(script)
    except BaseException:
        connection.close()
        raise
    return connection


def answer(connection: duckdb.DuckDBPyConnection, sql: str) -> dict[str, Any]:
    """The shape of a query's result; raises NotSelect or duckdb.Error."""
    with connection.cursor() as cursor:
        execute(cursor, sql)
        num_columns, num_rows = len(cursor.description or ()), 0
        while num_rows < MAX_ROWS and (batch := cursor.fetchmany(1000)):
            num_rows += len(batch)
        return {"num_columns": num_columns, "num_rows": num_rows}


def execute(cursor: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Begins a read-only transaction and a query in it; raises NotSelect or duckdb.Error."""
    sql.encode()  # DuckDB's own complaint about what is no UTF-8 ends the process
    statements = cursor.extract_statements(sql)
    if len(statements) != 1:
        raise NotSelect(f"one statement expected, not {len(statements)}")
    is_select = statements[0].type == duckdb.StatementType.SELECT
    if not is_select or not BEGINNING.match(sql):
        raise NotSelect("a SELECT expected")
    cursor.execute("BEGIN TRANSACTION READ ONLY")
    cursor.execute(sql)


def compare(connection: duckdb.DuckDBPyConnection, sql: str, reference: str) -> dict[str, Any]:
    """The shape of a query's result, whether it is that of `reference`, and in what it differs.

    Raises BadReference for what is wrong with that one, NotSelect or duckdb.Error for the query.
    """
    try:
        num_columns, expected = fetch(connection, reference, MAX_ROWS + 1)
        ordered = is_ordered(connection, reference)
    except (NotSelect, *FAILURES) as error:
        raise BadReference(one_line(error)) from error
    if not expected or len(expected) > MAX_ROWS:
        raise BadReference("it gives no rows" if not expected else f"it gives more than {MAX_ROWS:,} rows")
    found_columns, found = fetch(connection, sql, len(expected) + 1)
    if found_columns != num_columns:
        difference = "other number of columns"
    else:
        difference = difference_of_rows(found, expected, ordered)
    shape = {"num_columns": found_columns, "num_rows": len(found)}
    return {**shape, "same": not difference, "difference": difference}


def fetch(
    connection: duckdb.DuckDBPyConnection, sql: str, max_rows: int
) -> tuple[int, list[tuple[Any, ...]]]:
    """The number of columns, and at most so many rows."""
    with connection.cursor() as cursor:
        execute(cursor, sql)
        return len(cursor.description or ()), cursor.fetchmany(max_rows)


def is_ordered(connection: duckdb.DuckDBPyConnection, sql: str) -> bool:
    """Whether the outermost query, and not only one inside it, has an ORDER BY; ValueError for a PIVOT."""
    ((tree,),) = connection.execute("SELECT json_serialize_sql(?)", [sql]).fetchall()
    found = json.loads(tree)
    if found["error"]:
        raise ValueError(f"whether it is ordered cannot be told: {found['error_message']}")
    return any(each["type"] == "ORDER_MODIFIER" for each in found["statements"][0]["node"]["modifiers"])


def difference_of_rows(
    found: Sequence[Sequence[Any]], expected: Sequence[Sequence[Any]], ordered: bool
) -> str:
    """In what rows of as many columns are not the expected ones; '' where they are."""
    if len(found) != len(expected):
        return "other number of rows"
    if same_rows(found, expected, ordered):
        return ""
    return "other order" if ordered and same_rows(found, expected, False) else "other rows"


def same_rows(left: Sequence[Sequence[Any]], right: Sequence[Sequence[Any]], ordered: bool) -> bool:
    """Whether rows are the same: in order, or else each as often; numbers nearly, whatever their type."""
    sides = [[[cell(value) for value in row] for row in rows] for rows in (left, right)]
    if ordered:
        return all(same_cells(*pair) for pair in zip(*sides, strict=True))
    columns = zip(*sides[0], *sides[1], strict=True)
    places = [places_of([number for _, number in column]) for column in columns]
    found, expected = (grouped(rows, places) for rows in sides)
    return found.keys() == expected.keys() and all(same_group(found[key], expected[key]) for key in found)


def grouped(rows: Sequence[Row], places: Sequence[dict[Any, int]]) -> dict[Any, list[Row]]:
    """Rows by their texts and the places of their numbers: a row is the same as those of its group alone."""
    groups = defaultdict[Any, list[Row]](list)
    for row in rows:
        key = tuple((text, place[number]) for (text, number), place in zip(row, places, strict=True))
        groups[key].append(row)
    return groups


def places_of(numbers: Sequence[Any]) -> dict[Any, int]:
    """A place in their order for the numbers of a column, one for those that are nearly the next."""
    whole = all(isinstance(number, int) for number in numbers)
    ordered = sorted(set(numbers))
    near = (not whole and is_close(*pair) for pair in pairwise(ordered))
    return dict(zip(ordered, accumulate((not each for each in near), initial=0), strict=True))


def same_group(left: list[Row], right: list[Row]) -> bool:
    """Whether each row of a group has one of the other side's for itself; in order, or else by search."""
    if len(left) != len(right):
        return False
    if all(map(same_cells, sorted(left), sorted(right))):
        return True
    taken: dict[int, int] = {}  # a row of the right by one of the left

    def find(row: int, tried: set[int]) -> bool:
        """Gives a row one of the right, if need be one whose holder finds another (Kuhn's algorithm)."""
        for at, other in enumerate(right):
            if at not in tried and same_cells(left[row], other):
                tried.add(at)
                if at not in taken or find(taken[at], tried):
                    taken[at] = row
                    return True
        return False

    return len(left) <= MAX_MATCHED and all(find(row, set()) for row in range(len(left)))


def same_cells(left: Row, right: Row) -> bool:
    """Whether texts are equal and numbers nearly so, cell by cell."""
    return all(
        text == other_text and same_number(number, other)
        for (text, number), (other_text, other) in zip(left, right, strict=True)
    )


def cell(value: Any) -> Cell:
    """What is compared of a value: the number that it is, or how it is written."""
    is_number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    return ("", value) if is_number and value == value else (written(value), 0)  # noqa: PLR0124 (NaN)


def same_number(left: Any, right: Any) -> bool:
    """Whole numbers exactly, others within the tolerance."""
    if isinstance(left, int) and isinstance(right, int):
        return left == right
    return is_close(left, right)


def is_close(left: Any, right: Any) -> bool:
    """Within the tolerance of numbers that are not both whole."""
    return math.isclose(left, right, rel_tol=REL_TOLERANCE, abs_tol=ABS_TOLERANCE)


def written(value: Any) -> str:
    """A value as text that tells types apart, but for those of numbers within lists and structs."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(written, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{written(key)}: {written(each)}' for key, each in value.items())}}}"
    is_number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    return f"{float(value):.6g}" if is_number else repr(value)


def reply(question: dict[str, Any], databases: dict[str, duckdb.DuckDBPyConnection]) -> dict[str, Any]:
    """What is sent back; a schema that is not open must be sent along."""
    name = question["schema"]
    try:
        if name not in databases:
            if "script" not in question:
                return {"unknown_schema": True}
            while len(databases) >= MAX_OPEN:
                databases.pop(next(iter(databases))).close()
            databases[name] = open_database(question["script"])
        if "reference" in question:
            return compare(databases[name], question["sql"], question["reference"])
        return answer(databases[name], question["sql"])
    except NotSelect as error:
        return {"fault": "not_select", "error": str(error)}
    except BadReference as error:
        return {"fault": "bad_reference", "error": str(error)}
    except FAILURES as error:
        return {"fault": "sql_error", "error": one_line(error)}


def one_line(error: BaseException) -> str:
    """What an error says, in one line and not too long."""
    return " ".join(str(error).split())[:MAX_ERROR_CHARS]


def serve(questions: IO[str], answers: IO[str]) -> None:
    """Answers until there are no more questions."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES))
    databases: dict[str, duckdb.DuckDBPyConnection] = {}
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in questions:
        question = json.loads(line)
        signal.alarm(int(question["limit_seconds"]) + 2)  # ends the process, where its starter is no more
        print(json.dumps(reply(question, databases)), file=answers, flush=True)
        signal.alarm(0)


if __name__ == "__main__":
    serve(sys.stdin, sys.stdout)
