"""The ready questions, each against counts that were made by hand, and how they are found and bound."""

from __future__ import annotations

from typing import Any

import pytest
from told_history import tell

from factory.errors import InputError
from factory.store.queries import Reader
from factory.store.questions import find_question, questions
from factory.store.store import Store

NAMES = [question.name for question in questions()]


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("told")
    with Store.open(folder) as store:
        tell(store)
    with Reader(folder) as reader:
        yield reader


def ask(reader: Reader, name: str, **given: Any) -> list[tuple[Any, ...]]:
    question = find_question(name)
    assert question is not None
    return list(reader.table(question.sql, question.bind(given)).rows)


def changes(rows: list[tuple[Any, ...]]) -> dict[tuple[str, str], tuple[Any, Any]]:
    return {(kind, name): (before, after) for kind, name, before, after, _ in rows}


@pytest.mark.parametrize("name", NAMES)
def test_a_question_says_what_it_is_and_declares_what_it_binds(name):
    question = find_question(name)
    assert question is not None and len(question.title) > 20
    from factory.store.confined import names_of

    assert names_of(question.sql) == tuple(sorted(each.name for each in question.parameters))
    assert all(each.meaning for each in question.parameters)


@pytest.mark.parametrize("name", NAMES)
def test_a_question_runs_on_an_empty_workspace_with_no_more_than_it_needs(tmp_path, name):
    Store.open(tmp_path).close()
    question = find_question(name)
    assert question is not None
    given = {each.name: "1" for each in question.parameters if each.required}
    with Reader(tmp_path) as reader:
        assert reader.table(question.sql, question.bind(given)).rows == ()


def test_sql_is_no_name_and_a_wrong_name_is_told_with_the_nearest():
    assert find_question("SELECT 1") is None and find_question("query.sql") is None
    assert find_question("FROM funnel") is None
    with pytest.raises(InputError, match="did you mean 'funnel'"):
        find_question("funel")
    with pytest.raises(InputError, match="--list"):
        find_question("xyzzy")


def test_a_missing_or_unknown_parameter_is_told_with_what_there_is():
    question = find_question("between-rounds")
    assert question is not None
    assert question.bind({"before": 1, "after": 2}) == {"before": 1, "after": 2, "run": None}
    with pytest.raises(InputError, match=r"needs after.*number of the other"):
        question.bind({"before": 1})
    with pytest.raises(InputError, match="knows no round"):
        question.bind({"before": 1, "after": 2, "round": 3})


def test_funnel_is_by_round_strategy_slice_step_and_reason(reader):
    assert ask(reader, "funnel") == [
        (1, "grounded", "notice", 0, "form", "keep", "ok", 3, 1),
        (1, "grounded", "notice", 1, "near", "drop", "near_duplicate", 1, 1),
        (1, "grounded", "notice", 1, "near", "keep", "ok", 1, 1),
        (1, "grounded", "notice", 2, "edit", "rewrite", "wrong_quantity", 1, 1),
        (2, "grounded", "benefits", 0, "form", "drop", "too_short", 1, 1),
        (2, "grounded", "benefits", 1, "near", "keep", "ok", 1, 1),
    ]
    assert [row[-2:] for row in ask(reader, "funnel", run="run_b")] == [(2, 0), (2, 2)]


def test_spend_is_by_model_and_stage_and_for_one_accepted_sample(reader):
    assert ask(reader, "spend") == [
        ("generate", "teacher", "mdl_teacher", 4, 50, 2.0, 3, 4 / 3, 50 / 3, 2 / 3),
        ("refine", "refiner", "mdl_refiner", 1, 15, 0.5, 3, 1 / 3, 5.0, 0.5 / 3),
    ]
    assert ask(reader, "spend", run="run_b") == []


def test_failures_tell_what_was_answered_later_and_what_was_not(reader):
    ((*head, last_at),) = ask(reader, "failures")
    assert head == [1, "generate", "teacher", "mdl_teacher", "timeout", 2, 1, 2, 70, 0.0]
    assert last_at.startswith("2026-01-04")
    ((call_id, *_, asked),) = ask(reader, "failed-calls")
    assert (call_id, asked) == ("call_5", "asked in vain")
    assert ask(reader, "failed-calls", limit="0") == []


def test_edits_are_counted_by_kind_with_what_became_of_them(reader):
    assert ask(reader, "edits") == [(1, "edit", "wrong_quantity", "delete, replace", 1, 2, 1, 0)]


def test_rounds_are_compared_name_by_name(reader):
    found = changes(ask(reader, "between-rounds", before="1", after="2"))
    assert found["samples", "accepted"] == (2, 1)
    assert found["samples", "generated"] == (3, 2)
    assert found["samples", "rewritten"] == (1, None)
    assert found["dropped by", "near: near_duplicate"] == (1, None)
    assert found["dropped by", "form: too_short"] == (None, 1)
    assert found["rewritten by", "edit: wrong_quantity"] == (1, None)
    assert found["accepted in slice", "benefits"] == (None, 1)
    assert found["accuracy", "test, notice"] == (0.5, 0.5)
    assert found["tokens", "generate, teacher"] == (50, None)


def test_runs_are_compared_over_all_rounds_and_by_their_last_accuracy(reader):
    found = changes(ask(reader, "between-runs", before="run_b", after="run_a"))
    assert found["samples", "accepted"] == (2, 3)
    assert found["samples", "generated"] == (None, 5)
    assert found["accuracy", "test, all"] == (0.0, pytest.approx(2 / 3))
    assert found["calls", "generate, teacher"] == (None, 4)


def test_samples_that_only_one_adapter_or_run_has(reader):
    assert [row[0] for row in ask(reader, "trained-only", a="student-2", b="mdl_1")] == ["smp_5"]
    assert [row[0] for row in ask(reader, "trained-only", a="mdl_1", b="student-2")] == ["smp_4"]
    assert [row[0] for row in ask(reader, "accepted-only", a="run_b", b="run_a")] == ["smp_2"]
    assert [row[0] for row in ask(reader, "accepted-only", a="run_a", b="run_b")] == ["smp_4", "smp_5"]


def test_a_learning_curve_is_of_a_model_or_of_the_newest_supervised_training_first(reader):
    found = [row[:7] for row in ask(reader, "learning-curve", model="student-1")]
    assert found == [
        ("student-1", 1, "sft", 5, None, 2.0, None),
        ("student-1", 1, "sft", 10, None, 1.0, 1.5),
        ("student-1", 1, "dpo", 1, None, 0.7, None),
    ]
    assert [row[3] for row in ask(reader, "learning-curve", model="mdl_1", phase="dpo")] == [1]
    assert [(row[0], row[-1]) for row in ask(reader, "learning-curve")] == [("student-2", 640)]
    assert ask(reader, "learning-curve", model="nobody") == []


def test_items_that_got_worse_come_with_the_nearest_training_samples_and_their_origin(reader):
    found = ask(reader, "worse-items", before="mdl_1", after="student-2")
    assert [(row[1], row[10]) for row in found] == [("i1", "smp_1")]
    (row,) = found
    assert row[:9] == (
        *("test", "i1", "notice", "When must notice be given?", "e", 1.0, 0.0),
        *("answer 1", "answer 2"),
    )
    assert row[9] == pytest.approx(5 / 8)  # when must notice be given, of eight words in both
    assert row[13:] == ("grounded", "§ 34-9-80", "s1", "call_1")
    back = ask(reader, "worse-items", before="mdl_2", after="mdl_1", near="1")
    assert [(row[1], row[10], row[14], row[16]) for row in back] == [("i2", "smp_4", "§ 34-9-80", "call_3")]
    assert ask(reader, "worse-items", before="mdl_1", after="mdl_2", split="dev") == []


def test_scores_of_two_metrics_are_not_compared(tmp_path):
    with Store.open(tmp_path) as store:
        tell(store)
        (row,) = store.select("SELECT * FROM evaluations WHERE model_id = 'mdl_2' AND split = 'test'")
        items = store.select("SELECT * FROM evaluation_items WHERE evaluation_id = ?", (row["id"],))
        row.pop("created_at")
        store.append("evaluations", [row | {"id": "evl_f1", "round": None, "metric": "token_f1"}])
        store.append("evaluation_items", [each | {"evaluation_id": "evl_f1", "score": 0.9} for each in items])
    with Reader(tmp_path) as reader:
        found = ask(reader, "worse-items", before="mdl_1", after="mdl_2")
    assert [(row[1], row[5], row[6]) for row in found] == [("i1", 1.0, 0.0)]


def test_people_and_the_run_are_set_side_by_side(reader):
    found = ask(reader, "disagreements")
    assert [(row[0], row[2], row[4], row[6]) for row in found] == [
        ("smp_2", "keep", "drop", "near_duplicate"),
        ("smp_4", "drop", "keep", "ok"),
    ]
    rows = {(kind, name): (items, agreed) for kind, name, items, agreed, *_ in ask(reader, "agreement")}
    assert rows["decision", "final"] == (3, 1)
