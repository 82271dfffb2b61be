"""What an edited answer says that nothing before it said: quantities, names and citations out of nowhere.

A fact of the edited text must stand in a section that the refiner was shown, in what was asked and said
before, or in the answer as it was. Numbers and fractions count by value, in digits or English words; a known
unit must stand with its number there too. A name is a word that begins with a capital within a sentence and
stands nowhere in any case; where sentences capitalise more than names, as German ones do, names are not
looked for. Plain words are not compared, so a wrong but known fact is not found.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Final

from factory.corruption.measures import ABBREVIATED, PLURALS, singular
from factory.types import Json

# Of a row of digits without end, as a model in a loop writes it, a thousand are a number: int() takes no more
# than 4,300.
NUMBER: Final = re.compile(r"\d{1,3}(?:,\d{3}){1,300}(?!\d)(?:\.\d{1,1000})?|\d{1,1000}(?:\.\d{1,1000})?")
LIST_MARK: Final = re.compile(r"^\s*\d{1,2}[.)]\s", re.MULTILINE)
WORD: Final = re.compile(r"[^\W\d_]+(?:[-'’][^\W\d_]+)*")
OF_SENTENCE: Final = re.compile(r"(?:^|[.!?:;]|\n)[\s\"'“”‘’(\[*_>#•–-]*$")
TIMES: Final = ("second", "minute", "hour", "day", "week", "month", "year")
UNITS: Final = frozenset(PLURALS) | {"percent"}
SIGNS: Final = {"$": "dollar", "€": "euro", "%": "percent"}
UNIT_WINDOW: Final = 3  # words after a number among which its unit may stand: "30 full calendar days"
_PARTS: Final = {"half": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "halve": 2}
FRACTION: Final = re.compile(
    r"(?<![\w/.,-])(?:(?P<whole>\d{1,9})[ -])?(?P<over>\d{1,9})/(?P<under>0*[1-9]\d{0,8})(?![\w/]|[.,-]\d)"
    r"|(?P<before>\d{1,9}) ?(?P<sign>[½⅓⅔¼¾⅕⅛])|(?P<alone>[½⅓⅔¼¾⅕⅛])"
    r"|\b(?P<count>a|one|two|three|four)[ -](?P<part>half|halve|third|quarter|fourth|fifth)s?\b",
    re.IGNORECASE,
)
TITLE: Final = re.compile(r"\b(Mr|Mrs|Ms|Dr|Prof)\b(\.?)")
MAX_CAPITALISED: Final = 0.25  # of the words within sentences: more are not names alone

_ONES: Final = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_TEENS: Final = ("ten", "eleven", "twelve", "thir", "four", "fif", "six", "seven", "eigh", "nine")
_TENS: Final = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
VALUES: Final = {
    **{word: value for value, word in enumerate(_ONES)},
    **{word + "teen" * (value > 12): value for value, word in enumerate(_TEENS, 10)},
    **{word: 10 * value for value, word in enumerate(_TENS, 2)},
}
SCALES: Final = {"hundred": 100, "thousand": 1000}

Quantity = tuple[Fraction, str]  # the unit is the empty string where none is known


def introduced(edited: str, known: Sequence[str], citation_pattern: str = "") -> dict[str, Json]:
    """The facts of `edited` that no text of `known` holds, by kind, as they are written; {} without any.

    `known` are the texts that it may draw on. Kinds are quantities, names and citations.
    """
    found: dict[str, Json] = {}
    rest, others = edited, known
    if citation_pattern:
        pattern = re.compile(citation_pattern)
        cited = {_plain(match[0]) for text in known for match in pattern.finditer(text)}
        found["citations"] = [m[0] for m in pattern.finditer(edited) if _plain(m[0]) not in cited]
        rest, others = pattern.sub(" ; ", edited), [pattern.sub(" ; ", text) for text in known]
    quantities = {quantity for text in others for quantity in quantities_of(text)}
    # A number may be lifted out of a citation, but not with a unit.
    values = {value for text in (*known, *others) for value, _ in quantities_of(text)}
    found["quantities"] = [
        text
        for text, (value, unit) in _written(rest)
        if not ((value, unit) in quantities if unit else value in values)
    ]
    found["names"] = _new_names(rest, others)
    return {kind: list(dict.fromkeys(texts)) for kind, texts in found.items() if texts}


def first_op(ops: Iterable[Mapping[str, Json]], facts: Mapping[str, Json]) -> int | None:
    """The first operation whose new text holds one of the facts, from 0; None where none does alone."""
    texts = [text for kind in facts.values() for text in kind]
    return next((at for at, op in enumerate(ops) if any(text in str(op["new"]) for text in texts)), None)


def quantities_of(text: str) -> list[Quantity]:
    """Value and unit of every number of a text, in order; the unit is one of UNITS or ''."""
    return [quantity for _, quantity in _written(text)]


def _written(text: str) -> list[tuple[str, Quantity]]:
    """Every number as it is written, with what it says: first those in digits, then those in words.

    'one' alone is no quantity: it mostly is none.
    """
    text = LIST_MARK.sub(lambda match: " " * len(match[0]), text)
    found = []
    for match in FRACTION.finditer(text):
        if (match["count"] or "").casefold() == "a" and match["part"].casefold() != "half":
            continue  # 'a third party'
        value = _fraction(match)
        found.append(
            (match[0], (value, SIGNS.get(text[match.end() :].lstrip()[:1]) or _unit_after(text, match.end())))
        )
        text = text[: match.start()] + ";" * len(match[0]) + text[match.end() :]
    for match in NUMBER.finditer(text):
        sign = SIGNS.get(text[: match.start()].rstrip()[-1:]) or SIGNS.get(text[match.end() :].lstrip()[:1])
        value = Fraction(match[0].replace(",", ""))
        found.append((match[0], (value, sign or _unit_after(text, match.end()))))
    words = list(WORD.finditer(text))
    at = 0
    while at < len(words):
        spelled, used = _spelled([match[0].casefold() for match in words[at : at + 6]])
        if used and (spelled, used) != (1, 1):
            end = words[at + used - 1].end()
            found.append((text[words[at].start() : end], (Fraction(spelled), _unit_after(text, end))))
        at += max(used, 1)
    return found


def _fraction(match: re.Match[str]) -> Fraction:
    """What 1/2, 1 1/2, 2½ or 'two thirds' comes to."""
    if match["over"]:
        return int(match["whole"] or 0) + Fraction(int(match["over"]), int(match["under"]))
    if sign := match["sign"] or match["alone"]:
        return int(match["before"] or 0) + Fraction(unicodedata.numeric(sign)).limit_denominator(8)
    count = match["count"].casefold()
    return Fraction(VALUES.get(count, 1), _PARTS[match["part"].casefold()])


def _spelled(words: Sequence[str]) -> tuple[int, int]:
    """The number that begins a row of words, and how many of them it takes; (0, 0) where none does."""
    total, last, used = 0, 0, 0
    for word in words:
        parts = word.split("-")
        if all(part in VALUES for part in parts) and (last == 0 or (last >= 20 and last % 10 == 0)):
            last += sum(VALUES[part] for part in parts)
        elif word in SCALES and used:
            total, last = (total + last) * SCALES[word] if SCALES[word] > 100 else total + last * 100, 0
        else:
            break
        used += 1
    return total + last, used


def _unit_after(text: str, place: int) -> str:
    """The unit within the next words of the same clause, singular; '' where none is known."""
    after = re.sub(r"^\s*(?:\)|\([\d.,]+\))", "", text[place : place + 80])  # thirty (30) days
    clause = re.split(r"[.;:!?()\[\]\n\d]", after, maxsplit=1)[0]
    words = re.findall(r"[^\W\d_]+", clause.replace("per cent", "percent"))[:UNIT_WINDOW]
    for number, word in enumerate(words):
        unit = singular(word)
        if unit in UNITS and (number == 0 or unit not in ABBREVIATED or unit == "percent"):
            return unit
    return ""


def _new_names(edited: str, known: Sequence[str]) -> list[str]:
    inside, names = _capitalised("\n".join(known))
    if len(names) > MAX_CAPITALISED * inside:
        return []
    seen = {_bare(match[0]) for text in known for match in WORD.finditer(text)}
    _, found = _capitalised(edited)
    return [name for name in found if _bare(name) not in seen and _bare(name) not in VALUES]


def _capitalised(text: str) -> tuple[int, list[str]]:
    """How many words stand within sentences, and those of them that begin with a capital.

    'I' and titles are none, and the full stop of a title ends no sentence.
    """
    text = TITLE.sub(lambda match: match[1].lower() + " " * bool(match[2]), text)
    inside, names = 0, []
    for match in WORD.finditer(text):
        if OF_SENTENCE.search(text[max(0, match.start() - 12) : match.start()] if match.start() else ""):
            continue
        inside += 1
        if match[0][0].isupper() and len(match[0]) > 1:
            names.append(match[0])
    return inside, names


def _bare(word: str) -> str:
    """A word as it is compared: in lower case, without its possessive s."""
    return word.casefold().removesuffix("'s").removesuffix("’s")


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
