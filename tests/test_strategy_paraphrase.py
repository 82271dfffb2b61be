"""Paraphrases stand beside what they were made from, with the same answer, and bad ones are named."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pydantic import ValidationError
from strategy_kit import (
    SOURCES,
    Teacher,
    answer,
    build,
    check_page,
    check_repeats,
    domain_of,
    fate,
    generate,
    relations,
)

from factory.errors import RecipeError
from factory.recipe import StepSpec
from factory.registry import create
from factory.types import Completion, Parent, Request
from generators.paraphrase import ParaphraseOptions

REPHRASED = "By when has it to be told, within 30 days?"
QUESTION = "Must it be told within 30 days?"


class Words(Teacher):
    """Writes questions with their answers, and paraphrases of them."""

    def __init__(self, paraphrase: str | Completion | Callable[[Request], str] | None = None) -> None:
        super().__init__(str)
        self.paraphrase = paraphrase

    def follow(self, request: Request) -> str | Completion:
        self.requests.append(request)
        prompt = request.messages[-1].content
        number = request.ordinal % 1000
        if "in other words" in prompt:
            usual = answer(question=f"{REPHRASED} ({number})")
            return self.paraphrase if isinstance(self.paraphrase, str | Completion) else usual
        if prompt.startswith("Write one new question"):
            return answer(question=f"{QUESTION} ({number})")
        if prompt.startswith("Answer the question"):
            return answer(answer="30 days (§ 0)")
        return answer(question=f"{QUESTION} ({number})", answer="Yes (§ 0)")


def paraphrase(of: str = "grounded", **options):
    return build("paraphrase", of={"name": of, **options})


async def test_both_samples_are_made_and_the_second_derives_from_the_first(tmp_path):
    teacher = Words()
    made = await generate(tmp_path, paraphrase(), teacher, {"claims": 4, "benefits": 2})
    assert len(made) == 6 and len(teacher.requests) == 12
    for task, (first, second) in made:
        assert (first.operation, second.operation) == ("grounded", "paraphrase")
        assert first.answer == second.answer and first.question != second.question
        assert second.question.startswith(REPHRASED)
        assert second.parents[0] == Parent(first.id, "derived_from")
        assert second.parents[1] == Parent(task.source.id, "source")
        assert relations(first) == ["source", "call"]
        assert relations(second) == ["derived_from", "source", "call"]
        assert first.parents[-1] != second.parents[-1]
        assert second.attributes == {**first.attributes, "original": first.id}
        assert first.attributes["strategy"] == second.attributes["strategy"] == "paraphrase"
        assert [await fate(each) for each in (first, second)] == ["ok", "ok"]
    prompts = [prompt for prompt in teacher.prompts if "in other words" in prompt]
    assert all(prompt.splitlines()[-1].startswith(QUESTION) for prompt in prompts)
    assert not any("Yes (§ 0)" in prompt for prompt in prompts)  # the answer is not to be looked at


async def test_the_inner_strategy_plans_and_says_its_slices(tmp_path):
    inner, outer = build("grounded"), paraphrase()
    assert outer.slices == inner.slices
    allocation = {"claims": 5, "benefits": 3}
    planned = list(outer.plan(allocation, 2))
    assert {task.strategy for task in planned} == {"paraphrase"}
    assert [(t.ordinal, t.source, t.slice) for t in planned] == [
        (t.ordinal, t.source, t.slice) for t in inner.plan(allocation, 2)
    ]
    huge = outer.plan({"claims": 10**9}, 1)
    assert next(huge).ordinal == 1_000_000


async def test_the_inner_sample_is_that_of_the_strategy_alone(tmp_path):
    """So a recipe with both pays the inner calls once."""
    teacher = Words()
    alone = await generate(tmp_path, build("grounded"), teacher, {"claims": 3})
    num_calls = len(teacher.requests)
    both = await generate(tmp_path, paraphrase(), teacher, {"claims": 3})
    assert [first.id for _, (first, _) in both] == [sample.id for _, (sample,) in alone]
    assert len(teacher.requests) == num_calls + 3


async def test_seeds_are_among_the_parents_and_their_options_reach_the_inner_strategy(tmp_path):
    made = await generate(tmp_path, paraphrase("seeded", num_examples=2), Words(), {"claims": 2})
    for task, (_, second) in made:
        assert [p.id for p in second.parents if p.relation == "seed"] == [seed.id for seed in task.seeds]
        assert len(task.seeds) == 2


async def test_running_again_finds_everything_stored(tmp_path):
    await check_repeats(tmp_path, paraphrase(), Words(), {"claims": 6, "benefits": 2})


@pytest.mark.parametrize(
    ("reply", "reason", "question"),
    [
        ("Sure! Here it is", "not_json", ""),
        (Completion('{"question": "By wh', "length"), "truncated", ""),
        (answer(paraphrase="By when?"), "missing_key", ""),
        (answer(question="must it be told, within 30 days (0)"), "unchanged", None),
        (answer(question="Must it be told within thirty days?"), "changed_numbers", None),
        (answer(question="Must it be told within 30 or 60 days?"), "changed_numbers", None),
        (answer(question=" "), "changed_numbers", None),
    ],
)
async def test_a_bad_paraphrase_is_dropped_and_leaves_the_sample(tmp_path, reply, reason, question):
    ((_, (first, second)),) = await generate(tmp_path, paraphrase(), Words(reply), {"claims": 1})
    assert await fate(first) == "ok"
    assert second.attributes["malformed"] == reason and await fate(second) == reason
    if question == "":
        assert (second.question, second.answer) == ("", reply if isinstance(reply, str) else reply.text)
    else:
        assert second.answer == first.answer


async def test_a_malformed_sample_is_not_paraphrased(tmp_path):
    teacher = Teacher(lambda prompt: "no JSON")
    ((_, (only,)),) = await generate(tmp_path, paraphrase(), teacher, {"claims": 1})
    assert only.attributes["malformed"] == "not_json" and len(teacher.requests) == 1


async def test_a_conversation_is_reworded_turn_by_turn_in_one_call(tmp_path):
    def reply(request: Request) -> str | Completion:
        prompt = request.messages[-1].content
        if "in other words" in prompt:
            assert "question_1: Q1?\nAnswer: A1 (§ 0)\nquestion_2: Q2?\nAnswer: A2 (§ 0)" in prompt
            assert request.schema["required"] == ["question_1", "question_2"]
            return answer(question_1="Say 1?", question_2="Say 2?")
        turn = len(request.messages) // 2
        return f"Q{turn}?" if "person who asks" in request.messages[0].content else f"A{turn} (§ 0)"

    teacher = Teacher(str)
    teacher.script = reply
    strategy = paraphrase("dialogue", min_turns=2, max_turns=2, system="Be brief.")
    ((_, (first, second)),) = await generate(tmp_path, strategy, teacher, {"claims": 1})
    assert second.texts("user") == ("Say 1?", "Say 2?")
    assert second.texts("assistant") == first.texts("assistant")
    assert second.texts("system") == ("Be brief.",)
    assert strategy.cost == (4 + 1, 2, 4)


async def test_wrappers_nest_and_remember_the_first(tmp_path):
    def reply(prompt: str) -> str:
        if "in other words" in prompt:
            return answer(question="So " + prompt.splitlines()[-1])
        return answer(question="Is it due?", answer="Yes.")

    strategy = build("paraphrase", of={"name": "paraphrase", "of": {"name": "grounded"}})
    ((_, samples),) = await generate(tmp_path, strategy, Teacher(reply), {"claims": 1})
    first, second, third, fourth = samples
    assert [each.question for each in samples] == [
        "Is it due?", "So Is it due?", "So Is it due?", "So So Is it due?"
    ]  # fmt: skip
    assert [each.parents[0].id for each in samples[1:]] == [first.id, first.id, second.id]
    assert {each.attributes["original"] for each in samples[1:]} == {first.id}
    assert strategy.cost == (2 + 2, 4, 4) and third.id != fourth.id


async def test_what_near_and_exact_make_of_it(tmp_path):
    long = " ".join(f"Part {n} of the rule is explained here at length." for n in range(30))

    def reply(prompt: str) -> str:
        if "in other words" in prompt:
            return answer(question="By when must one act?")
        return answer(question="Is there a time limit to be kept?", answer=long)

    ((_, samples),) = await generate(tmp_path, paraphrase(), Teacher(reply), {"claims": 1})
    for name in ("exact", "near"):
        refiner = create("refiners", StepSpec(name=name), domain_of())
        assert [each.reason for each in await refiner.refine(samples, None)] == ["ok", "ok"]


def test_a_wrapper_of_what_is_not_there_is_refused():
    with pytest.raises(RecipeError, match="did you mean 'grounded'"):
        paraphrase("groundet")
    with pytest.raises(RecipeError, match="num_examples"):
        paraphrase("seeded", num_examples="2")
    with pytest.raises(RecipeError, match="needs sources"):
        build("paraphrase", domain_of(sources=()), of={"name": "grounded"})
    with pytest.raises(ValidationError):
        ParaphraseOptions.model_validate({"of": "grounded"})


def test_the_page_says_what_is_so(tmp_path):
    (strategy,) = check_page("paraphrase", tmp_path)
    assert set(strategy.slices) == {source.slice for source in SOURCES}
