"""Scores of answers, and evaluations made of them."""

import asyncio
import json
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.errors import EndpointError, FactoryError, RecipeError
from factory.forecast import forecast
from factory.load import load
from factory.registry import find
from factory.types import Completion, GoldItem
from training.evaluate import Answers, AnswersOptions
from training.metrics import exact, extract, facts
from training.tasks import make_task

CITATION = r"§ \d+-\d+-\d+(?:\.\d+)?"
GOLD = Path(__file__).parents[1] / "recipes" / "georgia_workers_comp" / "gold"


@pytest.mark.parametrize(
    ("expected", "answer", "score"),
    [
        ("30 days (§ 34-9-80)", "30 days (§ 34-9-80)", 1),
        ("30 days (§ 34-9-80)", "Within 30 calendar days, see § 34-9-80.", 1),
        ("30 days (§ 34-9-80)", "a 30-day period (§ 34-9-80)", 1),
        ("30 days (§ 34-9-80)", "30 weeks (§ 34-9-80)", 0),
        ("30 days (§ 34-9-80)", "30 (§ 34-9-80)", 0),
        ("30 days (§ 34-9-80)", "30 days", 0),
        ("30 days (§ 34-9-80)", "30 days (34-9-80)", 0),
        ("30 days (§ 34-9-80)", "30 days (§ 34-9-82)", 0),
        ("30 days (§ 34-9-80)", "30 days (§ 34-9-80) (§ 34-9-82)", 0),
        ("30 days (§ 34-9-80)", "30 days or 60 days (§ 34-9-80)", 0),
        ("30 days (§ 34-9-80)", "300 days (§ 34-9-80)", 0),
        ("48 hours (§ 34-9-200.1)", "48 hours (§ 34-9-200)", 0),
        ("$7500 (§ 34-9-265)", "$7,500 (§ 34-9-265)", 1),
        ("$7500 (§ 34-9-265)", "7500 dollars (§ 34-9-265)", 1),
        ("$7500 (§ 34-9-265)", "7500 weeks (§ 34-9-265)", 0),
        ("10 percent (§ 34-9-126)", "10% (§ 34-9-126)", 1),
        ("2/3 of the wage (§ 34-9-261)", "two parts: 2/3 of her wage (§ 34-9-261)", 1),
        ("2/3 of the wage (§ 34-9-261)", "1/3 of the wage (§ 34-9-261)", 0),
        ("66 2/3 percent", "66 2/3%", 1),
        ("0.5 percent", "1/2 percent", 1),
        ("3 employees (§ 34-9-2)", "3 or more employees (§ 34-9-2)", 1),
        ("yes", "Yes.", 1),
        ("yes", "no", 0),
        ("", "", 1),
    ],
)
def test_facts(expected, answer, score):
    assert facts(expected, answer, CITATION) == score


def test_citations_and_numbers_are_told_apart():
    found = extract("$1,250.50 within 66 2/3 days (§  34-9-80)", r"§\s+\d+-\d+-\d+")
    assert found.citations == {"§ 34-9-80"}
    assert [quantity.value for quantity in found.quantities] == [Fraction("1250.5"), Fraction(200, 3)]
    assert extract("34-9-80").citations == frozenset()


@given(st.text(max_size=60))
def test_every_text_agrees_with_itself(text):
    assert facts(text, text, CITATION) == 1.0
    assert exact(text, text) == 1.0


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_numbers_agree_only_with_themselves(one, other):
    assert facts(f"{one:,} days", f"about {other} days") == float(one == other)


def test_exact_forgives_case_spaces_and_a_full_stop_alone():
    assert exact("30 Days", " 30  days. ") == 1.0
    assert exact("30 days", "30 days!") == 0.0


@pytest.mark.parametrize("split", ["dev", "test"])
def test_every_gold_answer_of_the_recipe_is_right_and_no_other_source_s(split):
    items = [json.loads(line) for line in (GOLD / f"{split}.jsonl").read_text().splitlines()]
    for item in items:
        assert facts(item["answer"], item["answer"], CITATION) == 1.0
        assert extract(item["answer"], CITATION).citations and extract(item["answer"], CITATION).quantities
        for other in items:
            if other["answer"] != item["answer"]:
                assert facts(item["answer"], other["answer"], CITATION) == 0.0


def make(metric="facts", pattern=CITATION):
    recipe = SimpleNamespace(
        seed=0, domain=SimpleNamespace(citation_pattern=pattern), loop=SimpleNamespace(max_failure_share=0.2)
    )
    return Answers(AnswersOptions(metric=metric), SimpleNamespace(recipe=recipe))


def items(num):
    return [GoldItem(f"item-{n}", f"question {n}?", f"{n} days", f"slice-{n % 2}", None) for n in range(num)]


def test_the_evaluator_is_registered():
    assert find("evaluators", "answers") is Answers


def test_a_broken_citation_pattern_is_refused():
    with pytest.raises(RecipeError, match=r"domain\.citation_pattern"):
        make(pattern="§ (")


async def test_items_are_asked_together_and_come_back_in_order():
    gold, asked, seen = items(10), [], []
    gold[3] = GoldItem("item-3", "question 3?", "3 days", "slice-1", "section-a")
    together = asyncio.Event()

    async def ask(messages, *, schema=None, sampling=None, ordinal=0, tools=()):
        assert (
            schema is None
            and sampling is None
            and not tools
            and [message.role for message in messages] == ["user"]
        )
        asked.append(messages[0].content)
        if len(asked) == 10:
            together.set()
        await asyncio.wait_for(together.wait(), 5)
        number = int(messages[0].content.split()[1].rstrip("?"))
        await asyncio.sleep(0.01 * (10 - number))  # the last comes first
        return Completion(f"{number if number < 8 else 99} days", call_id=f"call-{number}")

    found = await make().evaluate(
        "m", "test", gold, ask, lambda done, total, detail="": seen.append((done, total))
    )
    assert [item.key for item in found.items] == [f"item-{n}" for n in range(10)]
    assert [item.score for item in found.items] == [1.0] * 8 + [0.0] * 2
    assert found.items[3].cluster == "section-a" and found.items[4].cluster == "item-4"
    assert (found.items[9].answer, found.items[9].call_id) == ("99 days", "call-9")
    assert (found.mean, found.metric, found.split) == (0.8, "facts", "test")
    assert (found.low, found.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert seen == [(n, 10) for n in range(1, 11)]


def failing(kind, on):
    """An `ask` that fails for the questions whose number is in `on`, and counts what it answered."""
    answered = []

    async def ask(messages, **_):
        number = int(messages[0].content.split()[1].rstrip("?"))
        await asyncio.sleep(0.001 * number)
        if number in on:
            raise EndpointError("no", kind=kind)
        answered.append(number)
        return Completion(f"{number} days")

    return ask, answered


@pytest.mark.parametrize("kind", ["refused", "malformed"])
async def test_a_lost_item_scores_nothing_and_many_stop_the_evaluation(kind):
    ask, _ = failing(kind, {4})
    found = await make().evaluate("m", "dev", items(30), ask, lambda *_: None)
    assert [item.score for item in found.items] == [float(n != 4) for n in range(30)]
    assert (found.items[4].answer, found.items[4].detail) == ("", f"no answer: {kind}")
    ask, _ = failing(kind, set(range(0, 30, 2)))
    with pytest.raises(FactoryError, match="tasks failed"):
        await make().evaluate("m", "dev", items(30), ask, lambda *_: None)


async def test_an_endpoint_that_is_down_is_raised_after_all_answers_came():
    ask, answered = failing("timeout", {0})
    with pytest.raises(EndpointError):
        await make().evaluate("m", "dev", items(10), ask, lambda *_: None)
    assert len(answered) == 9


async def test_two_evaluations_are_compared_by_the_recipe_s_rule():
    worse, _ = failing("refused", set())
    gold = items(30)
    better = await make().evaluate("m", "dev", gold, worse, lambda *_: None)
    wrong = [GoldItem(item.key, item.question, "99 days", item.slice) for item in gold]
    base = await make().evaluate("m", "dev", wrong, worse, lambda *_: None)
    verdict = make().compare(base, better)
    assert verdict.promote and verdict.gain == 1.0 and verdict.num_better == 30
    assert make().compare(better, better).reason == "no_gain"


@pytest.mark.parametrize("recipe", ["smart_home", "bicycle_workshop", "town_park"])
def test_the_forecast_counts_what_a_question_comes_with(recipe):
    domain = load(GOLD.parents[1] / recipe, "one_gpu")
    task = make_task(domain.recipe.evaluation.options().get("metric", "facts"), {}, domain).task
    row = next(row for row in forecast(domain) if row["stage"] == "evaluate")
    longest = domain.recipe.models["student"].sampling.max_tokens
    given = [
        sum(len(message.content) for message in task.messages(item)) + len(json.dumps(task.tools))
        for item in (*domain.dev, *domain.test)
    ]
    prompt = row["tokens"] / row["calls"] - longest
    assert 200 + sum(given) / len(given) / 3 == pytest.approx(prompt, abs=1.5) and prompt > 230


def test_a_margin_of_a_slice_that_dev_does_not_have_is_refused():
    domain = SimpleNamespace(recipe=make().domain.recipe, dev=items(4))
    assert Answers(AnswersOptions(slice_drops={"slice-1": 0.2}), domain).options.slice_drops
    with pytest.raises(RecipeError, match="no item of dev is of the slice 'fees'"):
        Answers(AnswersOptions(slice_drops={"fees": 0.2}), domain)


async def test_the_options_of_the_gate_are_followed():
    ask, _ = failing("refused", set())
    gold = items(30)
    new = await make().evaluate("m", "dev", gold, ask, lambda *_: None)
    wrong = [GoldItem(item.key, item.question, "99 days", item.slice) for item in gold[::2]]
    old = await make().evaluate("m", "dev", [*wrong, *gold[1::2]], ask, lambda *_: None)
    domain = SimpleNamespace(recipe=make().domain.recipe, dev=gold)
    reasons = {
        Answers(AnswersOptions(**options), domain).compare(old, new).reason
        for options in ({}, {"min_items": 31}, {"prove_slices": True})
    }
    assert reasons == {"gain", "too_few_items", "slice_unproven"}
    sought = Answers(AnswersOptions(gain_sought=0.5), domain).compare(old, new)
    assert sought.gain_sought == 0.5
