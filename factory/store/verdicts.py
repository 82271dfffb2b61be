"""What a person says of a sample, on its way into the table `verdicts`.

The newest verdict of a reviewer about a sample is the one that stands; `withdrawn` takes back what stood, so
that nothing is ever changed or deleted. What is checked here is the same for whoever holds the file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

import duckdb

from factory.errors import InputError
from factory.store.columns import read_tables
from factory.store.text import escape

ACTIONS: Final = ("keep", "edit", "drop", "withdrawn")
REQUIRED: Final = frozenset({"sample_id", "reviewer", "action", "reason"})
AHEAD: Final = timedelta(days=1)  # what clocks differ by; later than now, a verdict would stand until then
MAX_CHARACTERS: Final = 2**20  # of a corrected answer
SLUG: Final = re.compile(r"[a-z0-9_]{1,40}")
# What stands, as a table: the same as the view `standing_verdicts`, which a file has only once it was opened
# for writing by this version.
STANDING: Final = """(
    SELECT * FROM (
        SELECT * FROM verdicts
        QUALIFY row_number() OVER (PARTITION BY sample_id, reviewer ORDER BY created_at DESC, rowid DESC) = 1
    ) WHERE action <> 'withdrawn')"""

LAST: Final = """
    SELECT action, reason, corrected FROM verdicts WHERE sample_id = ? AND reviewer = ?
    ORDER BY created_at DESC, rowid DESC LIMIT 1"""


class Said(NamedTuple):
    """What one verdict says, without who says it of what and when."""

    action: str
    reason: str
    corrected: str | None = None


WITHDRAWN: Final = Said("withdrawn", "undo")


def undone(history: Sequence[Said]) -> Said:
    """What a reviewer says again who takes back the last of all that they said of a sample, oldest first.

    Whoever says again what stood before, or withdraws the only verdict, has undone the one between: so
    undoing goes on to the ones before. Withdrawn, where nothing stands or nothing stood before.
    """
    standing: list[Said] = []
    for said in history:
        if said.action == "withdrawn":
            del standing[-1:]
        elif standing[-2:-1] == [said]:
            standing.pop()
        else:
            standing.append(said)
    return standing[-2] if len(standing) > 1 else WITHDRAWN


def slug(text: str) -> str:
    """A reason as it is stored: 'Wrong citation!' is wrong_citation; raises InputError where none is left."""
    found = re.sub(r"[^a-z0-9]+", "_", text.casefold()).strip("_")[:40].rstrip("_")
    if not found:
        raise InputError("a verdict needs a reason, of letters a-z, digits and _", where="reason")
    return found


def verdict_row(given: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a verdict, its time if one is given; raises InputError for one that says nothing clear."""
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
    is_text = isinstance(corrected, str) and bool(corrected.strip())
    if (row["action"] == "edit") != is_text or not (corrected is None or isinstance(corrected, str)):
        raise InputError(
            "an edit comes with the corrected answer, and no other verdict does", where="corrected"
        )
    if corrected is not None and len(corrected) > MAX_CHARACTERS:
        raise InputError(f"a corrected answer has {MAX_CHARACTERS:,} characters at most", where="corrected")
    return {**row, "corrected": corrected, "created_at": _time(given.get("created_at"))}


def _time(given: Any) -> datetime | None:
    """A time with its zone that has been, as it is or in ISO 8601; None is the present."""
    try:
        found = datetime.fromisoformat(given) if isinstance(given, str) else given
        if found is None:
            return None
        if isinstance(found, datetime) and found.tzinfo:
            if found.astimezone(UTC) <= datetime.now(UTC) + AHEAD:
                return found
            raise InputError("the time is yet to come", where="created_at")
    except (ValueError, OverflowError):
        pass
    raise InputError("a time is written as 2026-11-29T12:00:00+00:00", where="created_at")


def fresh_verdicts(
    connection: duckdb.DuckDBPyConnection, given: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The rows to write, in order; raises as `verdict_row`.

    One without a time that says what its reviewer said last is there already: it was sent again by somebody
    who did not hear that it had been written.
    """
    last: dict[tuple[str, str], tuple[Any, ...] | None] = {}
    fresh = []
    with connection.cursor() as cursor:
        for row in map(verdict_row, given):
            key = (escape(row["sample_id"]), escape(row["reviewer"]))
            said = (row["action"], row["reason"], row["corrected"] and escape(row["corrected"]))
            if key not in last:
                last[key] = cursor.execute(LAST, key).fetchone()
            if row["created_at"] is not None or last[key] != said:
                fresh.append(row)
            last[key] = said
    return fresh


def insert_verdicts(connection: duckdb.DuckDBPyConnection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes verdicts that are fresh in one transaction, in order, and returns when they are durable."""
    table = read_tables(connection)["verdicts"]
    columns = [column.name for column in table.columns]
    sql = f"INSERT INTO verdicts ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"  # noqa: S608
    fresh = fresh_verdicts(connection, rows)
    with connection.cursor() as cursor:
        cursor.begin()
        for row in fresh:
            cursor.execute(sql, table.row(row))
        cursor.commit()
