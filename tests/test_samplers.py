"""Samplers draw by hash: the same task the same values, the right shares, every combination in its turn."""

from __future__ import annotations

from collections import Counter
from datetime import date, datetime
from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from generators.samplers import Sampler, check_samplers, draw_all, num_combinations, typed

SAMPLERS = TypeAdapter(dict[str, Sampler])


def samplers_of(**specs):
    return SAMPLERS.validate_python(specs)


def category(*values, **weights):
    return {"kind": "category", "values": weights or list(values)}


def draw_many(samplers, count: int = 4000, cover=()):
    return [draw_all(samplers, cover, n, n) for n in range(count)]


def test_categories_come_up_by_their_weights():
    drawn = draw_many(samplers_of(tone=category(formal=3, casual=1)))
    share = Counter(row["tone"] for row in drawn)["formal"] / len(drawn)
    assert 0.72 < share < 0.78


def test_ranges_hold_their_ends_and_nothing_beyond():
    samplers = samplers_of(
        die={"kind": "integer", "low": 1, "high": 6},
        price={"kind": "number", "low": -0.5, "high": 0.5, "digits": 1},
        day={"kind": "date", "first": "2024-02-28", "last": date(2024, 3, 1)},
        one={"kind": "integer", "low": 7, "high": 7},
    )
    drawn = draw_many(samplers)
    dice = Counter(row["die"] for row in drawn)
    assert set(dice) == set("123456") and min(dice.values()) > 560
    assert {row["day"] for row in drawn} == {"2024-02-28", "2024-02-29", "2024-03-01"}
    prices = {float(row["price"]) for row in drawn}
    assert min(prices) == -0.5 and max(prices) == 0.5 and len(prices) == 11
    assert {row["one"] for row in drawn} == {"7"}
    first = typed(samplers, drawn[0])
    assert (type(first["die"]), type(first["price"]), type(first["day"])) == (int, float, str)


def test_the_same_task_draws_the_same_and_names_draw_for_themselves():
    samplers = samplers_of(a=category("x", "y"), b=category("x", "y"))
    assert draw_many(samplers, 50) == draw_many(samplers, 50)
    pairs = Counter((row["a"], row["b"]) for row in draw_many(samplers))
    assert len(pairs) == 4 and min(pairs.values()) > 850
    # The order in which samplers are written changes nothing, as it does not change a recipe's digest.
    turned = samplers_of(b=category("x", "y"), a=category("x", "y"))
    assert draw_all(turned, (), 3, 3) == draw_all(samplers, (), 3, 3)


def test_a_condition_hands_over_to_the_sampler_of_its_case():
    samplers = samplers_of(
        who=category("child", "adult", "company"),
        age={
            "kind": "conditional",
            "by": "who",
            "cases": {
                "child": {"kind": "integer", "low": 3, "high": 12},
                "adult": {"kind": "integer", "low": 18, "high": 80},
            },
            "otherwise": category("none"),
        },
    )
    check_samplers(samplers, ())
    for row in draw_many(samplers, 300):
        age = typed(samplers, row)["age"]
        assert age in {"child": range(3, 13), "adult": range(18, 81), "company": ["none"]}[row["who"]]


def test_conditions_may_rest_on_conditions():
    inner = {"kind": "conditional", "by": "a", "cases": {"x": category("p"), "y": category("q", "r")}}
    outer = {"kind": "conditional", "by": "b", "cases": {"p": category("1"), "q": category("2")}}
    samplers = samplers_of(a=category("x", "y"), b=inner, c={**outer, "otherwise": category("3")})
    check_samplers(samplers, ())
    found = {(row["a"], row["b"], row["c"]) for row in draw_many(samplers, 200)}
    assert found == {("x", "p", "1"), ("y", "q", "2"), ("y", "r", "3")}


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(0, 10**6))
def test_covered_combinations_come_up_once_each_in_any_run_of_turns(sizes, start):
    samplers = samplers_of(**{f"s{i}": category(*map(str, range(n))) for i, n in enumerate(sizes)})
    cover, size = list(samplers), prod(sizes)
    assert num_combinations(samplers, cover) == size
    turns = range(start, start + min(size, 500))
    rows = [tuple(draw_all(samplers, cover, turn, 0).values()) for turn in turns]
    assert len(set(rows)) == len(rows)
    assert draw_all(samplers, cover, start + size, 0) == draw_all(samplers, cover, start, 1)


def test_the_first_turns_differ_in_every_part():
    samplers = samplers_of(a=category(*"abcdefgh"), b=category(*"12345"))
    rows = [draw_all(samplers, ["a", "b"], turn, 0) for turn in range(8)]
    assert len({row["a"] for row in rows}) >= 6 and len({row["b"] for row in rows}) == 5


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"kind": "category", "values": []}, "at least 1"),
        ({"kind": "category", "values": ["a", "a"]}, "twice"),
        ({"kind": "category", "values": [1, 2]}, "quotes"),
        ({"kind": "category", "values": {"a": 0}}, "greater than 0"),
        ({"kind": "integer", "low": 2, "high": 1}, "must not be above"),
        ({"kind": "integer", "low": 1.5, "high": 2}, "integer"),
        ({"kind": "number", "low": 2, "high": 1}, "must not be above"),
        ({"kind": "date", "first": "soon", "last": "2024-01-01"}, "no date"),
        ({"kind": "date", "first": "2024-01-02", "last": "2024-01-01"}, "must not be above"),
        ({"kind": "date", "first": datetime(2024, 1, 2), "last": "2024-02-01"}, "without a time"),
        ({"kind": "dice"}, "dice"),
        ({"kind": "integer", "low": 1, "high": 2, "step": 1}, "step"),
    ],
)
def test_what_cannot_be_drawn_is_refused(spec, words):
    with pytest.raises(ValidationError, match=words):
        samplers_of(x=spec)


@pytest.mark.parametrize(
    ("specs", "cover", "words"),
    [
        (
            {"a": category("x"), "b": {"kind": "conditional", "by": "c", "cases": {"x": category("1")}}},
            [],
            "`by`",
        ),
        ({"b": {"kind": "conditional", "by": "b", "cases": {"x": category("1")}}}, [], "`by`"),
        (
            {
                "a": {"kind": "integer", "low": 1, "high": 2},
                "b": {"kind": "conditional", "by": "a", "cases": {"1": category("1")}},
            },
            [],
            "`by`",
        ),
        (
            {"a": category("x", "y"), "b": {"kind": "conditional", "by": "a", "cases": {"x": category("1")}}},
            [],
            "no case for 'y'",
        ),
        (
            {"a": category("x"), "b": {"kind": "conditional", "by": "a", "cases": {"z": category("1")}}},
            [],
            "'z' is no value of 'a'",
        ),
        ({"a": category("x", "y")}, ["b"], "'b' is no sampler"),
        ({"a": {"kind": "integer", "low": 1, "high": 2}}, ["a"], "kind category"),
        ({"a": category(x=1, y=2)}, ["a"], "weights"),
        ({"a": category("x", "y")}, ["a", "a"], "twice"),
    ],
)
def test_samplers_that_do_not_fit_together_are_refused(specs, cover, words):
    with pytest.raises(ValueError, match=words):
        check_samplers(samplers_of(**specs), cover)
