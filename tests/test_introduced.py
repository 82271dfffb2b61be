"""Facts that an edit brings in from nowhere, and what only looks like one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refiners.introduced import first_op, introduced, quantities_of

SECTION = """Notice of the accident is due within thirty (30) days. The Georgia Board pays two thirds of
the wage, at most $1,250.50 a week, for 12 months. Who is late loses 10 percent."""
KNOWN = ["§ 34-9-80", "Notice", SECTION, "How long has Ms. Miller?", "21 days"]
CITATION = r"§ \d+-\d+-\d+"


def found(text: str, known: list[str] | None = None, pattern: str = CITATION) -> dict[str, Any]:
    return introduced(text, known or KNOWN, pattern)


def test_a_row_of_digits_without_end_is_a_number_too() -> None:
    looped, split = "1" * 5000, "1," + "234," * 2000 + "234"  # more digits than int() takes
    assert found(f"It is {looped}.", [f"It was {looped}."]) == {}
    assert "quantities" in found(f"It is {looped} and {split}.")


@pytest.mark.parametrize(
    "text",
    [
        "30 days (§ 34-9-80)",
        "Within thirty days.",
        "Thirty calendar days, for Ms. Miller; the board of Georgia says so.",
        "21 days",
        "At most 1250.50 dollars a week",
        "10% are lost.",
        "Twelve months",
        "2/3 of the wage",
        "⅔ of the wage",
        "A 12-month period",
        "1. Notice\n2. Wage",
        "One of the rules holds.",
        'Nobody knows. Everybody asks. "Whoever" is asked: Perhaps.',
        "34-9-80 without its sign",
        "Georgia's rule",
        "",
    ],
)
def test_what_was_there_before(text: str) -> None:
    assert found(text) == {}


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("45 days", {"quantities": ["45"]}),
        ("30 weeks", {"quantities": ["30"]}),
        ("thirty weeks", {"quantities": ["thirty"]}),
        ("forty-five days", {"quantities": ["forty-five"]}),
        ("9 weeks", {"quantities": ["9"]}),  # of the citation only
        ("$30", {"quantities": ["30"]}),
        ("30 %", {"quantities": ["30"]}),
        ("1,250 dollars", {"quantities": ["1,250"]}),
        ("1/3", {"quantities": ["1/3"]}),
        ("¾ of the wage", {"quantities": ["¾"]}),
        ("one half", {"quantities": ["one half"]}),
        ("two hundred weeks", {"quantities": ["two hundred"]}),
        ("30 days (§ 34-9-82)", {"citations": ["§ 34-9-82"]}),
        ("Ask Mr. Smith of Atlanta, Atlanta", {"names": ["Smith", "Atlanta"]}),
        ("due on 5 March 2021", {"quantities": ["5", "2021"], "names": ["March"]}),
        ("by 2021-03-05", {"quantities": ["2021", "03", "05"]}),
    ],
)
def test_what_comes_from_nowhere(text: str, facts: dict[str, Any]) -> None:
    assert {kind: sorted(texts) for kind, texts in found(text).items()} == {
        kind: sorted(texts) for kind, texts in facts.items()
    }


def test_names_are_not_looked_for_where_every_noun_is_capitalised() -> None:
    german = ["Die Meldung eines Unfalls ist dem Arbeitgeber binnen einer Frist von 30 Tagen zu erstatten."]
    assert found("Er hat dem Chef eine Nachricht zu geben.", german) == {}
    assert found("Er hat 45 Tage.", german) == {"quantities": ["45"]}


def test_the_operation_that_brings_it_is_named() -> None:
    ops = [{"old": "a", "new": "30 days"}, {"old": "b", "new": "45"}]
    assert first_op(ops, {"quantities": ["45"]}) == 1
    assert first_op([], {"quantities": ["45"]}) is None


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("twenty-one and twenty two", [21, 22]),
        ("five thousand two hundred ten", [5210]),
        ("nineteen ninety", [19, 90]),
        ("one, two, three", [2, 3]),
        ("one hundred", [100]),
        ("fourteen fifteen thirteen eleven", [14, 15, 13, 11]),
        ("1,234.5 and 12,34", [1234.5, 12, 34]),
    ],
)
def test_numbers_in_words_and_digits(text: str, values: list[float]) -> None:
    assert [value for value, _ in quantities_of(text)] == values


@given(st.text(), st.text())
def test_what_is_known_is_never_introduced(text: str, other: str) -> None:
    assert introduced(text, [other, text], CITATION) == {}


@given(st.integers(2, 9999))
def test_a_number_that_nobody_said_is_found(number: int) -> None:
    assert found(f"It is {number} items.", ["none"]) == {"quantities": [str(number)]}


def test_a_unit_must_stand_with_its_number() -> None:
    assert found("It is 30 miles.", ["Rule 30 holds."]) == {"quantities": ["30"]}
    assert found("It is 30 miles.", ["It takes 30 miles."]) == {}
    assert found("It is 30.", ["It takes 30 miles."]) == {}
    assert found("1 1/2 miles, 2½ days", ["1½ miles and 2 1/2 days"]) == {}
    assert found("1/2 mile", ["1/2 day"]) == {"quantities": ["1/2"]}
    assert found("a third party", ["none"]) == {}
