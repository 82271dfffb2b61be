"""Generators over a small domain: what they plan, what they ask, and that no answer vanishes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.domain import Domain
from factory.errors import RecipeError
from factory.prompts import render
from factory.recipe import DomainSpec, GoldSpec, Recipe, StrategySpec
from factory.registry import create
from factory.types import Completion, Message, Seed, Source, digest
from generators.fields import read_fields, schema_of
from generators.grounded import Grounded, GroundedOptions
from generators.seeded import Seeded, SeededOptions

SOURCES = tuple(
    Source.create(f"rule-{n}", "handbook.md", f"§ {n}", f"Rule {n}", f"The {word} limit is {n} days.", slice)
    for n, (word, slice) in enumerate(
        [
            ("notice", "claims"),
            ("filing", "claims"),
            ("appeal", "claims"),
            ("wage", "benefits"),
            ("care", "benefits"),
        ]
    )
)
SEEDS = tuple(
    Seed.create(f"seed-{n}", f"Ask about {word}.", slice, source_key)
    for n, (word, slice, source_key) in enumerate(
        [
            ("notice", "claims", "rule-0"),
            ("filing", "claims", "rule-1"),
            ("an appeal", "claims", None),
            ("late claims", "claims", None),
            ("wages", "benefits", "rule-3"),
        ]
    )
)


def domain_of(sources=SOURCES, seeds=SEEDS) -> Domain:
    recipe = Recipe(
        name="small",
        domain=DomainSpec(title="Small", answer_style="Cite the rule."),
        gold=GoldSpec(dev="dev.jsonl", test="test.jsonl"),
        servers={},
        models={},
        strategies=[StrategySpec(name="grounded")],
    )
    return Domain(recipe, Path(), sources, seeds, (), (), ())


class Oracle:
    """An `ask` that answers by rule and remembers what it was asked."""

    def __init__(self, reply: Callable[[str, int], str | Completion]) -> None:
        self.reply = reply
        self.asked: list[tuple[str, object, int]] = []

    async def __call__(self, messages, *, schema=None, sampling=None, ordinal=0) -> Completion:
        self.asked.append((messages[0].content, schema, ordinal))
        reply = self.reply(messages[0].content, len(self.asked))
        answer = reply if isinstance(reply, Completion) else Completion(reply)
        return Completion(answer.text, answer.finish_reason, call_id=f"call_{len(self.asked)}")


def grounded() -> Grounded:
    return Grounded(GroundedOptions(), domain_of())


def seeded(num_examples: int = 1) -> Seeded:
    return Seeded(SeededOptions(num_examples=num_examples), domain_of())


def relations(sample) -> list[tuple[str, str]]:
    return [(parent.relation, parent.id) for parent in sample.parents]


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 9))
def test_a_plan_keeps_the_allocation_and_spreads_it_evenly(claims, benefits, round_number):
    tasks = list(grounded().plan({"claims": claims, "benefits": benefits, "unknown": 3}, round_number))
    assert Counter(task.slice for task in tasks) == Counter(claims=claims, benefits=benefits)
    assert [task.ordinal for task in tasks] == [round_number * 1_000_000 + n for n in range(len(tasks))]
    for slice in ("claims", "benefits"):
        uses = Counter(source.key for source in SOURCES if source.slice == slice)
        uses.update(task.source.key for task in tasks if task.slice == slice)
        assert max(uses.values()) - min(uses.values()) <= 1
    half = Counter(task.slice for task in tasks[: len(tasks) // 2])
    assert abs(half["claims"] - claims / 2) <= 1.5


def test_a_strategy_names_the_slices_that_it_has_material_for():
    assert set(grounded().slices) == {source.slice for source in SOURCES}
    assert set(seeded().slices) == {"claims", "benefits"}
    more = (*SEEDS, Seed.create("talk", "Say hello.", "talk"))
    domain = domain_of(seeds=more)
    assert set(Seeded(SeededOptions(), domain).slices) == {"claims", "benefits", "talk"}
    assert "talk" not in Grounded(GroundedOptions(), domain).slices


def test_a_plan_is_lazy_repeats_itself_and_turns_with_the_round():
    huge = {"claims": 10**9}
    first, again, next_round = (list(islice(grounded().plan(huge, number), 3)) for number in (1, 1, 2))
    assert first == again
    orders = {tuple(task.source.key for task in islice(grounded().plan(huge, n), 3)) for n in range(20)}
    assert len(orders) > 1 and {task.ordinal for task in first}.isdisjoint(t.ordinal for t in next_round)


async def test_grounded_makes_one_sample_from_section_and_call():
    oracle = Oracle(lambda prompt, n: '{"question": " How long? ", "answer": "5 days (§ 0)"}')
    (task,) = islice(grounded().plan({"benefits": 1}, 2), 1)
    (sample,) = await grounded().make(task, oracle)
    assert sample.messages == (Message("user", "How long?"), Message("assistant", "5 days (§ 0)"))
    assert relations(sample) == [("source", task.source.id), ("call", "call_1")]
    assert sample.attributes == {"slice": "benefits", "strategy": "grounded", "source_key": task.source.key}
    ((prompt, schema, ordinal),) = oracle.asked
    assert task.source.text in prompt and prompt.splitlines()[0].endswith("Cite the rule.")
    assert schema["required"] == ["question", "answer"] and ordinal == task.ordinal
    assert (await grounded().make(task, Oracle(oracle.reply)))[0].id == sample.id


@pytest.mark.parametrize(
    ("answer", "malformed", "question"),
    [
        (Completion("Sure! Here it is"), "not_json", ""),
        (Completion('{"question": "Q?", "answ', "length"), "truncated", ""),
        (Completion('{"question": "Q?"}'), "missing_key", "Q?"),
        (Completion('{"question": "Q?", "answer": 5}'), "missing_key", "Q?"),
        (Completion("[1]"), "missing_key", ""),
        (Completion("[" * 100_000), "not_json", ""),
        (Completion(""), "not_json", ""),
    ],
)
async def test_a_malformed_answer_is_kept_whole(answer, malformed, question):
    (task,) = grounded().plan({"claims": 1}, 1)
    (sample,) = await grounded().make(task, Oracle(lambda prompt, n: answer))
    assert sample.attributes["malformed"] == malformed
    assert (sample.question, sample.answer) == (question, answer.text)
    assert [relation for relation, _ in relations(sample)] == ["source", "call"]


async def test_seeded_asks_twice_and_descends_from_seed_source_and_both_calls():
    replies = ['{"question": "When is notice due?"}', '{"answer": "30 days"}']
    oracle = Oracle(lambda prompt, n: replies[n - 1])
    task = next(task for task in seeded().plan({"claims": 4}, 1) if task.seeds[0].source_key == "rule-0")
    (sample,) = await seeded().make(task, oracle)
    assert (sample.question, sample.answer, sample.operation) == ("When is notice due?", "30 days", "seeded")
    assert relations(sample) == [
        ("seed", SEEDS[0].id), ("source", SOURCES[0].id), ("call", "call_1"), ("call", "call_2")
    ]  # fmt: skip
    assert sample.attributes == {"slice": "claims", "strategy": "seeded", "source_key": "rule-0"}
    (first, _, _), (second, _, _) = oracle.asked
    assert "this one" in first and "Ask about notice." in first
    assert second.startswith("Answer the question") and second.endswith("When is notice due?")


async def test_seeded_without_a_known_section_takes_the_nearest():
    replies = ['{"question": "Until when may one appeal?"}', '{"answer": "2 days"}']
    task = next(
        task for task in seeded().plan({"claims": 4}, 1) if task.seeds[0].prompt == "Ask about an appeal."
    )
    (sample,) = await seeded().make(task, Oracle(lambda prompt, n: replies[n - 1]))
    assert sample.attributes["source_key"] == "rule-2" and ("source", SOURCES[2].id) in relations(sample)


def test_examples_are_of_one_slice_differ_and_repeat():
    tasks = list(seeded(3).plan({"claims": 12, "benefits": 1}, 1))
    for task in tasks:
        assert {seed.slice for seed in task.seeds} == {task.slice}
        assert len(set(task.seeds)) == len(task.seeds) == (3 if task.slice == "claims" else 1)
    assert len({task.seeds for task in tasks}) > 6
    assert tasks == list(seeded(3).plan({"claims": 12, "benefits": 1}, 1))


async def test_several_examples_say_nothing_about_the_section():
    replies = ['{"question": "When must the filing happen?"}', '{"answer": "1 day"}']
    task = next(task for task in seeded(3).plan({"claims": 4}, 1) if task.seeds[0].source_key == "rule-0")
    (sample,) = await seeded(3).make(task, Oracle(lambda prompt, n: replies[n - 1]))
    assert sample.attributes["source_key"] == "rule-1"
    assert [relation for relation, _ in relations(sample)] == ["seed"] * 3 + ["source", "call", "call"]


async def test_a_malformed_prompt_is_not_answered():
    oracle = Oracle(lambda prompt, n: "no idea")
    (task,) = islice(seeded(3).plan({"claims": 1}, 1), 1)
    (sample,) = await seeded(3).make(task, oracle)
    assert len(oracle.asked) == 1 and sample.attributes["malformed"] == "not_json"
    assert (sample.question, sample.answer) == ("", "no idea")
    assert relations(sample)[-1] == ("call", "call_1")


async def test_a_malformed_answer_to_a_good_prompt_keeps_both():
    oracle = Oracle(lambda prompt, n: '{"question": "When is notice due?"}' if n == 1 else '{"ans')
    (task,) = islice(seeded().plan({"claims": 1}, 1), 1)
    (sample,) = await seeded().make(task, oracle)
    assert sample.attributes["malformed"] == "not_json"
    assert (sample.question, sample.answer) == ("When is notice due?", '{"ans')


@given(
    st.dictionaries(st.sampled_from(["question", "answer", "other"]), st.text() | st.integers() | st.none())
)
def test_fields_are_read_or_named_missing(answer):
    values, malformed = read_fields(Completion(json.dumps(answer)), ["question", "answer"])
    strings = {k: v.strip() for k, v in answer.items() if isinstance(v, str) and k != "other"}
    assert values == strings and malformed == ("" if len(strings) == 2 else "missing_key")


def test_strategies_without_material_are_refused_by_name():
    with pytest.raises(RecipeError, match="sources"):
        Grounded(GroundedOptions(), domain_of(sources=()))
    with pytest.raises(RecipeError, match="seeds"):
        Seeded(SeededOptions(), domain_of(seeds=()))


def test_they_are_found_by_name_and_their_options_are_checked():
    spec = StrategySpec.model_validate({"name": "seeded", "num_examples": 2})
    assert create("generators", spec, domain_of()).options.num_examples == 2
    with pytest.raises(RecipeError, match="num_examples"):
        create(
            "generators", StrategySpec.model_validate({"name": "seeded", "num_examples": "2"}), domain_of()
        )
    with pytest.raises(RecipeError, match="size"):
        create("generators", StrategySpec.model_validate({"name": "grounded", "size": 2}), domain_of())


def test_what_is_filled_into_a_prompt_is_data():
    evil = "{{ 7 * 7 }} {% for x in y %}"
    assert evil in render("generators", "seeded_answer", style="", question=evil)


def test_the_wording_of_the_prompts_is_fixed():
    """Models are trained on these very texts; a changed word is a changed task."""
    source = SOURCES[0]
    texts = [
        render("generators", "grounded", style="Be brief.", source=source),
        render("generators", "seeded_prompt", examples=SEEDS[:1]),
        render("generators", "seeded_prompt", examples=SEEDS[:2]),
        render("generators", "seeded_answer", style="", question="Q?"),
    ]
    assert (
        texts[0].endswith("§ 0 Rule 0\nThe notice limit is 0 days.") and '"answer". Be brief.\n\n' in texts[0]
    )
    assert texts[1].endswith('"question".\n\nAsk about notice.')
    assert digest(texts) == "eec4a1a9969f56cd18a8"


def test_schemas_name_strings_in_order_and_nothing_else():
    schema = schema_of(["question", "answer"])
    assert list(schema["properties"]) == schema["required"] == ["question", "answer"]
    assert schema["additionalProperties"] is False


def test_a_schema_is_the_same_object_each_time():
    """What turns it into bytes knows it by that."""
    assert schema_of(["a", "b"]) is schema_of(("a", "b")) is not schema_of(["b", "a"])
