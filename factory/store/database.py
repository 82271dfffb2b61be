"""The database file: connecting to it safely, and bringing it to the present version.

A connection cannot reach any file but its own, loads no extension, and its settings are locked,
so SQL text from a user is confined to the workspace. Opening for writing takes DuckDB's lock on
the file, applies the migrations that are missing, each in one transaction, and makes the views
anew. What goes wrong becomes a WorkspaceError of one line. Rows are the Store's concern.
"""

from __future__ import annotations

import math
import re
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import psutil

from factory.errors import WorkspaceError
from factory.store import schema

FILE = "factory.duckdb"
GIB = 2**30
# Of DuckDB, where a lock is another's, and where this very process has the file open or is opening it.
HELD_SIGNS = ("Could not set lock", "different configuration", "Unique file handle conflict")
PATIENCE_SECONDS = 2.0  # a reader in another process holds the file for a moment only, or lets go of it


class HeldError(WorkspaceError):
    """Another process has the database open."""


def open_for_writing(workspace: Path, is_run: Callable[[], bool]) -> duckdb.DuckDBPyConnection:
    """The workspace's database, made or migrated as needed, for its one writer.

    `is_run` tells whether the holder of the file is a run, for which waiting is no use. Raises
    WorkspaceError: held, newer version, not ours, folder or disk that cannot be written.
    """
    path = workspace / FILE
    try:
        workspace.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkspaceError(
            f"the workspace folder cannot be made: {error.strerror}", where=str(workspace)
        ) from error
    connection = _connect_patiently(path, is_run)
    try:
        version = stored_version(connection, workspace)
        if 0 < version < len(schema.MIGRATIONS):
            connection.execute("CHECKPOINT")
            connection.close()
            _copy(path, path.with_name(f"factory.v{version}.duckdb"))
            connection = _connect_patiently(path, is_run)
        _migrate(connection, version)
        connection.execute("BEGIN; " + Path(__file__).with_name("views.sql").read_text() + "; COMMIT")
    except (duckdb.IOException, duckdb.TransactionException, OSError) as error:
        connection.close()
        raise unwritable(path, error) from error
    except BaseException:
        connection.close()
        raise
    return connection


def open_for_reading(workspace: Path) -> duckdb.DuckDBPyConnection:
    """The workspace's database read-only; raises HeldError while a run has it, else WorkspaceError."""
    path = workspace / FILE
    if not path.exists():
        there = "the folder holds no database" if workspace.is_dir() else "there is no such folder"
        raise WorkspaceError(there, where=str(workspace), hint="`factory run` makes a workspace")
    connection = connect(path, read_only=True)
    try:
        stored_version(connection, workspace)
    except WorkspaceError:
        connection.close()
        raise
    return connection


def connect(path: Path, *, read_only: bool = False) -> duckdb.DuckDBPyConnection:
    """A confined connection; raises HeldError or another WorkspaceError."""
    config: dict[str, str | bool | int | float | list[str]] = {
        "allow_community_extensions": "false",
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "enable_external_access": "false",
        "max_temp_directory_size": "16GiB",
        "memory_limit": f"{memory_limit() // 2**20}MiB",
        "python_enable_replacements": "false",  # SQL must not see Python variables
    }
    try:
        connection = duckdb.connect(path, read_only=read_only, config=config)
    except duckdb.Error as error:
        raise _translate(error, path) from error
    try:
        connection.execute("SET GLOBAL TimeZone = 'UTC'")
        connection.execute("SET lock_configuration = true")
    except duckdb.InvalidInputException as error:  # this process has it open, its settings locked
        connection.close()
        raise HeldError(f"the workspace {path.parent} is held by another part of the factory") from error
    return connection


def memory_limit() -> int:
    """Bytes that DuckDB may use before it writes to disk: an eighth of the machine's, 1 to 8 GiB."""
    return max(GIB, min(8 * GIB, psutil.virtual_memory().total // 8))


def stored_version(connection: duckdb.DuckDBPyConnection, workspace: Path) -> int:
    """The version of the database, 0 for an empty one; raises WorkspaceError if it is newer or not ours."""
    tables = {str(row[0]) for row in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
    if "migrations" not in tables:
        if tables:
            raise WorkspaceError(f"{FILE} is not a database of the factory", where=str(workspace))
        return 0
    (version,) = connection.execute("SELECT coalesce(max(version), 0) FROM migrations").fetchall()[0]
    known = len(schema.MIGRATIONS)
    if version > known:
        raise WorkspaceError(
            f"{FILE} has version {version}, this dataset-factory knows versions up to {known}",
            where=str(workspace),
            hint="upgrade dataset-factory or use another --workspace",
        )
    return int(version)


def unwritable(path: Path, error: BaseException) -> WorkspaceError:
    """What to tell when writing the database failed: a full disk, a quota, a device gone."""
    return WorkspaceError(
        f"the database cannot be written: {str(error).splitlines()[0]}",
        where=str(path),
        hint="make room, then run the same command again: what is stored stays",
    )


def _connect_patiently(path: Path, is_run: Callable[[], bool]) -> duckdb.DuckDBPyConnection:
    deadline = None  # from when the holder was asked, which may take it a while
    while True:
        try:
            return connect(path)
        except HeldError:
            if is_run() or time.monotonic() > (deadline or math.inf):
                raise
            deadline = deadline or time.monotonic() + PATIENCE_SECONDS
            time.sleep(0.05)


def _migrate(connection: duckdb.DuckDBPyConnection, version: int) -> None:
    for number, migration in enumerate(schema.MIGRATIONS[version:], version + 1):
        connection.begin()
        connection.execute(schema.MIGRATIONS_TABLE)
        migration(connection)
        row = (number, migration.__name__, datetime.now(UTC))
        connection.execute("INSERT INTO migrations VALUES (?, ?, ?)", row)
        connection.commit()


def _copy(path: Path, copy: Path) -> None:
    partial = copy.with_suffix(".partial")
    shutil.copyfile(path, partial)
    partial.rename(copy)


def _translate(error: duckdb.Error, path: Path) -> WorkspaceError:
    text = " ".join(str(error).split())
    hint = "wait for it or use another --workspace"
    if held := re.search(r"Conflicting lock is held in .*\(PID (\d+)\)", text):
        return HeldError(f"the workspace {path.parent} is held by process {held[1]}", hint=hint)
    if any(sign in text for sign in HELD_SIGNS):
        return HeldError(f"the workspace {path.parent} is held by another part of the factory", hint=hint)
    return WorkspaceError(f"the database cannot be opened: {text}", where=str(path.parent))
