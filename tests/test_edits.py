import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.edits import EDIT_SCHEMA, MAX_OPS, EditRefused, Op, apply, diff, target
from factory.types import CheckedDraft

repetitive = st.lists(
    st.sampled_from(["a", "b", "21", "30", "§", "34-9-80)", " ", "  ", "\n", "é", "a.b"])
).map("".join)
texts = st.one_of(st.text(), repetitive, st.lists(st.sampled_from(["the", "a", "7", "days,"])).map(" ".join))


@given(texts, texts)
def test_diff_leads_from_one_text_to_the_other(old: str, new: str) -> None:
    ops = diff(old, new)
    assert apply(ops, old) == new
    assert (ops == []) == (old == new)
    assert diff(old, new) == ops


@given(repetitive, repetitive)
def test_every_old_occurs_exactly_once(old: str, new: str) -> None:
    for op in diff(old, new):
        assert (op.old or not old) and old.find(op.old, old.find(op.old) + 1) < 0


@given(repetitive, repetitive)
def test_the_order_of_operations_does_not_matter(old: str, new: str) -> None:
    assert apply(diff(old, new)[::-1], old) == new


@pytest.mark.parametrize(
    ("old", "new", "ops"),
    [
        ("Within 21 days.", "Within 30 days.", [Op("replace", "21", "30")]),
        ("a 21-day wait", "a 30-day wait", [Op("replace", "21", "30")]),
        ("$1,000 a week", "$2,000 a week", [Op("replace", "1,000", "2,000")]),
        ("9 days (§ 34-9-80)", "30 days (§ 34-9-80)", [Op("replace", "9 days", "30 days")]),
        ("30 days (§ 34-9-13)", "30 days (§ 34-9-80)", [Op("replace", "13", "80")]),
        ("3/4 of 4", "3/5 of 4", [Op("replace", "3/4", "3/5")]),
        ("15 weeks (§ 1)", "30 days (§ 1)", [Op("replace", "15 weeks", "30 days")]),
        ("30 days (§ 34 9 80)", "30 days (§ 34-9-80)", [Op("replace", "34 9 80)", "34-9-80)")]),
        ("in 30 days", "in about 30 days", [Op("insert", "in ", "about ")]),
        ("30 days", "about 30 days", [Op("replace", "30", "about 30")]),
        ("30 days", "30 days (§ 34-9-80)", [Op("insert", "days", " (§ 34-9-80)")]),
        ("30 days or so", "30 days", [Op("delete", " or so", "")]),
        ("the end of the day", "the end of a day", [Op("replace", "the day", "a day")]),
        ("a a a", "a a", [Op("replace", "a a a", "a a")]),
        ("", "new", [Op("replace", "", "new")]),
        ("same", "same", []),
    ],
)
def test_diff_is_small(old: str, new: str, ops: list[Op]) -> None:
    assert diff(old, new) == ops
    assert apply(ops, old) == new


@pytest.mark.parametrize(
    ("ops", "index", "reason"),
    [
        ([Op("replace", "30", "31"), Op("replace", "weeks", "days")], 1, "absent"),
        ([Op("delete", "a", "")], 0, "ambiguous"),
        ([Op("replace", "", "x")], 0, "ambiguous"),
        ([Op("replace", "30 d", "x"), Op("replace", "days", "y")], 1, "overlapping"),
    ],
)
def test_an_operation_that_is_not_clear_is_refused(ops: list[Op], index: int, reason: str) -> None:
    with pytest.raises(EditRefused) as refused:
        apply(ops, "30 days, later")
    assert (refused.value.index, refused.value.reason) == (index, reason)


def test_overlapping_occurrences_are_ambiguous() -> None:
    with pytest.raises(EditRefused):
        apply([Op("replace", "aa", "b")], "aaa")


def draft(answer: str, corrected: str | None, reason: str) -> CheckedDraft:
    return CheckedDraft("k", "How long?", answer, corrected, reason, "34-9-80", "notice")


@pytest.mark.parametrize(
    ("answer", "corrected", "reason", "verdict", "grounded", "form"),
    [
        ("30 days (§ 34-9-80)", "30 days (§ 34-9-80)", "ok", "keep", 1, 1),
        ("21 days (§ 34-9-80)", "30 days (§ 34-9-80)", "wrong_quantity", "edit", 0, 1),
        ("30 days § 34-9-80", "30 days (§ 34-9-80)", "malformed_citation", "edit", 1, 0),
        ("1/3 of the difference (§", "1/3 of the difference (§ 34-9-262)", "truncated", "rewrite", 1, 0),
        ("It depends.", "30 days (§ 34-9-80)", "vague", "rewrite", 1, 1),
        ("30 days (§ 34-9-80)", None, "off_source", "drop", 0, 1),
    ],
)
def test_target(
    answer: str, corrected: str | None, reason: str, verdict: str, grounded: int, form: int
) -> None:
    made = target(draft(answer, corrected, reason))
    assert (made["verdict"], made["reason"]) == (verdict, reason)
    assert made["scores"] == {"grounded": grounded, "form": form}
    assert made["rewrite"] == (corrected if verdict == "rewrite" else None)
    assert bool(made["ops"]) == (verdict == "edit")
    if verdict == "edit":
        assert apply([Op(**op) for op in made["ops"]], answer) == corrected


def test_many_scattered_edits_become_a_rewrite() -> None:
    answer = " ".join(f"w{i} keep-these-words-{i} and-these-{i}" for i in range(MAX_OPS + 1))
    made = target(draft(answer, answer.replace("w", "v"), "style"))
    assert (made["verdict"], made["ops"]) == ("rewrite", [])


def test_a_target_has_the_keys_of_the_schema_in_its_order() -> None:
    made = target(draft("21 days", "30 days", "wrong_quantity"))
    assert list(made) == list(EDIT_SCHEMA["properties"]) == EDIT_SCHEMA["required"]
    assert json.dumps(made, ensure_ascii=False) == (
        '{"verdict": "edit", "reason": "wrong_quantity", '
        '"ops": [{"op": "replace", "old": "21", "new": "30"}], "rewrite": null, '
        '"scores": {"grounded": 0, "form": 1}}'
    )
