"""What the tiny teacher of the domain bicycle_workshop can ask, read from sql_questions.yaml.

An intent is a query with at most one slot and many ways to ask for it; wordings and values are drawn.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import yaml

CHOICE = re.compile(r"\(([^()]*)\)")
SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Intent:
    """A kind of question; `top` where it asks for the first of an order, `slot` is '' where it has none."""

    id: str
    schema: str
    level: str
    sql: str
    ask: tuple[str, ...]
    name: tuple[str, ...]
    dev: tuple[tuple[Any, str], ...]
    test: tuple[tuple[Any, str], ...]
    top: bool = False

    @property
    def slot(self) -> str:
        found = SLOT.search(self.sql)
        return found[1] if found else ""

    def query(self, value: Any) -> str:
        return self.sql.replace(f"{{{self.slot}}}", str(value)) if self.slot else self.sql


@dataclass(frozen=True)
class Questions:
    """The whole file."""

    slots: Mapping[str, list[Any]]
    openers: list[str]
    endings: list[str]
    orders: list[str]
    intents: tuple[Intent, ...]

    def value(self, rng: Random, intent: Intent) -> Any:
        """One for the intent's slot, None where it has none."""
        return rng.choice(self.slots[intent.slot]) if intent.slot else None

    def word(self, rng: Random, intent: Intent, value: Any) -> str:
        """A question or an order."""
        if rng.random() < 0.6:
            text = rng.choice(self.openers) + choose(rng, rng.choice(intent.ask)) + rng.choice(self.endings)
        else:
            text = rng.choice(self.orders).replace("{}", choose(rng, rng.choice(intent.name)))
        text = SLOT.sub(str(value), text)
        return text[0].upper() + text[1:]


def choose(rng: Random, pattern: str) -> str:
    """The pattern with one of each `(a|b)`, and single spaces."""
    while CHOICE.search(pattern):
        pattern = CHOICE.sub(lambda found: rng.choice(found[1].split("|")), pattern)
    return " ".join(pattern.split())


@cache
def read(path: Path = Path(__file__).parent / "sql_questions.yaml") -> Questions:
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    lists = ("ask", "name", "dev", "test")
    intents = [
        Intent(
            **row
            | {key: tuple(map(tuple, row[key]) if key in ("dev", "test") else row[key]) for key in lists}
        )
        for row in data.pop("intents")
    ]
    return Questions(intents=tuple(intents), **data)
