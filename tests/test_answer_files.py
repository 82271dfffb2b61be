"""All rows of an answer: the same from a file and through a run; Parquet, CSV, JSON, whole or not at all."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from example_store import fill

from factory import cli
from factory.errors import InputError
from factory.store import confined, remote
from factory.store.queries import Reader
from factory.store.store import Store

VALUES = """SELECT 1.5 AS a, sum(2)::HUGEINT AS b, [1, NULL] AS c, {'x': 'é'} AS d, 'nan'::DOUBLE AS e,
                   TIMESTAMPTZ '2026-01-02 03:04:05+00' AS f, DATE '2026-01-02' AS g, '\\xAB'::BLOB AS h,
                   NULL AS i, true AS j, MAP {'k': 1} AS k, '{"a": 1}'::JSON AS l"""


def collect(folder: Path, sql: str, params: Any = ()) -> pa.Table:
    with Reader(folder) as reader, reader.stream(sql, params) as (schema, batches):
        return pa.Table.from_batches(batches, schema)


@pytest.fixture(params=["held", "free"])
def folder(request: pytest.FixtureRequest, tmp_path: Path):
    """A workspace that a run holds, and one that none does."""
    store = Store.open(tmp_path)
    fill(store)
    if request.param == "free":
        store.close()
    yield tmp_path
    store.close()


def test_rows_and_types_are_the_same_from_a_file_and_through_a_run(tmp_path):
    with Store.open(tmp_path):
        held = collect(tmp_path, VALUES)
    free = collect(tmp_path, VALUES)
    assert held.schema == free.schema and repr(held.to_pylist()) == repr(free.to_pylist())
    assert held.schema.field("f").type == pa.timestamp("us", tz="UTC")


def test_there_are_more_rows_than_a_table_would_hold(folder, monkeypatch):
    monkeypatch.setattr(confined, "MAX_ROWS", 10)
    found = collect(folder, "SELECT i, repeat('x', 100) AS text FROM range($n::BIGINT) t(i)", {"n": 250_000})
    assert found.num_rows == 250_000
    assert found.column("i")[-1].as_py() == 249_999


def test_parameters_have_places_or_names(folder):
    assert collect(folder, "SELECT ? AS a, ? AS b", [1, "x"]).to_pylist() == [{"a": 1, "b": "x"}]
    assert collect(folder, "SELECT $b AS b, $a AS a", {"a": 1, "b": None}).to_pylist() == [
        {"b": None, "a": 1}
    ]
    with Reader(folder) as reader:
        assert reader.table("SELECT $b, $a", {"a": 1, "b": "x"}).rows == (("x", 1),)


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT * FROM nothing", "nothing"),
        ("DELETE FROM samples", "DELETE"),
        ("WITH d AS (DELETE FROM calls RETURNING id) SELECT * FROM d", "read-only"),
        ("SELECT * FROM read_csv('/etc/passwd')", "disabled"),
        ("SELECT 'x'::INTEGER", "x"),
        ("SELECT ?", "parameter"),
    ],
)
def test_what_is_refused_as_a_table_is_refused_as_a_stream(folder, sql, message):
    with pytest.raises(InputError, match=message) as caught:
        collect(folder, sql)
    assert "\n" not in str(caught.value)
    assert collect(folder, "SELECT count(*) AS n FROM calls").to_pylist() == [{"n": 4}]


def test_an_answer_that_breaks_off_on_its_way_is_no_answer(folder):
    sql = "SELECT CASE WHEN i < 200000 THEN '1' ELSE 'x' END::INTEGER AS n FROM range(200001) t(i)"
    with pytest.raises(InputError):
        collect(folder, sql)


def test_a_stream_through_a_run_has_its_time(tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "QUERY_SECONDS", 0.3)
    with Store.open(tmp_path):
        with pytest.raises(InputError):
            collect(tmp_path, "SELECT sum(a.range + b.range) FROM range(100000000) a, range(1000) b")
        assert collect(tmp_path, "SELECT 1 AS a").num_rows == 1


def test_a_reader_that_leaves_early_does_no_harm(folder):
    with Reader(folder) as reader:
        with reader.stream("SELECT repeat('x', 1000) AS a FROM range(100000)") as (_, batches):
            next(batches)
        assert reader.table("SELECT 1").rows == ((1,),)


def test_closing_ends_a_stream_under_way_and_says_so(tmp_path):
    store = Store.open(tmp_path)
    begun, errors = threading.Event(), []

    def read() -> None:
        try:
            sql = "SELECT repeat('x', 1000) AS a FROM range(100000000)"
            with Reader(tmp_path) as reader, reader.stream(sql) as (_, batches):
                for _batch in batches:
                    begun.set()
        except (InputError, ConnectionError) as error:
            errors.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    assert begun.wait(30)
    store.close()
    thread.join(30)
    assert len(errors) == 1 and "before its last row" in str(errors[0])


def sql(folder: Path, *words: str) -> int:
    return cli.main(["sql", *words, "--workspace", str(folder)])


def test_files_hold_what_was_asked(folder, tmp_path_factory, capsys):
    out = tmp_path_factory.mktemp("out")
    for suffix in ("parquet", "csv", "json"):
        assert sql(folder, VALUES, "--output", str(out / f"a.{suffix}")) == 0
        assert f"wrote 1 rows to {out}/a.{suffix}" in capsys.readouterr().err
    table = pq.read_table(out / "a.parquet")
    assert table.column("b").to_pylist() == [2] and table.column("l").to_pylist() == ['{"a": 1}']
    (row,) = json.loads((out / "a.json").read_text())
    assert (row["a"], row["c"], row["e"], row["h"], row["k"]) == (1.5, [1, None], None, "ab", {"k": 1})
    assert row["f"] == "2026-01-02T03:04:05+00:00" and row["d"] == {"x": "é"}
    with (out / "a.csv").open(newline="") as file:
        head, values = csv.reader(file)
    assert head == list("abcdefghijkl") and values[:4] == ["1.5", "2", "[1, null]", '{"x": "é"}']
    assert sorted(path.name for path in out.iterdir()) == ["a.csv", "a.json", "a.parquet"]


def test_an_answer_without_rows_is_a_file_too(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    for suffix in ("parquet", "csv", "json"):
        assert sql(folder, "SELECT id FROM samples WHERE false", "-o", str(out / f"a.{suffix}")) == 0
    assert pq.read_table(out / "a.parquet").schema.names == ["id"]
    assert json.loads((out / "a.json").read_text()) == []
    assert (out / "a.csv").read_text() == "id\n"


def test_columns_of_one_name_are_told_apart_in_parquet(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "a.parquet"
    assert sql(folder, "SELECT 1 AS id, 2 AS id", "-o", str(out)) == 0
    assert pq.read_table(out).to_pylist() == [{"id": 1, "id_1": 2}]


@pytest.mark.parametrize(
    ("name", "query", "message"),
    [
        ("a.xlsx", "SELECT 1", "suffix must be"),
        ("none/a.csv", "SELECT 1", "cannot be written"),
        ("a.parquet", "SELECT INTERVAL 1 DAY AS i", "cast"),
        ("a.csv", "SELECT CASE WHEN i < 200000 THEN '1' ELSE 'x' END::INTEGER FROM range(200001) t(i)", ""),
    ],
)
def test_a_file_that_cannot_be_whole_is_not_there(folder, tmp_path_factory, capsys, name, query, message):
    out = tmp_path_factory.mktemp("out")
    assert sql(folder, query, "-o", str(out / name)) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert list(out.iterdir()) == []


def test_a_ready_question_is_asked_by_name(folder, capsys, tmp_path):
    assert sql(folder, "--list", "--json") == 0
    listed = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    assert listed["between-rounds"]["parameters"][0] == {
        "name": "before",
        "meaning": "number of the one round",
        "required": True,
    }
    assert sql(folder, "--list") == 0
    assert "trained-only" in capsys.readouterr().out
    assert sql(folder, "funnel", "--param", "run=run_a", "--json") == 0
    assert sum(row["num_final"] for row in json.loads(capsys.readouterr().out)) == 3
    file = tmp_path / "mine.sql"
    file.write_text("SELECT id FROM runs WHERE id = $run")
    assert sql(folder, str(file), "--param", "run=run_a", "--format", "csv") == 0
    assert capsys.readouterr().out == "id\nrun_a\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["between-rounds"], "needs before, after"),
        (["funnel", "--param", "run_a"], "NAME=VALUE"),
        (["funnel", "--param", "rum=a"], "knows no rum"),
        (["funell"], "did you mean 'funnel'"),
        ([], "a query is needed"),
        (["SELECT $a", "--param", "b=1"], "b"),
    ],
)
def test_a_question_that_is_asked_wrongly_is_one_line(folder, words, message, capsys):
    assert sql(folder, *words) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_run_that_was_asked_something_ends_without_a_word(tmp_path):
    """A connection that anything still holds at the end of the process is told by DuckDB's bindings."""
    code = f"""
import sys
from pathlib import Path
from factory import cli
from factory.store.queries import read
from factory.store.store import Store
with Store.open(Path({str(tmp_path)!r})):
    print(read(Path({str(tmp_path)!r}), "SELECT 1").rows)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "((1,),)", "")
