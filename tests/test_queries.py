"""Questions from outside: only SELECT, from a file and through a run, safe to print."""

from __future__ import annotations

import io
import json
import os
import re
import socket
import stat
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest
from example_store import call, fill
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from factory.errors import InputError, WorkspaceError
from factory.findings import collect
from factory.printable import printable, printable_line
from factory.store import confined, remote, schema
from factory.store.queries import Reader, check_select, read, render, status, trace
from factory.store.store import Store

VALUES = """SELECT 1.5 AS a, sum(2)::HUGEINT AS b, [1, NULL] AS c, {'x': 'é'} AS d, 'nan'::DOUBLE AS e,
                   TIMESTAMPTZ '2026-01-02 03:04:05+00' AS f, DATE '2026-01-02' AS g, '\\xAB'::BLOB AS h,
                   INTERVAL 2 DAY AS i, NULL AS j, true AS k, MAP {'k': 1} AS l"""


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1",
        "SELECT 1;",
        "-- why\nWITH a AS (SELECT 1) FROM a",
        "EXPLAIN SELECT 1",
        "DESCRIBE SELECT 1",
        "SHOW TABLES",
        "SUMMARIZE SELECT 1",
        "VALUES (1)",
    ],
)
def test_one_question_is_taken(sql):
    check_select(sql)


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("", "not 0"),
        ("-- nothing", "not 0"),
        ("SELECT 1; SELECT 2", "not 2"),
        ("DELETE FROM samples", "DELETE"),
        ("INSERT INTO samples SELECT * FROM samples", "INSERT"),
        ("COPY samples TO 'x'", "COPY"),
        ("ATTACH 'x'", "ATTACH"),
        ("SET threads = 1", "SET"),
        ("BEGIN", "TRANSACTION"),
        ("CALL enable_logging()", "CALL"),
        ("PRAGMA database_list", "PRAGMA"),
        ("PREPARE p AS SELECT 1", "PREPARE"),
        ("SELEC 1", "syntax"),
        ("SELECT '\udcff'", "surrogates"),
    ],
)
def test_anything_else_is_refused(sql, message):
    with pytest.raises(InputError, match=message) as caught:
        check_select(sql)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize(
    "sql",
    ["WITH d AS (DELETE FROM calls RETURNING id) SELECT * FROM d", "EXPLAIN ANALYZE DELETE FROM calls"],
)
def test_a_select_that_would_write_is_refused(tmp_path, sql, held):
    store = Store.open(tmp_path)
    store.append("calls", [call("call_1")])
    store.flush()
    if not held:
        store.close()
    with pytest.raises(InputError, match="read-only"):
        read(tmp_path, sql)
    assert read(tmp_path, "SELECT count(*) FROM calls").rows == ((1,),)
    store.close()


def test_a_file_and_a_run_give_the_same_answer(tmp_path):
    with Store.open(tmp_path):
        held = read(tmp_path, VALUES)
    free = read(tmp_path, VALUES)
    assert repr(held) == repr(free)
    assert held.columns == tuple("abcdefghijkl") and not held.truncated
    numbers_and_text = [1.5, 2, [1, None], {"x": "é"}, float("nan")]
    times_and_rest = [
        "2026-01-02T03:04:05+00:00",
        "2026-01-02",
        "ab",
        "2 days, 0:00:00",
        None,
        True,
        {"k": 1},
    ]
    assert repr(list(held.rows[0])) == repr(numbers_and_text + times_and_rest)


@pytest.mark.parametrize("held", [True, False])
def test_wrong_sql_is_one_clear_line(tmp_path, held):
    store = Store.open(tmp_path)
    if not held:
        store.close()
    with pytest.raises(InputError, match="sampels") as caught:
        read(tmp_path, "SELECT * FROM sampels")
    assert "\n" not in str(caught.value) and "LINE 1" not in str(caught.value)
    with pytest.raises(InputError):
        read(tmp_path, "SELECT * FROM samples WHERE id = ?")
    with pytest.raises(InputError):
        read(tmp_path, "SELECT ?", ["\udcff"])
    store.close()


def test_a_workspace_without_a_database_says_so(tmp_path):
    with pytest.raises(WorkspaceError, match="no such folder"):
        read(tmp_path / "nowhere", "SELECT 1")
    assert not (tmp_path / "nowhere").exists()


def test_too_many_rows_are_cut_and_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(confined, "MAX_ROWS", 2500)
    with Store.open(tmp_path):
        table = read(tmp_path, "SELECT * FROM range(1000000)")
        assert len(table.rows) == 2500 and table.truncated
        table = read(tmp_path, "SELECT * FROM range(2500)")
        assert len(table.rows) == 2500 and not table.truncated


def test_too_much_text_is_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(confined, "MAX_CHARACTERS", 100_000)
    Store.open(tmp_path).close()
    table = read(tmp_path, "SELECT repeat('x', 100) FROM range(100000)")
    assert len(table.rows) == 1000 and table.truncated


def test_a_long_question_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "QUERY_SECONDS", 0.2)
    with Store.open(tmp_path):
        begun = time.monotonic()
        with pytest.raises(InputError, match="interrupted"):
            read(tmp_path, "SELECT count(*) FROM range(1000000000) a, range(1000) b")
        assert time.monotonic() - begun < 5
        assert read(tmp_path, "SELECT 1").rows == ((1,),)


def test_closing_ends_a_question_under_way(tmp_path):
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            remote.ask(tmp_path, "SELECT count(*) FROM range(1000000000) a, range(1000) b")
        except (InputError, ConnectionError) as error:
            errors.append(error)

    store = Store.open(tmp_path)
    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.3)
    begun = time.monotonic()
    store.close()
    thread.join()
    assert errors and time.monotonic() - begun < 5


def test_the_socket_is_private_and_goes_away(tmp_path):
    with Store.open(tmp_path):
        mode = (tmp_path / remote.SOCKET).stat().st_mode
        assert stat.S_ISSOCK(mode) and stat.S_IMODE(mode) == 0o600
        assert remote.is_answered(tmp_path)
    assert not (tmp_path / remote.SOCKET).exists()
    assert not remote.is_answered(tmp_path)


def test_a_stale_socket_is_replaced(tmp_path):
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / remote.SOCKET))
    Store.open(tmp_path).close()
    (tmp_path / remote.SOCKET).write_text("left over")
    with Store.open(tmp_path):
        assert remote.is_answered(tmp_path)


def test_a_path_longer_than_a_socket_address_works(tmp_path):
    workspace = tmp_path / ("long" * 30) / ("path" * 30)
    with Store.open(workspace) as store:
        store.append("calls", [call("call_1")])
        store.flush()
        assert remote.ask(workspace, "SELECT id FROM calls").rows == (("call_1",),)


@pytest.mark.parametrize("line", [b"", b"\n", b"[]\n", b'{"sql": 1}\n', b"\xff\n", b'{"sql": "SELECT 1"}\n'])
def test_nonsense_on_the_socket_is_answered_with_an_error(tmp_path, line):
    with Store.open(tmp_path), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / remote.SOCKET))
        client.sendall(line)
        client.shutdown(socket.SHUT_WR)
        answer = client.makefile().readline()
    assert "JSON" in json.loads(answer)["error"]


def test_many_readers_at_once(tmp_path):
    found = []
    with Store.open(tmp_path) as store:
        fill(store)
        threads = [
            threading.Thread(target=lambda: found.append(read(tmp_path, "SELECT count(*) FROM calls").rows))
            for _ in range(20)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [((4,),)] * 20


def test_status_tells_stage_accepted_and_spend(tmp_path):
    with Store.open(tmp_path) as store:
        fill(store)
        store.append(
            "runs",
            [{"id": "run_b", "recipe": "g", "control": "raw", "digest": "d", "config": {}, "version": "0"}],
        )
        inside = status(store)
        with Reader(tmp_path) as reader:
            through = status(reader)
    with Reader(tmp_path) as reader:
        outside = status(reader)
    assert inside == through == (replace(outside[0], state="started"), outside[1])
    first, second = inside
    assert (first.run_id, first.round, first.stage, first.state) == ("run_a", 1, "refine", "started")
    assert first.accepted == ((1, 1),) and first.since is not None and first.since >= first.started_at
    assert (first.num_calls, first.num_failed, first.tokens, first.dollars) == (4, 1, 55, 2.0)
    assert (first.lost_tokens, first.lost_dollars) == (900, 0.25)
    assert (second.control, second.stage, second.accepted, second.num_calls) == ("raw", None, (), 0)


def make_older(path: Path) -> None:
    """Takes from a database what versions of before did not have: columns of calls, and views."""
    views = Path(schema.__file__).with_name("views.sql").read_text()
    with duckdb.connect(path) as connection:
        for (name,) in connection.execute(
            "SELECT view_name FROM duckdb_views() WHERE NOT internal"
        ).fetchall():
            connection.execute(f"DROP VIEW {name}")
        connection.execute("CREATE TABLE before AS SELECT * EXCLUDE (lost_tokens, lost_dollars) FROM calls")
        connection.execute("DROP TABLE calls; ALTER TABLE before RENAME TO calls")
        connection.execute(re.search(r"CREATE OR REPLACE VIEW spend AS.*?;", views, re.DOTALL)[0])


def test_a_file_of_an_older_version_has_a_status_and_a_report(tmp_path):
    with Store.open(tmp_path) as store:
        fill(store, lost={})
    make_older(store.path)
    with Reader(tmp_path) as reader:
        accepted = reader.select("SELECT count(*) AS n FROM decisions WHERE final AND action = 'keep'")
        assert [sum(num for _, num in run.accepted) for run in status(reader)] == [accepted[0]["n"]]
        assert collect(reader).num_accepted == accepted[0]["n"]
        assert [(run.num_calls, run.lost_tokens, run.lost_dollars) for run in status(reader)] == [(4, 0, 0.0)]
        assert sum(each.lost_tokens for each in collect(reader).spend) == 0


def test_a_run_that_was_killed_is_cut_off(tmp_path):
    script = (
        "import sys, pathlib; from example_store import fill; from factory.store.store import Store\n"
        "with Store.open(pathlib.Path(sys.argv[1])) as store:\n"
        "    fill(store); store.flush(); print('open', flush=True); sys.stdin.read()"
    )
    words = [sys.executable, "-c", script, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    holder = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    try:
        assert holder.stdout.readline() == b"open\n"
        with Reader(tmp_path) as reader:
            assert [run.state for run in status(reader)] == ["started"]
            assert collect(reader).run.state == "round 1, refine: started"
    finally:
        holder.kill()
        holder.communicate()
    with Reader(tmp_path) as reader:
        assert [run.state for run in status(reader)] == ["cut off"]
        assert collect(reader).run.state == "round 1, refine: cut off"
    with Store.open(tmp_path) as store:
        store.append(
            "stages", [{"run_id": "run_a", "round": 1, "stage": "refine", "status": "done", "detail": {}}]
        )
    with Reader(tmp_path) as reader:
        assert [run.state for run in status(reader)] == ["done"]


def test_trace_of_a_sample_shows_where_it_came_from_and_went(tmp_path):
    with Store.open(tmp_path) as store:
        made = fill(store)
        traced = trace(store, made.better.id)
        with Reader(tmp_path) as reader:
            assert trace(reader, made.better.id) == traced
    assert traced.subject.kind == "sample" and "keep citation ok" in traced.subject.label
    call_3, good = traced.ancestors.children
    assert (call_3.id, call_3.kind, good.id, good.relation) == ("call_3", "call", made.good.id, "rewrite_of")
    assert [(child.kind, child.id) for child in good.children] == [
        ("call", "call_1"),
        ("seed", made.seed.id),
        ("source", made.source.id),
    ]
    assert [child.id for child in good.children[0].children] == ["mdl_teacher"]
    (dataset,) = traced.descendants.children
    (model,) = dataset.children
    (evaluation,) = model.children
    assert [dataset.kind, model.kind, evaluation.kind] == ["dataset", "model", "evaluation"]
    assert evaluation.label == "dev, exact 0.750, round 1"


@pytest.mark.parametrize(
    ("thing", "num_up", "num_down"),
    [("call_1", 1, 1), ("dat_1", 1, 1), ("mdl_student", 1, 1), ("evl_1", 1, 0)],
)
def test_everything_can_be_traced(tmp_path, thing, num_up, num_down):
    with Store.open(tmp_path) as store:
        fill(store)
        traced = trace(store, thing)
    assert (len(traced.ancestors.children), len(traced.descendants.children)) == (num_up, num_down)


def test_trace_of_a_source_lists_each_thing_once_and_cuts_what_is_wide(tmp_path):
    with Store.open(tmp_path) as store:
        made = fill(store)
        store.execute_insert(
            "INSERT INTO edges SELECT 'smp_0' || i, ?, 'source' FROM range(100) r(i)", (made.source.id,)
        )
        traced = trace(store, made.source.id)
        text = printed(traced)
    assert len(traced.descendants.children) == 20 and traced.descendants.num_hidden == 82
    assert "smp_00" in text and "and 82 more" in text


def test_an_unknown_id_is_an_input_error(tmp_path):
    with Store.open(tmp_path) as store, pytest.raises(InputError, match=r"nothing has the id '␛\[31m'"):
        trace(store, "\x1b[31m")


def printed(traced) -> str:
    console = Console(file=io.StringIO(), width=300, force_terminal=True, color_system=None)
    console.print(render(traced))
    return console.file.getvalue()


def test_a_rendered_trace_is_plain_text_whatever_models_wrote(tmp_path):
    with Store.open(tmp_path) as store:
        made = fill(store)
        text = printed(trace(store, made.bad.id))
    assert "␛[2J[red]oops<U+202E>" in text
    assert "\x1b" not in text and "\u202e" not in text
    assert "went into nothing" in text and made.source.id in text


@given(st.text(st.characters(exclude_categories=())))
def test_printable_leaves_no_control_character(text):
    shown = printable(text)
    shown.encode()
    assert not [c for c in shown if (ord(c) < 32 and c not in "\n\t") or 0x7F <= ord(c) < 0xA0]
    assert not set(shown) & set(
        "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u2028\u2029"
    )
    assert printable(shown) == shown


@given(st.text(st.characters(exclude_categories=())), st.integers(1, 50))
def test_a_printable_line_fits(text, width):
    line = printable_line(text, width)
    assert len(line) <= width and "\n" not in line


def test_printable_leaves_languages_and_emoji_alone():
    text = "Größe 契約 עברית 👩‍👩‍👧\tтекст\n"
    assert printable(text) == text
    assert printable("\x1b]0;x\x07\r\x9b") == "␛]0;x␇␍<U+009B>"


def test_reading_while_a_run_closes_never_fails(tmp_path):
    """The holder of the file changes between questions; the reader follows."""
    with Store.open(tmp_path) as store:
        reader = Reader(tmp_path)
        assert reader.table("SELECT 1").rows == ((1,),)
        store.append("calls", [call("call_1")])
    assert reader.table("SELECT count(*) FROM calls").rows == ((1,),)
    reader.close()
    with Store.open(Path(tmp_path)):
        assert reader.table("SELECT count(*) FROM calls").rows == ((1,),)


def test_a_question_that_nothing_can_watch_is_not_run(monkeypatch):
    class AtItsLimit(threading.Thread):
        def start(self):
            raise RuntimeError("can't start new thread")

    with duckdb.connect(":memory:") as connection:
        monkeypatch.setattr(confined._Watch, "_thread", None)
        monkeypatch.setattr(confined.threading, "Thread", AtItsLimit)
        with pytest.raises(InputError, match="no memory is left"):
            confined.run(connection.cursor(), "SELECT 1", limits=confined.Limits(seconds=5))
