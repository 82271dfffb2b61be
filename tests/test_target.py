"""Rounds with a target: exactly so many accepted samples, or a failure that says why not."""

import asyncio
import json
import signal
import subprocess
import time
from dataclasses import replace

import pytest
import yaml
from fake_endpoint import Status, answer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_loop import FACTORY, endpoint, qa

from factory import reach, session
from factory.afford import Affordable
from factory.cli import main
from factory.errors import EndpointError, TargetMissed
from factory.init import write_template
from factory.loop import run_control, run_round
from factory.models import scripted
from factory.progress import Progress
from factory.session import open_bench, open_domain
from factory.store.queries import Reader
from factory.store.store import Store
from factory.types import Request, digest

QUIET = Progress(bars=False)
STATE = {
    "decisions": "SELECT * EXCLUDE (created_at) FROM decisions ORDER BY ALL",
    "places": "SELECT * FROM round_samples ORDER BY ALL",
    "members": "SELECT * FROM dataset_samples ORDER BY ALL",
    "waves": "SELECT DISTINCT detail FROM stages WHERE stage = 'allocate' ORDER BY ALL",
    "calls": "SELECT id FROM calls WHERE status = 'ok' ORDER BY ALL",
}


class Script:
    """A teacher whose answers are good, malformed or refused, by lot and by what the prompt is about."""

    def __init__(self, good: float = 0.6, failed: float = 0.0, bad: str = "nothing", varied: int = 10**6):
        self.good, self.failed, self.bad, self.varied = good, failed, bad, varied
        self.requests: list[str] = []

    def __call__(self, request: Request) -> str | Exception:
        self.requests.append(request.id)
        lot = int(digest([request.id, "lot"], 8), 16) / 16**8
        if lot < self.failed:
            return EndpointError("no", kind="refused", retryable=False)
        if self.bad in request.messages[-1].content or lot > self.failed + self.good * (1 - self.failed):
            return "not JSON"
        number = int(digest(request.id, 8), 16) % self.varied
        keys = request.schema["properties"]
        return json.dumps({key: f"{key} number {number} of (Rule 1.1)" for key in keys})


@pytest.fixture
def folder(tmp_path):
    write_template(tmp_path / "domain")
    return tmp_path / "domain"


@pytest.fixture
def script(monkeypatch):
    """Names a script in a recipe of the test."""

    def use(script: Script) -> Script:
        monkeypatch.setitem(scripted.SCRIPTS, "mine", script)
        return script

    return use


def write(folder, accepted=40, **more):
    profile = {
        "servers": {"main": {"kind": "scripted", "script": "mine"}},
        "models": {"teacher": {"concurrency": 8, "max_retries": 0}},
        "refiners": [{"name": "form"}, {"name": "exact"}],
        "loop": {"samples_per_round": None, "accepted": accepted, **more.pop("loop", {})},
        **more,
    }
    (folder / "profiles" / "target.yaml").write_text(yaml.safe_dump(profile))


def run(folder, workspace):
    return session.run(folder, "target", workspace, QUIET)


def ask(workspace, sql):
    with Reader(workspace) as reader:
        return reader.select(sql)


def state(workspace):
    return {name: ask(workspace, sql) for name, sql in STATE.items()}


def test_a_round_has_exactly_so_many_accepted_samples_shared_over_slices(folder, tmp_path, script):
    script(Script(0.6))
    write(folder, 41, loop={"rounds": 2})
    run(folder, tmp_path / "w")
    sizes = "SELECT round, num_samples AS n FROM datasets ORDER BY round"
    assert ask(tmp_path / "w", sizes) == [{"round": 1, "n": 41}, {"round": 2, "n": 82}]
    accepted = "SELECT round, count(*) AS n FROM accepted GROUP BY round ORDER BY round"
    assert ask(tmp_path / "w", accepted) == [{"round": 1, "n": 41}, {"round": 2, "n": 41}]
    slices = "SELECT round, slice, count(*) AS n FROM accepted GROUP BY ALL ORDER BY ALL"
    assert [row["n"] for row in ask(tmp_path / "w", slices)] == [21, 20, 21, 20]
    undecided = "SELECT sample_id FROM round_samples EXCEPT SELECT sample_id FROM decisions WHERE final"
    assert ask(tmp_path / "w", undecided) == []
    twice = "SELECT sample_id FROM decisions WHERE final GROUP BY run_id, sample_id HAVING count(*) > 1"
    assert ask(tmp_path / "w", twice) == []


def test_ordinals_are_unique_and_materials_take_their_turns(folder, tmp_path, script):
    script(Script(0.5))
    write(folder, 60, strategies=[{"name": "grounded"}])
    run(folder, tmp_path / "w")
    sql = """SELECT request ->> '$.ordinal' AS ordinal FROM calls
             WHERE coalesce(request ->> '$.instead_of', '') = '' GROUP BY ordinal HAVING count(*) > 1"""
    assert ask(tmp_path / "w", sql) == []
    turns = ask(
        tmp_path / "w",
        """SELECT s.slice, s.attributes ->> 'source_key' AS key, count(*) AS n FROM round_samples
           JOIN samples s ON s.id = sample_id GROUP BY ALL ORDER BY ALL""",
    )
    for slice in ("borrowing", "fees"):
        counts = [row["n"] for row in turns if row["slice"] == slice]
        assert max(counts) - min(counts) <= 1 and len(counts) == (3 if slice == "borrowing" else 2)


def test_what_is_beyond_the_target_is_surplus_and_the_funnel_shows_it(folder, tmp_path, script):
    script(Script(1.0))
    write(folder, 5, loop={"slice_floor": 1.0})
    report = run(folder, tmp_path / "w")
    assert report["num_accepted"] == 5
    surplus = ask(tmp_path / "w", "SELECT * FROM rejected WHERE refiner = 'target'")
    step = report["steps"][-1]
    assert step["refiner"] == "target" and step["num_kept"] == 5 and step["num_dropped"] == len(surplus)
    assert {row["reason"] for row in surplus} <= {"surplus"}


def test_a_strategy_that_yields_nothing_is_given_up_and_the_others_take_over(folder, tmp_path, script):
    made = script(Script(1.0, bad="Write one new question"))  # all that `seeded` asks is malformed
    write(folder, 300)
    run(folder, tmp_path / "w")
    by = ask(tmp_path / "w", "SELECT strategy, count(*) AS n FROM accepted GROUP BY strategy ORDER BY 1")
    assert sum(row["n"] for row in by) == 300
    assert len(made.requests) < 800


def test_a_slice_that_yields_nothing_ends_with_a_failure_that_names_it(folder, tmp_path, script, capsys):
    script(Script(1.0, bad="Rule 2."))
    write(folder, 40, strategies=[{"name": "grounded"}])
    assert main(["run", str(folder), "-p", "target", "-w", str(tmp_path / "w")]) == 1
    told = capsys.readouterr().err
    last = told.strip().splitlines()[-1]
    assert last.startswith("error: loop.accepted: round 1 has 20 of 40 accepted samples")
    assert "fees (20 missing, 64 dropped as " in last
    assert "'grounded' is given up in slice 'fees': the last 64 tasks gave nothing" in told
    assert ask(tmp_path / "w", "SELECT num_samples AS n FROM datasets") == [{"n": 20}]
    assert ask(tmp_path / "w", "SELECT * FROM stages WHERE stage = 'freeze' AND status = 'done'") == []
    again = main(["run", str(folder), "-p", "target", "-w", str(tmp_path / "w")])
    first = "SELECT count(*) AS n FROM calls WHERE coalesce(request ->> '$.instead_of', '') = ''"
    assert again == 1 and ask(tmp_path / "w", first)[0]["n"] <= 120


def test_a_spent_budget_gives_what_there_is_and_raising_it_goes_on_to_the_target(
    folder, tmp_path, script, capsys
):
    made = script(Script(0.6))
    write(folder, 60, budget={"calls": 50})
    words = ["run", str(folder), "-p", "target", "-w", str(tmp_path / "w")]
    assert main(words) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "budget.calls" in last and "of 60 accepted samples" in last
    (short,) = ask(tmp_path / "w", "SELECT num_samples AS n FROM datasets")
    assert 0 < short["n"] < 60 and len(made.requests) <= 50
    undecided = "SELECT sample_id FROM round_samples EXCEPT SELECT sample_id FROM decisions WHERE final"
    assert ask(tmp_path / "w", undecided) == []
    assert main(["export", str(tmp_path / "short"), "-w", str(tmp_path / "w")]) == 0
    assert f"num missing: {60 - short['n']}" in capsys.readouterr().out
    assert f"That is {60 - short['n']} fewer than the recipe asks for" in (
        tmp_path / "short/README.md"
    ).read_text("utf-8")
    write(folder, 60, budget={"calls": 1000})
    assert main(words) == 0
    assert main(["export", str(tmp_path / "whole"), "-w", str(tmp_path / "w")]) == 0
    assert len((tmp_path / "whole/data/train.jsonl").read_text().splitlines()) == 60
    assert len(set(made.requests)) == len(made.requests)


def judge(request: Request) -> str:
    """A teacher and a refiner that keeps every second sample."""
    number, keys = int(digest(request.id, 8), 16), request.schema["properties"]
    if "verdict" in keys:
        scores = {"grounded": 1.0, "form": 1.0}
        return json.dumps({"verdict": "keep" if number % 2 else "drop", "reason": "x", "scores": scores})
    return json.dumps({key: f"{key} number {number} of (Rule 1.1)" for key in keys})


def write_judged(folder, budget):
    models = {"teacher": {"concurrency": 64}, "refiner": {"server": "main", "concurrency": 64}}
    steps = {"refiners": [{"name": "form"}, {"name": "edit"}], "strategies": [{"name": "grounded"}]}
    write(folder, 5000, models=models, budget=budget, **steps)


@pytest.mark.parametrize(("budget", "least"), [({"calls": 200}, 100), ({"tokens": 20_000}, 100)])
def test_the_budget_is_not_spent_on_samples_that_nobody_refines(folder, tmp_path, monkeypatch, budget, least):
    monkeypatch.setitem(scripted.SCRIPTS, "mine", judge)
    write_judged(folder, budget)
    with pytest.raises(TargetMissed, match=f"limit of {next(iter(budget.values())):,} "):
        run(folder, tmp_path / "w")
    calls = ask(tmp_path / "w", "SELECT stage, count(*) AS n FROM calls GROUP BY stage ORDER BY stage")
    assert calls[0]["n"] == calls[1]["n"] >= least


def test_a_call_that_the_budget_refused_takes_along_no_sample_whose_call_is_paid(
    folder, tmp_path, monkeypatch
):
    monkeypatch.setitem(scripted.SCRIPTS, "mine", judge)
    monkeypatch.setattr(reach, "num_affordable", lambda *_: Affordable(120, ""))
    monkeypatch.setattr(reach, "can_overlap", lambda _: False)
    write_judged(folder, {"calls": 200})
    with pytest.raises(TargetMissed, match="limit of 200 calls"):
        run(folder, tmp_path / "w")
    paid = ask(tmp_path / "w", "SELECT count(*) AS n FROM calls WHERE stage = 'refine'")[0]["n"]
    settled = ask(tmp_path / "w", "SELECT count(*) AS n FROM decisions WHERE final")[0]["n"]
    assert settled == paid == 80


def test_kill_9_and_the_same_command_asks_nothing_again_and_comes_to_the_target(folder, tmp_path):
    def reply(request):
        number = request["seed"]
        good = json.loads(qa(request).body["choices"][0]["message"]["content"])
        return Status(**vars(answer("no" if number % 3 == 0 else json.dumps(good), delay_seconds=0.05)))

    with endpoint(reply) as server:
        main_server = {"kind": "endpoint", "base_url": server.base_url}
        model = {"model": "fake", "max_retries": 1, "concurrency": 4}
        write(folder, 40, servers={"main": main_server}, models={"teacher": model})
        words = [*FACTORY, "run", str(folder), "-p", "target", "-w", str(tmp_path / "w")]
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while len(server.requests) < 30 and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        num_before = len(server.requests)
        stored = len(ask(tmp_path / "w", "SELECT id FROM calls WHERE status = 'ok'"))
        assert 0 < stored <= num_before < 80
        done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        needed = len(ask(tmp_path / "w", "SELECT id FROM calls WHERE status = 'ok'"))
        assert len(server.requests) - num_before == needed - stored
        session.run(folder, "target", tmp_path / "whole", QUIET)
    assert state(tmp_path / "w") == state(tmp_path / "whole")
    assert ask(tmp_path / "w", "SELECT num_samples AS n FROM datasets") == [{"n": 40}]


def test_check_forecasts_from_an_assumed_yield_and_says_so(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(scripted.SCRIPTS, "mine", scripted.echo)
    write(folder, 100, strategies=[{"name": "grounded"}], loop={"rounds": 3})
    assert main(["check", str(folder), "-p", "target", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["assumed_yield"] == 0.5
    assert found["plan"][0]["stage"] == "generate" and found["plan"][0]["calls"] == 3 * 200
    assert main(["check", str(folder), "-p", "target"]) == 0
    assert "ASSUMING that 50% of the samples are accepted" in capsys.readouterr().out
    assert main(["check", str(folder)]) == 0
    assert "plan: at most" in capsys.readouterr().out


def test_the_report_compares_the_forecast_with_what_it_took(folder, tmp_path, script, capsys):
    script(Script(0.8))
    price = {"prompt": 1000.0, "completion": 1000.0}
    write(folder, 30, models={"teacher": {"concurrency": 8, "max_retries": 0, "price": price}})
    (aim,) = run(folder, tmp_path / "w")["aims"]
    generated = ask(tmp_path / "w", "SELECT count(*) AS n FROM round_samples")[0]["n"]
    paid = ask(tmp_path / "w", "SELECT sum(attempts)::INT AS n, sum(cost_dollars) AS d FROM calls")[0]
    assert (aim["num_wanted"], aim["num_accepted"], aim["missing"]) == (30, 30, {})
    assert (aim["num_generated"], aim["calls"], aim["dollars"]) == (generated, paid["n"], paid["d"])
    assert aim["assumed_yield"] == 0.5 and aim["forecast_calls"] > aim["calls"]
    capsys.readouterr()
    assert main(["report", "-w", str(tmp_path / "w"), "--html", str(tmp_path / "r.html")]) == 0
    told = capsys.readouterr().out + (tmp_path / "r.html").read_text("utf-8")
    assert "MISSING" not in told and f"{aim['calls']:,} ({aim['forecast_calls']:,})" in told


def test_the_report_says_what_is_missing(folder, tmp_path, script, capsys):
    script(Script(1.0, bad="Rule 2."))
    write(folder, 40, strategies=[{"name": "grounded"}])
    assert main(["run", str(folder), "-p", "target", "-w", str(tmp_path / "w")]) == 1
    capsys.readouterr()
    assert main(["report", "-w", str(tmp_path / "w"), "--html", str(tmp_path / "r.html")]) == 0
    line = "round 1: 20 of 40 accepted samples, MISSING: fees 20; given up: grounded in fees"
    assert main(["report", "-w", str(tmp_path / "w")]) == 0
    assert line in " ".join(capsys.readouterr().out.split())
    assert line in (tmp_path / "r.html").read_text("utf-8")


def test_the_command_line_names_the_target_too(folder, tmp_path):
    done = main(["run", str(folder), "-w", str(tmp_path / "w"), "--accepted", "7"])
    assert done == 0 and ask(tmp_path / "w", "SELECT count(*) AS n FROM accepted") == [{"n": 7}]


def test_the_log_is_json_line_by_line_to_the_error(folder, tmp_path, script, capsys):
    script(Script(1.0, bad="Rule 2."))
    write(folder, 40, strategies=[{"name": "grounded"}])
    words = ["run", str(folder), "-p", "target", "-w", str(tmp_path / "w"), "--log-format", "json"]
    assert main(words) == 1
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    by_event = {line["event"]: line for line in lines}
    stopped = by_event["stopped"]
    assert stopped["stopped_by"] == "TargetMissed" and stopped["accepted"] == stopped["done"] == 20
    assert stopped["total"] == 40 and stopped["made"] >= 84 and stopped["failed"] == {}
    assert {"tokens_per_second", "calls_per_second", "dollars", "seconds_left"} <= stopped.keys()
    assert by_event["error"]["exit_code"] == 1 and "20 of 40" in by_event["error"]["text"]
    assert any("given up" in line.get("text", "") for line in lines)


def test_refused_tasks_are_made_up_for_by_others(folder, tmp_path, script):
    script(Script(0.9, failed=0.15))
    write(folder, 50, loop={"max_failure_share": 0.5})
    assert run(folder, tmp_path / "w")["num_accepted"] == 50


def test_too_many_failures_stop_the_round_and_say_what_they_are(folder, tmp_path, script, capsys):
    script(Script(0.9, failed=0.6))
    write(folder, 50)
    assert main(["run", str(folder), "-p", "target", "-w", str(tmp_path / "w")]) == 1
    assert "tasks failed: refused" in capsys.readouterr().err


def test_a_finished_round_does_nothing_when_repeated(folder, tmp_path, script):
    made = script(Script(0.6))
    write(folder, 20)
    run(folder, tmp_path / "w")
    before, num = state(tmp_path / "w"), len(made.requests)
    run(folder, tmp_path / "w")
    assert state(tmp_path / "w") == before and len(made.requests) == num


@pytest.mark.parametrize("share", [0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_a_run_that_is_cut_off_ends_as_one_that_was_not(folder, tmp_path, script, monkeypatch, share):
    made = script(Script(0.5, failed=0.05, varied=120))
    write(folder, 90, refiners=[{"name": "form"}, {"name": "exact"}, {"name": "near"}])
    num_appends, append = 0, Store.append

    def count(self, table, rows):
        nonlocal num_appends
        num_appends += 1
        append(self, table, rows)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "append", count)
        run(folder, tmp_path / "whole")
    left = int(share * num_appends)

    def append_until(self, table, rows):
        nonlocal left
        left -= 1
        if left < 0:
            raise RuntimeError("cut off")
        append(self, table, rows)

    made.requests.clear()
    with monkeypatch.context() as patch:
        patch.setattr(Store, "append", append_until)
        with pytest.raises(RuntimeError, match="cut off"):
            run(folder, tmp_path / "cut")
    run(folder, tmp_path / "cut")
    assert state(tmp_path / "cut") == state(tmp_path / "whole")


def test_order_of_answers_does_not_matter(folder, tmp_path, script, monkeypatch):
    """The same answers at other times give the same waves, decisions and dataset."""
    script(Script(0.5, varied=150))
    write(folder, 80)
    complete, states = scripted.ScriptedModel.complete, []
    for salt in ("a", "b"):

        async def late(self, request, salt=salt):
            await asyncio.sleep(int(digest([request.id, salt], 4), 16) / 16**4 / 50)
            return await complete(self, request)

        monkeypatch.setattr(scripted.ScriptedModel, "complete", late)
        run(folder, tmp_path / salt)
        states.append(state(tmp_path / salt))
    assert states[0] == states[1]


async def test_a_control_takes_all_that_was_generated(folder, tmp_path, script):
    script(Script(0.6))
    write(folder, 20)
    domain = open_domain(folder, "target")
    loop = domain.recipe.loop.model_copy(update={"controls": {"raw": []}})
    domain = replace(domain, recipe=domain.recipe.model_copy(update={"loop": loop}))
    async with open_bench(domain, tmp_path / "w", QUIET) as bench:
        bench.record_run()
        await run_round(bench, 1)
        await run_control(bench, bench.for_control("raw"))
        rows = bench.store.select("SELECT num_samples AS n FROM datasets ORDER BY n")
        generated = bench.store.select("SELECT count(*) AS n FROM samples")[0]["n"]
    assert [row["n"] for row in rows] == [20, generated] and generated > 20


def test_generate_refines_too_since_it_must_know_what_is_accepted(folder, tmp_path, script):
    script(Script(0.6))
    write(folder, 20)
    found = session.run_until(folder, "target", tmp_path / "w", QUIET, "generate")
    assert found["detail"]["accepted"] == 20 and found["detail"]["missing"] == {}
    assert ask(tmp_path / "w", "SELECT count(*) AS n FROM accepted") == [{"n": 20}]


def test_preview_of_a_recipe_with_a_target_makes_so_many(folder, tmp_path, script):
    script(Script(1.0))
    write(folder, 20)
    assert len(session.preview(folder, "target", 4, QUIET)["samples"]) == 4


async def test_where_servers_take_turns_a_wave_is_generated_before_it_is_refined(
    folder, tmp_path, script, monkeypatch
):
    script(Script(0.6))
    write(folder, 30)
    monkeypatch.setattr("factory.reach.can_overlap", lambda *_: False)
    async with open_bench(open_domain(folder, "target"), tmp_path / "w", QUIET) as bench:
        bench.record_run()
        await run_round(bench, 1)
        rows = bench.store.select("SELECT num_samples AS n FROM datasets")
    assert rows == [{"n": 30}]


def test_a_target_beside_a_number_of_tasks_is_refused(folder, capsys):
    (folder / "profiles" / "both.yaml").write_text("loop: {accepted: 5}")
    assert main(["check", str(folder), "-p", "both"]) == 2
    assert "samples_per_round or accepted, not both" in capsys.readouterr().err


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    good=st.floats(0.0, 1.0),
    failed=st.floats(0.0, 0.3),
    accepted=st.integers(1, 60),
    calls=st.integers(1, 200),
    varied=st.integers(5, 1000),
)
def test_never_success_with_samples_missing(
    folder, tmp_path_factory, monkeypatch, good, failed, accepted, calls, varied
):
    made = Script(good, failed, varied=varied)
    monkeypatch.setitem(scripted.SCRIPTS, "mine", made)
    write(folder, accepted, budget={"calls": calls}, loop={"max_failure_share": 1.0})
    workspace = tmp_path_factory.mktemp("w")
    missed = None
    try:
        run(folder, workspace)
    except Exception as error:
        missed = error
    num = ask(workspace, "SELECT count(*) AS n FROM accepted")[0]["n"]
    assert len(made.requests) <= calls
    assert num <= accepted and (missed is None) == (num == accepted)
    if isinstance(missed, TargetMissed):
        assert missed.num_accepted == num
