"""The process in which SQL that a model wrote is executed: line by line a question, line by line its answer.

Questions and answers are JSON. One DuckDB in memory for each schema, without files, extensions, settings or
Python objects, and a read-only transaction for each query. DuckDB's own limit does not count what a single
function allocates, nor does its interrupt reach into one, so the operating system limits this process's
memory and `factory.sql_sandbox`, which starts it, its time. It ends with its input. Run as a file, it imports
nothing of ours.
"""

from __future__ import annotations

import json
import re
import resource
import signal
import sys
from typing import IO, Any, Final

import duckdb

MAX_BYTES: Final = 3 * 2**30  # of address space; a database takes about 100 MiB of it
MAX_OPEN: Final = 4  # databases at a time
MAX_ROWS: Final = 10_000  # counted of an answer
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


class NotSelect(Exception):
    """The text is not exactly one SELECT."""


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
    sql.encode()  # DuckDB's own complaint about what is no UTF-8 ends the process
    with connection.cursor() as cursor:
        statements = cursor.extract_statements(sql)
        if len(statements) != 1:
            raise NotSelect(f"one statement expected, not {len(statements)}")
        is_select = statements[0].type == duckdb.StatementType.SELECT
        if not is_select or not BEGINNING.match(sql):
            raise NotSelect("a SELECT expected")
        cursor.execute("BEGIN TRANSACTION READ ONLY")
        cursor.execute(sql)
        num_columns, num_rows = len(cursor.description or ()), 0
        while num_rows < MAX_ROWS and (batch := cursor.fetchmany(1000)):
            num_rows += len(batch)
        return {"num_columns": num_columns, "num_rows": num_rows}


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
        return answer(databases[name], question["sql"])
    except NotSelect as error:
        return {"fault": "not_select", "error": str(error)}
    except (duckdb.Error, ValueError, OverflowError, MemoryError) as error:  # Python has fewer dates
        return {"fault": "sql_error", "error": " ".join(str(error).split())[:MAX_ERROR_CHARS]}


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
