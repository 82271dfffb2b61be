"""What a model writes as SQL is executed where it can do no harm, and cannot hold anything up."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from factory.errors import RecipeError
from factory.schemas import read_schemas
from factory.sql_sandbox import SqlSandbox
from factory.sql_worker import MAX_BYTES, MAX_OPEN, MAX_ROWS

SHOP = """
-- What a shop sells.
CREATE TABLE goods (id INTEGER PRIMARY KEY, name VARCHAR, price DECIMAL(8, 2));
CREATE SEQUENCE numbers;
INSERT INTO goods VALUES (1, 'pen; blue', 1.5), (2, 'ink', 4), (3, 'pad', NULL);
CREATE VIEW cheap AS SELECT * FROM goods WHERE price < 3;
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    (folder / "shop.sql").write_text(SHOP)
    (schema,) = read_schemas(["*.sql"], folder)
    return schema


@pytest.fixture(scope="module")
def sandbox():
    return SqlSandbox()


@pytest.mark.parametrize(
    ("sql", "shape"),
    [
        ("SELECT name FROM goods WHERE price > 2", (1, 1)),
        ("select * from cheap;", (1, 3)),
        ("WITH c AS (SELECT * FROM goods) SELECT count(*), 1 FROM c -- ;", (1, 2)),
        ("/* ; */ (SELECT 1 UNION SELECT 2)", (2, 1)),
        ("FROM goods", (3, 3)),
        ("SELECT * FROM goods WHERE false", (0, 3)),
        ("SELECT * FROM range(1000000000000)", (MAX_ROWS, 1)),
        ("SELECT '290000-01-01'::DATE", (0, 0)),  # more than Python's dates hold
        ("SELECT 'é' || chr(0), {'a': [1]}, now()", (1, 3)),
    ],
)
async def test_a_query_has_a_shape(sandbox, shop, sql, shape):
    found = await sandbox.run(shop, sql)
    if shape == (0, 0):
        assert found.fault in {"", "sql_error"}
    else:
        assert (found.fault, found.error, found.num_rows, found.num_columns) == ("", "", *shape)


@pytest.mark.parametrize(
    ("sql", "fault", "error"),
    [
        ("SELECT nam FROM goods", "sql_error", '"name"'),
        ("SELECT * FROM good", "sql_error", "goods"),
        ("SELEC 1", "sql_error", "syntax error"),
        ("What?", "sql_error", "syntax error"),
        ("", "not_select", "one statement expected, not 0"),
        ("SELECT 1; SELECT 2", "not_select", "not 2"),
        ("SELECT 1; DROP TABLE goods", "not_select", "not 2"),
        ("DROP TABLE goods", "not_select", "a SELECT expected"),
        ("INSERT INTO goods VALUES (9, 'x', 1)", "not_select", "a SELECT"),
        ("DESCRIBE goods", "not_select", "a SELECT"),
        ("/* select */ SHOW TABLES", "not_select", "a SELECT"),
        ("EXPLAIN SELECT 1", "not_select", "a SELECT"),
        ("COPY goods TO '/tmp/goods.csv'", "not_select", "a SELECT"),
        ("PRAGMA version", "not_select", "a SELECT"),
        ("SET threads = 8", "not_select", "a SELECT"),
        ("ATTACH '/tmp/x.db'", "not_select", "a SELECT"),
        ("WITH d AS (DELETE FROM goods RETURNING *) SELECT * FROM d", "sql_error", "read-only"),
        ("SELECT nextval('numbers')", "sql_error", "read-only"),
        ("SELECT * FROM read_csv('/etc/passwd')", "sql_error", "disabled by configuration"),
        ("SELECT * FROM '/etc/passwd'", "sql_error", "does not exist"),
        ("SELECT * FROM glob('/*')", "sql_error", "disabled by configuration"),
        ("SELECT * FROM databases", "sql_error", "does not exist"),  # a Python variable there
        ("SELECT getenv('PATH')", "sql_error", "does not exist"),
        ("SELECT length(repeat('x', 4000000000))", "sql_error", "Out of Memory"),
        ("SELECT list(i) FROM range(1000000000) t(i)", "sql_error", "Out of Memory"),
        ("SELECT '\ud800'", "sql_error", "utf-8"),
    ],
)
async def test_what_is_no_query_of_this_schema_is_told(sandbox, shop, sql, fault, error):
    found = await sandbox.run(shop, sql)
    assert found.fault == fault and error.casefold() in found.error.casefold()
    assert "\n" not in found.error and len(found.error) <= 500
    assert (await sandbox.run(shop, "SELECT * FROM goods")).num_rows == 3


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT sum(a.i * b.i) FROM range(10000000) a(i), range(10000000) b(i) WHERE hash(a.i + b.i) = 0",
        "WITH RECURSIVE r AS (SELECT 1 n UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r",
        "SELECT levenshtein(repeat('a', 1000000), repeat('b', 1000000))",  # not to be interrupted by DuckDB
        "SELECT sleep_ms(60000)",
    ],
)
async def test_what_takes_too_long_is_cut_off_while_other_work_goes_on(shop, sql):
    sandbox = SqlSandbox(limit_seconds=0.7)
    assert (await sandbox.run(shop, "SELECT 1")).fault == ""  # started
    num_ticks = 0

    async def tick() -> None:
        nonlocal num_ticks
        while True:
            await asyncio.sleep(0.01)
            num_ticks += 1

    ticking = asyncio.create_task(tick())
    began = time.monotonic()
    found = await sandbox.run(shop, sql)
    seconds = time.monotonic() - began
    ticking.cancel()
    assert (found.fault, found.error) == ("sql_timeout", "no result within 0.7 seconds")
    assert seconds < 2 and num_ticks > 20
    assert (await sandbox.run(shop, "SELECT count(*) FROM goods")).num_rows == 1


async def test_memory_has_a_limit_that_functions_cannot_pass(shop):
    sandbox = SqlSandbox(limit_seconds=20)
    assert (await sandbox.run(shop, "SELECT hash(range(500000000))")).fault == "sql_error"
    worker = psutil.Process(sandbox._worker._process.pid)
    assert worker.memory_info().vms <= MAX_BYTES
    assert worker.environ().keys() <= {"LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LC_CTYPE"}


async def test_a_worker_that_dies_costs_one_query(shop):
    sandbox = SqlSandbox()
    await sandbox.run(shop, "SELECT 1")
    psutil.Process(sandbox._worker._process.pid).kill()
    found = await sandbox.run(shop, "SELECT 1")
    assert found.fault == "sql_crashed"
    assert (await sandbox.run(shop, "SELECT 1")).num_rows == 1


ABANDONED = """
import asyncio, sys
from pathlib import Path
from factory.schemas import read_schemas
from factory.sql_sandbox import SqlSandbox

async def main():
    (schema,) = read_schemas(["*.sql"], Path(sys.argv[1]))
    sandbox = SqlSandbox(limit_seconds=0.5)
    await sandbox.run(schema, "SELECT 1")
    print(sandbox._worker._process.pid, flush=True)
    await sandbox.run(schema, "SELECT sleep_ms(600000)")

asyncio.run(main())
"""


def test_a_worker_whose_factory_was_killed_ends_within_its_query(tmp_path):
    (tmp_path / "a.sql").write_text(SHOP)
    command = [sys.executable, "-c", ABANDONED, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as factory:
        worker = psutil.Process(int(factory.stdout.readline()))
        time.sleep(0.2)
        factory.kill()
    deadline = time.monotonic() + 10
    while worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE


async def test_many_queries_at_once_over_more_schemas_than_stay_open(tmp_path):
    for number in range(MAX_OPEN + 2):
        text = f"CREATE TABLE t AS SELECT * FROM range({number + 1});"
        (tmp_path / f"s{number}.sql").write_text(text)
    schemas = read_schemas(["s*.sql"], tmp_path)
    sandbox = SqlSandbox()
    asked = [sandbox.run(schemas[n % len(schemas)], "SELECT * FROM t") for n in range(60)]
    found = await asyncio.gather(*asked)
    assert [each.num_rows for each in found] == [n % len(schemas) + 1 for n in range(60)]


async def test_the_worker_goes_with_its_sandbox(shop):
    sandbox = SqlSandbox()
    await sandbox.run(shop, "SELECT 1")
    process = psutil.Process(sandbox._worker._process.pid)
    del sandbox
    gc.collect()
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_statements_of_a_file_are_told_apart(shop):
    assert "INSERT" not in shop.ddl and "pen; blue" not in shop.ddl
    assert shop.ddl.index("CREATE TABLE goods") < shop.ddl.index("CREATE VIEW cheap")
    assert "pen; blue" in shop.shown and shop.source.text == SHOP
    assert (shop.source.key, shop.source.slice) == ("schema:shop.sql", "shop")


def test_a_long_insert_is_cut_for_showing(tmp_path):
    rows = ", ".join(f"({n})" for n in range(1000))
    (tmp_path / "a.sql").write_text(f"CREATE TABLE a (n INTEGER);\nINSERT INTO a VALUES {rows};\n")
    (schema,) = read_schemas(["a.sql"], tmp_path)
    assert schema.shown.endswith(" …") and len(schema.shown) < 700 < len(schema.source.text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("CREATE TABEL a (n INTEGER);", "not DDL that DuckDB takes: Parser Error"),
        ("CREATE TABLE a AS FROM read_csv('/etc/passwd');", "disabled by configuration"),
        ("SELECT 1;", "creates no table"),
        ("", "creates no table"),
        ("SET threads = 8; CREATE TABLE a (n INTEGER);", "configuration has been locked"),
    ],
)
def test_a_file_that_is_no_schema_is_told(tmp_path: Path, text, message):
    (tmp_path / "a.sql").write_text(text)
    with pytest.raises(RecipeError, match=message) as caught:
        read_schemas(["a.sql"], tmp_path)
    assert "a.sql" in str(caught.value) and "\n" not in str(caught.value)


def test_files_and_globs(tmp_path: Path):
    (tmp_path / "deep").mkdir()
    for name in ("b.sql", "a.sql", "deep/c.sql"):
        (tmp_path / name).write_text("CREATE TABLE a (n INTEGER);")
    found = read_schemas(["*.sql", "a.sql", str(tmp_path / "deep" / "*.sql")], tmp_path)
    assert [schema.source.path for schema in found] == ["a.sql", "b.sql", "deep/c.sql"]
    with pytest.raises(RecipeError, match=r"no file matches 'x\*\.sql'"):
        read_schemas(["x*.sql"], tmp_path)
