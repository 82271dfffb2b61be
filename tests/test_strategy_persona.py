"""Personas: given or written from the text, each meeting each section in time; who asked stands in SQL."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from strategy_kit import (
    SEEDS,
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
from factory.init import write_template
from factory.load import load_recipe
from factory.types import Seed

PERSONAS = ["A roofer who fell.", "A claims clerk.", "A widow."]
WRITTEN = ["A nurse.", "a nurse", "A foreman.", "  ", "A judge.", "A baker."]


def good(prompt: str) -> str:
    if prompt.startswith("Who is likely"):
        return answer(personas=WRITTEN)
    if prompt.startswith("Answer the question"):
        return answer(answer="30 days.")
    person = re.search(r"Person: (.*)", prompt)[1]
    question = f"{person} When is it due?"
    return answer(question=question) if "Example:" in prompt else answer(question=question, answer="30 days.")


async def test_a_given_persona_asks_about_a_section_in_one_call(tmp_path):
    teacher = Teacher(good)
    strategy = build("persona", personas=PERSONAS)
    made = await generate(tmp_path, strategy, teacher, {"claims": 9, "benefits": 3})
    assert len(teacher.requests) == 12
    for task, (sample,) in made:
        assert sample.question == f"{sample.attributes['persona']} When is it due?"
        assert relations(sample) == ["seed", "source", "call"]
        assert sample.attributes["source_key"] == task.source.key
        known = {seed.id: seed.prompt for seed in strategy.material}
        assert known[sample.parents[0].id] == sample.attributes["persona"]
    assert task.source.text in teacher.prompts[-1] and "Cite the rule." in teacher.prompts[-1]


def test_every_persona_meets_every_section():
    for num_personas in (2, 3, 4, 7):
        personas = [f"Person {n}" for n in range(num_personas)]
        tasks = list(build("persona", personas=personas).plan({"claims": 3 * num_personas}, 1))
        met = Counter((task.source.key, task.attributes["persona"]) for task in tasks)
        assert len(met) == 3 * num_personas and set(met.values()) == {1}


async def test_personas_are_written_once_for_each_section_and_take_turns(tmp_path):
    teacher = Teacher(good)
    strategy = build("persona", num_written=3)
    made = await generate(tmp_path, strategy, teacher, {"claims": 12})
    writing = [prompt for prompt in teacher.prompts if prompt.startswith("Who is")]
    assert len(writing) == 3 == len(set(writing)) and len(teacher.requests) == 3 + 12
    used = Counter((task.source.key, sample.attributes["persona"]) for task, (sample,) in made)
    # Copies and blanks are left out, and what comes beyond the three that were asked for.
    assert {persona for _, persona in used} == {"A nurse.", "A foreman.", "A judge."}
    assert len(used) == 9 and max(used.values()) <= 2
    for _, (sample,) in made:
        assert relations(sample) == ["source", "call", "call"]
    assert strategy.num_shared_calls == len(SOURCES) and strategy.cost.num_calls == 2


async def test_without_sources_a_persona_asks_like_a_seed_and_is_answered(tmp_path):
    teacher = Teacher(good)
    domain = domain_of(sources=())
    strategy = build("persona", domain, personas=PERSONAS)
    assert set(strategy.slices) == {"claims", "benefits"}
    made = await generate(tmp_path, strategy, teacher, {"benefits": 2})
    for _, (sample,) in made:
        assert relations(sample) == ["seed", "seed", "call", "call"] and sample.answer == "30 days."
        assert sample.parents[0].id == SEEDS[2].id
    assert any(f"Example: {SEEDS[2].prompt}" in prompt for prompt in teacher.prompts)
    written = await generate(tmp_path / "w", build("persona", domain), Teacher(good), {"benefits": 1})
    assert relations(written[0][1][0]) == ["seed", "call", "call", "call"]


async def test_running_again_asks_nothing(tmp_path):
    await check_repeats(tmp_path / "a", build("persona"), Teacher(good), {"claims": 7, "benefits": 2})
    strategy = build("persona", domain_of(sources=()), personas=PERSONAS)
    await check_repeats(tmp_path / "b", strategy, Teacher(good), {"claims": 7})


async def test_where_no_persona_could_be_written_each_task_tries_for_itself_and_says_so(tmp_path):
    teacher = Teacher(lambda prompt: "none" if prompt.startswith("Who is") else good(prompt))
    strategy = build("persona", domain_of(sources=SOURCES[:1]))
    made = await generate(tmp_path, strategy, teacher, {"claims": 3})
    samples = [sample for _, (sample,) in made]
    assert len(teacher.requests) == 1 + 3 and len({sample.id for sample in samples}) == 3
    for sample in samples:
        assert sample.attributes["malformed"] == await fate(sample) == "not_json"
        assert sample.answer == "none" and relations(sample) == ["source", "call", "call"]


async def test_a_later_try_for_a_persona_is_used(tmp_path):
    tries: list[str] = []

    def reply(prompt: str) -> str:
        if prompt.startswith("Who is"):
            tries.append(prompt)
            return answer(personas=[] if len(tries) == 1 else ["A nurse."])
        return good(prompt)

    strategy = build("persona", domain_of(sources=SOURCES[:1]))
    ((_, (sample,)),) = await generate(tmp_path, strategy, Teacher(reply), {"claims": 1})
    assert sample.attributes["persona"] == "A nurse." and relations(sample).count("call") == 3


@pytest.mark.parametrize(("text", "fault"), [("hm", "not_json"), ('{"question": "Q?"}', "missing_key")])
async def test_a_malformed_answer_is_kept_whole(tmp_path, text, fault):
    strategy = build("persona", personas=PERSONAS)
    ((_, (sample,)),) = await generate(tmp_path, strategy, Teacher(lambda _: text), {"claims": 1})
    assert (sample.answer, sample.attributes["malformed"]) == (text, fault)
    without = build("persona", domain_of(sources=()), personas=PERSONAS)
    teacher = Teacher(lambda prompt: "hm")
    ((_, (sample,)),) = await generate(tmp_path / "b", without, teacher, {"claims": 1})
    assert sample.attributes["malformed"] == "not_json" and len(teacher.requests) == 1


def test_files_of_personas_are_read_line_by_line(tmp_path):
    (tmp_path / "p.txt").write_text("A roofer.\n\n  A  clerk. \n")
    (tmp_path / "p.jsonl").write_text('{"persona": "A judge.", "id": 1}\n{"persona": "A widow.", "id": 2}\n')
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "odd.jsonl").write_text('{"persona": 3}\n')
    domain = domain_of(tmp_path)
    material = build("persona", domain, file="p.txt").material
    assert [(seed.key, seed.prompt) for seed in material] == [
        ("p.txt:1", "A roofer."),
        ("p.txt:3", "A clerk."),
    ]
    assert isinstance(material[0], Seed)
    assert [s.prompt for s in build("persona", domain, file="p.jsonl").material] == ["A judge.", "A widow."]
    for file, words in (
        ("gone.txt", "no such file"),
        ("empty.txt", "no personas"),
        ("odd.jsonl", r"jsonl:1.*text"),
    ):
        with pytest.raises(RecipeError, match=words):
            build("persona", domain, file=file)


def test_options_that_do_not_fit_are_told():
    with pytest.raises(RecipeError, match="not both"):
        build("persona", personas=PERSONAS, file="x.txt")
    with pytest.raises(RecipeError, match="must not be empty"):
        build("persona", personas=[" "])
    with pytest.raises(RecipeError, match="sources or seeds"):
        build("persona", domain_of(sources=(), seeds=()))


def test_a_recipe_without_its_material_is_told_at_its_line(tmp_path):
    write_template(tmp_path / "domain")
    profile = tmp_path / "domain" / "profiles" / "bare.yaml"
    profile.write_text("strategies: [{name: persona}]\nseeds: null\nsources: {paths: []}\n")
    with pytest.raises(RecipeError, match=r"bare\.yaml:1 strategies\[0\]\.name.*neither sources nor seeds"):
        load_recipe(tmp_path / "domain", "bare")


def test_its_page_is_true(tmp_path):
    check_page("persona", tmp_path)
