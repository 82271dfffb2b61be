"""Metrics that compare texts, numbers, citations and fields: tables of cases, and what holds of any text."""

from __future__ import annotations

import json
import time
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.json_fields import compare_fields, read_fields
from training.metrics import (
    citation,
    extract,
    facts,
    normalise,
    normalized,
    numbers,
    numeric,
    token_f1,
)

CITATION = r"§ \d+-\d+-\d+(?:\.\d+)?"
WORDS = [
    "a",
    "the",
    "5",
    "-5",
    "1/2",
    ".5",
    "1e3",
    "7,500",
    "10%",
    "$3",
    "§",
    "34-9-80",
    "30",
    "days,",
    "Days.",
]
TEXTS = st.text(max_size=40) | st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("The  Board's\tname.", "boards name"),
        ("An apple, a pear & THE plum!", "apple pear plum"),
        ("well-known", "wellknown"),
        ("other theory", "other theory"),
        ("ＡＢＣ①", "abc1"),
        ("STRASSE straße", "strasse strasse"),
        ("«Oui», dit-il…", "oui ditil"),
        ("№ 5 €", "no 5 €"),
        ("A", ""),
        (" ?! ", ""),
    ],
)
def test_normalising(text, left):
    assert normalise(text) == left


@pytest.mark.parametrize(
    ("expected", "answer", "f1"),
    [
        ("the board of claims", "Board of Claims.", 1),
        ("thirty days", "days", 2 / 3),
        ("days", "thirty days", 2 / 3),
        ("no no yes", "no yes yes", 2 / 3),
        ("a b", "c d", 0),
        ("board", "", 0),
        ("board", "the a an", 0),
    ],
)
def test_words_in_common(expected, answer, f1):
    assert token_f1(expected, answer) == pytest.approx(f1)
    assert normalized(expected, answer) == float(f1 == 1)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("7,500 or 7500", [7500, 7500]),
        ("1/2, 66 2/3 and 10%", [0.5, 200 / 3, 10]),
        ("-5 °C, \u22124.5, (-3), x = -2, -$7 and $-8", [-5, -4.5, -3, -2, -7, -8]),
        ("- 5 days\n- 7 days; $5 - $10, 10 - 20, fee - 30", [5, 7, 5, 10, 10, 20, 30]),
        ("5-6 days, a 30-day term, 2019-11-03", [5, 6, 30, 2019, 11, 3]),
        ("f(x)-3", [3]),
        (".5, 0.25 and -.75", [0.5, 0.25, -0.75]),
        ("1e-3, 2.5E+2 and 3e4x", [0.001, 250, 3, 4]),
        ("two", []),
    ],
)
def test_numbers_are_read(text, found):
    assert [float(each.value) for each in numbers(text)] == pytest.approx(found)


def test_a_number_without_end_is_no_defect():
    (number,) = numbers("9" * 10_000)
    assert number.value == 10**1000 - 1
    assert numeric("9", "9" * 10_000).value == 0
    assert facts("9 days", f"{'9' * 10_000} days, {'1' * 5_000}/{'3' * 5_000} of it") == 0


@pytest.mark.parametrize(
    ("expected", "answer", "tolerance", "value", "why"),
    [
        ("7,500 dollars", "It is $7500.00.", {}, 1, ""),
        ("1/2", "0.5", {}, 1, ""),
        ("100", "101", {}, 0, "missing: 100; too many: 101"),
        ("100", "101", {"relative": 0.01}, 1, ""),
        ("100", "101.1", {"relative": 0.01}, 0, "missing: 100; too many: 101.1"),
        ("10", "13", {"relative": 0.3}, 1, ""),  # as written, not as a float holds 0.3
        ("0", "0.05", {"relative": 0.5}, 0, "missing: 0; too many: 0.05"),
        ("0", "0.05", {"absolute": 0.05}, 1, ""),
        ("-5", "5", {}, 0, "missing: -5; too many: 5"),
        ("3 and 4", "4, then 3", {}, 1, ""),
        ("3 and 4", "3", {}, 0, "missing: 4"),
        ("42", "6 times 7 is 42", {}, 0, "too many: 6, 7"),
        ("30 days (§ 34-9-80)", "30 (§ 34-9-82)", {}, 1, ""),
        ("5", "five", {}, 0, "missing: 5"),
    ],
)
def test_numbers_within_a_tolerance(expected, answer, tolerance, value, why):
    assert numeric(expected, answer, **tolerance, citation_pattern=CITATION) == (value, why)


@pytest.mark.parametrize(
    ("expected", "answer", "value", "why"),
    [
        ("§ 34-9-80", "See § 34-9-80 and again § 34-9-80.", 1, ""),
        ("§ 34-9-80, § 34-9-82", "§ 34-9-82", 2 / 3, "missing: § 34-9-80"),
        ("§ 34-9-80", "§ 34-9-80, § 34-9-82", 2 / 3, "too many: § 34-9-82"),
        ("§ 34-9-80", "§ 34-9-81", 0, "missing: § 34-9-80; too many: § 34-9-81"),
        ("§ 34-9-80", "none", 0, "missing: § 34-9-80"),
    ],
)
def test_citations(expected, answer, value, why):
    found = citation(expected, answer, CITATION)
    assert (found.value, found.why) == (pytest.approx(value), why)


@pytest.mark.parametrize(
    ("expected", "answer", "names", "value", "why"),
    [
        ('{"a": 1, "b": 2}', '{"b": 2.0, "a": 1}', (), 1, ""),
        ('{"a": 1, "b": 2}', '{"a": 1, "b": 3}', (), 1 / 2, "wrong: b"),
        ('{"a": 1, "b": 2}', '{"a": 1}', (), 1 / 2, "missing: b"),
        ('{"a": 1}', '{"a": 1, "b": 2, "c": 3}', (), 1 / 3, "too many: b, c"),
        ('{"a": {"b": 1, "c": 2}}', '{"a": {"b": 1, "c": 3}}', (), 1 / 2, "wrong: a.c"),
        ('{"a": {"b": 1}}', '{"a": 1}', (), 0, "missing: a.b; too many: a"),
        ('{"a": [1, 2]}', '{"a": [2, 1]}', (), 0, "wrong: a"),
        ('{"a": [{"x": 1, "y": 2}]}', '{"a": [{"y": 2, "x": 1.0}]}', (), 1, ""),
        ('{"a": true}', '{"a": 1}', (), 0, "wrong: a"),
        ('{"a": null}', "{}", (), 0, "missing: a"),
        ('{"a": "Bonn"}', '{"a": "bonn"}', (), 0, "wrong: a"),
        ('{"a": {}}', '{"a": {}}', (), 1, ""),
        ('{"a": 1, "note": "x"}', '{"a": 1, "note": "y", "z": 0}', ("a",), 1, ""),
        ('{"a": {"b": 1, "c": 2}, "d": 3}', '{"a": {"b": 1}}', ("a.c", "a.b"), 1 / 2, "missing: a.c"),
        ('{"a": {"b": 1}, "ab": 2}', '{"a": {"b": 1, "x": 2}, "ab": 3}', ("a",), 1 / 2, "too many: a.x"),
        ('{"a": 1}', 'The answer: {"a": 1}', (), 0, "no JSON object: Expecting value"),
        ('{"a": 1}', '```json\n{"a": 1}\n```', (), 0, "no JSON object: Expecting value"),
        ('{"a": 1}', "[1]", (), 0, "no JSON object: it is no object"),
        ('{"a": 1}', '{"a": 1, "a": 1}', (), 0, "no JSON object: the key 'a' stands there twice"),
        ('{"a": 1}', '{"a": NaN}', (), 0, "no JSON object: NaN is no number"),
        ('{"a": 1}', '{"a": 1e999}', (), 0, "no JSON object: 1e999 is too large"),
        ('{"a": 1}', "[" * 100_000, (), 0, "no JSON object: nested too deeply"),
        ('{"a": 1}', '{"a": ' + "9" * 10_000 + "}", (), 0, "no JSON object: Exceeds the limit"),
        ('{"a": 1}', "", (), 0, "no JSON object: Expecting value"),
    ],
)
def test_fields(expected, answer, names, value, why):
    found = compare_fields(expected, answer, names)
    assert found.value == pytest.approx(value)
    assert found.why == why if value else found.why.startswith(why)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc.", min_size=1, max_size=2), inner)
    ),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.sampled_from(["a", "b", "c"]), JSON, min_size=1, max_size=3).map(json.dumps)


@given(OBJECTS, OBJECTS)
def test_fields_are_a_share_the_same_both_ways_and_all_of_oneself(one, other):
    assert compare_fields(one, one) == (1.0, "")
    found = compare_fields(one, other).value
    assert found == compare_fields(other, one).value and 0 <= found <= 1
    assert (found == 1) == (read_fields(one) == read_fields(other))


def compare_all(one: str, other: str) -> dict[str, float]:
    return {
        "normalized": normalized(one, other),
        "token_f1": token_f1(one, other),
        "numeric": numeric(one, other).value,
        "numeric within a tenth": numeric(one, other, absolute=0.1).value,
        "citation": citation(one, other, CITATION).value,
    }


@given(TEXTS, TEXTS)
def test_scores_lie_in_range_are_the_same_both_ways_and_best_for_oneself(one, other):
    found = compare_all(one, other)
    assert all(0 <= value <= 1 for value in found.values())
    assert found == compare_all(other, one)  # numbers too: an absolute tolerance knows no reference
    assert set(compare_all(one, one).values()) == {1.0}


@given(TEXTS, TEXTS)
def test_words_in_common_are_precision_and_recall_together(expected, answer):
    right, said = normalise(expected).split(), normalise(answer).split()
    num_shared = sum((Counter(right) & Counter(said)).values())
    if num_shared:
        precision, recall = num_shared / len(said), num_shared / len(right)
        assert token_f1(expected, answer) == pytest.approx(2 * precision * recall / (precision + recall))
    else:
        assert token_f1(expected, answer) == float(right == said)


@given(st.integers(-(10**6), 10**6), st.integers(0, 10**4), st.booleans())
def test_a_tolerance_ends_where_it_says(number, off, above):
    answer = str(number + (off if above else -off))
    assert numeric(f"{number:,}", answer, absolute=float(off)).value == 1
    assert numeric(f"{number:,}", answer, absolute=max(0, off - 0.5)).value == float(off == 0)


@given(
    st.lists(st.integers(-6, 6), max_size=6),
    st.lists(st.integers(-6, 6), max_size=6),
    st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    st.sampled_from([0.0, 0.2, 1.0]),
)
def test_a_number_is_right_near_any_of_the_reference(right, answer, absolute, relative):
    def agree(one, other):
        return abs(one - other) <= max(Fraction(str(absolute)), Fraction(str(relative)) * abs(one))

    wanted = all(any(agree(one, other) for other in answer) for one in right)
    wanted = wanted and all(any(agree(one, other) for one in right) for other in answer)
    texts = (" and ".join(map(str, each)) for each in (right, answer))
    assert numeric(*texts, relative=relative, absolute=absolute).value == float(wanted)


@given(*[st.lists(st.sampled_from(["5", "6", "5 days", "6 weeks", "5 sick days", "$5"]), max_size=5)] * 2)
def test_a_quantity_is_right_with_its_unit_behind(right, answer):
    def agree(one, other):
        return one.value == other.value and (not one.words or one.words[0] in other.words)

    texts = ["; ".join(each) for each in (right, answer)]
    ours, theirs = (extract(text).quantities for text in texts)
    wanted = all(any(agree(one, other) for other in theirs) for one in ours)
    wanted = wanted and all(any(agree(one, other) for one in ours) for other in theirs)
    assert facts(*texts) == float(wanted if ours else not theirs)


@pytest.mark.parametrize("metric", [numeric, facts])
def test_thousands_of_numbers_take_no_time(metric):
    """Compared each with each, they would hold up every call in the event loop for half a minute."""
    right = " ".join(f"{number}.5 days" for number in range(3_000))
    began = time.process_time()
    assert metric(right, right.replace("2999.5", "2999.25")) != 1.0
    assert metric(right, right) in (1.0, (1.0, ""))
    assert time.process_time() - began < 2
