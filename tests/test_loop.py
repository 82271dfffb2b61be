"""The loop with a scripted model: stages, resuming, kill -9, endpoints that misbehave."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest
import yaml
from fake_endpoint import Drop, FakeEndpoint, Hang, Status, answer

from factory.init import write_template
from factory.loop import can_run_beside
from factory.progress import Progress
from factory.recipe import BudgetSpec, DomainSpec, GoldSpec, LoopSpec, Recipe, StrategySpec
from factory.servers import VllmServer
from factory.session import open_bench, open_domain

FACTORY = [sys.executable, "-m", "factory"]


@pytest.fixture
def recipe(tmp_path):
    folder = tmp_path / "domain"
    write_template(folder)
    return folder


@contextmanager
def endpoint(answers):
    """A FakeEndpoint on a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(FakeEndpoint(answers).__aenter__(), loop).result()
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(server.__aexit__(None, None, None), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


def point_at(recipe: Path, base_url: str, **model: object) -> None:
    """A profile `test` whose teacher answers at `base_url`."""
    profile = {
        "servers": {"main": {"kind": "endpoint", "base_url": base_url}},
        "models": {"teacher": {"model": "fake", "max_retries": 1, "timeout_seconds": 2.0, **model}},
    }
    (recipe / "profiles" / "test.yaml").write_text(yaml.safe_dump(profile))


def run(recipe: Path, workspace: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [*FACTORY, "run", str(recipe), "--workspace", str(workspace), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def sql(workspace: Path, query: str) -> list[tuple]:
    with duckdb.connect(str(workspace / "factory.duckdb"), read_only=True) as connection:
        return connection.sql(query).fetchall()


def qa(request: dict) -> Status:
    """A good answer to any request of a generator: unique by the request's seed."""
    keys = request["response_format"]["json_schema"]["schema"]["properties"]
    return answer(json.dumps({key: f"{key} {request['seed']} of (Rule 1.1)" for key in keys}))


def test_dry_run_settles_every_sample_and_says_that_it_is_one(recipe, tmp_path):
    workspace = tmp_path / "w"
    done = run(recipe, workspace)
    assert done.returncode == 0, done.stderr
    assert "dry run" in (done.stdout + done.stderr).lower()
    assert sql(workspace, "SELECT count(*) FROM round_samples") == [(24,)]
    finals = "SELECT sample_id FROM decisions WHERE final GROUP BY run_id, sample_id HAVING count(*) <> 1"
    assert sql(workspace, finals) == []
    undecided = "SELECT sample_id FROM round_samples EXCEPT SELECT sample_id FROM decisions WHERE final"
    assert sql(workspace, undecided) == []


def test_a_finished_run_does_nothing_when_repeated(recipe, tmp_path):
    workspace = tmp_path / "w"
    assert run(recipe, workspace).returncode == 0
    counts = (
        "SELECT (SELECT count(*) FROM calls), (SELECT count(*) FROM decisions), (SELECT count(*) FROM stages)"
    )
    before = sql(workspace, counts)
    assert run(recipe, workspace).returncode == 0
    assert sql(workspace, counts) == before


def test_kill_9_in_generation_then_no_stored_call_is_made_again(recipe, tmp_path):
    workspace = tmp_path / "w"
    with endpoint(lambda request: Status(**{**vars(qa(request)), "delay_seconds": 0.3})) as server:
        point_at(recipe, server.base_url, concurrency=2)
        command = [*FACTORY, "run", str(recipe), "--profile", "test", "--workspace", str(workspace)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while len(server.requests) < 10 and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        made_before = len(server.requests)
        stored = sql(workspace, "SELECT id FROM calls WHERE status = 'ok'")
        assert 0 < len(stored) < 24
        done = run(recipe, workspace, "--profile", "test")
        assert done.returncode == 0, done.stderr
        made_after = len(server.requests) - made_before
    (needed,) = sql(workspace, "SELECT count(*) FROM calls WHERE status = 'ok'")[0:1]
    assert made_after == needed[0] - len(stored)
    assert sql(workspace, "SELECT id FROM calls WHERE status = 'ok' GROUP BY id HAVING count(*) > 1") == []


@pytest.mark.parametrize(
    ("reply", "word"),
    [
        (Status(401, {"error": {"message": "no"}}), "unauthorized"),
        (Status(200, "<html>not json</html>"), "malformed"),
        (Status(500, "oops"), "server_error"),
        (Hang(), "timeout"),
        (Drop(), "unreachable"),
    ],
)
def test_a_bad_endpoint_fails_with_one_line_and_goes_on_later(recipe, tmp_path, reply, word):
    workspace = tmp_path / "w"
    bad = {"on": False}
    with endpoint(lambda request: reply if bad["on"] else qa(request)) as server:
        point_at(recipe, server.base_url, concurrency=4)
        bad["on"] = True
        failed = run(recipe, workspace, "--profile", "test")
        assert failed.returncode == 1, failed.stdout + failed.stderr
        last = failed.stderr.strip().splitlines()[-1]
        assert last.startswith("error: ") and word in last
        assert "Traceback" not in failed.stderr
        bad["on"] = False
        assert run(recipe, workspace, "--profile", "test").returncode == 0
    assert sql(workspace, "SELECT count(*) FROM round_samples") == [(24,)]


def test_a_prompt_that_the_endpoint_never_answers_well_does_not_stop_the_run(recipe, tmp_path):
    workspace = tmp_path / "w"

    def filtered(request: dict) -> Status:
        blocked = "Rule 1.3" in json.dumps(request["messages"])
        return Status(200, {"choices": []}) if blocked else qa(request)

    with endpoint(filtered) as server:
        point_at(recipe, server.base_url, concurrency=4)
        done = run(recipe, workspace, "--profile", "test")
    assert done.returncode == 0, done.stderr
    (lost,) = sql(workspace, "SELECT count(*) FROM calls WHERE error = 'malformed'")
    assert 0 < lost[0] < 24
    assert sql(workspace, "SELECT count(*) FROM round_samples") == [(24 - lost[0],)]


def test_an_endpoint_that_is_down_fails_with_exit_code_1(recipe, tmp_path):
    point_at(recipe, "http://127.0.0.1:9/v1")
    failed = run(recipe, tmp_path / "w", "--profile", "test")
    assert failed.returncode == 1
    assert "unreachable" in failed.stderr.strip().splitlines()[-1]


def test_a_second_run_in_the_same_workspace_is_refused(recipe, tmp_path):
    workspace = tmp_path / "w"
    with endpoint(lambda request: Status(**{**vars(qa(request)), "delay_seconds": 0.5})) as server:
        point_at(recipe, server.base_url, concurrency=1)
        command = [*FACTORY, "run", str(recipe), "--profile", "test", "--workspace", str(workspace)]
        first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not server.requests:
            time.sleep(0.02)
        second = run(recipe, workspace, "--profile", "test")
        looking = subprocess.run(
            [*FACTORY, "sql", "SELECT count(*) AS n FROM calls", "--workspace", str(workspace), "--json"],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        first.kill()
        first.wait()
    assert second.returncode == 2
    assert "held by" in second.stderr and str(first.pid) in second.stderr
    assert looking.returncode == 0, looking.stderr


def test_more_rounds_or_budget_continue_the_same_run(recipe):
    domain = open_domain(recipe, None).recipe
    more = domain.model_copy(
        update={
            "loop": domain.loop.model_copy(update={"rounds": 7}),
            "budget": domain.budget.model_copy(update={"calls": 5}),
        }
    )
    other = domain.model_copy(update={"seed": 5})
    assert more.run_digest() == domain.run_digest() != other.run_digest()
    assert more.digest() != domain.digest()


async def test_a_control_uses_the_stored_teacher_calls(recipe, tmp_path):
    domain = open_domain(recipe, None)
    async with open_bench(domain, tmp_path / "w", Progress(bars=False)) as bench:
        from factory.loop import run_control, run_round

        bench.record_run()
        await run_round(bench, 1)
        calls = bench.store.select("SELECT count(*) AS n FROM calls")[0]["n"]
        loop = domain.recipe.loop.model_copy(update={"controls": {"raw": []}})
        bench.domain.recipe.__dict__["loop"] = loop
        await run_control(bench, bench.for_control("raw"))
        assert bench.store.select("SELECT count(*) AS n FROM calls")[0]["n"] == calls
        rows = bench.store.select("SELECT run_id, num_samples FROM datasets ORDER BY run_id")
        assert [row["run_id"] for row in rows] == [bench.run_id, f"{bench.run_id}_raw"]
        assert rows[1]["num_samples"] == 24
        reasons = bench.store.select("SELECT DISTINCT reason FROM decisions WHERE ends_with(run_id, '_raw')")
        assert reasons == [{"reason": "unchecked"}]


def test_preview_leaves_nothing_behind(recipe, tmp_path):
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    (tmp_path / "tmp").mkdir()
    done = subprocess.run(
        [*FACTORY, "preview", str(recipe), "--count", "3", "--json"],
        capture_output=True, text=True, timeout=60, check=False, env=environment, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["samples"]) == 3
    assert list((tmp_path / "tmp").iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["domain", "tmp"]


@pytest.mark.parametrize(
    ("device", "budget", "while_training", "beside"),
    [
        ("cpu", {}, "auto", True),
        ("cpu", {"calls": 9}, "auto", False),
        ("cpu", {}, "stop", False),
        ("cuda", {}, "auto", False),
    ],
)
def test_controls_run_beside_rounds_where_these_lack_nothing_for_it(device, budget, while_training, beside):
    recipe = Recipe(
        name="small",
        domain=DomainSpec(title="Small law"),
        servers={"main": VllmServer(kind="vllm", model="m", device=device)},
        gold=GoldSpec(dev="dev.jsonl", test="test.jsonl"),
        models={},
        strategies=[StrategySpec(name="seeded")],
        loop=LoopSpec(while_training=while_training),
        budget=BudgetSpec(**budget),
    )
    assert can_run_beside(recipe) is beside
