"""The metric `judge`: another model scores answers, is paid once, and its failing makes no answer wrong."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import pytest
import yaml
from fake_endpoint import FakeEndpoint, answer
from metric_kit import evaluate_base, number_of, with_bench, write
from tiny_llama import make_adapter

from factory.check import check_recipe
from factory.cli import main
from factory.errors import BudgetExceeded, EndpointError, FactoryError, RecipeError
from factory.evaluations import load_evaluation
from factory.load import load
from factory.loop import evaluate
from factory.models import scripted
from factory.needs import needs_of_base, needs_of_evaluation, needs_until
from factory.store.queries import Reader, trace
from factory.types import Request

JUDGE = {"models": {name: {"server": "main", "max_retries": 0} for name in ("teacher", "student", "judge")}}


@dataclass
class Models:
    """The student answers its number; the judge gives these scores, by the number in the answer."""

    scores: dict[int, tuple[int, int]]
    faults: dict[int, str | Exception] = field(default_factory=dict)
    answers: dict[int, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)  # 'student' or what the judge was asked

    def __call__(self, request: Request) -> str | Exception:
        if request.schema is None:
            self.asked.append("student")
            number = number_of(request)
            return self.answers.get(number, f"It is {number}")
        prompt = request.messages[-1].content
        self.asked.append(prompt)
        number = int(prompt.split("Answer: It is ")[1].split()[0])
        if number in self.faults:
            return self.faults[number]
        correct, complete = self.scores.get(number, (5, 5))
        return json.dumps({"reason": f"so {number}", "scores": {"correct": correct, "complete": complete}})


@pytest.fixture
def models(monkeypatch):
    def use(*args, **more) -> Models:
        made = Models(*args, **more)
        monkeypatch.setitem(scripted.SCRIPTS, "mine", made)
        return made

    return use


@pytest.fixture
def folder(tmp_path):
    return judged(tmp_path)


def judged(tmp_path, num=4, **changed):
    gold = [f"The number {n}" for n in range(num)]
    return write(
        tmp_path / "domain", gold, {"metric": "judge", **changed.pop("evaluation", {})}, **JUDGE | changed
    )


def calls(workspace, what="role, status, count(*) AS n", group="GROUP BY ALL ORDER BY ALL"):
    with Reader(workspace) as reader:
        return [tuple(row.values()) for row in reader.select(f"SELECT {what} FROM calls {group}")]


def test_scores_are_the_judge_s_and_lead_to_its_calls(folder, tmp_path, models):
    made = models({1: (1, 1), 2: (5, 2), 3: (3, 3)}, answers={3: " "})
    items = evaluate_base(folder, tmp_path / "w")
    assert [item["score"] for item in items] == [1, 0, 0.75, 0]
    assert [item["detail"] for item in items] == [
        None,
        "correct 1, complete 1: so 1",
        "correct 5, complete 2: so 2",
        "an empty answer",
    ]
    assert items[0]["mean"] == pytest.approx(0.4375) and items[0]["metric"].startswith("judge#")
    assert calls(tmp_path / "w") == [("judge", "ok", 4), ("student", "ok", 5)]  # not the empty one
    assert made.asked[:5] == ["student"] * 5  # dev and test, before anything is judged
    prompt = next(each for each in made.asked if "dev question 2?" in each)
    assert (
        prompt.index("Question: dev question 2?")
        < prompt.index("by an expert: The number 2")
        < prompt.index("Answer: It is 2")
    )
    with Reader(tmp_path / "w") as reader:
        rows = reader.select("SELECT id, stage, round, response FROM calls WHERE role = 'judge'")
        by_id = {row["id"]: row for row in rows}
        assert [item["judge_call_id"] in by_id for item in items] == [True, True, True, False]
        assert "so 2" in by_id[items[2]["judge_call_id"]]["response"]
        assert {(row["stage"], row["round"]) for row in rows} == {("evaluate", 0)}
        found = trace(reader, items[2]["judge_call_id"]).descendants
        assert [(each.id, each.relation) for each in found.children] == [
            (items[2]["evaluation_id"], "judgement in")
        ]
        above = trace(reader, items[2]["evaluation_id"]).ancestors
        assert {each.relation for each in above.children} == {"of", "judged by"}


def test_the_same_answer_is_judged_once(folder, tmp_path, models):
    made = models({})
    evaluate_base(folder, tmp_path / "w")
    before = len(made.asked)
    assert evaluate_base(folder, tmp_path / "w") and len(made.asked) == before
    assert main(["evaluate", str(folder), "-w", str(tmp_path / "w"), "--model", "base", "--json"]) == 0
    assert len(made.asked) == before


def test_a_spent_budget_stops_the_judge_and_nothing_is_paid_twice(tmp_path, models, capsys):
    made = models({1: (1, 1)})
    folder = judged(tmp_path, num=6, budget={"calls": 10})
    with pytest.raises(BudgetExceeded):
        evaluate_base(folder, tmp_path / "w")
    assert calls(tmp_path / "w") == [("judge", "ok", 3), ("student", "ok", 7)]
    with Reader(tmp_path / "w") as reader:
        assert reader.select("SELECT count(*) AS n FROM evaluations") == [{"n": 0}]
    judged(tmp_path, num=6, budget={"calls": 14})
    items = evaluate_base(folder, tmp_path / "w")
    assert [item["score"] for item in items] == [1, 0, 1, 1, 1, 1]
    assert calls(tmp_path / "w") == [("judge", "ok", 7), ("student", "ok", 7)]
    assert len(made.asked) == len(set(made.asked)) - 1 + 7 == 14
    capsys.readouterr()
    assert main(["report", "--workspace", str(tmp_path / "w"), "--json"]) == 0
    spend = json.loads(capsys.readouterr().out)["spend"]
    assert {(each["role"], each["num_calls"], each["num_unused"]) for each in spend} == {
        ("judge", 7, 0),
        ("student", 7, 0),
    }


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (
            "I cannot say.",
            r"scored 3 of 4 answers; not that to 'dev-1'.*no judgement: 'I cannot say\.' \(stop\)",
        ),
        ('{"reason": "", "scores": {"correct": 9, "complete": 1}}', "not that to 'dev-1'.*no judgement"),
        (EndpointError("filtered", kind="refused", retryable=False), "not that to 'dev-1'.*filtered"),
    ],
)
def test_what_is_not_judged_is_not_wrong(fault, told, folder, tmp_path, models):
    made = models({}, faults={1: fault})
    with pytest.raises(FactoryError, match=told):
        evaluate_base(folder, tmp_path / "w")
    with Reader(tmp_path / "w") as reader:
        assert reader.select("SELECT count(*) AS n FROM evaluation_items") == [{"n": 0}]
    made.faults.clear()
    if isinstance(fault, Exception):  # what was answered stays answered: another judge is another request
        assert [item["score"] for item in evaluate_base(folder, tmp_path / "w")] == [1] * 4


def test_many_faults_and_an_endpoint_that_is_down_stop_as_everywhere(tmp_path, models):
    folder = judged(tmp_path, num=25)
    refused = EndpointError("filtered", kind="refused", retryable=False)
    models({}, faults=dict.fromkeys(range(15, 25), refused))
    with pytest.raises(FactoryError, match=r"tasks failed: refused"):
        evaluate_base(folder, tmp_path / "w")
    models({}, faults={20: EndpointError("gone", kind="unreachable", retryable=False)})
    with pytest.raises(EndpointError, match="gone"):
        evaluate_base(folder, tmp_path / "w")


def test_another_rubric_and_another_judge_are_other_runs_whose_answers_are_found(
    tmp_path, models, monkeypatch
):
    made = models({})
    first = evaluate_base(judged(tmp_path), tmp_path / "w")
    rubric = {"rubric": [{"name": "correct", "question": "Kind?"}, {"name": "complete", "question": "Long?"}]}
    second = evaluate_base(judged(tmp_path, evaluation={"metric_options": rubric}), tmp_path / "w")
    monkeypatch.setitem(scripted.SCRIPTS, "other", made)
    servers = {
        "main": {"kind": "scripted", "script": "mine"},
        "more": {"kind": "scripted", "script": "other"},
    }
    chosen = JUDGE["models"] | {"judge": {"server": "more"}}
    third = evaluate_base(judged(tmp_path, servers=servers, models=chosen), tmp_path / "w")
    labels = {row["metric"] for row in (*first, *second, *third)}
    assert len(labels) == 3
    assert calls(tmp_path / "w") == [("judge", "ok", 15), ("student", "ok", 5)]


async def test_a_judge_is_known_by_its_weights_and_not_by_its_path(tmp_path, models):
    models({})
    said = {"reason": "so", "scores": {"correct": 5, "complete": 5}}

    async def label(bench):
        bench.record_run()
        await evaluate(bench, 0, None)
        return load_evaluation(bench, 0, "dev").metric

    labels = []
    async with FakeEndpoint([answer(json.dumps(said))]) as endpoint:
        there = {"kind": "endpoint", "base_url": endpoint.base_url, "can_load_adapters": True}
        servers = {"main": {"kind": "scripted", "script": "mine"}, "there": there}
        judge = {"server": "there", "model": "fake", "adapter": "judge"}
        folder = judged(tmp_path, num=1, servers=servers, models=JUDGE["models"] | {"judge": judge})
        for seed in (1, 2, 1):
            make_adapter(folder / "judge", seed=seed)
            labels.append(await with_bench(folder, tmp_path / "w", label))
    assert labels[0] == labels[2] != labels[1]
    assert all(each.startswith("judge#") and len(each) == len("judge#") + 8 for each in labels)


async def test_a_student_is_compared_by_its_judgements(tmp_path, models):
    folder = judged(tmp_path, num=24)
    models(dict.fromkeys(range(24), (2, 2)))

    async def base(bench):
        bench.record_run()
        await evaluate(bench, 0, None)
        return bench.run_id

    run_id = await with_bench(folder, tmp_path / "w", base)
    models({}, answers={n: f"It is {n} exactly" for n in range(24)})

    async def round_1(bench):
        from factory.evaluations import judge_answers

        ask, model_id = await bench.ask("student", "evaluate", 1)

        async def fresh(messages, **more):  # the student of a round is another model
            return await ask(messages, ordinal=1, **more)

        dev = bench.domain.dev
        answered = await bench.evaluator.evaluate(model_id, "dev", dev, fresh, lambda *_: None)
        (found,) = await judge_answers(bench, 1, [answered], "round 1")
        return bench.run_id, bench.evaluator.compare(load_evaluation(bench, 0, "dev"), found)

    again, verdict = await with_bench(folder, tmp_path / "w", round_1)
    assert run_id == again
    assert (verdict.reason, verdict.gain, verdict.test) == ("gain", 0.75, "sign_flips")


# recipes


def told(folder, capsys) -> str:
    assert main(["check", str(folder)]) == 2
    return capsys.readouterr().err


def test_a_recipe_without_a_judge_is_refused(tmp_path, capsys):
    models = {name: {"server": "main"} for name in ("teacher", "student")}
    said = told(judged(tmp_path, models=models), capsys)
    assert "evaluation.metric: the metric needs a model" in said and "add `models.judge`" in said


@pytest.mark.parametrize(
    ("server", "student", "judge", "same"),
    [
        ({"kind": "vllm", "model": "m"}, {}, {}, True),
        ({"kind": "vllm", "model": "m"}, {}, {"sampling": {"max_tokens": 9}}, True),
        ({"kind": "vllm", "model": "m"}, {}, {"adapter": "judge"}, False),
        ({"kind": "endpoint", "base_url": "http://a/v1"}, {"model": "x"}, {"model": "x"}, True),
        ({"kind": "endpoint", "base_url": "http://a/v1"}, {"model": "x"}, {"model": "y"}, False),
    ],
)
def test_a_student_does_not_judge_itself(server, student, judge, same, tmp_path):
    servers = {"main": {"kind": "scripted", "script": "echo"}, "one": server}
    if "base_url" in server:
        server["can_load_adapters"] = True
    servers["two"] = server | ({"base_url": server["base_url"] + "/"} if "base_url" in server else {})
    models = {"teacher": {"server": "main"}, "student": {"server": "one"} | student}
    folder = judged(tmp_path, servers=servers, models=models | {"judge": {"server": "two"} | judge})
    if same:
        with pytest.raises(
            RecipeError, match=r"recipe\.yaml:\d+ models\.judge: the judge is the student itself"
        ):
            load(folder)
    else:
        load(folder)


def test_what_is_needed_and_what_it_will_cost_counts_the_judge(tmp_path, models):
    models({})
    folder = judged(tmp_path, num=4)
    recipe = load(folder).recipe
    assert needs_until(recipe, "evaluate").asked == ("teacher", "student", "judge")
    assert needs_until(recipe, "train").asked == ("teacher",)
    assert needs_of_base(recipe).asked == needs_of_evaluation(recipe).asked == ("student", "judge")
    plan = {row["role"]: row for row in load_plan(folder) if row["stage"] == "evaluate"}
    assert plan["judge"]["calls"] == plan["student"]["calls"] == 3 * 5
    assert plan["judge"]["tokens"] > plan["student"]["tokens"] + 15 * 256
    written = yaml.safe_load((folder / "recipe.yaml").read_text())
    del written["evaluation"]["metric"]
    written["domain"] = {"title": "Bells"}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(written))
    assert needs_until(load(folder).recipe, "evaluate").asked == ("teacher", "student")


def test_a_judge_that_cannot_be_had_is_told_before_a_student_is_asked(tmp_path, models, capsys, monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    made = models({})
    away = {"kind": "endpoint", "base_url": "http://127.0.0.1:9/v1", "api_key_env": "NO_SUCH_KEY"}
    servers = {"main": {"kind": "scripted", "script": "mine"}, "away": away}
    judge = {"server": "away", "model": "large"}
    folder = judged(tmp_path, servers=servers, models=JUDGE["models"] | {"judge": judge})
    assert main(["evaluate", str(folder), "-w", str(tmp_path / "w"), "--model", "base"]) == 2
    assert "NO_SUCH_KEY" in capsys.readouterr().err and made.asked == []


def load_plan(folder):
    from factory.forecast import forecast

    return forecast(load(folder))


def test_nobody_is_asked_for_a_student_that_is_not_there(tmp_path):
    models = {"teacher": {"server": "main"}}
    servers = {"main": {"kind": "scripted", "script": "echo"}}
    folder = judged(tmp_path, models=models, servers=servers, training={})
    assert [row["role"] for row in check_recipe(folder)["plan"]] == ["teacher", "all"]
