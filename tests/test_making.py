"""Samples are generated and refined at the same time, and come out as if one had followed the other."""

import asyncio
import json
from dataclasses import replace

import pytest
import yaml

from factory import session
from factory.errors import EndpointError, FactoryError
from factory.freeze import freeze
from factory.init import write_template
from factory.load import load_recipe
from factory.loop import run_round
from factory.making import can_overlap, generate, generate_and_refine, refine, run_beside, run_together
from factory.models import scripted
from factory.progress import Progress
from factory.session import open_bench, open_domain
from factory.store.queries import Reader
from factory.types import digest

QUIET = Progress(bars=False)
STATE = {
    "decisions": "SELECT * EXCLUDE (created_at) FROM decisions ORDER BY ALL",
    "places": "SELECT * FROM round_samples ORDER BY ALL",
    "members": "SELECT * FROM dataset_samples ORDER BY ALL",
}


@pytest.fixture
def folder(tmp_path):
    write_template(tmp_path / "domain")
    profile = {
        "servers": {"main": {"kind": "scripted", "script": "mine"}},
        "models": {"teacher": {"concurrency": 8, "max_retries": 0}, "refiner": {"server": "main"}},
        "refiners": [{"name": "form"}, {"name": "exact"}, {"name": "near"}, {"name": "edit"}],
        "loop": {"samples_per_round": 400, "max_failure_share": 1.0},
    }
    (tmp_path / "domain" / "profiles" / "test.yaml").write_text(yaml.safe_dump(profile))
    return tmp_path / "domain"


def reply(request):
    """Questions that come again, answers that are rewritten into equal ones, and some that are no JSON."""
    number, keys = int(digest(request.id, 8), 16), request.schema["properties"]
    if "verdict" in keys:
        scores = {"grounded": 1.0, "form": 1.0}
        verdicts = (
            {"verdict": "keep", "reason": "ok", "scores": scores},
            {
                "verdict": "rewrite",
                "rewrite": f"{number % 3} days (Rule 1.1)",
                "reason": "x",
                "scores": scores,
            },
        )
        return json.dumps(verdicts[number % 2])
    if number % 9 == 0:
        return "no JSON"
    return json.dumps({key: f"{key} {number % 70} days (Rule 1.{1 + number % 3})" for key in keys})


@pytest.fixture
def script(monkeypatch):
    monkeypatch.setitem(scripted.SCRIPTS, "mine", reply)


def state(workspace):
    with Reader(workspace) as reader:
        return {name: reader.select(sql) for name, sql in STATE.items()}


async def one_after_the_other(folder, workspace):
    async with open_bench(open_domain(folder, "test"), workspace, QUIET) as bench:
        bench.record_run()
        await generate(bench, 1)
        await refine(bench, 1)
        await freeze(bench, 1)


async def test_the_outcome_is_that_of_one_after_the_other(folder, tmp_path, script):
    await one_after_the_other(folder, tmp_path / "apart")
    async with open_bench(open_domain(folder, "test"), tmp_path / "both", QUIET) as bench:
        bench.record_run()
        await run_round(bench, 1)
        first = bench.store.select("SELECT min(created_at) AS at FROM decisions")[0]["at"]
        last = bench.store.select("SELECT max(created_at) AS at FROM calls WHERE stage = 'generate'")
        assert first < last[0]["at"], "nothing was refined while others were generated"
    assert state(tmp_path / "both") == state(tmp_path / "apart")


def test_tasks_that_failed_for_a_while_are_made_later_with_the_same_outcome(
    folder, tmp_path, script, monkeypatch
):
    asyncio.run(one_after_the_other(folder, tmp_path / "apart"))
    down = {"on": True}

    def sometimes_down(request):
        number = int(digest(request.id, 8), 16)
        if down["on"] and number % 17 == 0 and "verdict" not in request.schema["properties"]:
            return EndpointError("no", kind="timeout")
        return reply(request)

    monkeypatch.setitem(scripted.SCRIPTS, "mine", sometimes_down)
    with pytest.raises(FactoryError, match="could not be generated"):
        session.run_until(folder, "test", tmp_path / "both", QUIET, "refine")
    events = (
        "SELECT DISTINCT stage, detail ->> 'error' AS error FROM stages WHERE status = 'failed' ORDER BY 1"
    )
    with Reader(tmp_path / "both") as reader:
        told = reader.select(events)
    assert [row["stage"] for row in told] == ["generate", "refine"]
    assert all("could not be generated" in row["error"] for row in told)
    down["on"] = False
    session.run(folder, "test", tmp_path / "both", QUIET)
    assert state(tmp_path / "both") == state(tmp_path / "apart")


async def test_a_refiner_that_fails_ends_generation_too(folder, tmp_path, monkeypatch):
    made = []

    def refuses_to_refine(request):
        if "verdict" in request.schema["properties"]:
            return EndpointError("down", kind="unreachable")
        made.append(request.id)
        return reply(request)

    monkeypatch.setitem(scripted.SCRIPTS, "mine", refuses_to_refine)
    async with open_bench(open_domain(folder, "test"), tmp_path / "w", QUIET) as bench:
        bench.engine.backoff_seconds = 0.0
        bench.record_run()
        with pytest.raises(EndpointError, match="down"):
            await generate_and_refine(bench, 1)
    assert 0 < len(made) < 500


async def test_no_strategy_waits_for_the_last_answers_of_another(folder, tmp_path, script, monkeypatch):
    seeded, complete = asyncio.Event(), scripted.ScriptedModel.complete

    async def held(self, request):
        if "new question" in request.messages[-1].content:
            seeded.set()
        await asyncio.wait_for(seeded.wait(), 10)
        return await complete(self, request)

    monkeypatch.setattr(scripted.ScriptedModel, "complete", held)
    domain = open_domain(folder, "test")
    loop = domain.recipe.loop.model_copy(update={"samples_per_round": 8})
    domain = replace(domain, recipe=domain.recipe.model_copy(update={"loop": loop}))
    async with open_bench(domain, tmp_path / "w", QUIET) as bench:
        bench.record_run()
        await generate(bench, 1)
        assert bench.store.select("SELECT count(*) AS n FROM round_samples") == [{"n": 8}]


VLLM = {"kind": "vllm", "model": "m"}
SERVERS = {
    "one server": ({"a": VLLM}, "a", True),
    "two on a GPU": ({"a": VLLM, "b": VLLM}, "b", False),
    "one on the CPU": ({"a": VLLM, "b": {**VLLM, "device": "cpu"}}, "b", True),
    "an endpoint": ({"a": VLLM, "b": {"kind": "endpoint", "base_url": "http://127.0.0.1:1/v1"}}, "b", True),
}


@pytest.mark.parametrize("name", SERVERS)
def test_servers_that_take_turns_on_a_gpu_do_not_answer_at_once(folder, name):
    servers, refiner, can = SERVERS[name]
    profile = {
        "servers": {"main": {"kind": "scripted"}, **servers},
        "models": {"teacher": {"server": "a", "model": "m"}, "refiner": {"server": refiner, "model": "m"}},
        "refiners": [{"name": "form"}, {"name": "edit"}],
    }
    (folder / "profiles" / "two.yaml").write_text(yaml.safe_dump(profile))
    recipe, _ = load_recipe(folder, "two")
    assert can_overlap(recipe) is can
    assert can_overlap(recipe.model_copy(update={"refiners": recipe.refiners[:1]}))


async def test_what_runs_together_ends_together():
    stopped = []

    async def fails():
        await asyncio.sleep(0.01)
        raise ValueError("broken")

    async def goes_on():
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError as error:
            stopped.append(str(error))
            raise

    with pytest.raises(ValueError, match="broken"):
        await run_together(goes_on(), fails())
    assert stopped == ["stopped by ValueError: broken"]


async def work(name, seen, num_turns, error=None):
    try:
        for _ in range(num_turns):
            await asyncio.sleep(0)
        if error:
            raise error
        seen.append(name)
    except asyncio.CancelledError as stopped:
        seen.append(f"{name} {stopped}".strip())
        raise


async def test_what_runs_beside_is_stopped_with_the_main_work_but_does_not_stop_it():
    seen = []
    await run_beside(work("main", seen, 3), work("other", seen, 9))
    assert seen == ["main", "other"]

    seen.clear()
    with pytest.raises(FactoryError, match="other failed"):
        await run_beside(work("main", seen, 9), work("other", seen, 3, FactoryError("other failed")))
    assert seen == ["main"]

    seen.clear()
    with pytest.raises(FactoryError, match="main failed"):
        await run_beside(work("main", seen, 3, FactoryError("main failed")), work("other", seen, 9))
    assert seen == ["other stopped by FactoryError: main failed"]

    seen.clear()
    both = asyncio.create_task(run_beside(work("main", seen, 10**9), work("other", seen, 10**9)))
    await asyncio.sleep(0.001)
    both.cancel()
    with pytest.raises(asyncio.CancelledError):
        await both
    assert sorted(seen) == ["main", "other"]
