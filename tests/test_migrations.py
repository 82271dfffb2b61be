"""A database of every earlier version is copied first, then brought up to date with nothing lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import pytest
from example_store import example, fill

from factory.store import database, schema
from factory.store.queries import Reader, trace
from factory.store.questions import questions
from factory.store.store import Store

VERSIONS = range(1, len(schema.MIGRATIONS))
VIEWS = "SELECT view_name FROM duckdb_views() WHERE NOT internal ORDER BY view_name"


@pytest.fixture(scope="module")
def newest(tmp_path_factory: pytest.TempPathFactory):
    """A workspace made by the present version, whose rows older ones are filled with."""
    with Store.open(tmp_path_factory.mktemp("newest")) as store:
        fill(store)
    return store.path


def make_old(folder: Path, version: int, newest: Path) -> dict[str, list[tuple[Any, ...]]]:
    """A database as that version left it, with the rows it could hold; those rows by table."""
    with duckdb.connect(folder / database.FILE) as old:
        old.execute(schema.MIGRATIONS_TABLE)
        for number, migration in enumerate(schema.MIGRATIONS[:version], 1):
            migration(old)
            old.execute("INSERT INTO migrations VALUES (?, ?, now())", [number, migration.__name__])
        old.execute(f"ATTACH '{newest}' AS newest (READ_ONLY)")
        tables = {}
        for (table,) in old.execute(
            "SELECT table_name FROM duckdb_tables() WHERE database_name <> 'newest' AND NOT temporary"
        ).fetchall():
            if table != "migrations":
                old.execute(f"INSERT INTO {table} BY NAME SELECT {columns(old, table)} FROM newest.{table}")
                tables[table] = rows(old, f"SELECT * FROM {table}")
        return tables


def columns(connection: duckdb.DuckDBPyConnection, table: str) -> str:
    return ", ".join(row[0] for row in connection.execute(f"DESCRIBE {table}").fetchall())


def rows(connection: duckdb.DuckDBPyConnection, sql: str) -> list[tuple[Any, ...]]:
    return sorted(connection.execute(sql).fetchall(), key=repr)


def test_each_version_has_its_name_and_the_first_makes_the_tables():
    assert len({migration.__name__ for migration in schema.MIGRATIONS}) == len(schema.MIGRATIONS)
    assert schema.MIGRATIONS[0] is schema.create_tables and len(VERSIONS) >= 8


@pytest.mark.parametrize("version", VERSIONS)
def test_an_old_database_is_copied_and_keeps_its_rows(tmp_path, version, newest):
    held = make_old(tmp_path, version, newest)
    assert sum(map(len, held.values())) > 20
    before = (tmp_path / database.FILE).read_bytes()
    with Store.open(tmp_path) as store:
        names = [row["name"] for row in store.select("SELECT name FROM migrations ORDER BY version")]
        assert names == [migration.__name__ for migration in schema.MIGRATIONS]
    with duckdb.connect(tmp_path / database.FILE, read_only=True) as connection:
        for table, expected in held.items():
            kept = columns_of(expected, connection, table)
            assert rows(connection, f"SELECT {kept} FROM {table}") == expected
    copy = tmp_path / f"factory.v{version}.duckdb"
    assert copy.read_bytes() == before
    with duckdb.connect(copy, read_only=True) as connection:
        assert connection.execute("SELECT max(version) FROM migrations").fetchall() == [(version,)]
        for table, expected in held.items():
            assert rows(connection, f"SELECT * FROM {table}") == expected


def columns_of(expected: list[tuple[Any, ...]], connection: duckdb.DuckDBPyConnection, table: str) -> str:
    """The columns that the old table had: the first ones, since later ones are added at the end."""
    names = columns(connection, table).split(", ")
    return ", ".join(names[: len(expected[0])] if expected else names)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_old_database_has_the_same_schema_views_and_answers_afterwards(tmp_path, version, newest):
    make_old(tmp_path, version, newest)
    Store.open(tmp_path).close()
    with duckdb.connect(tmp_path / database.FILE) as old, duckdb.connect(newest, read_only=True) as new:
        for sql in (
            "SELECT table_name, column_name, data_type, is_nullable FROM duckdb_columns() WHERE NOT internal",
            "SELECT index_name, table_name, expressions FROM duckdb_indexes()",
            VIEWS,
        ):
            assert rows(old, sql) == rows(new, sql)
        for (view,) in new.execute(VIEWS).fetchall():
            if view != "failures":  # what was lost, and the tokens of it, older versions did not write down
                assert rows(old, f"FROM {view}") == rows(new, f"FROM {view}")
    with Reader(tmp_path) as reader:
        for question in questions():
            reader.table(question.sql, dict.fromkeys((each.name for each in question.parameters), "1"))
        assert json.dumps(trace(reader, example().better.id).ancestors.label)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_old_database_can_be_read_before_it_is_migrated(tmp_path, version, newest):
    """Nothing writes where one only looks: the tables and the trace are there."""
    make_old(tmp_path, version, newest)
    before = (tmp_path / database.FILE).read_bytes()
    with Reader(tmp_path) as reader:
        assert reader.table("SELECT count(*) FROM samples").rows == ((3,),)
        assert trace(reader, example().better.id).ancestors.children
    assert (tmp_path / database.FILE).read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [database.FILE]
