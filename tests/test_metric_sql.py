"""The metric `sql`: a query is right where it gives what the reference gives, however it is written."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategy_kit import Teacher, build, domain_of, generate
from strategy_kit import answer as as_json

from factory.domain import Domain
from factory.errors import RecipeError
from factory.recipe import EvaluationSpec, GoldSpec, StrategySpec
from factory.registry import create
from factory.schemas import read_schemas
from factory.sql_sandbox import SqlSandbox
from factory.sql_worker import MAX_ROWS, is_ordered, open_database, same_rows
from factory.types import Completion, GoldItem

SHOP = """CREATE TABLE goods (id INTEGER, name VARCHAR, price DOUBLE);
INSERT INTO goods VALUES (1, 'pen', 0.1), (2, 'ink', 0.2), (3, 'pad', 0.3), (4, 'pen', NULL);
"""
ZOO = "CREATE TABLE animals (name VARCHAR); INSERT INTO animals VALUES ('ape');"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("metric")
    (folder / "shop.sql").write_text(SHOP)
    (folder / "zoo.sql").write_text(ZOO)
    return folder


@pytest.fixture(scope="module")
def shop(folder):
    return read_schemas(["shop.sql"], folder)[0]


@pytest.fixture(scope="module")
def sandbox():
    return SqlSandbox()


def domain(folder: Path, *answers: str, slice: str = "shop", schemas=("*.sql",)) -> Domain:
    made = domain_of(folder)
    step = StrategySpec.model_validate({"name": "text_to_sql", "schemas": list(schemas)})
    gold = GoldSpec(dev="gold/dev.jsonl", test="gold/test.jsonl")
    recipe = made.recipe.model_copy(update={"strategies": [step], "gold": gold})
    items = tuple(GoldItem(f"dev-{n}", f"Question {n}?", sql, slice) for n, sql in enumerate(answers))
    (folder / "gold").mkdir(exist_ok=True)
    lines = ["", *(json.dumps({"id": item.key}) for item in items)]
    (folder / "gold" / "dev.jsonl").write_text("\n".join(lines))
    return replace(made, recipe=recipe, dev=items, test=())


def evaluator(domain: Domain):
    spec = EvaluationSpec.model_validate({"name": "answers", "metric": "sql"})
    return create("evaluators", spec, domain, "evaluation")


async def evaluate(domain: Domain, *answers: str):
    given, asked = iter(answers), []

    async def ask(messages, **_):
        asked.append(messages)
        return Completion(next(given))

    found = await evaluator(domain).evaluate("m", "dev", domain.dev, ask, lambda *_: None)
    return asked, [(item.score, item.detail) for item in found.items]


@pytest.mark.parametrize(
    ("reference", "sql", "same"),
    [
        ("SELECT name FROM goods", "SELECT name AS n FROM goods ORDER BY id DESC", True),
        ("SELECT name FROM goods", "SELECT DISTINCT name FROM goods", False),  # each as often
        ("SELECT name FROM goods", "SELECT id FROM goods", False),
        ("SELECT name, id FROM goods", "SELECT id, name FROM goods", False),
        ("SELECT name FROM goods", "SELECT name, 1 FROM goods", False),
        ("SELECT name FROM goods ORDER BY id", "FROM goods SELECT name ORDER BY id", True),
        ("SELECT name FROM goods ORDER BY id", "SELECT name FROM goods ORDER BY id DESC", False),
        ("(SELECT name FROM goods ORDER BY id)", "SELECT name FROM goods ORDER BY id DESC", False),
        ("SELECT 1 UNION SELECT 2 ORDER BY 1", "SELECT 2 UNION ALL SELECT 1", False),
        ("WITH g AS (FROM goods) SELECT id FROM g ORDER BY 1", "SELECT id FROM goods ORDER BY -id", False),
        ("SELECT id FROM (FROM goods ORDER BY id)", "SELECT id FROM goods ORDER BY id DESC", True),
        ("SELECT rank() OVER (ORDER BY id) FROM goods", "SELECT id FROM goods ORDER BY -id", True),
        ("SELECT sum(price) FROM goods", "SELECT 0.6", True),  # 0.6000000000000001
        ("SELECT sum(price) FROM goods", "SELECT 0.61", False),
        ("SELECT count(*) FROM goods", "SELECT 4.0", True),
        ("SELECT count(*) FROM goods", "SELECT '4'", False),
        ("SELECT 9007199254740993", "SELECT 9007199254740992", False),  # the same as floats
        ("SELECT true", "SELECT 1", False),
        ("SELECT 'nan'::DOUBLE", "SELECT 'nan'::FLOAT", True),
        ("SELECT 'inf'::DOUBLE", "SELECT '-inf'::DOUBLE", False),
        ("SELECT price FROM goods WHERE id = 4", "SELECT NULL", True),
        ("SELECT price FROM goods WHERE id = 4", "SELECT 0", False),
        ("SELECT price FROM goods WHERE id = 4", "SELECT id FROM goods WHERE false", False),
        ("SELECT [0.1 + 0.2, 1]", "SELECT [0.3, 1]", True),
        ("SELECT {'a': 1}", "SELECT {'a': 2}", False),
        ("SELECT DATE '2026-01-02'", "SELECT DATE '2026-01-03'", False),
    ],
)
async def test_results_are_compared(sandbox, shop, reference, sql, same):
    found = await sandbox.compare(shop, sql, reference)
    assert (found.fault, found.error, found.same) == ("", "", same)
    assert bool(found.difference) is not same


@pytest.mark.parametrize(
    ("reference", "sql", "difference"),
    [
        ("SELECT name FROM goods", "SELECT name, 1 FROM goods", "other number of columns"),
        ("SELECT name FROM goods", "SELECT name FROM goods WHERE id < 4", "other number of rows"),
        ("SELECT name FROM goods", "SELECT id FROM goods", "other rows"),
        ("SELECT id FROM goods ORDER BY id", "SELECT id FROM goods ORDER BY id DESC", "other order"),
        ("SELECT id FROM goods ORDER BY id", "SELECT id + 1 FROM goods ORDER BY id", "other rows"),
    ],
)
async def test_how_results_differ_is_told(sandbox, shop, reference, sql, difference):
    assert (await sandbox.compare(shop, sql, reference)).difference == difference


@pytest.mark.parametrize(
    ("sql", "fault"),
    [
        ("DROP TABLE goods", "not_select"),
        ("SELECT 1; DROP TABLE goods", "not_select"),
        ("SELECT name FROM goods; SELECT name FROM goods", "not_select"),
        ("I cannot answer that.", "sql_error"),
        ("", "not_select"),
        ("WITH d AS (DELETE FROM goods RETURNING name) SELECT * FROM d", "sql_error"),
        ("SELECT * FROM read_csv('/etc/passwd')", "sql_error"),
        ("SELECT list(i) FROM range(1000000000) t(i)", "sql_error"),
        ("SELECT * FROM rows", "sql_error"),  # Python's are not to be seen
        ("SELECT * FROM expected", "sql_error"),
        ("SELECT name FROM goods UNION ALL SELECT '\ud800'", "sql_error"),
    ],
)
async def test_a_hostile_query_is_wrong_and_harms_nothing(shop, sql, fault):
    sandbox = SqlSandbox(limit_seconds=20)
    found = await sandbox.compare(shop, sql, "SELECT name FROM goods")
    assert (found.fault, found.same) == (fault, False) and found.error
    again = await sandbox.compare(shop, "FROM goods SELECT name", "SELECT name FROM goods")
    assert again.same


async def test_what_never_ends_is_wrong_within_its_time(shop):
    sandbox = SqlSandbox(limit_seconds=0.5)
    assert (await sandbox.run(shop, "SELECT 1")).fault == ""
    endless = "WITH RECURSIVE r AS (SELECT 1 n UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r"
    found = await sandbox.compare(shop, endless, "SELECT 1")
    assert (found.fault, found.error, found.same) == ("sql_timeout", "no result within 1 seconds", False)
    assert (await sandbox.compare(shop, "SELECT 1", "SELECT 1")).same


async def test_more_rows_than_are_compared_are_never_right(sandbox, shop):
    whole = f"SELECT * FROM range({MAX_ROWS})"
    assert (await sandbox.compare(shop, whole, f"{whole} ORDER BY 1")).same
    found = await sandbox.compare(shop, "SELECT * FROM range(1000000000000)", whole)
    assert (found.same, found.num_rows) == (False, MAX_ROWS + 1)
    too_many = await sandbox.compare(shop, whole, f"SELECT * FROM range({MAX_ROWS + 1})")
    assert (too_many.fault, too_many.error) == ("bad_reference", "it gives more than 10,000 rows")


async def test_lists_within_lists_are_compared(sandbox, shop):
    left, right = ("[" * 60 + number + "]" * 60 for number in ("1", "2"))
    assert (await sandbox.compare(shop, f"SELECT {left}", f"SELECT {left}")).same
    assert not (await sandbox.compare(shop, f"SELECT {left}", f"SELECT {right}")).same


def test_what_has_no_syntax_tree_is_told(shop):
    with open_database(SHOP) as database, pytest.raises(ValueError, match="ordered cannot be told"):
        is_ordered(database, "PIVOT goods ON name USING count(*)")


NUMBERS = st.one_of(
    st.integers(-(2**62), 2**62),
    st.floats(allow_nan=True),
    st.decimals(allow_nan=False, allow_infinity=False),
)
CELLS = st.one_of(st.none(), st.booleans(), st.text(max_size=3), NUMBERS)
ROWS = st.integers(1, 3).flatmap(lambda n: st.lists(st.tuples(*[CELLS] * n), max_size=6))


@given(ROWS, st.randoms())
def test_rows_are_the_same_in_any_order_and_each_as_often(rows, random):
    other = list(rows)
    random.shuffle(other)
    assert same_rows(other, rows, ordered=False)
    assert same_rows(rows, rows, ordered=True)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 5)), min_size=1, max_size=8), st.randoms())
def test_numbers_that_are_off_by_a_little_find_their_rows(rows, random):
    other = [(text, number * (1 + 1e-12)) for text, number in rows]
    random.shuffle(other)
    assert same_rows(other, rows, ordered=False)
    changed = [(other[0][0], other[0][1] + 1), *other[1:]]
    assert not same_rows(changed, rows, ordered=False)


NOISE = st.sampled_from([1 - 1e-9, 1 - 1e-12, 1.0, 1 + 1e-12, 1 + 1e-9])
NOISY = st.tuples(st.sampled_from("ab"), *[st.tuples(st.integers(0, 3), NOISE, NOISE)] * 3)


@given(st.lists(NOISY, min_size=1, max_size=8), st.randoms())
def test_rows_keep_their_places_whatever_number_of_them_is_off_by_a_little(rows, random):
    left, right = (
        [
            (text, *(number * (0.1 + 0.2) * noise[side] for number, *noise in numbers))
            for text, *numbers in rows
        ]
        for side in (0, 1)
    )
    random.shuffle(right)
    assert same_rows(left, right, ordered=False)
    changed = [(*right[0][:-1], right[0][-1] + 1), *right[1:]]
    assert not same_rows(left, changed, ordered=False)


def test_rows_whose_numbers_run_into_each_other_find_one_another():
    assert same_rows([(0.3, 2), (0.1 + 0.2, 1)], [(0.1 + 0.2, 2), (0.3, 1)], ordered=False)
    assert not same_rows([(0.3, 2), (0.1 + 0.2, 1)], [(0.1 + 0.2, 2), (0.3, 2)], ordered=False)
    seconds = [1.7e9 + 1000 * number for number in range(50)]  # each within the tolerance of the next
    left = [(0.3 + number % 3 * 1e-12, second) for number, second in enumerate(seconds)]
    right = [(0.3 + number % 7 * 1e-12, second) for number, second in enumerate(seconds)]
    assert same_rows(left, right, ordered=False)
    assert not same_rows(left, [*right[:-2], right[0], right[0]], ordered=False)


def test_many_rows_are_compared_quickly():
    left = [(number % 7 / 3, number / 3, number) for number in range(MAX_ROWS)]
    right = [(a * (1 + 1e-12), b * (1 - 1e-12), c) for a, b, c in left]
    begun = time.process_time()
    assert same_rows(left, right[::-1], ordered=False)
    assert time.process_time() - begun < 2


def test_numbers_of_any_type_are_alike():
    assert same_rows([(Decimal("1.50"), math.inf)], [(1.5, float("inf"))], ordered=True)
    assert not same_rows([(1.5,)], [("1.5",)], ordered=True)


async def test_a_student_is_asked_as_it_was_trained(folder):
    made = domain(folder, "SELECT name FROM goods")
    teacher = Teacher(lambda _: as_json(question="Question 0?", sql="SELECT 1"))
    strategy = build("text_to_sql", domain_of(folder), schemas=["*.sql"])
    ((_, (sample,)),) = await generate(folder / "w", strategy, teacher, {"shop": 1})
    asked, _ = await evaluate(made, "SELECT 1")
    assert list(asked[0]) == list(sample.messages[:2])


async def test_answers_score_with_fence_and_semicolon_or_not_at_all(folder):
    references = ["SELECT name FROM goods WHERE id < 3 ORDER BY id;"] * 5
    answers = [
        "```sql\nSELECT name FROM goods WHERE id <= 2 ORDER BY id;\n```",
        "SELECT name FROM goods WHERE id <= 2 ORDER BY id DESC",
        "SELECT name FROM good",
        "",
        "VALUES ('pen'), ('ink')",
    ]
    _, scored = await evaluate(domain(folder, *references), *answers)
    assert [score for score, _ in scored] == [1.0, 0.0, 0.0, 0.0, 0.0]
    details = [detail for _, detail in scored]
    assert details[:2] == ["", "other order"]
    assert details[2].startswith("Catalog Error: Table with name good does not exist")
    assert details[3:] == ["one statement expected, not 0", "a SELECT expected"]


async def test_a_reference_that_no_longer_runs_is_not_taken_for_the_answer(folder):
    made = domain(folder, "SELECT 1")
    task = evaluator(made)._task
    changed = replace(made.dev[0], answer="SELECT nam FROM goods")
    value, why = await task.score(changed, "SELECT 1")
    assert value == 0.0 and why.startswith("of the reference: Binder Error")


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT nam FROM goods", 'the reference query fails: Binder Error: .*"nam"'),
        ("30 days", "the reference query fails: Parser Error"),
        ("DROP TABLE goods", "the reference query fails: a SELECT expected"),
        ("SELECT * FROM goods WHERE false", "fails: it gives no rows"),
        ("SELECT * FROM range(10001)", "fails: it gives more than 10,000 rows"),
        ("SELECT random()", "gives another result each time"),
    ],
)
def test_a_reference_with_which_nothing_can_be_compared_is_told_with_its_line(folder, sql, message):
    with pytest.raises(RecipeError, match=message) as caught:
        evaluator(domain(folder, "SELECT 1", sql))
    assert caught.value.where == f"{folder}/gold/dev.jsonl:3 answer"
    assert "\n" not in str(caught.value)


def test_an_item_without_a_schema_is_told(folder):
    with pytest.raises(RecipeError, match=r"no schema 'stop'.*: shop, zoo") as caught:
        evaluator(domain(folder, "SELECT 1", slice="stop"))
    assert caught.value.where == f"{folder}/gold/dev.jsonl:2 slice"
    made = domain(folder, "SELECT 1")
    plain = made.recipe.model_copy(update={"strategies": [StrategySpec(name="grounded")]})
    with pytest.raises(RecipeError, match=r"no schema 'shop'.*`schemas`: none"):
        evaluator(replace(made, recipe=plain))


def test_two_schemas_of_one_name_are_told(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "shop.sql").write_text(SHOP)
    with pytest.raises(RecipeError, match="two schemas are called 'shop'"):
        evaluator(domain(tmp_path, "SELECT 1", schemas=["*/shop.sql"]))
