"""What a corruption gets: a checked question and answer, its section, and what other sections offer.

`Elsewhere` is read once for all cases of one side of a split, so that a case costs as much as its own text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import cached_property
from random import Random
from typing import NamedTuple

from factory.types import Source
from factory.words import words

Corruption = Callable[["Case", Random], str | None]


class Right(NamedTuple):
    """A question with an answer that was checked, and the section that it rests on."""

    key: str
    question: str
    answer: str
    source: Source


class Elsewhere:
    """What the sections and answers of one side of a split offer to be mistaken for something else."""

    def __init__(
        self, sources: Sequence[Source], rights: Sequence[Right] = (), citation_pattern: str = ""
    ) -> None:
        self.sources = tuple(sources)
        self.rights = tuple(rights)
        self.citation_pattern = citation_pattern

    @cached_property
    def citations(self) -> tuple[str, ...]:
        """Every section's citation, each once."""
        return tuple(dict.fromkeys(source.citation for source in self.sources if source.citation))

    @cached_property
    def text(self) -> str:
        """All sections' titles and texts."""
        return "\n".join(f"{source.title}.\n{source.text}" for source in self.sources)

    def other_rights(self, case: Case, rng: Random, most: int = 20) -> list[Right]:
        """Some checked questions and answers about other sections, drawn by chance."""
        drawn = [rng.choice(self.rights) for _ in range(most)] if self.rights else []
        return [right for right in dict.fromkeys(drawn) if right.source.key != case.source.key]


class Case(NamedTuple):
    """One checked question and answer; what other sections say is in `elsewhere`."""

    question: str
    answer: str
    source: Source
    elsewhere: Elsewhere

    def citations(self) -> list[tuple[int, int]]:
        """Where the answer cites: of its own section or as the domain's pattern says; in order."""
        patterns = [re.escape(self.source.citation)] if self.source.citation else []
        if self.elsewhere.citation_pattern:
            patterns.append(f"(?:{self.elsewhere.citation_pattern})")
        if not patterns:
            return []
        found = re.finditer("|".join(patterns), self.answer)
        return [match.span() for match in found if match.end() > match.start()]

    def is_cited(self, start: int, end: int) -> bool:
        """Whether a stretch of the answer touches a citation."""
        return any(start < stop and first < end for first, stop in self.citations())

    def states(self, text: str) -> bool:
        """Whether the section says these words in this order, or its citation is made of them."""
        return contains(f"{self.source.citation}\n{self.source.title}\n{self.source.text}", text)


def contains(text: str, part: str) -> bool:
    """Whether the words of `part` stand in `text` one after another; no words stand everywhere."""
    return f" {' '.join(words(part))} " in f" {' '.join(words(text))} "


def squeezed(text: str) -> str:
    """The text in NFKC with single spaces: two that are equal so differ in nothing that matters."""
    return " ".join(unicodedata.normalize("NFKC", text).split())


def replaced(text: str, start: int, end: int, new: str) -> str:
    """The text with another stretch in the place of one."""
    return f"{text[:start]}{new}{text[end:]}"
