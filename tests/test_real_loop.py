"""A whole real run, by the same command as `make quickstart`: the books must balance."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import psutil
import pytest

pytestmark = [pytest.mark.loop, pytest.mark.vllm, pytest.mark.train, pytest.mark.timeout(1500)]

RECIPE = "recipes/georgia_workers_comp"
ROOT = Path(__file__).parent.parent


def command(workspace: Path) -> list[str]:
    words = ["run", RECIPE, "--profile", "tiny", "--workspace", str(workspace)]
    return [sys.executable, "-m", "factory", *words]


def kill_in_generation(workspace: Path) -> int:
    """Starts the run, kills it with SIGKILL once answers are stored; returns how many are."""
    process = subprocess.Popen(command(workspace), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        done = re.search(r"round 1 generate\D+(\d+)", line)
        if done and int(done[1]) > 20:
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    with duckdb.connect(str(workspace / "factory.duckdb"), read_only=True) as connection:
        rows = connection.sql(
            "SELECT count(*) FROM calls WHERE stage = 'generate' AND status = 'ok'"
        ).fetchall()
    return int(rows[0][0])


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A finished run that was killed once in the middle of generation."""
    folder = tmp_path_factory.mktemp("real") / "workspace"
    before = {process.pid for process in psutil.process_iter()}
    num_stored = kill_in_generation(folder)
    assert num_stored > 0
    time.sleep(15)  # the guard gives the server some seconds to end
    left = [
        process.cmdline()
        for process in psutil.process_iter()
        if process.pid not in before and "vllm" in " ".join(process.cmdline()).lower()
    ]
    assert left == [], "servers survived kill -9"
    done = subprocess.run(
        command(folder), cwd=ROOT, capture_output=True, text=True, timeout=1400, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (folder / "output.txt").write_text(done.stdout + done.stderr)
    return folder


@pytest.fixture
def rows(workspace):
    connection = duckdb.connect(str(workspace / "factory.duckdb"), read_only=True)
    yield lambda sql: connection.sql(sql).fetchall()
    connection.close()


def test_no_stored_call_was_paid_twice(rows):
    assert rows("SELECT id FROM calls WHERE status = 'ok' GROUP BY id HAVING count(*) > 1") == []


def test_every_sample_of_a_run_has_exactly_one_final_decision(rows):
    members = """
        SELECT run_id, sample_id FROM round_samples
        UNION SELECT run_id, rewrite_id FROM decisions WHERE rewrite_id IS NOT NULL"""
    finals = "SELECT run_id, sample_id, count(*) AS n FROM decisions WHERE final GROUP BY ALL"
    joined = f"({members}) LEFT JOIN ({finals}) USING (run_id, sample_id)"
    assert rows(f"SELECT * FROM {joined} WHERE n IS DISTINCT FROM 1") == []
    assert rows(f"SELECT run_id, sample_id FROM ({finals}) EXCEPT ({members})") == []


def test_every_accepted_sample_has_a_path_to_its_origin_and_its_call(rows):
    orphans = """
        WITH RECURSIVE up AS (
            SELECT sample_id AS root, sample_id AS node FROM accepted
            UNION SELECT up.root, e.parent FROM up JOIN edges e ON e.child = up.node)
        SELECT root FROM up GROUP BY root
        HAVING NOT bool_or(node IN (SELECT id FROM seeds UNION SELECT id FROM sources))
            OR NOT bool_or(node IN (SELECT id FROM calls WHERE stage = 'generate' AND status = 'ok'))"""
    assert rows(orphans) == []
    assert rows("SELECT count(*) FROM accepted")[0][0] > 100


def test_every_student_has_a_learning_curve_that_falls(rows):
    curves = """
        SELECT m.name, arg_min(t.loss, t.step), arg_max(t.loss, t.step)
        FROM models m LEFT JOIN training_steps t ON t.model_id = m.id
        WHERE m.dataset_id IS NOT NULL GROUP BY m.id, m.name"""
    assert [name for name, first, last in rows(curves) if last is None or last >= first] == []
    assert rows(curves)


def test_every_call_is_accounted_for(rows):
    unused = """
        SELECT stage, count(*) FROM calls c WHERE status = 'ok'
            AND NOT EXISTS (FROM edges e WHERE e.parent = c.id)
            AND NOT EXISTS (FROM evaluation_items i WHERE i.call_id = c.id)
            AND NOT EXISTS (FROM decisions d WHERE d.evidence->>'call' = c.id)
        GROUP BY stage"""
    # An adapter is proven by asking it and its base for three answers, twice each; no item rests on that.
    num_students = rows("SELECT count(*) FROM models WHERE role = 'student' AND adapter IS NOT NULL")[0][0]
    assert num_students == 3
    assert rows(unused) == [("prove", num_students * 12)]


def test_edges_point_at_things_that_exist(rows):
    known = " UNION ".join(f"SELECT id FROM {table}" for table in ("seeds", "sources", "samples", "calls"))
    assert rows(f"SELECT * FROM edges WHERE parent NOT IN ({known})") == []
    assert rows("SELECT * FROM edges WHERE child NOT IN (SELECT id FROM samples)") == []


def test_the_loop_teaches(rows):
    accuracy = dict(
        rows(
            """SELECT coalesce(r.control, 'round ' || e.round), e.mean
               FROM evaluations e JOIN runs r ON r.id = e.run_id WHERE split = 'test'"""
        )
    )
    assert accuracy["round 0"] <= 0.10
    assert accuracy["raw"] <= 0.80
    # The goal is 90 %, and round 2 not below round 1: benchmarks/loop.py measures it on five seeds. One
    # student differs from the next by some points, also with the processor, and this is one.
    assert accuracy["round 2"] >= 0.88
    assert accuracy["round 2"] >= accuracy["round 1"] - 0.02


def test_a_control_trains_while_round_1_does(rows):
    train = "FROM stages s JOIN runs r ON r.id = s.run_id WHERE stage = 'train'"
    ((began,),) = rows(f"SELECT min(s.created_at) {train} AND control = 'raw' AND status = 'started'")
    ((ended,),) = rows(f"SELECT min(s.created_at) {train} AND control IS NULL AND status = 'done'")
    assert began < ended


def test_the_difference_to_raw_is_significant(workspace):
    done = subprocess.run(
        [sys.executable, "-m", "factory", "report", "--workspace", str(workspace), "--json"],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    comparisons = json.loads(done.stdout)["comparisons"]
    (found,) = [c for c in comparisons if c["against"] == "raw"]
    assert found["p_value"] < 0.01


def test_what_a_user_sees(workspace):
    output = (workspace / "output.txt").read_text()
    for word in (
        "base",
        "raw",
        "round 1",
        "round 2",
        "McNemar",
        "factory sql",
        "factory trace",
        "factory report",
    ):
        assert word in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    "words", [["status"], ["report", "--json"], ["sql", "FROM funnel LIMIT 3"], ["export", "OUT"]]
)
def test_commands_look_inside(workspace, tmp_path, words):
    words = [str(tmp_path / "out") if word == "OUT" else word for word in words]
    done = subprocess.run(
        [sys.executable, "-m", "factory", *words, "--workspace", str(workspace)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_trace_shows_ancestors_and_descendants(workspace, rows):
    sample = rows("SELECT sample_id FROM accepted WHERE operation = 'edit' LIMIT 1")
    done = subprocess.run(
        [sys.executable, "-m", "factory", "trace", sample[0][0], "--workspace", str(workspace), "--json"],
        capture_output=True, text=True, check=False, timeout=60, env={**os.environ, "NO_COLOR": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    text = json.dumps(json.loads(done.stdout))
    assert "src_" in text and "call_" in text and "dat_" in text
