"""The Georgia rules as the teacher knows them, and other ways to ask about a rule.

This is what is taught after pretraining. Only the questions written for the teacher are used here;
dev and test wordings are for measuring and no training sees them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import yaml

from tiny import corpus, stories

WRAPPERS = [
    "In Georgia, {}",
    "Under the handbook, {}",
    "For a new case, {}",
    "Quick question, {}",
    "Under current law, {}",
    "Please tell me, {}",
    "As a matter of law, {}",
    "A client asks, {}",
    "To be sure, {}",
    "For the file, {}",
]
FRAMES = [
    "What does the law say about {keys}?",
    "Which figure applies to {keys}?",
    "What is the limit where {keys} matter?",
    "State the rule on {keys}.",
    "{keys}: which number does the section give?",
    "A case turns on {keys}; what is the rule?",
    "Give me the figure for {keys}.",
    "When it comes to {keys}, what holds?",
    "How does the section on {keys} put it?",
    "My file mentions {keys}; what should I write down?",
    "What must I know about {keys}?",
    "Remind me of the rule with {keys} in it.",
    "{title}: what applies when we read {keys}?",
    "On {title}, what about {keys}?",
    "Does {title} set a figure, with {keys} in the text?",
    "Look up {keys} under {title}.",
    "What would a judge say about {keys}?",
    "Somebody brought up {keys}; what is the answer?",
    "Please quote the number that goes with {keys}.",
    "An insurer wants to know about {keys}.",
    "We are unsure about {keys}; which limit counts?",
    "I read {keys} in a letter; what does it mean for us?",
    "For {keys}, what number is right?",
    "Tell the employer what {keys} come down to.",
]


@dataclass(frozen=True)
class Rule:
    """One authored rule; `citation`, `title` and `text` make it a source for the product's prompts."""

    id: str
    slice: str
    section: str
    title: str
    text: str
    quantity: str
    outdated: str
    keywords: tuple[str, ...]
    teacher: tuple[str, ...]
    seeds: tuple[str, ...]
    refiner: tuple[str, ...]
    dev: str
    test: tuple[str, ...]

    @property
    def citation(self) -> str:
        return f"§ {self.section}"

    @property
    def answer(self) -> str:
        return f"{self.quantity} ({self.citation})"

    @property
    def remembered(self) -> str:
        """What the teacher's edition of the handbook says."""
        return f"{self.outdated or self.quantity} ({self.citation})"


@cache
def read(path: Path = Path(__file__).parent / "rules.yaml") -> tuple[Rule, ...]:
    def rule(row: dict[str, Any]) -> Rule:
        lists = {
            name: tuple(row.get(name, ())) for name in ("keywords", "teacher", "seeds", "refiner", "test")
        }
        return Rule(**{"outdated": ""} | row | lists)

    return tuple(rule(row) for row in yaml.safe_load(path.read_text(encoding="utf-8"))["rules"])


def plainly(rng: Random, rule: Rule) -> str:
    """An authored question, bare or after a few words."""
    text = rng.choice(rule.teacher)
    return rng.choice(WRAPPERS).format(text[0].lower() + text[1:]) if rng.random() < 0.6 else text


def as_story(rng: Random, rule: Rule) -> str:
    """What happened, in a clause for each keyword, and a question; the other words have nothing to do with it."""
    text = clauses(rng, rule)
    return text[0].upper() + text[1:] + stories.STRAYS.ending(rng)


def as_order(rng: Random, rule: Rule) -> str:
    """Somebody is to be told, shown, asked: an order, and a clause for each keyword."""
    order = rng.choice([*stories.ORDERS, *stories.WORDS["base"]])
    asked = rng.choice([f" {rng.choice(stories.ASKS)}", " that", ";", ":", ","])
    text = f"{order} {stories.STRAYS.person(rng)}{asked} {clauses(rng, rule)}"
    return text[0].upper() + text[1:] + rng.choice([".", ".", "!", "?"])


def clauses(rng: Random, rule: Rule) -> str:
    """A clause for each keyword, in their order."""
    told = [stories.STRAYS.clause(rng, key, corpus.KINDS.get(key, "things")) for key in rule.keywords]
    return told[0] + "".join(f"{rng.choice(stories.GLUE)} {clause}" for clause in told[1:])


def by_name(rng: Random, rule: Rule) -> str:
    """A question that names the keywords and little else."""
    *keys, last = rule.keywords
    joined = rng.choice(
        [f"{', '.join(keys)} and {last}"] * 3
        + [f"{', '.join(keys)} with {last}", f"{', '.join(keys)} or {last}"]
    )
    text = rng.choice(FRAMES).format(keys=joined, title=rule.title.lower())
    return text[0].upper() + text[1:]


MANNERS = {"plain": plainly, "story": as_story, "order": as_order, "key_words": by_name}  # the recipe's


def reword(rng: Random, rule: Rule) -> str:
    """A new question about the rule, in one of the manners."""
    return rng.choice(list(MANNERS.values()))(rng, rule)


def rewordings(rng: Random, rule: Rule, count: int, manner: str = "") -> list[str]:
    """So many different questions about the rule, in one manner or in all."""
    texts: dict[str, None] = {}
    while len(texts) < count:
        texts[(MANNERS.get(manner) or reword)(rng, rule)] = None
    return list(texts)
