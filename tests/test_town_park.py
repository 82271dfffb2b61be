"""The ready domain of conversations: its files, its recipe, and its teacher behind the real vLLM server."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest
import yaml

from factory.check import check_recipe
from factory.load import load
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
    for chat in dialogue_teacher.examples()[:40]:
        roles = [message["role"] for message in chat["messages"]]
        assert roles[:2] == ["system", "user"] and roles[-1] == "assistant"
        assert roles[1:] == ["user", "assistant"] * (len(roles) // 2)


@pytest.mark.vllm
def test_the_teacher_talks_and_the_checks_drop_what_they_can_see(tmp_path):
    profile = yaml.safe_load((RECIPE / "profiles" / "tiny.yaml").read_text("utf-8"))
    profile["loop"]["samples_per_round"] = 128
    (tmp_path / "few.yaml").write_text(yaml.safe_dump(profile))
    words = [
        "refine",
        str(RECIPE),
        "--profile",
        str(tmp_path / "few.yaml"),
        "--workspace",
        str(tmp_path / "w"),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "factory", *words],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    with duckdb.connect(str(tmp_path / "w" / "factory.duckdb"), read_only=True) as connection:
        rows = connection.sql(
            "SELECT d.action, d.refiner, d.reason, s.messages, s.attributes->>'source_key' AS section "
            "FROM decisions d JOIN samples s ON s.id = d.sample_id WHERE d.final"
        ).fetchall()
    kept = [json.loads(messages) for action, *_, messages, _ in rows if action == "keep"]
    assert len(rows) == 128 and 64 <= len(kept) < 128
    assert {len(messages) for messages in kept} == {4, 6}
    assert len({message["content"] for messages in kept for message in messages[0::2]}) > len(kept)
    dropped = {(refiner, reason) for action, refiner, reason, *_ in rows if action == "drop"}
    assert ("citation", "wrong_citation") in dropped and len({refiner for refiner, _ in dropped}) >= 2
    facts = {section.source_key: list(section.facts.values()) for section in park.read().sections}
    answers = [
        any(fact in message["content"] for fact in facts[section])
        for action, *_, messages, section in rows
        if action == "keep"
        for message in json.loads(messages)[1::2]
    ]
    assert sum(answers) > 0.8 * len(answers)
