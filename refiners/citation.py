"""Drops an answer that does not cite the section it is about, in the form that the domain asks for.

The domain's `citation_pattern` says what a citation looks like; its first group, where it has one,
is what is compared with the section's own citation. A conversation must cite it in one of its answers, and
nothing else in any. Whether the section says what the answer says is not checked here. Without a pattern
or a known section there is nothing to check.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import ClassVar

from pydantic import BaseModel

from factory.domain import Domain
from factory.ports import Ask
from factory.recipe import Strict
from factory.types import Decision, Sample, Source
from refiners.source import KnownSources


class CitationOptions(Strict):
    """None: the pattern is the domain's."""


class Citation:
    """Compares every citation in an answer with that of its section."""

    Options: ClassVar[type[BaseModel]] = CitationOptions
    uses_model: ClassVar[bool] = False

    def __init__(self, options: CitationOptions, domain: Domain) -> None:
        pattern = domain.recipe.domain.citation_pattern
        self._pattern = re.compile(pattern) if pattern else None
        self._sources = KnownSources(domain)

    def open(self, accepted: Iterable[Sample]) -> None:
        """Nothing is kept between samples."""

    async def refine(self, samples: Sequence[Sample], ask: Ask) -> list[Decision]:
        """A decision for each sample, in order."""
        return [self._judge(sample) for sample in samples]

    def _judge(self, sample: Sample) -> Decision:
        source = self._sources.of(sample)
        if self._pattern is None or source is None:
            return Decision(sample.id, "citation", "keep", "not_applicable")
        answers = "\n\n".join(sample.texts("assistant"))
        cited = [match[min(match.re.groups, 1)] for match in self._pattern.finditer(answers)]
        if not cited:
            reason = "malformed_citation" if _resembles(answers, source) else "missing_citation"
        elif any(citation != source.citation for citation in cited):
            reason = "wrong_citation"
        else:
            return Decision(sample.id, "citation", "keep", "ok")
        evidence = {"cited": cited, "source": source.citation}
        return Decision(sample.id, "citation", "drop", reason, evidence=evidence)


def _resembles(answer: str, source: Source) -> bool:
    """Whether the answer has something like a citation: its sign, or as many numbers in a row."""
    numbers = re.findall(r"\d+", source.citation)
    sign = re.match(r"[^\d\s]+", source.citation)
    if sign and sign[0].casefold() in answer.casefold():
        return True
    row = r"\d+" + r"\W{1,3}\d+" * (len(numbers) - 1)
    return len(numbers) > 1 and re.search(row, answer) is not None
