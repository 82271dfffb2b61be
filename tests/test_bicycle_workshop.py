"""The ready domain of `text_to_sql`: it checks, its gold can be trusted, and its teacher can do its part."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import yaml

from factory import session
from factory.check import check_recipe
from factory.load import load
from factory.progress import Progress
from factory.registry import create
from factory.schemas import read_schemas
from factory.sql_sandbox import SqlSandbox
from factory.store.store import Store
from tiny import build_sql_domain, sql_intents, sql_teacher

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "recipes" / "bicycle_workshop"


@pytest.mark.parametrize("profile", ["tiny", "one_gpu"])
def test_it_checks(profile):
    found = check_recipe(RECIPE, profile)
    assert [row["slice"] for row in found["slices"]] == ["hire", "repairs", "all"]
    assert found["slices"][-1]["dev"] >= 32 and found["slices"][-1]["test"] >= 64


def test_its_gold_is_what_the_questions_make_and_keeps_its_rules(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["build_sql_domain", "--check"])
    assert build_sql_domain.main() == 0, capsys.readouterr().err


def test_a_held_out_question_that_the_teacher_may_say_is_told():
    questions, rng = sql_intents.read(), Random(0)
    first = questions.intents[0]
    value = questions.value(rng, first)  # what `check` draws first
    said = questions.word(rng, first, value)
    changed = replace(questions, intents=(replace(first, dev=((value, said),)),))
    found = build_sql_domain.check(changed)
    assert found and "dev-count-part-1" in found[0] and said in found[0]


async def test_every_reference_is_right_and_few_others_are():
    domain = load(RECIPE, "tiny")
    evaluator = create("evaluators", domain.recipe.evaluation, domain, "evaluation")
    task, scores = evaluator._task, Counter()
    for item in domain.test:
        assert await task.score(item, f"```sql\n{item.answer};\n```") == 1.0
        for other in domain.test:
            if (other.slice, other.answer) > (item.slice, item.answer):
                scores[await task.score(item, other.answer)] += 1
    assert scores[1.0] < 0.05 * scores[0.0]


async def test_the_teacher_is_shown_faults_that_execution_finds_and_others():
    schemas = {schema.source.slice: schema for schema in read_schemas(["schemas/*.sql"], RECIPE)}
    questions, sandbox, rng, found = sql_intents.read(), SqlSandbox(), Random(0), Counter()
    for intent in questions.intents:
        for _ in range(20):
            value = questions.value(rng, intent)
            sql = sql_teacher.careless(rng, questions, intent, value)
            result = await sandbox.compare(schemas[intent.schema], sql, intent.query(value))
            found[result.fault or ("right" if result.same else "wrong")] += 1
    num = found.total() - found["bad_reference"]
    assert 0.70 < found["right"] / num < 0.92
    assert found["sql_error"] > 0.05 * num and found["wrong"] > 0.01 * num


@pytest.mark.vllm
@pytest.mark.timeout(300)
def test_the_tiny_teacher_writes_samples_of_which_the_bad_ones_are_dropped(tmp_path):
    pytest.importorskip("vllm")
    folder = tmp_path / "recipes" / "bicycle_workshop"
    shutil.copytree(RECIPE, folder)
    (tmp_path / "tiny").symlink_to(ROOT / "tiny")
    profile = folder / "profiles" / "tiny.yaml"
    small = yaml.safe_load(profile.read_text())
    small["loop"]["samples_per_round"] = 72
    profile.write_text(yaml.safe_dump(small))
    session.run_until(folder, "tiny", tmp_path / "w", Progress(bars=False), "refine")
    sql = """SELECT s.question, s.answer, s.slice, d.action, d.reason FROM samples s
        JOIN decisions d ON d.sample_id = s.id AND d.final"""
    with Store.open(tmp_path / "w") as store:
        rows = store.select(sql)
    reasons = Counter(row["reason"] for row in rows)
    kept = [row for row in rows if row["action"] == "keep"]
    assert len(rows) == 72 and len(kept) > 36 and reasons["sql_error"] > 1
    assert len({row["question"] for row in kept}) > 30
    assert {row["slice"] for row in kept} == {"hire", "repairs"}
    known = {intent.sql.partition(" where ")[0] for intent in sql_intents.read().intents}
    assert sum(row["answer"].partition(" where ")[0] in known for row in kept) > 0.5 * len(kept)
