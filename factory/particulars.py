"""What two texts must agree in before they can mean the same, however near their vectors are.

Numbers (English number words count as digits), what stands in quotation marks, truth values and negations;
and names: words with a capital within a sentence. Vectors of meaning hardly tell 30 from 40 days, `must` from
`must not` or one name from another. What a text says beyond these is not looked at.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from factory.words import words

_UNITS = (
    "two three four five six seven eight nine ten eleven twelve "
    "thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
UNITS = {word: n for n, word in enumerate(_UNITS.split(), 2)} | {"zero": 0}  # `one` mostly counts nothing
TENS = {word: 10 * n for n, word in enumerate(_TENS.split(), 2)}
NEGATIONS = frozenset({"no", "not", "never", "none", "without", "cannot", "nor", "neither", "yes"})
TRUTH = frozenset({"true", "false", "null"})
_QUOTED = re.compile(r"[\"“”„]([^\"“”„\n]{1,80})[\"“”]|(?<!\w)'([^'\n]{1,80})'(?!\w)")
_NAME = re.compile(r"(?<=[^\W\d_])[,;]? +([A-Z]\w+)")


@dataclass(frozen=True, slots=True)
class Particulars:
    """What a text is particular about: `values` must be the same, `names` stand among the other's words."""

    values: frozenset[str]
    names: frozenset[str]
    words: frozenset[str]

    def agree(self, other: Particulars) -> bool:
        """Whether two texts are particular about the same."""
        return self.values == other.values and self.names <= other.words and other.names <= self.words


def particulars(text: str) -> Particulars:
    """The particulars of a text."""
    plain = with_digits(words(text))
    numbers = {word for word in plain if word[-1].isdigit()}
    quoted = {" ".join(words(found[1] or found[2])) for found in _QUOTED.finditer(text)}
    flags = {word for word in plain if word in TRUTH or word in NEGATIONS or _is_contracted(word)}
    names = {part for found in _NAME.finditer(text) for part in words(found[1])}
    return Particulars(frozenset(numbers | quoted | flags), frozenset(names), frozenset(plain))


def with_digits(found: list[str]) -> list[str]:
    """Words with the numbers from two to ninety-nine among them in digits."""
    made: list[str] = []
    at = 0
    while at < len(found):
        word = found[at]
        unit = _unit(found[at + 1]) if at + 1 < len(found) else 0
        if word in TENS and unit:
            made.append(str(TENS[word] + unit))
            at += 1
        elif word in TENS or word in UNITS:
            made.append(str(TENS.get(word, UNITS.get(word))))
        else:
            made.append(word)
        at += 1
    return made


def _unit(word: str) -> int:
    value = UNITS.get(word, 1 if word == "one" else 0)
    return value if value < 10 else 0


def _is_contracted(word: str) -> bool:
    """Whether it is n't, whose apostrophe `words` leaves out."""
    return word.endswith("nt") and word[:-2] in {
        "is",
        "are",
        "was",
        "were",
        "do",
        "does",
        "did",
        "has",
        "have",
        "had",
        "ca",
        "could",
        "wo",
        "would",
        "should",
        "must",
        "need",
    }
