"""Scores of an answer against its reference, from 0 to 1 and computed without a model.

`exact`, `normalized` and `token_f1` compare texts, the others what can be wrong in them, however the words
between are put: citations and quantities (`facts`), numbers, citations alone. Numbers written in words are
not read ("thirty days" is no quantity). What JSON holds is compared in `training.json_fields`.
"""

from __future__ import annotations

import re
import string
import unicodedata
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import accumulate
from typing import NamedTuple

NUMBER = re.compile(
    r"(?P<dollar>\$\s?)?(?P<whole>\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
    r"(?:(?P<decimal>\.\d+)|\s?/\s?(?P<below>[1-9]\d*)|\s(?P<above>\d+)\s?/\s?(?P<under>[1-9]\d*))?"
    r"(?P<percent>\s?%)?"
)
# A minus stands right before its number and behind no word: "- 5" is an item of a list or a dash. A point may
# lead, a power of ten may follow.
SIGNED = re.compile(
    r"(?P<minus>(?<![\w)\]])[-\u2212])?(?P<point>(?<![\w.])\.(?=\d))?"
    + NUMBER.pattern
    + r"(?:[eE](?P<power>[-+]?\d{1,3})(?!\w))?"
)
DIGITS = ("whole", "decimal", "below", "above", "under")
UNIT_WINDOW = 3  # words after a number among which its unit may stand: "30 full calendar days"
WORDS_BEFORE_UNIT = frozenset(("a", "an", "her", "his", "in", "its", "of", "the", "their"))
ARTICLES = re.compile(r"\b(?:a|an|the)\b")
MAX_TOLD = 300  # characters of why an answer is not right
MAX_DIGITS = 1000  # of one number; Python reads no more than 4,300


class Scored(NamedTuple):
    """From 0.0 to 1.0, and why not more, where the metric can tell."""

    value: float
    why: str = ""


class Quantity(NamedTuple):
    """A number and the words after it, the first of which is its unit when it stands in a reference."""

    value: Fraction
    words: tuple[str, ...]


class Facts(NamedTuple):
    """The checkable facts of a text: its citations, and its quantities in order."""

    citations: frozenset[str]
    quantities: tuple[Quantity, ...]


class Number(NamedTuple):
    """A number as it is written and what it comes to; a percent sign is not counted in."""

    value: Fraction
    text: str


def exact(expected: str, answer: str) -> float:
    """1.0 if the texts are equal but for case, white space and a final full stop."""
    return float(_plain(expected) == _plain(answer))


def normalise(text: str) -> str:
    """Lower case, without punctuation, the articles a, an, the, and more than one space between words.

    As `normalize_answer` of the evaluation script of SQuAD 1.1 (Rajpurkar et al. 2016, arXiv 1606.05250),
    after Unicode's NFKC, and with the punctuation of all scripts beside that of ASCII.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    kept = "".join(
        sign for sign in folded if sign not in string.punctuation and unicodedata.category(sign)[0] != "P"
    )
    return " ".join(ARTICLES.sub(" ", kept).split())


def normalized(expected: str, answer: str) -> float:
    """1.0 if the texts are equal once they are normalised: the exact match of SQuAD."""
    return float(normalise(expected) == normalise(answer))


def token_f1(expected: str, answer: str) -> float:
    """The F1 of the answer's words against the reference's, each as often as it stands there; as in SQuAD.

    Words are those of the normalised texts. Where one of them has none, 1.0 if the other has none either.
    """
    right, given = normalise(expected).split(), normalise(answer).split()
    if not right or not given:
        return float(right == given)
    num_shared = (Counter(right) & Counter(given)).total()
    return 2 * num_shared / (len(right) + len(given))


def numeric(
    expected: str, answer: str, relative: float = 0.0, absolute: float = 0.0, citation_pattern: str = ""
) -> Scored:
    """1.0 if the answer has the reference's numbers, all of them and no others, in any order.

    A number of the answer is right that differs from one of the reference by no more than `absolute`, or
    `relative` times that one. Units are not compared, and what belongs to a citation is no number.
    """
    right, given = (numbers(text, citation_pattern) for text in (expected, answer))
    share, most = (Fraction(str(each)) for each in (relative, absolute))

    spans = [
        (each.value - off, each.value + off) for each in right for off in [max(most, share * abs(each.value))]
    ]
    values = sorted(each.value for each in given)
    missing = [each.text for each, span in zip(right, spans, strict=True) if not _holds_one(span, values)]
    spans.sort()
    lows, reached = [low for low, _ in spans], [*accumulate((high for _, high in spans), max)]

    def is_right(value: Fraction) -> bool:
        num_below = bisect_right(lows, value)
        return num_below > 0 and value <= reached[num_below - 1]

    extra = [each.text for each in given if not is_right(each.value)]
    return Scored(float(not missing and not extra), difference(missing, extra))


def _holds_one(span: tuple[Fraction, Fraction], values: Sequence[Fraction]) -> bool:
    """Whether one of the values, which are sorted, lies within."""
    first = bisect_left(values, span[0])
    return first < len(values) and values[first] <= span[1]


def numbers(text: str, citation_pattern: str = "") -> list[Number]:
    """The numbers of a text in order: 7,500 and 7500, 1/2 and 0.5, 66 2/3, -4, 1e-3, 10%."""
    if citation_pattern:
        text = re.sub(citation_pattern, " ; ", text)
    found = []
    for match in SIGNED.finditer(text):
        value = _value(match)
        if match["point"]:  # the whole number stands behind the point
            value /= 10 ** len(match["whole"].replace(",", "")[:MAX_DIGITS])
        value *= Fraction(10) ** int(match["power"] or 0)
        found.append(Number(-value if match["minus"] else value, match.group().strip()))
    return found


def citation(expected: str, answer: str, citation_pattern: str) -> Scored:
    """The F1 of the answer's citations against the reference's, each counted once."""
    right, given = (extract(text, citation_pattern).citations for text in (expected, answer))
    if not right and not given:
        return Scored(1.0)
    value = 2 * len(right & given) / (len(right) + len(given))
    return Scored(value, difference(sorted(right - given), sorted(given - right)))


def difference(missing: Iterable[str], extra: Iterable[str], wrong: Iterable[str] = ()) -> str:
    """In words what is wrong, what lacks and what is too much; '' where nothing is."""
    named = {"wrong": wrong, "missing": missing, "too many": extra}
    told = ((what, ", ".join(each)) for what, each in named.items())
    return "; ".join(f"{what}: {names}" for what, names in told if names)[:MAX_TOLD]


def facts(expected: str, answer: str, citation_pattern: str = "") -> float:
    """1.0 if the answer has the reference's citations and quantities, all of them and no others.

    A quantity is a number with its unit: $7,500 is 7500 dollars, 1/2 is 0.5, 10% is 10 percent. Where
    the reference has neither citation nor number, the texts are compared with `exact`.
    """
    right, given = extract(expected, citation_pattern), extract(answer, citation_pattern)
    if not right.citations and not right.quantities:
        return exact(expected, answer)
    return float(right.citations == given.citations and _same(right.quantities, given.quantities))


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
    value = _value(match)
    if match["dollar"] or match["percent"]:
        return Quantity(value, ("dollar" if match["dollar"] else "percent",))
    clause = re.split(r"[.;:!?()\[\]]", after.replace("per cent", "percent"), maxsplit=1)[0]
    words = [
        _singular(word) for word in re.findall(r"[^\W\d_]+", clause.lower()) if word not in WORDS_BEFORE_UNIT
    ]
    return Quantity(value, tuple(words[:UNIT_WINDOW]))


def _value(match: re.Match[str]) -> Fraction:
    """The number itself; of one without end, as models write it in a loop, the beginning."""
    digits = {name: (match[name] or "").replace(",", "")[:MAX_DIGITS] for name in DIGITS}
    value = Fraction(digits["whole"] + digits["decimal"])
    if digits["below"]:
        value /= int(digits["below"])
    if digits["above"]:
        value += Fraction(int(digits["above"]), int(digits["under"]))
    return value


def _same(right: Iterable[Quantity], given: Sequence[Quantity]) -> bool:
    """Whether each has its like among the others: the value, and the right one's unit close behind."""
    units: dict[Fraction, set[str]] = {}  # '' of a reference that names none
    for quantity in right:
        units.setdefault(quantity.value, set()).add(quantity.words[0] if quantity.words else "")
    found: dict[Fraction, set[str]] = {value: set() for value in units}
    for other in given:
        named = {"", *other.words}
        if not units.get(other.value, set()) & named:
            return False
        found[other.value] |= named
    return all(named <= found[value] for value, named in units.items())


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).removesuffix(".").rstrip()
