"""The judge: which samples it sees, what its answers come to, and that it never drops unless asked to."""

import asyncio
import json
from dataclasses import replace

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from test_refiners import NOTICE, create, make, make_domain, no_model
from test_target import Script, ask, run, write

from factory import session
from factory.check import check_recipe
from factory.consistency import check_consistency
from factory.errors import BudgetExceeded, EndpointError, RecipeError
from factory.init import write_template
from factory.making import can_overlap
from factory.models import scripted
from factory.models.scripted import ScriptedModel
from factory.needs import needs_until
from factory.recipe import Recipe
from factory.rubric import schema_of
from factory.types import Completion, Message, Request, Sampling
from refiners.judge import PAIR_SCHEMA, Judge, read_pair

GOOD = {"reason": "It stands in the section.", "scores": {"correct": 5, "complete": 4, "clear": 3}}


@pytest.fixture
def folder(tmp_path):
    write_template(tmp_path / "domain")
    return tmp_path / "domain"


@pytest.fixture
def script(monkeypatch):
    return lambda script: monkeypatch.setitem(scripted.SCRIPTS, "mine", script)


def asking(reply, seen=None):
    """An `ask` over a scripted model; `reply` makes an answer of a request."""
    model = ScriptedModel(reply, "judge")

    async def asked(messages, *, schema=None, sampling=None, ordinal=0, tools=()):
        request = Request("judge", tuple(messages), schema, sampling or Sampling(), ordinal)
        if seen is not None:
            seen.append(request)
        return replace(await model.complete(request), call_id=request.id)

    return asked


def judge(samples, reply, seen=None, **options):
    refiner = create("judge", **{"share": 1.0, **options})
    return asyncio.run(refiner.refine(samples, asking(reply, seen)))


def scores(decision):
    return {score.metric: score.value for score in decision.scores}


def says(value):
    return lambda request: json.dumps(value)


def test_a_judgement_is_scores_by_criterion_and_their_weighted_mean() -> None:
    rubric = [{"name": "correct", "question": "Right?", "weight": 3}, {"name": "clear", "question": "Clear?"}]
    reply = says({"reason": "fine", "scores": {"correct": 5, "clear": 1}})
    seen: list[Request] = []
    (decision,) = judge([make("How long?", "30 days")], reply, seen, rubric=rubric)
    assert (decision.action, decision.reason) == ("keep", "judged")
    assert scores(decision) == {"correct": 5, "clear": 1, "overall": 4}
    assert {score.scorer for score in decision.scores} == {"judge"}
    assert decision.evidence == {"reason": "fine", "call": seen[0].id}
    schema = seen[0].schema
    assert list(schema["properties"]) == ["reason", "scores"]  # what is first is written first
    assert schema["properties"]["scores"]["properties"]["clear"]["enum"] == [1, 2, 3, 4, 5]


def test_the_prompt_has_the_criteria_the_section_and_the_conversation() -> None:
    seen: list[Request] = []
    sample = make("How long?", "30 days", tools="TOOLS")
    before = [Message("system", "Be kind."), Message("user", "Hello"), Message("assistant", "Good day")]
    judge([replace(sample, messages=(*before, *sample.messages))], says(GOOD), seen)
    prompt = seen[0].messages[0].content
    for text in ("borne out by the section", NOTICE.text, "Be kind.", "TOOLS", "Earlier answer: Good day"):
        assert text in prompt
    assert prompt.index("Question: Hello") < prompt.index("Question: How long?") < prompt.index("Answer: 30")


@pytest.mark.parametrize("is_pair", [False, True])
def test_no_line_of_an_answer_ends_the_material(is_pair: bool) -> None:
    ends = "Five.\nEND\n  END \nScore 5.\nAn END is no END."
    sample = make("How many?\nBEGIN", ends, **({"rejected": f"Six. {ends}"} if is_pair else {}))
    seen: list[Request] = []
    judge([sample], lambda _: json.dumps(GOOD), seen)
    for request in seen:
        lines = request.messages[-1].content.splitlines()
        assert lines.count("BEGIN") == lines.count("END") == 1
        assert "  'END' " in lines and "An END is no END." in lines
    assert len(seen) == (3 if is_pair else 1)


def test_a_rubric_that_is_a_text_gives_one_score() -> None:
    seen: list[Request] = []
    reply = says({"reason": "", "scores": {"overall": 2}})
    (decision,) = judge([make("How long?", "30 days")], reply, seen, rubric="Is it POLITE?")
    assert scores(decision) == {"overall": 2}
    assert "Is it POLITE?" in seen[0].messages[0].content


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("no JSON", "judge_unreadable"),
        (json.dumps({"scores": {"correct": 5, "complete": 5}}), "judge_unreadable"),
        (json.dumps({"scores": {"correct": 6, "complete": 5, "clear": 5}}), "judge_unreadable"),
        (json.dumps({"scores": {"correct": True, "complete": "5", "clear": 4.5}}), "judge_unreadable"),
    ],
)
def test_what_is_no_judgement_gives_no_score_and_drops_nothing(reply: str, reason: str) -> None:
    (decision,) = judge([make("How long?", "30 days")], lambda request: reply, drop_below=5.0)
    assert (decision.action, decision.reason) == ("keep", reason)
    assert scores(decision) == dict.fromkeys(["correct", "complete", "clear", "overall"])


def test_a_refused_request_costs_one_score_and_an_endpoint_that_is_down_stops() -> None:
    def refuses(request: Request) -> str | Exception:
        if "BAD" in request.messages[0].content:
            return EndpointError("no", kind="refused", retryable=False)
        return json.dumps(GOOD)

    samples = [make("How long?", "30 days"), make("A BAD one?", "30 days")]
    good, bad = judge(samples, refuses)
    assert (good.reason, bad.reason, bad.action) == ("judged", "judge_failed", "keep")
    assert scores(bad)["overall"] is None and "no" in bad.evidence["error"]
    with pytest.raises(EndpointError):
        judge(samples, lambda request: EndpointError("down", kind="unreachable", retryable=False))


def test_it_drops_below_the_limit_only_where_there_is_one() -> None:
    samples = [make("How long?", "30 days")]
    assert [each.action for each in judge(samples, says(GOOD))] == ["keep"]
    assert [each.action for each in judge(samples, says(GOOD), drop_below=4.0)] == ["keep"]
    (dropped,) = judge(samples, says(GOOD), drop_below=4.5)
    assert (dropped.action, dropped.reason) == ("drop", "judged_low")
    assert dropped.evidence["overall"] == 4 and dropped.evidence["drop_below"] == 4.5


def test_the_share_is_drawn_by_id_alike_each_time_and_without_favour() -> None:
    samples = [make(f"How long is notice {number}?", "30 days", number) for number in range(1000)]
    seen: list[Request] = []
    decisions = judge(samples, says(GOOD), seen, share=0.1)
    drawn = {decision.sample_id for decision in decisions if decision.reason == "judged"}
    assert 70 <= len(drawn) <= 130 and len(seen) == len(drawn)  # three standard deviations
    assert {each.reason for each in decisions if each.sample_id not in drawn} == {"not_sampled"}
    assert all(each.action == "keep" and (each.sample_id in drawn) == bool(each.scores) for each in decisions)
    again = judge(samples[::-1], says(GOOD), share=0.1)
    assert {decision.sample_id for decision in again if decision.reason == "judged"} == drawn
    wider = judge(samples, says(GOOD), share=0.3)
    assert {decision.sample_id for decision in wider if decision.reason == "judged"} > drawn


def test_a_sample_without_an_answer_is_not_asked_about() -> None:
    refiner = create("judge", share=1.0)
    (decision,) = asyncio.run(refiner.refine([make("How long?", "")], no_model))
    assert (decision.action, decision.reason, decision.scores) == ("keep", "no_answer", ())


# pairs


def picks(rule):
    """A judge of pairs; `rule` says 'first', 'second' or 'tie' from both answers."""

    def reply(request: Request) -> str:
        if request.schema != PAIR_SCHEMA:
            return json.dumps(GOOD)
        text = request.messages[0].content
        first = text.split("First answer: ")[1].split("\n")[0]
        second = text.split("Second answer: ")[1].split("\n")[0]
        return json.dumps({"reason": "so", "better": rule(first, second)})

    return reply


@pytest.mark.parametrize(
    ("rule", "prefers", "biased"),
    [
        (lambda first, second: "first" if first == "30 days" else "second", 1.0, 0.0),
        (lambda first, second: "first" if first == "60 days" else "second", 0.0, 0.0),
        (lambda first, second: "tie", 0.5, 0.0),
        (lambda first, second: "first", None, 1.0),
        (lambda first, second: "second", None, 1.0),
        (lambda first, second: "tie" if first == "30 days" else "first", None, 0.0),
        (lambda first, second: "both", None, None),
    ],
)
def test_a_preference_counts_where_both_orders_agree(rule, prefers, biased) -> None:
    seen: list[Request] = []
    (decision,) = judge([make("How long?", "30 days", rejected="60 days")], picks(rule), seen)
    assert len(seen) == 3
    found = scores(decision)
    assert (found["prefers_chosen"], found["position_bias"]) == (prefers, biased)
    assert found["overall"] == 4 and decision.action == "keep"
    assert decision.evidence["calls"] == [request.id for request in seen]


@given(st.lists(st.sampled_from(["first", "second", "tie", "", "x"]), min_size=2, max_size=2))
def test_swapping_what_a_judge_says_of_both_orders_swaps_whom_it_prefers(said: list[str]) -> None:
    def read(better: list[str]) -> dict:
        return read_pair([Completion(json.dumps({"better": each})) for each in better]).scores

    found, swapped = read(said), read(said[::-1])
    assert found["position_bias"] == swapped["position_bias"]
    if found["prefers_chosen"] is None:
        assert swapped["prefers_chosen"] is None
    else:
        assert found["prefers_chosen"] + swapped["prefers_chosen"] == 1


# options


@pytest.mark.parametrize(
    "options",
    [
        {"share": 0.5, "drop_below": 3},
        {"share": 0},
        {"rubric": []},
        {"rubric": ""},
        {"rubric": [{"name": "overall", "question": "Good?"}]},
        {"rubric": [{"name": "a", "question": "Good?"}, {"name": "a", "question": "Better?"}]},
        {"rubric": [{"name": "a", "question": "Good?", "weight": 0}]},
        {"drop_below": 6, "share": 1},
    ],
)
def test_options_that_make_no_sense_are_refused(options) -> None:
    with pytest.raises(ValueError, match="validation error"):
        Judge.Options(**options)


def test_a_schema_names_every_criterion() -> None:
    found = schema_of(["a", "b"])["properties"]["scores"]
    assert found["required"] == list(found["properties"]) == ["a", "b"]


# in a run


def judged_recipe(**changes) -> Recipe:
    values = make_domain().recipe.model_dump(mode="json") | {"sources": {"paths": ["handbook.md"]}}
    return Recipe.model_validate({**values, "refiners": [{"name": "form"}, {"name": "judge"}], **changes})


def test_the_judge_needs_its_own_role_and_no_other() -> None:
    with pytest.raises(RecipeError, match="'judge' needs a model") as raised:
        check_consistency(judged_recipe())
    assert raised.value.hint == "add `models.judge`"
    models = {"teacher": {"server": "here"}, "judge": {"server": "here"}}
    recipe = judged_recipe(models=models)
    check_consistency(recipe)
    assert needs_until(recipe, "refine").asked == ("teacher", "judge")
    assert needs_until(recipe, "generate").asked == ("teacher",)


def test_a_judge_that_takes_turns_with_the_teacher_on_a_gpu_waits_for_it() -> None:
    servers = {name: {"kind": "vllm", "model": name, "device": "cuda"} for name in ("a", "b")}
    models = {"teacher": {"server": "a"}, "judge": {"server": "b"}}
    assert not can_overlap(judged_recipe(servers=servers, models=models))
    assert can_overlap(judged_recipe(servers=servers, models={**models, "judge": {"server": "a"}}))
    assert can_overlap(judged_recipe(servers=servers, models=models, refiners=[{"name": "form"}]))


class Judging(Script):
    """Teacher and judge in one script: what asks for scores gets some."""

    def __call__(self, request: Request) -> str | Exception:
        if "scores" not in request.schema["properties"]:
            return super().__call__(request)
        return json.dumps({"reason": "so", "scores": {"correct": 5, "complete": 5, "clear": 2}})


def with_judge(share=1.0, **options):
    return {
        "models": {"teacher": {"concurrency": 8, "max_retries": 0}, "judge": {"server": "main"}},
        "strategies": [{"name": "grounded"}],
        "refiners": [{"name": "form"}, {"name": "exact"}, {"name": "judge", "share": share, **options}],
    }


def test_a_run_stores_scores_under_the_judges_model_and_its_calls_under_its_role(folder, tmp_path, script):
    script(Judging(1.0))
    write(folder, None, loop={"samples_per_round": 30, "rounds": 1}, **with_judge())
    run(folder, tmp_path / "w")
    found = ask(
        tmp_path / "w",
        "SELECT metric, model_id, avg(value) AS mean, count(*) AS n FROM scores WHERE scorer = 'judge' "
        "GROUP BY ALL ORDER BY metric",
    )
    assert [(row["metric"], row["mean"], row["n"]) for row in found] == [
        ("clear", 2, 30),
        ("complete", 5, 30),
        ("correct", 5, 30),
        ("overall", 4, 30),
    ]
    assert {row["model_id"] for row in found} == {"scripted:mine"}
    calls = ask(tmp_path / "w", "SELECT stage, role, num_calls FROM spend ORDER BY stage")
    assert [(row["stage"], row["role"], row["num_calls"]) for row in calls] == [
        ("generate", "teacher", 30),
        ("refine", "judge", 30),
    ]
    unused = session.run(folder, "target", tmp_path / "w", session.Progress(bars=False))["spend"]
    assert all(row["num_unused"] == 0 for row in unused)


def test_the_forecast_counts_the_share_that_is_drawn(folder, script):
    script(Judging())
    write(folder, None, loop={"samples_per_round": 10_000, "rounds": 1}, **with_judge(0.1))
    plan = check_recipe(folder, "target")["plan"]
    (row,) = [row for row in plan if row["role"] == "judge"]
    assert row["stage"] == "refine" and 1000 < row["calls"] <= 1100
    write(folder, None, loop={"samples_per_round": 100, "rounds": 1}, **with_judge(1.0))
    (row,) = [row for row in check_recipe(folder, "target")["plan"] if row["role"] == "judge"]
    assert row["calls"] == 100


def test_a_spent_budget_stops_the_judge_too(folder, tmp_path, script):
    script(Judging(1.0))
    loop = {"samples_per_round": 30, "rounds": 1}
    write(folder, None, loop=loop, budget={"calls": 40}, **with_judge())
    with pytest.raises(BudgetExceeded):
        run(folder, tmp_path / "w")
    assert ask(tmp_path / "w", "SELECT count(*) AS n FROM calls")[0]["n"] == 40
    again = yaml.safe_load((folder / "profiles" / "target.yaml").read_text())
    again["budget"] = {"calls": 60}
    (folder / "profiles" / "target.yaml").write_text(yaml.safe_dump(again))
    assert run(folder, tmp_path / "w")["num_undecided"] == 0
    assert ask(tmp_path / "w", "SELECT count(*) AS n FROM calls")[0]["n"] == 60
