"""Quantities in text: numbers in digits and in words, with the unit that follows, as English writes them.

What is part of a citation, a date, a version or an ordinal is no quantity. Values are exact fractions, so
that "two thirds", "2/3" and "1,000" compare as what they mean.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

WORDS = {
    word: Fraction(value)
    for value, names in {
        "1/2": "half|one half|one-half",
        "1/3": "a third|one third|one-third",
        "2/3": "two thirds|two-thirds",
        "1/4": "a quarter|one quarter|one-quarter",
        "3/4": "three quarters|three-quarters",
    }.items()
    for word in names.split("|")
} | {
    word: Fraction(value)
    for word, value in [
        *[("two", 2), ("three", 3), ("four", 4), ("five", 5), ("six", 6), ("seven", 7), ("eight", 8)],
        *[("nine", 9), ("ten", 10), ("eleven", 11), ("twelve", 12)],
        *[("fifteen", 15), ("twenty", 20), ("thirty", 30), ("forty", 40), ("fifty", 50)],
        *[("sixty", 60), ("seventy", 70), ("eighty", 80), ("ninety", 90)],
    ]
}
SPELLED = {value: word for word, value in WORDS.items() if " " not in word and "-" not in word}
FAMILIES = (
    ("second", "minute", "hour", "day", "week", "month", "year"),
    ("dollar", "euro", "pound", "cent"),
    ("milligram", "gram", "kilogram", "ton", "ounce"),
    ("millimetre", "centimetre", "metre", "kilometre", "inch", "mile"),
    ("millilitre", "litre", "gallon"),
    ("byte", "kilobyte", "megabyte", "gigabyte", "terabyte"),
    ("mg", "g", "kg"),
    ("mm", "cm", "m", "km"),
    ("ml", "l"),
    ("KB", "MB", "GB", "TB"),
    ("watt", "kilowatt", "megawatt"),
    ("percent",),
)
ABBREVIATED = frozenset(
    {"mg", "g", "kg", "mm", "cm", "m", "km", "ml", "l", "KB", "MB", "GB", "TB", "percent"}
)
PLURALS = {unit: unit if unit in ABBREVIATED else f"{unit}s" for family in FAMILIES for unit in family} | {
    "inch": "inches"
}
SINGULARS = {plural: unit for unit, plural in PLURALS.items()} | {unit: unit for unit in PLURALS}
CURRENCIES = ("$", "€", "£")

_SPELLED = "|".join(sorted((re.escape(word) for word in WORDS), key=len, reverse=True))
_QUANTITY = re.compile(
    rf"(?<![\w§.,/–-])(?<!-)(?P<sign>[$€£]\s?)?(?P<number>\d+(?:[.,/]\d+)*|\b(?:{_SPELLED})\b)"
    r"(?![-–.,/:]?\d)(?!\w)(?P<share>\s?%)?(?:(?P<gap>[ \u00a0-])(?P<unit>[^\W\d_]+))?",
    re.IGNORECASE,
)


class Quantity(NamedTuple):
    """A number in a text: `start` and `end` are the number's, the unit's are `unit_start` and `unit_end`."""

    start: int
    end: int
    number: str
    value: Fraction
    sign: str  # a currency before it
    share: str  # a % after it
    unit: str  # the word that follows, or ''
    unit_start: int
    unit_end: int
    is_joined: bool  # to its unit by a hyphen, where the unit has no plural

    @property
    def measure(self) -> str:
        """What is counted: currency, %, or the unit in the singular; '' where nothing says so."""
        return self.sign.strip() or self.share.strip() or singular(self.unit)


def quantities(text: str) -> Iterator[Quantity]:
    """The quantities of a text, in order."""
    for match in _QUANTITY.finditer(text):
        value = value_of(match["number"])
        unit = match["unit"] or ""
        if value is None or unit.casefold() in WORDS or unit.casefold() == "one":
            continue
        yield Quantity(
            *match.span("number"),
            match["number"],
            value,
            match["sign"] or "",
            match["share"] or "",
            unit,
            *match.span("unit"),
            match["gap"] == "-",
        )


def value_of(number: str) -> Fraction | None:
    """What a number in digits or in words comes to; None where it is no number, such as 1/0 or 1.2.3."""
    if (word := WORDS.get(number.casefold())) is not None:
        return word
    plain = number.replace(",", "") if re.fullmatch(r"\d{1,3}(,\d{3})+(\.\d+)?", number) else number
    plain = plain.replace(",", ".") if re.fullmatch(r"\d+,\d+", plain) else plain
    if not plain.isascii() or not re.fullmatch(r"\d{1,18}([./]\d{1,18})?", plain):
        return None
    try:
        return Fraction(plain)
    except ZeroDivisionError:
        return None


def singular(unit: str) -> str:
    """A unit's one form: days → day; a word that is no known unit loses a plural s."""
    found = SINGULARS.get(unit) or SINGULARS.get(unit.casefold())
    return found or (unit[:-1] if len(unit) > 3 and unit.endswith("s") else unit).casefold()


def inflected(unit: str, value: Fraction) -> str:
    """A known unit as it stands after a number: 1 day, 2 days, 2/3 day."""
    return unit if value <= 1 else PLURALS[unit]


def written(value: Fraction, like: str) -> str:
    """A value written as another number is: in words, with a thousands comma, as a fraction, in digits."""
    if like.casefold() in WORDS and value in SPELLED:
        word = SPELLED[value]
        return word.capitalize() if like[0].isupper() else word
    if value.denominator == 1:
        return f"{int(value):,}" if "," in like or value >= 10_000 else str(int(value))
    if "." in like or "," in like:
        return f"{float(value):g}"
    return f"{value.numerator}/{value.denominator}"
