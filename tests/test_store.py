"""The store keeps what it is given: order, durability, round-trips, one writer, clear refusals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pytest
from example_store import call
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from factory.errors import InputError, WorkspaceError
from factory.store import database, remote, schema
from factory.store.store import Store
from factory.store.text import escape, from_json, quick_json, restore, to_json

any_text = st.text(st.characters(exclude_categories=()), max_size=40)
any_text_and_marks = st.lists(st.sampled_from(["\ufffd", "{", "0000", "}", "\x00", "\ud800", "x"]) | any_text)
any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | any_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory):
    with Store.open(tmp_path_factory.mktemp("shared")) as store:
        yield store


def run_python(code: str, *args: object) -> subprocess.CompletedProcess[str]:
    tests = Path(__file__).parent
    return subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tests)!r})\n{code}", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@given(any_text_and_marks.map("".join))
def test_escaped_text_is_storable_and_comes_back(text):
    stored = escape(text)
    stored.encode()
    assert "\x00" not in stored
    assert restore(stored) == text


@given(any_json)
def test_escaped_json_comes_back(value):
    stored = to_json(value)
    stored.encode()
    assert from_json(stored) == value


@given(any_json)
def test_quick_json_says_the_same(value):
    assume("NaN" not in (text := to_json(value)) and "Infinity" not in text)
    assert from_json(to_json(quick_json(value))) == value


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(any_text, any_json), min_size=1, max_size=5))
def test_what_is_appended_is_selected(shared, values):
    batch = uuid.uuid4().hex
    rows = [call(f"{batch}_{n:02}", response=text, request=[value]) for n, (text, value) in enumerate(values)]
    shared.append("calls", rows)
    found = shared.select(
        "SELECT response, request FROM calls WHERE starts_with(id, ?) ORDER BY id", (batch,)
    )
    assert [(restore(row["response"]), *from_json(row["request"])) for row in found] == values


def test_huge_text_comes_back(tmp_path):
    text = "é\x00" * 500_000 + "x" * 10_000_000
    with Store.open(tmp_path) as store:
        store.append("calls", [call("call_1", response=text)])
    with Store.open(tmp_path) as store:
        found = store.find_call("call_1")
        assert found is not None and found.text == text


def test_times_are_utc_and_default_to_now(tmp_path):
    there = datetime(2026, 5, 1, 12, tzinfo=UTC)
    with Store.open(tmp_path) as store:
        store.append("calls", [call("call_1", created_at=there), call("call_2")])
        first, second = (
            row["created_at"] for row in store.select("SELECT created_at FROM calls ORDER BY id")
        )
    assert first == there and first.utcoffset() == timedelta(0)
    assert abs(second - datetime.now(UTC)) < timedelta(minutes=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"at": 1}, "no column"),
        ({"model_id": None}, "model_id"),
        ({"response": b"x"}, "text expected"),
        ({"round": 2**31}, "32 bits"),
        ({"created_at": datetime(2026, 1, 1)}, "time zone"),
        ({"request": object()}, "JSON"),
        ({"prompt_tokens": 1.5}, "integer"),
    ],
)
def test_a_row_that_does_not_fit_is_refused_where_it_is_appended(shared, changes, message):
    with pytest.raises((ValueError, TypeError), match=message):
        shared.append("calls", [call("call_x", **changes)])
    shared.append("seeds", [{"id": "seed_after", "key": "k", "prompt": "p", "slice": "s"}])
    shared.flush()


def test_a_row_that_is_there_already_changes_nothing(tmp_path):
    first = {"id": "seed_1", "key": "k", "prompt": "first", "slice": "s"}
    with Store.open(tmp_path) as store:
        store.append("seeds", [first, first | {"prompt": "same batch"}])
        store.append("seeds", [first | {"prompt": "same group"}])
        store.flush()
        store.append("seeds", [first | {"prompt": "later"}])
        assert store.select("SELECT prompt FROM seeds") == [{"prompt": "first"}]


def test_stream_yields_all_rows_while_rows_are_appended(tmp_path):
    seeds = [{"id": f"seed_{n}", "key": "k", "prompt": "p", "slice": "s"} for n in range(2500)]
    with Store.open(tmp_path) as store:
        store.append("seeds", seeds)
        found = []
        for row in store.stream("SELECT id FROM seeds WHERE key = ?", ("k",), batch_size=10):
            found.append(row["id"])
            if len(found) == 100:
                store.append("seeds", [seeds[0] | {"id": "seed_new"}])
                store.flush()
        assert sorted(found) == sorted(seed["id"] for seed in seeds)


def test_find_call_sees_queued_stored_and_reopened_answers_only(tmp_path):
    with Store.open(tmp_path) as store:
        assert store.find_call("call_1") is None
        store.append("calls", [call("call_1", status="failed", response=None)])
        assert store.find_call("call_1") is None
        store.append("calls", [call("call_1", response="\ud800 yes", reasoning="\x00")])
        queued = store.find_call("call_1")
        store.flush()
        assert queued == store.find_call("call_1")
    with Store.open(tmp_path) as store:
        found = store.find_call("call_1")
    assert found == queued and found is not None
    assert (found.text, found.reasoning, found.prompt_tokens, found.latency_ms) == (
        "\ud800 yes",
        "\x00",
        10,
        250,
    )
    assert found.call_id == "call_1"


def test_execute_insert_sees_what_was_appended_before(tmp_path):
    with Store.open(tmp_path) as store:
        store.append("seeds", [{"id": "seed_1", "key": "k", "prompt": "p", "slice": "s"}])
        store.execute_insert(
            "INSERT INTO dataset_samples SELECT ?, id, row_number() OVER () - 1 FROM seeds", ("dat_1",)
        )
        assert store.select("SELECT * FROM dataset_samples") == [
            {"dataset_id": "dat_1", "sample_id": "seed_1", "position": 0}
        ]


def test_many_threads_append_and_everything_is_there(tmp_path):
    def work(name: int) -> None:
        for n in range(200):
            store.append("calls", [call(f"call_{name}_{n}")])
        store.flush()

    with Store.open(tmp_path) as store:
        threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (row,) = store.select("SELECT count(DISTINCT id) AS n FROM calls")
    assert row["n"] == 800


WRITE_UNTIL_KILLED = """
from pathlib import Path
from example_store import call
from factory.store.store import Store
store = Store.open(Path(sys.argv[1]))
n = 0
while True:
    for n in range(n, n + 50):
        store.append("calls", [call(f"call_{n}")])
        sample = {"id": f"smp_{n}", "run_id": "r", "round": 1, "strategy": "s", "operation": "o", "slice": "",
                  "question": "", "answer": "", "messages": [], "attributes": {}, "content_hash": ""}
        store.append("samples", [sample])
        store.append("edges", [{"child": f"smp_{n}", "parent": f"call_{n}", "relation": "call"}])
    n += 1
    if n % 200 == 0:
        store.flush()
        print(n, flush=True)
"""


def test_kill_loses_no_flushed_row_and_no_sample_is_without_its_call(tmp_path):
    tests = str(Path(__file__).parent)
    code = f"import sys; sys.path.insert(0, {tests!r})\n{WRITE_UNTIL_KILLED}"
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    flushed = [int(process.stdout.readline()) for _ in range(6)][-1]
    time.sleep(0.03)
    process.send_signal(signal.SIGKILL)
    flushed = int((process.communicate()[0].split() or [flushed])[-1])
    with Store.open(tmp_path) as store:
        (count,) = store.select(
            "SELECT (SELECT count(*) FROM calls) AS calls, count(*) AS samples FROM samples"
        )
        orphans = store.select("SELECT id FROM samples WHERE id NOT IN (SELECT child FROM edges)")
        orphans += store.select("SELECT parent FROM edges WHERE parent NOT IN (SELECT id FROM calls)")
    assert count["samples"] >= flushed
    assert orphans == []


def test_a_second_process_is_refused_and_reads_through_the_first(tmp_path):
    opening = """
from pathlib import Path
from factory.errors import WorkspaceError
from factory.store.store import Store
try:
    Store.open(Path(sys.argv[1]))
except WorkspaceError as error:
    print(error)
    sys.exit(error.exit_code)
"""
    reading = """
from pathlib import Path
from factory.store.queries import read
print(read(Path(sys.argv[1]), "SELECT id, response FROM calls WHERE round = ?", [1]).rows)
"""
    with Store.open(tmp_path) as store:
        store.append("calls", [call("call_1", response="é")])
        store.flush()
        second = run_python(opening, tmp_path)
        reader = run_python(reading, tmp_path)
    assert second.returncode == 2
    assert f"is held by process {os.getpid()}" in second.stdout and second.stdout.count("\n") == 1
    assert reader.stdout == "(('call_1', 'é'),)\n", reader.stderr
    assert not (tmp_path / remote.SOCKET).exists()
    assert run_python(opening, tmp_path).returncode == 0


def test_a_second_store_in_the_same_process_is_refused(tmp_path):
    with Store.open(tmp_path), pytest.raises(WorkspaceError, match="open in this process"):
        Store.open(tmp_path)
    Store.open(tmp_path).close()


def test_an_unfinished_stream_does_not_keep_the_file(tmp_path):
    with Store.open(tmp_path) as store:
        rows = store.stream("SELECT * FROM range(100000)")
        next(rows)
    code = "import duckdb; duckdb.connect(sys.argv[1]).close()"
    assert run_python(code, tmp_path / database.FILE).returncode == 0
    rows.close()


def test_a_reader_does_not_stop_a_run_from_starting(tmp_path):
    Store.open(tmp_path).close()
    code = """
import time
from pathlib import Path
from factory.store.queries import Reader
reader = Reader(Path(sys.argv[1]))
reader.table("SELECT 1")
print("open", flush=True)
time.sleep(0.5)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys\n" + code, tmp_path], stdout=subprocess.PIPE
    )
    assert process.stdout is not None and process.stdout.readline() == b"open\n"
    Store.open(tmp_path).close()
    process.communicate()


def test_a_newer_database_is_refused_with_both_versions(tmp_path):
    Store.open(tmp_path).close()
    with duckdb.connect(tmp_path / database.FILE) as connection:
        connection.execute("INSERT INTO migrations VALUES (99, 'later', now())")
    with pytest.raises(WorkspaceError, match=rf"version 99.*versions up to {len(schema.MIGRATIONS)}"):
        Store.open(tmp_path)
    with pytest.raises(WorkspaceError, match="version 99"):
        database.open_for_reading(tmp_path)


def test_an_older_database_is_copied_then_migrated(tmp_path, monkeypatch):
    def add_colour(connection: duckdb.DuckDBPyConnection) -> None:
        connection.execute("ALTER TABLE seeds ADD COLUMN colour VARCHAR")

    version = len(schema.MIGRATIONS)
    with Store.open(tmp_path) as store:
        store.append("seeds", [{"id": "seed_1", "key": "k", "prompt": "p", "slice": "s"}])
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, add_colour))
    with Store.open(tmp_path) as store:
        assert store.select("SELECT id, colour FROM seeds") == [{"id": "seed_1", "colour": None}]
        names = [row["name"] for row in store.select("SELECT name FROM migrations ORDER BY version")]
    assert (names[0], names[-1], len(names)) == ("create_tables", "add_colour", version + 1)
    with duckdb.connect(tmp_path / f"factory.v{version}.duckdb", read_only=True) as copy:
        assert copy.execute(
            "SELECT max(version), (SELECT count(*) FROM seeds) FROM migrations"
        ).fetchall() == [(version, 1)]


def test_a_migration_that_fails_leaves_the_database_as_it_was(tmp_path, monkeypatch):
    def fail(connection: duckdb.DuckDBPyConnection) -> None:
        connection.execute("DROP TABLE verdicts")
        raise RuntimeError("no")

    Store.open(tmp_path).close()
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, fail))
        with pytest.raises(RuntimeError, match="no"):
            Store.open(tmp_path)
    with Store.open(tmp_path) as store:
        assert store.select("SELECT * FROM verdicts") == []


def test_a_file_of_something_else_is_refused(tmp_path):
    (tmp_path / database.FILE).write_text("no database" * 1000)
    with pytest.raises(WorkspaceError, match="not a valid DuckDB") as caught:
        Store.open(tmp_path)
    assert "\n" not in str(caught.value)
    (tmp_path / database.FILE).unlink()
    with duckdb.connect(tmp_path / database.FILE) as connection:
        connection.execute("CREATE TABLE other (x INTEGER)")
    with pytest.raises(WorkspaceError, match="not a database of the factory"):
        Store.open(tmp_path)


@pytest.mark.parametrize("folder", ["file", "file/below", "/proc/factory"])
def test_a_folder_that_cannot_be_made_is_refused(tmp_path, folder):
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkspaceError) as caught:
        Store.open(tmp_path / folder)
    assert str(tmp_path / folder) in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_that_takes_no_files_is_refused():
    """Root may write anywhere but in /proc."""
    with pytest.raises(WorkspaceError, match="cannot be opened") as caught:
        Store.open(Path("/proc/self"))
    assert "\n" not in str(caught.value)


FULL = """
import resource
from pathlib import Path
from example_store import call
from factory.errors import WorkspaceError
from factory.store.store import Store
store = Store.open(Path(sys.argv[1]))
store.append("calls", [call("call_first")])
store.flush()
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))
def attempt(what):
    try:
        what()
    except WorkspaceError as error:
        print(type(error).__name__, error)
def fill():
    for n in range(5000):
        store.append("calls", [call(f"call_{n}", response="x" * 2000)])
    store.flush()
attempt(fill)
attempt(store.flush)
attempt(lambda: store.append("calls", [call("call_last")]))
attempt(store.close)
"""


def test_a_full_disk_is_told_to_the_caller_and_what_was_flushed_stays(tmp_path):
    result = run_python(FULL, tmp_path)
    lines = result.stdout.splitlines()
    assert result.returncode == 0, result.stderr
    assert len(lines) == 4 and all("WorkspaceError" in line and "cannot be written" in line for line in lines)
    with Store.open(tmp_path) as store:
        assert store.find_call("call_first") is not None


def test_sql_cannot_leave_the_workspace(tmp_path):
    secret = tmp_path / "secret.csv"
    secret.write_text("a,b\n1,2\n")
    local_rows = [1, 2]
    with Store.open(tmp_path) as store:
        for sql in (
            f"SELECT * FROM read_csv('{secret}')",
            f"SELECT * FROM '{secret}'",
            f"SELECT * FROM glob('{tmp_path}/*')",
            f"COPY (SELECT 1) TO '{tmp_path}/out.csv'",
            f"ATTACH '{tmp_path}/other.duckdb'",
            "SET enable_external_access = true",
            "INSTALL httpfs",
            "SELECT * FROM local_rows",
        ):
            with pytest.raises(duckdb.Error):
                store.select(sql)
    assert local_rows and not (tmp_path / "out.csv").exists()


def test_a_closed_store_refuses_rows(tmp_path):
    store = Store.open(tmp_path)
    store.close()
    store.close()
    with pytest.raises(RuntimeError, match="closed"):
        store.append("calls", [call("call_1")])


def test_reading_a_workspace_without_a_database_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="no database"):
        database.open_for_reading(tmp_path)
