"""The house rules of the made-up town park: sections with their facts, and the ways to talk about them.

`park.yaml` is the only thing that a person edits. The ways to ask are the teacher's; the conversations of dev
and test are for measuring, and no training sees them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

Script = tuple[tuple[str, str], ...]  # (fact, question) in the order of the conversation


@dataclass(frozen=True)
class Section:
    """One section; `citation`, `title` and `text` make it a source for the product's prompts."""

    section: int
    slice: str
    title: str
    thing: str
    text: str
    facts: dict[str, str]
    dev: tuple[Script, ...]
    test: tuple[Script, ...]
    old: int | None = None

    @property
    def key(self) -> str:
        """The word that a question is recognised by."""
        return self.thing.split(" ")[-1]

    @property
    def source_key(self) -> str:
        """As `factory.sources` calls it."""
        return f"{self.section}-{self.title.lower().replace(' ', '-')}"

    @property
    def citation(self) -> str:
        return f"§ {self.section}"

    def answer(self, fact: str) -> str:
        return f"{self.facts[fact]} ({self.citation})"


@dataclass(frozen=True)
class Park:
    """All sections, and the phrases of `park.yaml` by what they are for."""

    slices: dict[str, str]
    sections: tuple[Section, ...]
    words: dict[str, list[str]]
    openings: dict[str, list[str]]
    follow_ups: dict[str, list[str]]
    greetings: list[str]
    links: list[str]
    answers: dict[str, list[str]]


@cache
def read(path: Path = Path(__file__).parent / "park.yaml") -> Park:
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    return Park(**data | {"sections": tuple(_section(row) for row in data["sections"])})


def _section(row: dict[str, Any]) -> Section:
    scripts = {split: tuple(tuple(script.items()) for script in row[split]) for split in ("dev", "test")}
    return Section(**row | scripts)
