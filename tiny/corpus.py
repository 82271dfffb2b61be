"""Fictional law, made up as it is needed: words, sections, questions.

A section says one quantity about a few keywords; a question is about a section if the keywords occur
in it, in any order, among words that mean nothing. That is all the structure there is, so a model
that has learned it takes any other body of rules the same way. Nothing here comes from Georgia:
`section` never makes a number of its Title 34, Chapter 9.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from random import Random

from tiny import stories

WORDS = stories.read("words.yaml")
CONTENT = [
    word for kind in ("people", "things", "verbs", "verbed", "adjectives", "law") for word in WORDS[kind]
]
CHATTER = WORDS["noise"] + WORDS["common"]
KINDS = {word: kind for kind in ("adjectives", "verbed", "verbs", "things", "people") for word in WORDS[kind]}
STORIES = 0.6  # the share of questions that are little stories; the others are keywords among stray words
UNITS = ["days", "weeks", "months", "years", "hours", "percent", "dollars", "miles"]
PARTS = [f"{n}/{m}" for m in range(2, 11) for n in range(1, m)]
SMALL = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
FRACTIONS = [
    "one half",
    "one third",
    "two thirds",
    "one quarter",
    "three quarters",
    "one fifth",
    "two fifths",
    "three fifths",
    "four fifths",
    "one sixth",
    "five sixths",
    "one tenth",
]
OPENERS = [
    "How long",
    "How many {unit}",
    "How much",
    "How soon",
    "How late",
    "How far",
    "How often",
    "By when",
    "Until when",
    "Within what time",
    "Within how many {unit}",
    "What",
    "What is the limit",
    "What is the time limit",
    "What is the deadline",
    "What is the rate",
    "What is the amount",
    "What is the maximum",
    "What is the minimum",
    "What share",
    "What sum",
    "What period",
    "What number",
    "What figure",
    "Which limit",
    "Which period",
    "Which deadline",
    "Which amount",
    "For how long",
    "For how many {unit}",
    "At what rate",
    "After how many {unit}",
    "In what time",
    "What does the law say",
    "What does the section say",
    "Tell me",
    "Please state",
    "State the rule",
    "Give the limit",
    "Name the period",
    "Name the amount",
    "Does the law set a limit",
    "Is there a limit",
    "Is there a deadline",
    "When",
    "Up to what amount",
    "Up to how many {unit}",
    "What counts",
    "What applies",
    "What happens",
]
TAILS = [
    "",
    "",
    "",
    "",
    "",
    "in this state",
    "under the law",
    "under the act",
    "by law",
    "at most",
    "at least",
    "in general",
    "as a rule",
    "in that case",
    "these days",
    "if at all",
    "in all",
    "exactly",
    "then",
    "please",
    "after that",
    "before that",
    "if anything",
]


@dataclass(frozen=True)
class Section:
    """One rule: `citation` is "§ 12-4-77", `keywords` occur verbatim in `text`, as does `quantity`."""

    citation: str
    title: str
    text: str
    quantity: str
    keywords: tuple[str, ...]

    @property
    def answer(self) -> str:
        return f"{self.quantity} ({self.citation})"


@cache
def _syllables() -> list[str]:
    return [
        c + v
        for c in [
            "b",
            "c",
            "d",
            "f",
            "g",
            "h",
            "k",
            "l",
            "m",
            "n",
            "p",
            "r",
            "s",
            "t",
            "v",
            "w",
            "z",
            "br",
            "cl",
            "dr",
            "fl",
            "gr",
            "pl",
            "pr",
            "sh",
            "st",
            "th",
            "tr",
        ]
        for v in ["a", "e", "i", "o", "u", "ai", "ea", "ou", "er", "in", "on", "ar"]
    ]


def nonsense(rng: Random) -> str:
    """A word nobody has seen, so that unknown words do no harm."""
    return "".join(rng.choices(_syllables(), k=rng.randint(1, 3)))


def word(rng: Random) -> str:
    roll = rng.random()
    return nonsense(rng) if roll < 0.08 else rng.choice(WORDS["common"] if roll < 0.3 else CONTENT)


def keyword(rng: Random) -> str:
    """One word, sometimes two."""
    roll = rng.random()
    if roll < 0.08:
        return f"{rng.choice(WORDS['adjectives'])} {rng.choice(WORDS['things'])}"
    return nonsense(rng) if roll < 0.2 else word(rng)


def number(rng: Random) -> int:
    roll = rng.random()
    return rng.randint(1, 12) if roll < 0.2 else rng.randint(1, 99) if roll < 0.6 else rng.randint(1, 999)


def quantity(rng: Random) -> str:
    """A number with its unit, or a sum, or a fraction: the forms that statutes use."""
    roll = rng.random()
    if roll < 0.60:
        return f"{number(rng)} {rng.choice(UNITS)}"
    if roll < 0.68:
        few = rng.choice(SMALL)
        return f"{few} {rng.choice(UNITS[:5]).removesuffix('s') if few == 'one' else rng.choice(UNITS[:5])}"
    if roll < 0.74:
        return rng.choice(FRACTIONS)
    if roll < 0.84:
        return f"${number(rng)}" + rng.choice(["", "", "", "0", "00", "000"])
    if roll < 0.87:
        return f"${rng.randint(1, 500)},{rng.choice(['000', '000', '500', f'{rng.randint(100, 999)}'])}"
    if roll < 0.93:
        return rng.choice(PARTS) + " of the " + rng.choice(CONTENT)
    return f"{number(rng)} {word(rng)}"


def other_quantity(rng: Random, right: str) -> str:
    """A wrong quantity, most often of the same form as the right one."""
    while True:
        wrong = quantity(rng)
        head, _, tail = right.partition(" ")
        if rng.random() < 0.7 and head in PARTS:
            wrong = f"{rng.choice(PARTS)} {tail}"
        if rng.random() < 0.75 and head.isdigit():
            wrong = f"{number(rng) if rng.random() < 0.8 else max(1, int(head) + rng.choice([-10, -5, -2, -1, 1, 2, 5, 10]))} {tail}"
        elif rng.random() < 0.4 and head in SMALL and tail:
            few = rng.choice(SMALL)
            wrong = f"{few} {tail.removesuffix('s') if few == 'one' else tail.removesuffix('s') + 's'}"
        elif rng.random() < 0.6 and right.startswith("$"):
            tail = right[len(head) :]
            zeros = "," if "," in head else "0" * (len(head) - len(head.rstrip("0")))
            wrong = f"${number(rng)}" + (
                f",{rng.choice(['000', '500', rng.randint(100, 999)])}"
                if zeros == ","
                else rng.choice([zeros, zeros, "", "0"])
            )
        if wrong != right:
            return wrong


def citation(rng: Random, prefix: str | None = None) -> str:
    """ "§ 12-4-77"; never one of Title 34, Chapter 9."""
    if prefix is None:
        title = (
            rng.choice([n for n in range(1, 60) if n != 34]) if rng.random() < 0.7 else rng.randint(60, 999)
        )
        prefix = f"{title}-{rng.randint(1, 30)}" if rng.random() < 0.9 else str(title)
    return f"§ {prefix}-{rng.randint(1, 450)}" + (f".{rng.randint(1, 9)}" if rng.random() < 0.1 else "")


def other_citation(rng: Random, right: str) -> str:
    """A wrong section, most often of the same chapter."""
    while True:
        prefix = right.removeprefix("§ ").rsplit("-", 1)[0]
        wrong = citation(rng, prefix if rng.random() < 0.8 else None)
        if wrong != right:
            return wrong


def phrase(rng: Random, *, noise: float = 0.3) -> str:
    """A few words that could stand in a rule or a question."""
    roll = rng.random()
    if roll < noise:
        return (
            f"{rng.choice(WORDS['function'])} {rng.choice(CHATTER) if rng.random() < 0.8 else nonsense(rng)}"
        )
    if roll < 0.6:
        return f"{rng.choice(['the', 'a', 'an', 'any', 'each', 'the'])} {rng.choice(WORDS['adjectives'] + [''] * 200)} {rng.choice(WORDS['people'] + WORDS['things'])}".replace(
            "  ", " "
        )
    if roll < 0.8:
        return f"{rng.choice(['is', 'was', 'has been', 'must be', 'may be', 'are'])} {rng.choice(WORDS['verbed'])}"
    return f"{rng.choice(['must', 'may', 'to', 'can', 'shall', 'does not'])} {rng.choice(WORDS['verbs'])}"


def sentence(rng: Random, parts: list[str]) -> str:
    """The parts in any order, glued by what statutes glue with."""
    rng.shuffle(parts)
    words = []
    for part in parts:
        if rng.random() < 0.8:
            words.append(phrase(rng, noise=0.1))
        if rng.random() < 0.5:
            words.append(rng.choice(WORDS["connectors"]))
        if rng.random() < 0.4:
            words.append(rng.choice(["the", "a", "an", "each", "that"]))
        words.append(part)
    for _ in range(rng.randint(0, 3)):
        words.insert(
            rng.randint(0, len(words)), f"{rng.choice(WORDS['connectors'])} {phrase(rng, noise=0.1)}"
        )
    text = " ".join(words)
    if rng.random() < 0.2:
        text = text.replace(f" {words[-1]}", f", {words[-1]}")
    return text[0].upper() + text[1:] + "."


def section(rng: Random, cite: str = "") -> Section:
    """A rule at random, in the section `cite` or any."""
    keywords = tuple(keyword(rng) for _ in range(rng.choice([2, 2, 3])))
    right = quantity(rng)
    sentences = [sentence(rng, [right, *keywords])]
    if rng.random() < 0.25:
        sentences.append(sentence(rng, [phrase(rng, noise=0.1) for _ in range(rng.randint(1, 3))]))
        rng.shuffle(sentences)
    title = " ".join(
        [rng.choice(keywords), *([rng.choice(WORDS["connectors"])] * rng.randint(0, 1)), rng.choice(CONTENT)][
            : rng.randint(1, 3)
        ]
    )
    return Section(cite or citation(rng), title[0].upper() + title[1:], " ".join(sentences), right, keywords)


def question(rng: Random, keywords: tuple[str, ...], *, unit: str = "", strays: int = 3) -> str:
    """One of a great many ways to ask about the keywords; `strays` bounds the phrases that distract."""
    order = list(keywords)
    rng.shuffle(order)
    if rng.random() < STORIES:
        return stories.PLAIN.story(rng, [(key, KINDS.get(key, "things")) for key in order])
    opener = rng.choice(OPENERS).replace("{unit}", unit if unit in UNITS else rng.choice(UNITS))
    words = [] if rng.random() < 0.2 else [opener]
    for key in order:
        roll = rng.random()
        if roll < 0.55:
            words.append(phrase(rng))
        elif roll < 0.62:
            words.append(nonsense(rng))
        if rng.random() < 0.6:
            words.append(rng.choice(WORDS["connectors"]))
        if rng.random() < 0.45:
            words.append(rng.choice(["the", "a", "an", "my", "this", "their", "your"]))
        words.append(key)
    for _ in range(rng.randint(0, strays)):
        words.insert(rng.randint(1, len(words)), phrase(rng, noise=0.6))
    if not (words and words[0] == opener) and rng.random() < 0.7:
        words.append(f", {opener[0].lower()}{opener[1:]}")
    words.append(rng.choice(TAILS))
    text = " ".join(part for part in words if part).replace(" ,", ",")
    return text[0].upper() + text[1:] + rng.choice(["?", "?", "?", "?", ".", ""])
