"""Short samples with planted copies and planted look-alikes, the same ones for the same size and seed.

Three kinds, in random order, a copy somewhere after its original. *Distinct*: question and answer of words
drawn by Zipf's law from 20,000 made-up ones, with a number or a name here and there. *Look-alikes*: templates
of some forty words with two to three places, filled with numbers with units, names, or ordinary words; each
filling once. *Copies*: another sample with a change for each 25 words (one put in, left out, changed for
another, misspelt, or two moved), with other case and punctuation, or both; a number, unit, name or filling is
never changed. Standard library only, since contenders run in environments of their own.
"""

from __future__ import annotations

import bisect
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

NUM_WORDS = 20_000
NUM_COMMON = 300
LETTERS = "bcdfghklmnprstvw"
VOWELS = "aeiou"
UNITS = ("days", "weeks", "months", "dollars", "metres", "hours", "percent", "litres")
SHARE_COPIES, SHARE_LOOKALIKES = 0.15, 0.15
PER_TEMPLATE = 500  # look-alikes


class Planted(NamedTuple):
    """One sample: `origin` is the number of the group whose members are copies of each other."""

    question: str
    answer: str
    origin: int
    kind: str  # distinct, look-alike


@dataclass(frozen=True)
class Text:
    """Words of question and answer; those at `fixed` places tell of a fact and are in no copy changed."""

    question: tuple[str, ...]
    answer: tuple[str, ...]
    fixed: frozenset[str]


def samples(num: int, seed: int = 0) -> Iterator[Planted]:
    """`num` samples in the order in which they are to be looked at."""
    draw = random.Random(f"{seed}-{num}")
    words = Words(draw)
    num_copies, num_like = int(num * SHARE_COPIES), int(num * SHARE_LOOKALIKES)
    kinds = ["distinct"] * (num - num_copies - num_like) + ["look-alike"] * num_like
    like = look_alikes(draw, words)
    seeds = [draw.getrandbits(64) for _ in kinds]
    texts = [next(like) if kind == "look-alike" else None for kind in kinds]
    order = list(range(len(kinds))) + [draw.randrange(len(kinds)) for _ in range(num_copies)]
    draw.shuffle(order)
    seen: set[int] = set()
    for at in order:
        text = texts[at] or distinct(random.Random(seeds[at]), words)
        if at in seen:
            yield Planted(*map(" ".join, changed(text, draw, words)), at, kinds[at])
            continue
        seen.add(at)
        yield Planted(" ".join(text.question), " ".join(text.answer), at, kinds[at])


class Words:
    """A vocabulary in which the n-th word is as frequent as 1/n."""

    def __init__(self, draw: random.Random) -> None:
        found: dict[str, None] = {}
        while len(found) < NUM_WORDS:
            size = draw.choice((1, 2, 2, 3, 3, 4))
            found[
                "".join(draw.choice(LETTERS) + draw.choice(VOWELS) for _ in range(size)) + draw.choice("nrst")
            ] = None
        self.all = list(found)
        self._shares = list(itertools.accumulate(1 / (rank + 1) for rank in range(NUM_WORDS)))
        self.names = [word.capitalize() for word in self.all[-2000:]]

    def draw(self, draw: random.Random) -> str:
        """A word of the running text."""
        return self.all[bisect.bisect_left(self._shares, draw.random() * self._shares[-1])]

    def text(self, draw: random.Random, num: int) -> list[str]:
        """Running text."""
        return [self.draw(draw) for _ in range(num)]


def distinct(draw: random.Random, words: Words) -> Text:
    """Text that has nothing to do with any other; 20 to 60 words."""
    question, answer = words.text(draw, draw.randint(10, 30)), words.text(draw, draw.randint(10, 30))
    facts: list[str] = []
    for part in (question, answer):
        if draw.random() < 0.3:
            fact = [draw.choice(words.names)] if draw.random() < 0.5 else amount(draw)
            at = draw.randint(1, len(part) - 1)
            part[at:at] = fact
            facts += fact
    return Text(sentence(question, "?"), sentence(answer, "."), frozenset(facts))


def amount(draw: random.Random) -> list[str]:
    """A number and its unit."""
    return [str(draw.randint(2, 400)), draw.choice(UNITS)]


def look_alikes(draw: random.Random, words: Words) -> Iterator[Text]:
    """Without end: each template filled in PER_TEMPLATE ways."""
    places: dict[str, Callable[[], list[str]]] = {
        "name": lambda: [draw.choice(words.names)],
        "amount": lambda: amount(draw),
        "word": lambda: [words.all[draw.randrange(NUM_COMMON, 2000)]],
    }
    for number in itertools.count():
        # Every third template differs in ordinary words alone, every third in names alone.
        kinds = (["word", "word"], ["name", "name"], ["amount", "name", "word"])[number % 3]
        question, answer = words.text(draw, draw.randint(16, 24)), words.text(draw, draw.randint(14, 20))
        at_question = sorted(draw.sample(range(2, len(question) - 1), len(kinds)), reverse=True)
        at_answer = draw.randrange(2, len(answer) - 1)
        made: set[tuple[str, ...]] = set()
        while len(made) < PER_TEMPLATE:
            fillings = [places[kind]() for kind in kinds]
            key = tuple(itertools.chain(*fillings))
            if key in made:
                continue
            made.add(key)
            asked, said = list(question), list(answer)
            for at, filling in zip(at_question, fillings, strict=True):
                asked[at:at] = filling
            said[at_answer:at_answer] = fillings[0]
            yield Text(sentence(asked, "?"), sentence(said, "."), frozenset(key))


def sentence(words: list[str], end: str) -> tuple[str, ...]:
    """With a capital and an end."""
    return (words[0].capitalize(), *words[1:-1], words[-1] + end)


def changed(text: Text, draw: random.Random, words: Words) -> tuple[list[str], list[str]]:
    """Question and answer of nearly the same text."""
    parts = [list(text.question), list(text.answer)]
    fixed = {word.casefold() for word in text.fixed}
    for _ in range(draw.randint(0, 1) and max(1, sum(map(len, parts)) // 25)):
        part = draw.choice(parts)
        free = [at for at in range(1, len(part) - 1) if part[at].casefold() not in fixed]
        if free:
            change(part, draw.choice(free), fixed, draw, words)
    style = draw.random() if parts != [list(text.question), list(text.answer)] else draw.random() * 0.6
    if style < 0.2:
        parts = [[word.upper() for word in part] for part in parts]
    elif style < 0.4:
        parts = [[word.lower().rstrip(".?") for word in part] for part in parts]
    elif style < 0.6:
        part = draw.choice(parts)
        part[draw.randrange(len(part) - 1)] += ","
    return parts[0], parts[1]


def change(part: list[str], at: int, fixed: set[str], draw: random.Random, words: Words) -> None:
    """One change at a place that tells of no fact."""
    kind = draw.choice(("insert", "delete", "replace", "misspell", "move"))
    if kind == "insert" and part[at - 1].casefold() not in fixed:
        part.insert(at, words.draw(draw))
    elif kind == "delete":
        del part[at]
    elif kind == "replace":
        part[at] = words.draw(draw)
    elif kind == "misspell" and len(part[at]) > 3:
        word = part[at]
        part[at] = word[0] + word[2] + word[1] + word[3:]
    elif part[at + 1].casefold() not in fixed:
        part[at], part[at + 1] = part[at + 1], part[at]
