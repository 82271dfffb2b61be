"""Evaluations that somebody asked for: who is meant, what is stored, and what no report counts."""

import json
import shutil
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
import yaml
from audit_http import Visitor
from audit_http import served as visited
from fake_endpoint import answer
from synthetic_run import fill
from test_proof import FakeVllm
from tiny_llama import make_adapter

from factory import loop
from factory.accuracy import read_results
from factory.budget import Budget
from factory.by_hand import differ, evaluate_by_hand, find_contender, find_contenders
from factory.cli import main
from factory.contender import Contender, ask_split, proven
from factory.errors import BudgetExceeded, FactoryError, InputError, RecipeError
from factory.evaluations import record_by_hand
from factory.findings import collect, find_run
from factory.init import write_template
from factory.models.identity import digest_adapter, name_adapter
from factory.models.listing import Listed
from factory.progress import Progress
from factory.proof import NUM_PROBES
from factory.session import open_bench, open_domain
from factory.spend import read_spend
from factory.store.queries import Reader, trace
from factory.store.questions import questions
from factory.store.store import Store
from factory.types import Adapter, Evaluation, ItemResult

QUIET = Progress(bars=False)


@pytest.fixture
def recipe(tmp_path):
    write_template(tmp_path / "domain")
    profile = {"models": {"student": {"server": "main"}}, "training": {"student": {"base": "tiny-base"}}}
    (tmp_path / "domain" / "profiles" / "scripted.yaml").write_text(yaml.safe_dump(profile))
    return tmp_path / "domain"


@asynccontextmanager
async def served(recipe, tmp_path, folder, tuned=-2.0, budget=None):
    """A bench whose student is at an endpoint that serves one adapter, right answers from it alone."""
    told = {"root": str(folder), "parent": "base"}
    async with FakeVllm(
        name_adapter("student", folder), {"base": -1.0, "adapter": tuned}, **told
    ) as endpoint:
        right: dict[str, str] = {}
        given = endpoint.answers
        endpoint.answers = lambda body: (
            given(body)
            if body.get("prompt_logprobs") is not None
            else answer("no" if body["model"] == "base" else right[body["messages"][-1]["content"]])
        )
        server = {"kind": "endpoint", "base_url": endpoint.base_url, "can_load_adapters": True}
        student = {"server": "here", "model": "base"}
        profile = {"servers": {"here": server}, "models": {"student": student}}
        profile |= {"training": {"student": {"base": "tiny-base"}}}
        profile |= {"budget": budget} if budget else {}
        (recipe / "profiles" / "served.yaml").write_text(yaml.safe_dump(profile))
        domain = open_domain(recipe, "served")
        right |= {item.question: item.answer for item in (*domain.dev, *domain.test)}
        async with open_bench(domain, tmp_path / "w", QUIET) as bench:
            bench.record_run()
            yield bench


async def test_models_are_asked_the_same_items_and_stored_item_by_item(recipe, tmp_path):
    folder = make_adapter(tmp_path / "a")
    async with served(recipe, tmp_path, folder) as bench:
        found = [await evaluate_by_hand(bench, ["base", str(folder)], "dev") for _ in range(2)]
        probes = bench.store.select(
            "SELECT model_id, status, count(*) AS n FROM calls WHERE stage = 'prove' GROUP BY ALL"
        )
        items = bench.store.select("SELECT count(*) AS n FROM calls WHERE stage = 'evaluate'")[0]["n"]
        counted = Budget.from_store(bench.store, bench.run_id, bench.recipe.budget).spent.calls
        unused = {row.stage: row.num_unused for row in read_spend(bench.store, {bench.run_id: ""})}
        rows = bench.store.select(
            """SELECT e.round, e.split, e.num_items, count(*) AS n, avg(i.score) AS mean, m.adapter_digest
               FROM evaluations e JOIN evaluation_items i ON i.evaluation_id = e.id
               JOIN calls c ON c.id = i.call_id JOIN models m ON m.id = e.model_id
               GROUP BY ALL ORDER BY mean"""
        )
    assert found[0] == found[1]
    base_id = found[0]["models"][0]["model_id"]
    own_id = found[0]["models"][1]["model_id"]
    asked = 2 * 2 * NUM_PROBES  # of either, and asked anew for the second proof
    assert {tuple(row.values()) for row in probes} == {(base_id, "ok", asked), (own_id, "ok", asked)}
    assert counted == 2 * asked + items and unused == {"evaluate": 0, "prove": 0}
    num = len(bench.domain.dev)
    digest = digest_adapter(folder)[0]
    common = {"round": None, "split": "dev", "num_items": num, "n": num}
    assert rows == [
        common | {"mean": 0.0, "adapter_digest": None},
        common | {"mean": 1.0, "adapter_digest": digest},
    ]
    base, tuned = found[0]["models"]
    assert (base["mean"], tuned["mean"], tuned["digest"]) == (0.0, 1.0, digest)
    assert "difference" not in base and base["served"] is None
    assert tuned["served"]["difference"] == 1.0
    difference = tuned["difference"]
    assert (difference["gain"], difference["num_better"], difference["against"]) == (1.0, num, "base")
    assert sum(row["num_items"] for row in tuned["slices"]) == num
    assert {row["difference"] for row in tuned["slices"]} == {1.0}


async def test_a_base_under_the_adapter_s_name_is_refused_and_nothing_is_stored(recipe, tmp_path):
    folder = make_adapter(tmp_path / "a")
    async with served(recipe, tmp_path, folder, tuned=-1.0) as bench:
        with pytest.raises(FactoryError, match="answers as its base 'base' does"):
            await evaluate_by_hand(bench, ["base", str(folder)], "dev")
        assert bench.store.select("SELECT * FROM evaluations") == []


async def test_a_proof_that_the_budget_cannot_bear_is_refused(recipe, tmp_path):
    folder = make_adapter(tmp_path / "a")
    async with served(recipe, tmp_path, folder, budget={"calls": 4 * NUM_PROBES - 1}) as bench:
        with pytest.raises(BudgetExceeded, match=r"budget\.calls"):
            await evaluate_by_hand(bench, [str(folder)], "dev")


async def test_what_is_served_otherwise_in_the_end_is_proven_again(recipe, tmp_path):
    folder = make_adapter(tmp_path / "a")
    async with served(recipe, tmp_path, folder) as bench:
        model = await bench.pool.model("student", folder)
        with pytest.raises(FactoryError, match="loaded from /elsewhere, which does not hold this adapter"):
            async with proven(bench, Contender("mine", folder)) as student:
                await ask_split(bench, student, "dev")
                model.list_models = list_elsewhere(model.name)


def list_elsewhere(name):
    async def listed():
        return {"base": Listed("base"), name: Listed(name, "/elsewhere", "base")}

    return listed


async def test_an_adapter_that_is_swapped_while_it_is_asked_is_refused(recipe, tmp_path):
    folder, other = make_adapter(tmp_path / "a"), make_adapter(tmp_path / "b", seed=3)
    async with served(recipe, tmp_path, folder) as bench:
        with pytest.raises(FactoryError, match="was changed on disk after it was loaded"):
            async with proven(bench, Contender("mine", folder)) as student:
                await ask_split(bench, student, "dev")
                shutil.copy(other / "adapter_model.safetensors", folder)


async def test_a_trained_student_whose_files_are_others_is_refused_before_it_is_asked(recipe, tmp_path):
    folder = make_adapter(tmp_path / "a")
    async with served(recipe, tmp_path, folder) as bench:
        row = {"id": "model_x", "role": "student", "name": "student-x", "base": "b", "adapter": str(folder)}
        bench.store.append("models", [row])
        student = find_contender(bench, "student-x")
        assert student == Contender("student-x", folder, "model_x")
        with pytest.raises(FactoryError, match="what was trained is model_x"):
            async with proven(bench, student):
                raise AssertionError("it was asked")
        with pytest.raises(FactoryError, match="what was trained is model_x"):
            await evaluate_by_hand(bench, ["base", "student-x"], "dev")
        assert bench.store.select("SELECT * FROM calls") == []
        with pytest.raises(InputError, match="no student and no folder 'student-y'"):
            find_contender(bench, "student-y")


@pytest.mark.parametrize("config", ["[]", "3", "{"])
async def test_a_folder_whose_configuration_is_none_is_no_adapter(config, recipe, tmp_path):
    other = make_adapter(tmp_path / "b", seed=3)
    (other / "adapter_config.json").write_text(config)
    async with served(recipe, tmp_path, make_adapter(tmp_path / "a")) as bench:
        with pytest.raises(RecipeError, match=f"the adapter {other} cannot be read"):
            find_contenders(bench, [str(other)])


async def test_a_round_s_student_is_proven_too(recipe, tmp_path):
    folder = make_adapter(tmp_path / "a")
    async with served(recipe, tmp_path, folder) as bench:
        await loop.evaluate(bench, 0, None)
        student, digest = Adapter(folder, "a trainer's own", "b", 1, 0.5, 1.0), digest_adapter(folder)[0]
        for model in ("model_x", bench.pool.model_id("student", folder)):
            with bench.stage(1, "train") as detail:
                detail["model"] = model
            if model == "model_x":
                with pytest.raises(FactoryError, match=f"digest {digest}.*what was trained is model_x"):
                    await loop.evaluate(bench, 1, student)
        await loop.evaluate(bench, 1, student)
        row = {
            "id": "model_2",
            "role": "student",
            "name": "s",
            "base": "b",
            "run_id": bench.run_id,
            "round": 2,
        }
        bench.store.append("models", [row])
        assert [loop.trained_model(bench, n) for n in (1, 2, 3)] == [model, "model_2", None]
        means = bench.store.select("SELECT round, split, mean FROM evaluations ORDER BY ALL")
        details = [bench.done(number, "evaluate") for number in (0, 1)]
    assert [(row["round"], row["mean"]) for row in means] == [(0, 0.0), (0, 0.0), (1, 1.0), (1, 1.0)]
    assert details[0] == {"served": None} and details[1]["served"]["digest"] == digest
    assert details[1]["served"]["difference"] == 1.0


def test_a_model_is_not_compared_with_itself(recipe, tmp_path, capsys):
    words = ["evaluate", str(recipe), "-p", "scripted", "-w", str(tmp_path / "w"), "--model", "base"]
    assert main([*words, "--model", str(make_adapter(tmp_path / "a"))]) == 2
    assert "are the same model, scripted:" in capsys.readouterr().err
    assert main([*words, "--split", "dev", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [model["model"] for model in found["models"]] == ["base"]
    assert main([*words, "--split", "dev"]) == 0
    assert "by slice" in capsys.readouterr().out


def test_split_without_model_is_refused(recipe, tmp_path, capsys):
    assert main(["evaluate", str(recipe), "-w", str(tmp_path / "w"), "--split", "dev"]) == 2
    assert "--split goes with --model" in capsys.readouterr().err


async def test_the_very_same_answers_add_no_row_and_a_round_s_are_not_repeated(recipe, tmp_path):
    async with open_bench(open_domain(recipe, "scripted"), tmp_path / "w", QUIET) as bench:
        items = tuple(ItemResult(f"i{n}", "s", "c", "q", "e", "a", 1.0, "call") for n in range(3))
        one = Evaluation("m", "dev", "facts", 1.0, 0.4, 1.0, items)
        two = Evaluation("m", "dev", "facts", 0.0, 0.0, 0.6, tuple(items[:2]))
        ids = [record_by_hand(bench, each) for each in (one, two, one)]
        rows = bench.store.select("SELECT id, round FROM evaluations")
        assert ids[0] == ids[2] != ids[1] and len(rows) == 2
        assert bench.store.select("SELECT count(*) AS n FROM evaluation_items") == [{"n": 5}]


def test_a_difference_has_bounds_on_both_sides_and_a_two_sided_p(recipe):
    evaluator = open_domain(recipe, "scripted").evaluator

    def result(*scores):
        items = [ItemResult(f"i{n}", "s", f"c{n}", "q", "e", "a", each, "") for n, each in enumerate(scores)]
        return Evaluation("m", "dev", "facts", sum(scores) / len(scores), 0, 1, tuple(items))

    low, high = result(*[0.0] * 20), result(*[1.0] * 15, *[0.0] * 5)
    up, down = differ(evaluator, "a", low, high), differ(evaluator, "b", high, low)
    assert (up.gain, up.num_better, up.num_worse) == (0.75, 15, 0)
    assert up.p_value == down.p_value == pytest.approx(2**-14)
    assert 0 < up.low < 0.75 < up.high <= 1
    assert (down.low, down.high) == (-up.high, -up.low)
    same = differ(evaluator, "a", low, low)
    assert (same.gain, same.low, same.high, same.p_value) == (0, 0, 0, 1)


def test_a_run_in_which_models_were_only_asked_is_not_the_one_that_reports_speak_of(tmp_path):
    with Store.open(tmp_path) as store:
        fill(store)
        (run,) = store.select("SELECT * FROM runs WHERE control IS NULL")
        started = {"started_at": datetime.now(UTC) + timedelta(days=1), "config": json.loads(run["config"])}
        store.append("runs", [run | started | {"id": "run_hand"}])
        assert find_run(store)["id"] == run["id"] != "run_hand"
        assert find_run(store, "run_hand")["id"] == "run_hand"
        store.flush()
        funnel = next(question for question in questions() if question.name == "funnel")
        assert store.select(funnel.sql, {"run": None})


def test_reports_and_pages_count_no_evaluation_by_hand(tmp_path):
    with Store.open(tmp_path) as store:
        fill(store)
        run = store.select("SELECT run_id FROM evaluations LIMIT 1")[0]["run_id"]

        def told():
            figures = store.select("SELECT * FROM figures ORDER BY ALL")
            return figures, read_results(store, run, []), collect(store).models

        before = told()
        (row,) = store.select("SELECT * FROM evaluations WHERE split = 'test' AND round = 2 LIMIT 1")
        row |= {"id": "evl_hand", "round": None, "mean": 0.123, "comparison": None, "created_at": None}
        row.pop("created_at")
        store.append("evaluations", [row])
        item = {"evaluation_id": "evl_hand", "item_key": "i", "slice": "s", "cluster": "c", "question": "q"}
        store.append(
            "evaluation_items", [item | {"expected": "e", "answer": "a", "score": 0.0, "call_id": ""}]
        )
        assert told() == before
    with visited(tmp_path) as server:
        visitor = Visitor(server).enter()
        page = visitor.get("/compare?a=evl_hand&b=evl_hand").text
        assert "by hand, test" in page and 'href="/things/"' not in page
    with Reader(tmp_path) as reader:
        assert "by hand" in str(trace(reader, "evl_hand"))


def test_a_mistyped_workspace_is_told_and_not_made(tmp_path, capsys):
    """A student can only be one of a workspace that is there; base and folders are asked in a new one."""
    missing, recipe = tmp_path / "worksapce", "recipes/georgia_workers_comp"
    for more in (["--model", "promoted"], ["--model", "student-1"], ["--suite", f"{recipe}/suite"]):
        assert main(["evaluate", recipe, "--profile", "tiny", "--workspace", str(missing), *more]) == 2
        assert "there is no such folder" in capsys.readouterr().err
    assert not missing.exists()
