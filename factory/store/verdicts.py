"""What a person says of a sample, on its way into the table `verdicts`.

The newest verdict of a reviewer about a sample is the one that stands; `withdrawn` takes back what stood, so
that nothing is ever changed or deleted. What is checked here is the same for whoever holds the file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import duckdb

from factory.errors import InputError
from factory.store.columns import read_tables

ACTIONS: Final = ("keep", "edit", "drop", "withdrawn")
REQUIRED: Final = frozenset({"sample_id", "reviewer", "action", "reason"})
MAX_CHARACTERS: Final = 2**20  # of a corrected answer
SLUG: Final = re.compile(r"[a-z0-9_]{1,40}")


def verdict_row(given: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a verdict; raises InputError for one that says nothing clear."""
    row = {name: value for name in REQUIRED if isinstance(value := given.get(name), str) and value.strip()}
    if row.keys() != REQUIRED:
        raise InputError("a verdict needs sample, reviewer, action and reason", where="verdict")
    if row["action"] not in ACTIONS:
        raise InputError(f"'{row['action'][:40]}' is no verdict", where="action", hint=f"one of {ACTIONS}")
    if not SLUG.fullmatch(row["reason"]):
        raise InputError("a reason is a slug: a-z, 0-9 and _, 40 at most", where="reason")
    if len(row["reviewer"]) > 100:
        raise InputError("a reviewer's name has 100 characters at most", where="reviewer")
    corrected = given.get("corrected")
    if (row["action"] == "edit") != (isinstance(corrected, str) and bool(corrected.strip())):
        raise InputError(
            "an edit comes with the corrected answer, and no other verdict does", where="corrected"
        )
    if corrected is not None and len(corrected) > MAX_CHARACTERS:
        raise InputError(f"a corrected answer has {MAX_CHARACTERS:,} characters at most", where="corrected")
    return {**row, "corrected": corrected}


def insert_verdicts(connection: duckdb.DuckDBPyConnection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes verdicts in one transaction, in order, and returns when they are durable."""
    table = read_tables(connection)["verdicts"]
    columns = [column.name for column in table.columns]
    sql = f"INSERT INTO verdicts ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"  # noqa: S608
    with connection.cursor() as cursor:
        cursor.begin()
        for row in rows:
            cursor.execute(sql, table.row(verdict_row(row)))
        cursor.commit()
