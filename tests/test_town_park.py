"""The ready domain of conversations: its files, its recipe, and its teacher behind the real vLLM server."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import yaml
from strategy_kit import Teacher, generate
from test_tiny_domains import refine_few

from factory.check import check_recipe
from factory.load import load
from factory.registry import create
from factory.types import Completion, Request
from tiny import build_park, dialogue_teacher, park

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "recipes" / "town_park"


def test_the_files_are_what_park_yaml_says():
    found = park.read()
    assert build_park.faults(found) == []
    for name, text in build_park.build(found).items():
        assert (RECIPE / name).read_text("utf-8") == text, name


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        ([("price", "We dream of a ship; is its price steep?")], "'boat' is missing"),
        ([("price", "We dream of your boat; is it steep?")], "has words of []"),
        ([("price", "We dream of your boat; what is the price of that?")], "shares 'what is the price'"),
        ([("price", "Your boat: its price, and for how many?")], "has words of ['people', 'price']"),
    ],
)
def test_gold_that_training_could_know_or_nobody_could_understand_is_told(lines, fault):
    found = park.read()
    boat = found.sections[0]
    changed = replace(boat, dev=((*lines, *boat.dev[0][1:]),))
    bad = build_park.faults(replace(found, sections=(changed, *found.sections[1:])))
    assert bad and any(fault in line for line in bad)


@pytest.mark.parametrize(("profile", "role"), [("tiny", "teacher"), ("one_gpu", "student")])
def test_the_recipe_checks(profile, role):
    summary = check_recipe(RECIPE, profile)
    assert role in {model["role"] for model in summary["models"]}
    totals = summary["slices"][-1]
    assert (totals["slice"], totals["sources"], totals["dev"], totals["test"]) == ("all", 16, 48, 96)


@pytest.mark.parametrize("split", ["dev", "test"])
def test_two_of_three_items_are_follow_ups_that_say_nothing_of_their_section(split):
    domain = load(RECIPE, "tiny")
    items = getattr(domain, split)
    follow_ups = [item for item in items if item.before]
    assert len(follow_ups) == 2 * len(items) / 3
    key_of = {section.source_key: section.key for section in park.read().sections}
    for item in items:
        opening = item.before[0].content if item.before else item.question
        assert key_of[item.source_key] in opening
        assert item.question == opening or key_of[item.source_key] not in item.question.split()


def test_the_teacher_speaks_as_the_recipe_asks():
    """Its prompts are those of the product, and its options those of the recipe."""
    spec = yaml.safe_load((RECIPE / "recipe.yaml").read_text("utf-8"))
    (strategy,) = spec["strategies"]
    assert (strategy["user"], strategy["assistant"]) == (dialogue_teacher.USER, dialogue_teacher.ASSISTANT)
    assert "answer_style" not in spec["domain"]  # nor has tiny.yaml one
    for chat in dialogue_teacher.examples()[::80]:
        roles = [message["role"] for message in chat["messages"]]
        assert roles[:2] == ["system", "user"] and roles[-1] == "assistant"
        assert roles[1:] == ["user", "assistant"] * (len(roles) // 2)


async def no_ask(*_: object, **__: object) -> Completion:
    raise AssertionError


class Lesson(Teacher):
    """Says word for word what the teacher is taught to say: what it would be if it learned all of it."""

    def __init__(self) -> None:
        super().__init__(str)
        self.talks: dict[int, list[str]] = {}

    def follow(self, request: Request) -> str | Completion:
        prompt, found = request.messages[0].content, park.read()
        (section,) = [each for each in found.sections if each.text in prompt]
        talk = self.talks.setdefault(
            request.ordinal, dialogue_teacher.talk(Random(request.ordinal), found, section)
        )
        at = len(request.messages) - (2 if "person who asks" in prompt else 1)
        return Completion(talk[at], "length" if talk[at].count("§") > 2 else "stop")


async def test_what_the_teacher_is_taught_is_kept_but_for_the_faults_that_checks_can_see(tmp_path):
    domain, teacher = load(RECIPE, "tiny"), Lesson()
    strategy = create("generators", domain.recipe.strategies[0], domain, "strategies[0]")
    made = await generate(tmp_path, strategy, teacher, dict.fromkeys(strategy.slices, 96))
    left, dropped = [sample for _, (sample,) in made], Counter()
    for spec in domain.recipe.refiners:
        refiner = create("refiners", spec, domain)
        decisions = await refiner.refine(left, no_ask)
        dropped.update(each.reason for each in decisions if each.action == "drop")
        left = [each for each, decision in zip(left, decisions, strict=True) if decision.action == "keep"]
    assert {"wrong_citation", "repeated_turn", "other_source"} <= set(dropped)
    assert not {"exact_duplicate", "contaminated"} & set(dropped)
    assert 0.1 < dropped.total() / len(made) < 0.3
    number = {section.source_key: str(section.section) for section in park.read().sections}
    cited = {
        (each.attributes["source_key"], n)
        for each in left
        for n in re.findall(r"§ (\d+)", str(each.messages))
    }
    assert cited == set(number.items())


@pytest.mark.vllm
def test_the_teacher_talks_and_the_checks_drop_what_they_can_see(tmp_path):
    rows = refine_few(RECIPE, tmp_path, 128)
    kept = [json.loads(messages) for action, *_, messages, _ in rows if action == "keep"]
    assert len(rows) == 128 and 48 <= len(kept) < 128
    assert {len(messages) for messages in kept} == {4, 6}
    assert len({message["content"] for messages in kept for message in messages[0::2]}) > len(kept)
    dropped = {(refiner, reason) for action, refiner, reason, *_ in rows if action == "drop"}
    assert ("citation", "wrong_citation") in dropped and len({refiner for refiner, _ in dropped}) >= 2
    facts = {section.source_key: list(section.facts.values()) for section in park.read().sections}
    answers = [
        any(fact in message["content"] for fact in facts[json.loads(attributes)["source_key"]])
        for action, *_, messages, attributes in rows
        if action == "keep"
        for message in json.loads(messages)[1::2]
    ]
    assert sum(answers) > 0.8 * len(answers)
