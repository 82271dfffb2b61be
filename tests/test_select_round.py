"""Rounds that accept more than they want and choose: what the dataset holds, and what the store says."""

import json
from collections import Counter
from dataclasses import replace

import pytest
from fake_endpoint import FakeEndpoint, Status
from test_target import QUIET, Script, ask, run, state, write

from factory import session
from factory.bench import what_refiners_rest_on
from factory.candidates import select
from factory.cli import main
from factory.embedding.bundled import bundled
from factory.errors import RecipeError, TargetMissed
from factory.freeze import freeze
from factory.init import write_template
from factory.load import load_recipe
from factory.loop import run_control, run_loop, run_round
from factory.models import scripted
from factory.recipe import Recipe
from factory.session import open_bench, open_domain
from factory.store.queries import status
from factory.store.rows import decision_rows, sample_rows
from factory.store.store import Store
from factory.types import Decision, Message, Parent, Sample

SELECTION = {"name": "diverse", "candidates": 2.0}
SELECTIONS = "SELECT * FROM selections ORDER BY ALL"
MEMBERS = """SELECT d.round, m.sample_id, m.position, s.slice FROM datasets d
             JOIN dataset_samples m ON m.dataset_id = d.id JOIN samples s ON s.id = m.sample_id
             ORDER BY d.round, m.position"""
NOTHING_FALLS = {"max_distinct2_drop": 1.0, "max_gzip_ratio": 10.0}


@pytest.fixture
def folder(tmp_path):
    write_template(tmp_path / "domain")
    return tmp_path / "domain"


@pytest.fixture
def script(monkeypatch):
    """Names a script in a recipe of the test."""
    return lambda script: monkeypatch.setitem(scripted.SCRIPTS, "mine", script)


def choosing(folder, accepted=20, rounds=1, selection=SELECTION, **more):
    loop = {"rounds": rounds, "selection": selection}
    write(folder, accepted, loop=loop, guard=NOTHING_FALLS, **more)


def members(workspace, number):
    return [row["sample_id"] for row in ask(workspace, MEMBERS) if row["round"] == number]


def test_two_rounds_hold_exactly_what_is_wanted_and_the_first_one_stays(folder, tmp_path, script):
    script(Script(0.7))
    choosing(folder, 21, rounds=2)
    report = run(folder, tmp_path / "w")
    first, second = (members(tmp_path / "w", number) for number in (1, 2))
    assert len(first) == 21 and len(second) == 42 and second[:21] == first
    slices = Counter(row["slice"] for row in ask(tmp_path / "w", MEMBERS) if row["round"] == 1)
    assert sorted(slices.values()) == [10, 11]
    candidates = ask(tmp_path / "w", "SELECT round, count(*) AS n FROM selections x JOIN datasets d ON "
                     "d.id = x.dataset_id GROUP BY round ORDER BY round")  # fmt: skip
    assert candidates == [{"round": 1, "n": 42}, {"round": 2, "n": 42}]
    assert report["num_accepted"] == 42 and [aim["num_accepted"] for aim in report["aims"]] == [21, 21]
    assert [aim["num_wanted"] for aim in report["aims"]] == [21, 21]


def test_the_funnel_adds_up_and_every_view_tells_the_same(folder, tmp_path, script):
    script(Script(0.7))
    choosing(folder, 20, rounds=2)
    report = run(folder, tmp_path / "w")
    generated = ask(tmp_path / "w", "SELECT count(DISTINCT sample_id) AS n FROM round_samples")[0]["n"]
    final = ask(tmp_path / "w", "SELECT action, sum(num_final)::INT AS n FROM funnel GROUP BY action")
    counts = {row["action"]: row["n"] for row in final}
    assert counts["keep"] == 40 and sum(counts.values()) == generated
    step = """SELECT refiner, action, sum(num_samples)::INT AS n FROM funnel
              WHERE step = 3 GROUP BY ALL ORDER BY ALL"""
    assert ask(tmp_path / "w", step) == [
        {"refiner": "selection", "action": "drop", "n": 40},
        {"refiner": "selection", "action": "keep", "n": 40},
    ]
    accepted = ask(tmp_path / "w", "SELECT sample_id FROM accepted ORDER BY sample_id")
    assert [row["sample_id"] for row in accepted] == sorted(members(tmp_path / "w", 2))
    rejected = ask(tmp_path / "w", "SELECT reason FROM rejected WHERE refiner = 'selection'")
    assert len(rejected) == 40 and {row["reason"] for row in rejected} <= {"near_chosen", "outscored"}
    twice = "SELECT sample_id FROM outcomes WHERE final GROUP BY run_id, sample_id HAVING count(*) > 1"
    assert ask(tmp_path / "w", twice) == []
    last = report["steps"][-1]
    assert (last["refiner"], last["num_in"], last["num_kept"], last["num_left"]) == ("selection", 80, 40, 40)
    assert report["num_undecided"] == 0 and sum(each["num_accepted"] for each in report["slice_rounds"]) == 40
    with Store.open(tmp_path / "w") as store:
        assert status(store)[0].accepted == ((1, 20), (2, 20))


def test_each_choice_has_its_evidence_and_trace_names_it(folder, tmp_path, script, capsys):
    script(Script(1.0))
    choosing(folder, 10)
    run(folder, tmp_path / "w")
    chosen = set(members(tmp_path / "w", 1))
    for row in ask(tmp_path / "w", SELECTIONS):
        evidence = json.loads(row["evidence"])
        assert evidence["score"] == pytest.approx(evidence["quality"] * evidence["difficulty"], abs=0.02)
        assert row["chosen"] == (row["sample_id"] in chosen) == (row["reason"] == "chosen")
        if row["reason"] == "near_chosen":
            assert evidence["of"] in chosen and 0 < evidence["cosine"] <= 1
    left_out = ask(tmp_path / "w", "SELECT sample_id, reason FROM selections WHERE NOT chosen LIMIT 1")[0]
    capsys.readouterr()
    assert main(["trace", left_out["sample_id"], "-w", str(tmp_path / "w")]) == 0
    assert f"drop selection {left_out['reason']}" in " ".join(capsys.readouterr().out.split())


def test_more_is_chosen_of_what_the_refiner_holds_to_be_good(folder, tmp_path, monkeypatch):
    def reply(request):
        keys = request.schema["properties"]
        number = int(request.id[-6:], 16)
        if "verdict" in keys:
            good = float("good" in request.messages[-1].content)
            return json.dumps({"verdict": "keep", "reason": "ok", "scores": {"grounded": good, "form": good}})
        word = "good" if number % 2 else "poor"
        return json.dumps({key: f"{word} {key} {number} of (Rule 1.1)" for key in keys})

    monkeypatch.setitem(scripted.SCRIPTS, "mine", reply)
    models = {"teacher": {"concurrency": 8}, "refiner": {"server": "main"}}
    steps = [{"name": "form"}, {"name": "edit"}]
    choosing(folder, 20, models=models, refiners=steps, selection={**SELECTION, "candidates": 3.0})
    run(folder, tmp_path / "w")
    sql = "SELECT chosen, count(*) FILTER (s.answer LIKE 'good%') / count(*) AS n FROM selections x " \
          "JOIN samples s ON s.id = x.sample_id GROUP BY chosen ORDER BY chosen"  # fmt: skip
    left_out, chosen = (row["n"] for row in ask(tmp_path / "w", sql))
    assert chosen > 0.9 and left_out < 0.5


def accept(bench, number, texts, scores=(), **attributes):
    """Puts samples into a round as its last step would, with scores: place, metric, value, scorer."""
    samples = [
        Sample.create(
            [Message("user", f"What of {text}?"), Message("assistant", text)],
            [Parent(f"call_{number}_{text}", "call")],
            "grounded",
            {"slice": "fees", "strategy": "grounded", **attributes},
        )
        for text in texts
    ]
    for table, rows in zip(("samples", "edges"), sample_rows(samples, bench.run_id, number), strict=True):
        bench.store.append(table, rows)
    decisions = [Decision(sample.id, "target", "keep", "ok") for sample in samples]
    ids = {sample.id for sample in samples}
    bench.store.append("decisions", decision_rows(decisions, bench.run_id, number, 0, ids)[0])
    for place, metric, value, scorer in scores:
        row = {"sample_id": samples[place].id, "metric": metric, "value": value, "scorer": scorer}
        bench.store.append("scores", [{"run_id": bench.run_id, **row}])
    return [sample.id for sample in samples]


async def test_quality_is_the_mean_over_those_who_scored_a_sample(folder, tmp_path):
    choosing(folder, 2)
    async with open_bench(open_domain(folder, "target"), tmp_path / "w", QUIET) as bench:
        scores = [(0, "grounded", 1.0, "edit"), (0, "form", 0.5, "edit"), (0, "overall", 2.0, "judge")]
        scores += [(1, "grounded", 0.75, "edit_probability"), (1, "keep", 0.1, "edit_probability")]
        scores += [(2, "overall", 5.0, "judge"), (2, "style", 1.0, "judge"), (2, "form", None, "edit")]
        ids = accept(bench, 1, ["a", "b", "c", "d"], scores)
        found = {
            each.sample_id: each.quality for each in await select(bench, 1, bench.recipe.loop.selection, None)
        }
    assert [found[each] for each in ids] == pytest.approx([3.0, 4.0, 5.0, 4.0])


async def test_what_an_earlier_round_has_is_not_chosen_once_more(folder, tmp_path):
    choosing(folder, 1, rounds=2)
    async with open_bench(open_domain(folder, "target"), tmp_path / "w", QUIET) as bench:
        bench.record_run()
        for number in (1, 2):
            bench.event(number, "generate", "done", {"allocation": {"fees": 1}})
        (first,) = accept(bench, 1, ["the fee is paid by card within a month"])
        await freeze(bench, 1)
        copy, other = accept(bench, 2, ["the fee is paid by card within one month", "bees hum in July"])
        await freeze(bench, 2)
        rows = bench.store.select("SELECT sample_id, reason, evidence FROM selections WHERE NOT chosen")
        (newest,) = bench.store.select("SELECT arg_max(id, round) AS id FROM datasets")
        sql = "SELECT sample_id AS id FROM dataset_samples WHERE dataset_id = ? ORDER BY position"
        held = [row["id"] for row in bench.store.select(sql, (newest["id"],))]
    assert held == [first, other]
    assert [(row["sample_id"], row["reason"]) for row in rows] == [(copy, "near_chosen")]
    assert json.loads(rows[0]["evidence"])["of"] == first


def rows_for(body):
    data = [{"index": at, "embedding": [1.0, float(len(text))]} for at, text in enumerate(body["input"])]
    return Status(200, {"data": data})


async def run_with_endpoint(folder, workspace, endpoint, accepted=20, refiners=(), selection=(), **more):
    """A run whose selection asks an endpoint for vectors, and so do the refiners that are named."""
    embedder = {"server": "there", "model": "small"}
    servers = {
        "main": {"kind": "scripted", "script": "mine"},
        "there": {"kind": "endpoint", "base_url": endpoint.base_url},
    }
    steps = [{"name": "form"}, *({"name": name, "embedder": embedder} for name in refiners)]
    chosen = {**SELECTION, **dict(selection), "embedder": embedder}
    choosing(folder, accepted, selection=chosen, servers=servers, refiners=steps, **more)
    async with open_bench(open_domain(folder, "target"), workspace, QUIET) as bench:
        await run_loop(bench)


async def test_no_text_is_paid_twice_by_steps_and_selection(folder, tmp_path, script):
    script(Script(0.8))
    async with FakeEndpoint(rows_for) as endpoint:
        steps = ("contamination", "semantic")
        await run_with_endpoint(folder, tmp_path / "w", endpoint, refiners=steps, rounds=2)
    asked = Counter(text for body in endpoint.requests for text in body["input"])
    assert set(asked.values()) == {1} and len(asked) > 80
    assert [len(members(tmp_path / "w", number)) for number in (1, 2)] == [20, 40]


@pytest.mark.parametrize("calls", [15, 30, 45])
async def test_where_the_budget_ends_there_are_vectors_to_choose_by(folder, tmp_path, script, calls):
    script(Script(1.0))
    async with FakeEndpoint(rows_for) as endpoint:
        try:
            await run_with_endpoint(folder, tmp_path / "w", endpoint, budget={"calls": calls})
        except TargetMissed as missed:
            assert calls < 20 and 0 < missed.num_accepted < calls
        accepted = ask(tmp_path / "w", "SELECT count(*) AS n FROM accepted")
        assert accepted == ask(tmp_path / "w", "SELECT num_samples AS n FROM datasets")
        assert accepted[0]["n"] == 20 or calls < 20
        assert ask(tmp_path / "w", "SELECT sum(attempts)::INT AS n FROM calls")[0]["n"] <= calls
        await run_with_endpoint(folder, tmp_path / "w", endpoint, budget={"calls": 1000})
    assert ask(tmp_path / "w", "SELECT count(*) AS n FROM accepted") == [{"n": 20}]
    asked = Counter(text for body in endpoint.requests for text in body["input"])
    assert set(asked.values()) == {1}


def test_other_vectors_make_another_run(folder):
    choosing(folder, 9)
    assert what_refiners_rest_on(open_domain(folder, "target")) == [bundled().id]
    choosing(folder, 9, selection=None)
    assert what_refiners_rest_on(open_domain(folder, "target")) == []


def test_fewer_candidates_than_asked_for_will_do(folder, tmp_path, script, capsys):
    script(Script(1.0))
    choosing(folder, 20, budget={"calls": 30}, selection={**SELECTION, "candidates": 4.0})
    assert main(["run", str(folder), "-p", "target", "-w", str(tmp_path / "w")]) == 0
    assert len(members(tmp_path / "w", 1)) == 20
    assert 20 < len(ask(tmp_path / "w", SELECTIONS)) < 80


def test_a_round_that_missed_its_target_is_frozen_again_with_another_choice(folder, tmp_path, script):
    script(Script(0.6))
    choosing(folder, 40, budget={"calls": 40})
    with pytest.raises(TargetMissed):
        run(folder, tmp_path / "w")
    (short,) = ask(tmp_path / "w", "SELECT num_samples AS n FROM datasets")
    assert 0 < short["n"] < 40
    accepted = "SELECT count(*) AS n FROM accepted"
    assert ask(tmp_path / "w", accepted) == [short]
    choosing(folder, 40, budget={"calls": 1000})
    run(folder, tmp_path / "w")
    sizes = ask(tmp_path / "w", "SELECT num_samples AS n FROM datasets ORDER BY created_at")
    assert sizes == [short, {"n": 40}] and ask(tmp_path / "w", accepted) == [{"n": 40}]


@pytest.mark.parametrize("share", [0.2, 0.6, 0.85, 0.95, 0.99])
def test_a_run_that_is_cut_off_chooses_as_one_that_was_not(folder, tmp_path, script, monkeypatch, share):
    script(Script(0.6, varied=200))
    choosing(folder, 20, rounds=2)
    tables = []
    append = Store.append

    def count(self, table, rows):
        tables.append(table)
        append(self, table, rows)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "append", count)
        run(folder, tmp_path / "whole")
    left = int(share * len(tables))

    def append_until(self, table, rows):
        nonlocal left
        left -= 1
        if left < 0:
            raise RuntimeError("cut off")
        append(self, table, rows)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "append", append_until)
        with pytest.raises(RuntimeError, match="cut off"):
            run(folder, tmp_path / "cut")
    run(folder, tmp_path / "cut")
    assert state(tmp_path / "cut") == state(tmp_path / "whole")
    assert ask(tmp_path / "cut", SELECTIONS) == ask(tmp_path / "whole", SELECTIONS)


async def test_a_control_chooses_nothing(folder, tmp_path, script):
    script(Script(0.6))
    choosing(folder, 20)
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


def test_a_preview_chooses_nothing(folder, script):
    script(Script(1.0))
    choosing(folder, 20)
    assert len(session.preview(folder, "target", 4, QUIET)["samples"]) == 4


def test_check_counts_the_candidates(folder, tmp_path, script, capsys):
    script(Script(1.0))
    choosing(folder, 100, strategies=[{"name": "grounded"}], selection={**SELECTION, "candidates": 2.5})
    assert main(["check", str(folder), "-p", "target", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["plan"][0]["calls"] == 500


@pytest.mark.parametrize(
    ("loop", "told"),
    [
        ({"samples_per_round": 9, "selection": SELECTION}, "selection needs accepted"),
        ({"accepted": 9, "selection": {**SELECTION, "candidates": 1.0}}, "loop.selection.candidates"),
        ({"accepted": 9, "selection": {"name": "best"}}, "loop.selection.name"),
        ({"accepted": 10**6, "selection": SELECTION}, "more than 1,000,000"),
        (
            {"accepted": 9, "selection": {**SELECTION, "embedder": {"server": "x", "model": "m"}}},
            "loop.selection.embedder",
        ),
    ],
)
def test_a_selection_that_cannot_be_is_refused_when_the_recipe_is_read(folder, loop, told):
    (folder / "profiles/bad.yaml").write_text(json.dumps({"loop": {"samples_per_round": None, **loop}}))
    with pytest.raises(RecipeError) as caught:
        load_recipe(folder, "bad")
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("embedder", "told"),
    [({"folder": "nowhere"}, "no model directory"), ({"server": "there", "model": "m"}, "NO_SUCH_KEY")],
)
def test_check_tells_of_an_embedder_that_a_run_would_stop_at(folder, script, capsys, embedder, told):
    script(Script(1.0))
    there = {"kind": "endpoint", "base_url": "http://127.0.0.1:9/v1", "api_key_env": "NO_SUCH_KEY"}
    servers = {"main": {"kind": "scripted", "script": "mine"}, "there": there}
    choosing(folder, selection={**SELECTION, "embedder": embedder}, servers=servers)
    assert main(["check", str(folder), "-p", "target"]) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1


def test_an_embedder_that_is_none_is_told_at_its_key(folder):
    loop = {"samples_per_round": None, "accepted": 9, "selection": {**SELECTION, "embedder": "static"}}
    (folder / "profiles/bad.yaml").write_text(json.dumps({"loop": loop}))
    with pytest.raises(RecipeError, match=r"loop\.selection\.embedder: must be 'bundled', found 'static'"):
        load_recipe(folder, "bad")


def test_a_run_without_selection_is_named_as_ever():
    basics = {
        "name": "named",
        "domain": {"title": "Named"},
        "gold": {"dev": "dev.jsonl", "test": "test.jsonl"},
        "servers": {"main": {"kind": "scripted", "script": "echo"}},
        "models": {"teacher": {"server": "main"}},
        "strategies": [{"name": "seeded"}],
    }

    def named(**loop):
        return Recipe.model_validate({**basics, "loop": {"accepted": 9, **loop}}).run_digest()

    assert named() == named(selection=None) == "594103b5a7f08a16c335"  # as before there was such a key
    assert len({named(), named(selection=SELECTION), named(selection={**SELECTION, "candidates": 3.0})}) == 3
