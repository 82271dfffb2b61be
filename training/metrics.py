"""Scores of an answer against its reference, each 0 or 1 and computed without a model.

`exact` compares texts, `facts` compares what can be wrong in them: citations and quantities, however
the words between them are put. Numbers written in words are not read ("thirty days" is no quantity).
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

NUMBER = re.compile(
    r"(?P<dollar>\$\s?)?(?P<whole>\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
    r"(?:(?P<decimal>\.\d+)|\s?/\s?(?P<below>[1-9]\d*)|\s(?P<above>\d+)\s?/\s?(?P<under>[1-9]\d*))?"
    r"(?P<percent>\s?%)?"
)
UNIT_WINDOW = 3  # words after a number among which its unit may stand: "30 full calendar days"
WORDS_BEFORE_UNIT = frozenset(("a", "an", "her", "his", "in", "its", "of", "the", "their"))


class Quantity(NamedTuple):
    """A number and the words after it, the first of which is its unit when it stands in a reference."""

    value: Fraction
    words: tuple[str, ...]


class Facts(NamedTuple):
    """The checkable facts of a text: its citations, and its quantities in order."""

    citations: frozenset[str]
    quantities: tuple[Quantity, ...]


def exact(expected: str, answer: str) -> float:
    """1.0 if the texts are equal but for case, white space and a final full stop."""
    return float(_plain(expected) == _plain(answer))


def facts(expected: str, answer: str, citation_pattern: str = "") -> float:
    """1.0 if the answer has the reference's citations and quantities, all of them and no others.

    A quantity is a number with its unit: $7,500 is 7500 dollars, 1/2 is 0.5, 10% is 10 percent. Where
    the reference has neither citation nor number, the texts are compared with `exact`.
    """
    right, given = extract(expected, citation_pattern), extract(answer, citation_pattern)
    if not right.citations and not right.quantities:
        return exact(expected, answer)
    return float(
        right.citations == given.citations
        and all(any(_same(quantity, other) for other in given.quantities) for quantity in right.quantities)
        and all(any(_same(quantity, other) for quantity in right.quantities) for other in given.quantities)
    )


def extract(text: str, citation_pattern: str = "") -> Facts:
    """The citations and quantities of a text; what belongs to a citation is no quantity."""
    citations: list[str] = []
    if citation_pattern:
        found = re.compile(citation_pattern)
        citations = [" ".join(match.group().split()) for match in found.finditer(text) if match.group()]
        text = found.sub(" ; ", text)
    matches = list(NUMBER.finditer(text))
    ends = [*(match.start() for match in matches), len(text)][1:]
    return Facts(
        frozenset(citations),
        tuple(_quantity(match, text[match.end() : end]) for match, end in zip(matches, ends, strict=True)),
    )


def _quantity(match: re.Match[str], after: str) -> Quantity:
    value = Fraction(match["whole"].replace(",", "") + (match["decimal"] or ""))
    if match["below"]:
        value /= int(match["below"])
    if match["above"]:
        value += Fraction(int(match["above"]), int(match["under"]))
    if match["dollar"] or match["percent"]:
        return Quantity(value, ("dollar" if match["dollar"] else "percent",))
    clause = re.split(r"[.;:!?()\[\]]", after.replace("per cent", "percent"), maxsplit=1)[0]
    words = [
        _singular(word) for word in re.findall(r"[^\W\d_]+", clause.lower()) if word not in WORDS_BEFORE_UNIT
    ]
    return Quantity(value, tuple(words[:UNIT_WINDOW]))


def _same(right: Quantity, given: Quantity) -> bool:
    """Whether the given quantity has the right one's value, and its unit close behind."""
    return right.value == given.value and (not right.words or right.words[0] in given.words)


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).removesuffix(".").rstrip()
