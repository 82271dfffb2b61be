"""Another number, another unit, another date: each plausible, and none that the section itself gives.

Values are taken from other sections with the same unit first, from the section's own numbers of another kind,
and from simple slips (twice, half, one more). A quantity that the section states too, in whatever role, is
never taken: it might be right.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from random import Random

from factory.corruption.case import Case, replaced
from factory.corruption.measures import (
    CURRENCIES,
    FAMILIES,
    PLURALS,
    Quantity,
    inflected,
    quantities,
    singular,
    written,
)

_MONTH = "January|February|March|April|May|June|July|August|September|October|November|December"
MONTHS = tuple(_MONTH.split("|"))
DATES = (
    re.compile(r"(?<!\d)(?P<year>\d{4})-(?P<month>\d{2})-(?P<day>\d{2})(?!\d)"),
    re.compile(rf"(?<!\d)(?P<day>\d{{1,2}}) (?P<month>{_MONTH})(?: (?P<year>\d{{4}}))?\b"),
    re.compile(rf"\b(?P<month>{_MONTH}) (?P<day>\d{{1,2}})(?:, (?P<year>\d{{4}}))?(?!\d)"),
    re.compile(r"(?<=[iI]n )(?P<year>[12]\d{3})\b(?![-/.]\d)"),
    re.compile(r"(?<=[sS]ince )(?P<year>[12]\d{3})\b(?![-/.]\d)"),
)


def wrong_quantity(case: Case, rng: Random) -> str | None:
    """The answer with another value in the place of one of its numbers."""
    found = _own(case)
    rng.shuffle(found)
    for quantity in found:
        groups = [group for group in _values(case, quantity, rng) if group]
        if groups:
            value = rng.choice(rng.choice(groups))
            return _with_value(case.answer, quantity, value)
    return None


def wrong_unit(case: Case, rng: Random) -> str | None:
    """The answer with the same number of something else."""
    found = _own(case)
    rng.shuffle(found)
    for quantity in found:
        if sign := quantity.sign.strip():
            others = [each for each in CURRENCIES if each != sign and not case.states(each)]
            at = case.answer.rindex(sign, 0, quantity.start)
            return replaced(case.answer, at, at + 1, rng.choice(others)) if others else None
        unit = singular(quantity.unit)
        if unit not in PLURALS:
            continue
        family = next(family for family in FAMILIES if unit in family)
        near = [other for other in family if other != unit and not _is_given(case, quantity.value, other)]
        far = [
            other
            for other in _units_elsewhere(case, rng)
            if other != unit and not _is_given(case, quantity.value, other)
        ]
        if choice := near or far:
            new = rng.choice(choice)
            new = new if quantity.is_joined else inflected(new, quantity.value)
            return replaced(case.answer, quantity.unit_start, quantity.unit_end, new)
    return None


def wrong_date(case: Case, rng: Random) -> str | None:
    """The answer with one of its dates moved by a day, a month or a few years."""
    found = [match for pattern in DATES for match in pattern.finditer(case.answer)]
    found = [match for match in found if not case.is_cited(*match.span())]
    rng.shuffle(found)
    for match in found:
        for part in rng.sample(list(match.groupdict()), len(match.groupdict())):
            new = _moved(part, match[part], rng) if match[part] else None
            if new is None:
                continue
            start, end = match.start(part) - match.start(), match.end(part) - match.start()
            date = replaced(match[0], start, end, new)
            if not case.states(date):
                return replaced(case.answer, *match.span(), date)
    return None


def _own(case: Case) -> list[Quantity]:
    """The quantities of the answer that are neither in a citation nor in a date."""
    dates = [match.span() for pattern in DATES for match in pattern.finditer(case.answer)]
    return [
        found
        for found in quantities(case.answer)
        if not case.is_cited(found.start, found.end)
        and not any(start < found.end and found.start < end for start, end in dates)
    ]


def _values(case: Case, quantity: Quantity, rng: Random) -> Iterator[list[Fraction]]:
    """Values that may stand in its place, by where they come from."""
    sections = case.elsewhere.sources
    drawn = [rng.choice(sections) for _ in range(8)] if sections else []
    there = [found for source in drawn if source.key != case.source.key for found in quantities(source.text)]
    yield _usable(case, quantity, [found.value for found in there if found.measure == quantity.measure])
    yield _usable(case, quantity, [found.value for found in quantities(case.source.text)])
    value = quantity.value
    slips = [value * 2, value + 1, value * 10] if value.denominator == 1 else []
    slips += [value / 2] if value.denominator == 1 and value % 2 == 0 else []
    slips += (
        [Fraction(1, 2), Fraction(1, 3), Fraction(2, 3), Fraction(3, 4)] if "/" in quantity.number else []
    )
    yield _usable(case, quantity, slips or [value * 2])


def _usable(case: Case, quantity: Quantity, values: list[Fraction]) -> list[Fraction]:
    """Those that are wrong here and can be written as the number is; each once, in order."""
    unit = singular(quantity.unit)
    return [
        value
        for value in dict.fromkeys(values)
        if value > 0
        and value != quantity.value
        and (value.denominator == 1) == (quantity.value.denominator == 1)
        and (
            quantity.is_joined or not quantity.unit or unit in PLURALS or (value > 1) == (quantity.value > 1)
        )
        and not _is_given(case, value, quantity.measure)
    ]


def _is_given(case: Case, value: Fraction, measure: str) -> bool:
    """Whether section or question give that value of that, as far as their units tell."""
    return any(
        found.value == value and (not found.measure or not measure or found.measure == measure)
        for text in (case.source.text, case.question)
        for found in quantities(text)
    )


def _with_value(answer: str, quantity: Quantity, value: Fraction) -> str:
    unit = singular(quantity.unit)
    if unit in PLURALS and not quantity.is_joined:
        answer = replaced(answer, quantity.unit_start, quantity.unit_end, inflected(unit, value))
    return replaced(answer, quantity.start, quantity.end, written(value, quantity.number))


def _units_elsewhere(case: Case, rng: Random) -> list[str]:
    sections = case.elsewhere.sources
    drawn = [rng.choice(sections) for _ in range(8)] if sections else []
    units = [singular(found.unit) for source in drawn for found in quantities(source.text)]
    return [unit for unit in dict.fromkeys(units) if unit in PLURALS]


def _moved(part: str, text: str, rng: Random) -> str | None:
    """Another day, month or year, written as this one is."""
    if part == "year":
        return str(int(text) + rng.choice([-10, -2, -1, 1, 2, 10]))
    if part == "day":
        day = rng.choice([day for day in range(1, 29) if day != int(text)])
        return f"{day:02}" if text.startswith("0") or (len(text) == 2 and day > 9) else str(day)
    if text.isdigit():
        return f"{rng.choice([month for month in range(1, 13) if month != int(text)]):02}"
    return rng.choice([month for month in MONTHS if month != text])
