"""Evol-Instruct: chains of methods in turn, answered at the end; what is eliminated is dropped, counted."""

from __future__ import annotations

from collections import Counter

import pytest
from strategy_kit import (
    SEEDS,
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
from factory.init import write_template
from factory.load import load_recipe
from factory.types import Completion
from generators.elimination import fault_of_answer, fault_of_evolution
from generators.evolved import METHODS

SEED = "When must notice of an injury be given?"
HARDER = "When must notice of an injury be given if the foreman was away for two weeks?"


def good(prompt: str) -> str:
    if prompt.startswith("Answer the question"):
        return answer(answer="Within 30 days (§ 0).")
    before = prompt.splitlines()[-1]
    if prompt.startswith("Take inspiration"):
        return answer(prompt="Which doctor may an injured night watchman choose?")
    num = before.count("furthermore")
    extra = ("the foreman was away", "nobody saw the accident", "the letter was lost")[num % 3]
    return answer(prompt=f"{before} furthermore suppose {extra}?")


async def test_a_chain_evolves_step_by_step_and_is_answered(tmp_path):
    evolved, teacher = build("evolved", num_steps=2), Teacher(good)
    made = await generate(tmp_path, evolved, teacher, {"claims": 12, "benefits": 12})
    samples = [sample for _, (sample,) in made]
    assert Counter(sample.slice for sample in samples) == {"claims": 12, "benefits": 12}
    assert all("malformed" not in sample.attributes for sample in samples)
    for task, (sample,) in made:
        methods = sample.attributes["methods"].split(",")
        assert relations(sample)[0] == "seed" and sample.parents[0].id == task.seeds[0].id
        assert relations(sample).count("call") == len(methods) + 1
        if "breadth" not in methods:
            assert sample.question.startswith(task.seeds[0].prompt)
            assert sample.question.count("furthermore") == len(methods)
        assert sample.answer == "Within 30 days (§ 0)."
    assert teacher.requests[0].schema["required"] == ["prompt"]


async def test_methods_and_lengths_take_turns():
    evolved = build("evolved", num_steps=2)
    tasks = list(evolved.plan({"benefits": 24}, 1))
    chains = Counter(task.attributes["methods"] for task in tasks)
    assert len(chains) == 12 and set(chains.values()) == {2}
    firsts = Counter(chain.split(",")[0] for chain in chains)
    assert firsts == dict.fromkeys(METHODS, 2)
    # Two seeds and twelve chains share a divisor; still each seed meets each chain.
    met = {(t.seeds[0].key, t.attributes["methods"]) for t in evolved.plan({"claims": 24}, 1)}
    assert len(met) == 24


async def test_running_again_asks_nothing(tmp_path):
    await check_repeats(tmp_path, build("evolved"), Teacher(good), {"claims": 6, "benefits": 3})


@pytest.mark.parametrize(
    ("evolved", "rule"),
    [
        (SEED, "copied"),
        ("when must NOTICE of an injury be given", "copied"),
        ("When must notice of an injury be given, please?", "copied"),
        ("I'm sorry, but I cannot rewrite that.", "refused"),
        ("I cannot create a harder version of this.", "refused"),
        ("Unfortunately, I am not able to help with legal matters of any kind.", "refused"),
        ("The rewritten prompt asks when notice of an injury must reach the employer.", "leaked"),
        ("#Given Prompt#: when must the foreman hear of it, and by which letter?", "leaked"),
        ("Rewrite the prompt below into a harder version of itself about late notice.", "leaked"),
        ("It must remain reasonable, stand by itself and be answerable: when is notice due?", "leaked"),
    ],
)
async def test_a_failed_evolution_is_dropped_and_counted_by_its_rule(tmp_path, evolved, rule):
    teacher = Teacher(lambda prompt: answer(prompt=evolved))
    strategy = build("evolved", domain_of(seeds=SEEDS[:1]), num_steps=1, methods=["constraints"])
    ((_, (sample,)),) = await generate(tmp_path, strategy, teacher, {"claims": 1})
    assert (sample.attributes["malformed"], sample.attributes["eliminated"]) == ("not_evolved", rule)
    assert sample.question == evolved and sample.answer == ""
    assert await fate(sample) == "not_evolved"
    assert len(teacher.requests) == 1  # no answer was paid for


async def test_a_later_step_that_fails_keeps_all_calls_as_parents(tmp_path):
    def stuck(prompt: str) -> str:
        text = prompt.splitlines()[-1]
        return answer(prompt=text if "foreman" in text else text + " And if the foreman was away?")

    strategy = build("evolved", num_steps=2, methods=["deepening"])
    made = await generate(tmp_path, strategy, Teacher(stuck), {"claims": 2})
    (failed,) = [s for _, (s,) in made if s.attributes.get("eliminated") == "copied"]
    assert failed.attributes["methods"] == "deepening,deepening" and relations(failed).count("call") == 2


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("I'm sorry, I do not know that.", "answer_refused"),
        ("As an AI, I have no view on it.", "answer_refused"),
        ("It is so, and it was!", "answer_empty"),
        ("...", "answer_empty"),
    ],
)
async def test_an_answer_that_gives_up_eliminates_its_prompt(tmp_path, text, rule):
    def reply(prompt: str) -> str:
        return answer(answer=text) if prompt.startswith("Answer") else answer(prompt=HARDER)

    strategy = build("evolved", num_steps=1, methods=["reasoning"])
    ((_, (sample,)),) = await generate(tmp_path, strategy, Teacher(reply), {"claims": 1})
    assert sample.attributes["eliminated"] == rule and await fate(sample) == "not_evolved"
    assert (sample.question, sample.answer) == (HARDER, text)


def test_what_is_no_fault_is_none():
    assert fault_of_evolution(HARDER, SEED, "Rewrite the prompt below", 3) == ""
    injured = "I cannot lift my arm since the accident. Which benefits are mine, and who decides?"
    assert fault_of_evolution(injured, "Which benefits are mine?", "", 3) == ""
    about_prompts = "Explain how a new prompt reaches the model in three careful steps."
    assert fault_of_evolution(about_prompts, "Explain a new prompt.", "", 3) == ""
    assert fault_of_evolution("伤后几天内须书面报告，若工头不在？", "伤后几天内须报告？", "", 3) == ""
    assert fault_of_evolution("伤后几天内须报告。", "伤后几天内须报告？", "", 3) == "copied"
    assert fault_of_answer("Sorry seems the hardest word. " + "He was within his rights. " * 20) == ""
    assert fault_of_answer("30 days") == fault_of_answer("Ja.") == ""


@pytest.mark.parametrize("text", ["no idea", '{"question": "Q?"}'])
async def test_a_malformed_evolution_is_kept_whole(tmp_path, text):
    ((_, (sample,)),) = await generate(tmp_path, build("evolved"), Teacher(lambda _: text), {"claims": 1})
    assert sample.answer == text and sample.attributes["malformed"] in {"not_json", "missing_key"}
    assert "eliminated" not in sample.attributes


async def test_a_truncated_answer_keeps_the_evolved_prompt(tmp_path):
    def reply(prompt: str) -> str | Completion:
        return Completion('{"answ', "length") if prompt.startswith("Answer") else answer(prompt=HARDER)

    strategy = build("evolved", num_steps=1, methods=["concretizing"])
    ((_, (sample,)),) = await generate(tmp_path, strategy, Teacher(reply), {"claims": 1})
    assert (sample.question, sample.attributes["malformed"]) == (HARDER, "truncated")


async def test_depth_stays_with_the_section_of_the_seed_and_breadth_looks_for_one(tmp_path):
    def reply(prompt: str) -> str:
        if prompt.startswith("Answer"):
            return answer(answer="Soon.")
        return answer(prompt="What is the appeal limit for the widow of a miner?")

    for method, key in (("deepening", SEEDS[0].source_key), ("breadth", "rule-2")):
        strategy = build("evolved", domain_of(seeds=SEEDS[:1]), num_steps=1, methods=[method])
        ((_, (sample,)),) = await generate(tmp_path / method, strategy, Teacher(reply), {"claims": 1})
        assert sample.attributes["source_key"] == key and "source" in relations(sample)


def test_it_needs_seeds_and_knows_its_methods():
    with pytest.raises(RecipeError, match="seeds"):
        build("evolved", domain_of(seeds=()))
    with pytest.raises(RecipeError, match=r"methods\[0\]"):
        build("evolved", methods=["sideways"])
    assert build("evolved", num_steps=3).cost.num_calls == 4


def test_a_recipe_without_its_material_is_told_at_its_line(tmp_path):
    write_template(tmp_path / "domain")
    profile = tmp_path / "domain" / "profiles" / "bare.yaml"
    profile.write_text("strategies: [{name: evolved}]\nseeds: null\n")
    with pytest.raises(RecipeError, match=r"bare\.yaml:1 strategies\[0\]\.name.*no seeds"):
        load_recipe(tmp_path / "domain", "bare")


def test_its_page_is_true(tmp_path):
    check_page("evolved", tmp_path)
