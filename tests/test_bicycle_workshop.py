"""The ready domain of `text_to_sql`: it checks, its gold can be trusted, and its teacher can do its part."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

from factory.check import check_recipe
from factory.load import load
from factory.registry import create
from factory.schemas import read_schemas
from factory.sql_sandbox import SqlSandbox
from tiny import build_sql_domain, sql_intents, sql_teacher

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "recipes" / "bicycle_workshop"


def test_it_checks():
    found = check_recipe(RECIPE, "one_gpu")
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
    domain = load(RECIPE, "one_gpu")
    evaluator = create("evaluators", domain.recipe.evaluation, domain, "evaluation")
    task, scores = evaluator._task, Counter()
    for item in domain.test:
        assert await task.score(item, f"```sql\n{item.answer};\n```") == (1.0, "")
        for other in domain.test:
            if (other.slice, other.answer) > (item.slice, item.answer):
                scores[(await task.score(item, other.answer)).value] += 1
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
