"""Text to SQL: queries are executed; failed ones are mended by who sees the error, or dropped."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import yaml
from edited import with_answer
from strategy_kit import (
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
from test_accounting import WRONG, ask

from factory import session
from factory.consistency import Inconsistency
from factory.errors import RecipeError
from factory.init import write_template
from factory.load import load
from factory.models.scripted import SCRIPTS
from factory.progress import Progress
from factory.recipe import StepSpec, StrategySpec
from factory.registry import create
from factory.types import Completion, Message, Parent, Request, Sample

SHOP = """CREATE TABLE goods (name VARCHAR, price INTEGER);
INSERT INTO goods VALUES ('pen', 1), ('ink', 4);
"""
ZOO = "CREATE TABLE animals (name VARCHAR, legs INTEGER);"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "schemas").mkdir()
    (tmp_path / "schemas" / "shop.sql").write_text(SHOP)
    (tmp_path / "schemas" / "zoo.sql").write_text(ZOO)
    return tmp_path


def strategy(folder):
    return build("text_to_sql", domain_of(folder), schemas=["schemas/*.sql"])


def domain_with_sql(folder):
    domain = domain_of(folder)
    step = StrategySpec.model_validate({"name": "text_to_sql", "schemas": ["schemas/*.sql"]})
    return replace(domain, recipe=domain.recipe.model_copy(update={"strategies": [step]}))


def write(prompt: str) -> str:
    table = "goods" if "goods" in prompt else "animals"
    return answer(question=f"What is there in the {table[:3]}?", sql=f"SELECT name FROM {table};")


async def test_a_query_becomes_a_sample_with_the_shape_of_its_result(folder):
    teacher = Teacher(write)
    made = await generate(folder, strategy(folder), teacher, {"shop": 3, "zoo": 3})
    assert len(made) == 6
    for task, (sample,) in made:
        table, num_rows = ("goods", "2") if task.slice == "shop" else ("animals", "0")
        system, question, sql = sample.messages
        assert system.role == "system" and f"CREATE TABLE {table}" in system.content
        assert "INSERT" not in system.content and "one DuckDB SELECT" in system.content
        assert question.content == f"What is there in the {table[:3]}?"
        assert sql.content == f"SELECT name FROM {table}"
        assert (sample.attributes["num_rows"], sample.attributes["num_columns"]) == (num_rows, "1")
        assert "error" not in sample.attributes and await fate(sample) == "ok"
        assert relations(sample) == ["source", "call"] and sample.parents[0].id == task.source.id
        assert sample.attributes["source_key"] == f"schema:schemas/{task.slice}.sql"
    levels = [(task.slice, sample.attributes["level"]) for task, (sample,) in made]
    assert len(set(levels)) == 6
    assert any("('pen', 1)" in prompt for prompt in teacher.prompts)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 1",
        "```sql\nSELECT 1;\n```",
        " SELECT 1 ; ",
        "```\nSELECT 1\n```\n",
        "SELECT 1;\n",
    ],
)
async def test_fence_and_semicolon_are_taken_off(folder, text):
    teacher = Teacher(lambda _: answer(question="One?", sql=text))
    ((_, (sample,)),) = await generate(folder, strategy(folder), teacher, {"shop": 1})
    assert sample.answer == "SELECT 1" and sample.attributes["num_rows"] == "1"


@pytest.mark.parametrize(
    ("sql", "error"),
    [
        ("SELECT nam FROM goods", '"nam"'),
        ("DROP TABLE goods", "a SELECT expected"),
        ("SELECT 1; DROP TABLE goods", "one statement expected"),
        ("SELECT * FROM '/etc/passwd'", "does not exist"),
    ],
)
async def test_a_query_that_fails_carries_the_error_and_goes_on(folder, sql, error):
    teacher = Teacher(lambda _: answer(question="Which?", sql=sql))
    ((_, (sample,)),) = await generate(folder, strategy(folder), teacher, {"shop": 1})
    assert error in sample.attributes["error"] and "num_rows" not in sample.attributes
    assert sample.answer == sql and await fate(sample) == "ok"


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("SELECT 1", "not_json"),
        (Completion('{"question": "W', "length"), "truncated"),
        (answer(question="What?"), "missing_key"),
        (answer(question="What?", sql=" ; "), "empty_answer"),
        (answer(question=" ", sql="SELECT 1"), "empty_question"),
    ],
)
async def test_what_is_not_as_asked_is_dropped(folder, reply, reason):
    ((_, (sample,)),) = await generate(folder, strategy(folder), Teacher(lambda _: reply), {"shop": 1})
    assert await fate(sample) == reason and "error" not in sample.attributes


async def test_running_again_finds_everything_stored(folder):
    await check_repeats(folder, strategy(folder), Teacher(write), {"shop": 3, "zoo": 2})


async def judge(folder, *samples: Sample):
    sql = create("refiners", StepSpec(name="sql"), domain_with_sql(folder))
    return await sql.refine(samples, None)


def query(*answers: str, key: str = "schema:schemas/shop.sql") -> Sample:
    messages = [turn for sql in answers for turn in (Message("user", "?"), Message("assistant", sql))]
    return Sample.create(messages, [Parent("call_1", "call")], "text_to_sql", {"source_key": key})


async def test_the_refiner_drops_what_does_not_execute(folder):
    samples = [
        query("SELECT * FROM goods"),
        query("SELECT * FROM animals"),
        query("DELETE FROM goods"),
        query("SELECT 1", "SELECT nothing"),
        query("SELECT 1", key="schema:other.sql"),
        query("SELECT nothing", key="rule-0"),
    ]
    found = await judge(folder, *samples)
    assert [(each.action, each.reason) for each in found] == [
        ("keep", "ok"),
        ("drop", "sql_error"),
        ("drop", "not_select"),
        ("drop", "sql_error"),
        ("drop", "unknown_schema"),
        ("keep", "not_applicable"),
    ]
    assert found[0].evidence == {"num_rows": 2, "num_columns": 2}
    assert "animals does not exist" in found[1].evidence["error"]
    assert [each.sample_id for each in found] == [sample.id for sample in samples]


def test_another_answer_does_not_take_over_what_was_found_about_the_first():
    sample = Sample.create([Message("assistant", "SELECT 1")], [], "x", {"error": "No.", "slice": "shop"})
    assert with_answer(sample, "SELECT 2").attributes == {"slice": "shop"}
    assert sample.attributes["error"] == "No."


QUIET = Progress(bars=False)
EDIT = {"verdict": "edit", "reason": "unknown_column", "rewrite": None, "scores": {"grounded": 1, "form": 1}}


def play(request: Request) -> str:
    """A teacher that misspells a column half of the time, and a refiner that reads the error."""
    prompt = request.messages[-1].content
    if not prompt.startswith("Check the answer"):
        column = "nam" if request.ordinal % 2 else "name"
        where = f"WHERE {column} > '{request.ordinal}'"
        return answer(question=f"Who comes after {request.ordinal}?", sql=f"SELECT name FROM goods {where}")
    assert "CREATE TABLE goods" in prompt and "INSERT" not in prompt
    if "\nError: Binder Error" not in prompt:
        assert "Error" not in prompt
        return json.dumps({**EDIT, "verdict": "keep", "ops": []})
    right = "WHERE names" if "'1000007'" in prompt else "WHERE name"
    return json.dumps({**EDIT, "ops": [{"op": "replace", "old": "WHERE nam", "new": right}]})


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    folder = tmp_path / "domain"
    write_template(folder)
    (folder / "schemas").mkdir()
    (folder / "schemas" / "shop.sql").write_text(SHOP)
    profile = {
        "servers": {"main": {"kind": "scripted", "script": "play"}},
        "models": {"teacher": {"server": "main"}, "refiner": {"server": "main"}},
        "strategies": [{"name": "text_to_sql", "schemas": ["schemas/shop.sql"]}],
        "refiners": [{"name": name} for name in ("form", "exact", "edit", "sql")],
        "loop": {"rounds": 1, "samples_per_round": 20, "controls": {}},
        "guard": {"max_distinct2_drop": 1.0, "max_gzip_ratio": 10.0},
    }
    (folder / "profiles" / "sql.yaml").write_text(yaml.safe_dump(profile))
    monkeypatch.setitem(SCRIPTS, "play", play)
    return folder


def test_failed_queries_are_mended_by_who_sees_the_error_and_executed_again(recipe, tmp_path):
    workspace = tmp_path / "w"
    session.run(recipe, "sql", workspace, QUIET)
    assert ask(workspace, WRONG) == {what: [] for what in WRONG}
    sql = """SELECT s.operation, s.answer, s.attributes ->> 'error' AS error, d.action, d.reason, d.evidence
        FROM samples s JOIN decisions d ON d.sample_id = s.id AND d.final"""
    rows = ask(workspace, {"": sql})[""]
    made = [row for row in rows if row["operation"] == "text_to_sql"]
    edited = [row for row in rows if row["operation"] == "edit"]
    assert len(made) == 20 and len(edited) == 10
    assert [row["action"] for row in made if row["error"] is None] == ["keep"] * 10
    assert [row["action"] for row in made if row["error"]] == ["rewrite"] * 10
    assert not any(row["error"] for row in edited)
    (wrong,) = [row for row in edited if row["action"] == "drop"]
    assert wrong["reason"] == "sql_error" and "names" in wrong["answer"]
    assert "names" in json.loads(wrong["evidence"])["error"]
    kept = [row for row in edited if row["action"] == "keep"]
    assert len(kept) == 9 and all(json.loads(row["evidence"])["num_columns"] == 1 for row in kept)


def test_a_recipe_without_the_refiner_is_refused(recipe):
    path = recipe / "profiles" / "sql.yaml"
    profile = yaml.safe_load(path.read_text())
    profile["refiners"].pop()
    wrapped = {"name": "paraphrase", "of": profile["strategies"][0]}
    for strategies in (profile["strategies"], [wrapped]):
        path.write_text(yaml.safe_dump({**profile, "strategies": strategies}))
        with pytest.raises(RecipeError, match="no refiner 'sql' executes them") as caught:
            load(recipe, "sql")
        assert not isinstance(caught.value, Inconsistency) and "sql.yaml" in str(caught.value)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(RecipeError, match=r"no file matches 'schemas/\*\.sql'"):
        strategy(tmp_path)


def test_the_page_says_what_is_so(tmp_path):
    (made,) = check_page("text_to_sql", tmp_path)
    assert set(made.slices) == {"library"}
