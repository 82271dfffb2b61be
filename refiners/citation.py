"""Drops an answer that does not cite the sections it is about, in the form that the domain asks for.

The domain's `citation_pattern` says what a citation looks like; its first group, where it has one,
is what is compared with the section's own citation. A conversation must cite it in one of its answers, and
nothing else in any; where there are several sections, each must be cited. Whether a section says what the
answer says is not checked here. There is nothing to check without a pattern, without a known section that has
a citation, and where the answer is that no section has one (attribute `answerable`: no).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import ClassVar

from pydantic import BaseModel

from factory.domain import Domain
from factory.ports import Ask
from factory.recipe import Strict
from factory.types import Decision, Sample
from refiners.source import KnownSources


class CitationOptions(Strict):
    """None: the pattern is the domain's."""


class Citation:
    """Compares every citation in an answer with that of its section."""

    Options: ClassVar[type[BaseModel]] = CitationOptions
    uses_model: ClassVar[bool] = False
    needs: ClassVar[str] = "the sections of a recipe"

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
        expected = [source.citation for source in self._sources.all_of(sample) if source.citation]
        if self._pattern is None or not expected or sample.attributes.get("answerable") == "no":
            return Decision(sample.id, "citation", "keep", "not_applicable")
        answers = "\n\n".join(sample.texts("assistant"))
        cited = [match[min(match.re.groups, 1)] for match in self._pattern.finditer(answers)]
        missing = [citation for citation in expected if citation not in cited]
        if any(citation not in expected for citation in cited):
            reason = "wrong_citation"
        elif missing:
            looks_cited = not cited and any(_resembles(answers, citation) for citation in missing)
            reason = "malformed_citation" if looks_cited else "missing_citation"
        else:
            return Decision(sample.id, "citation", "keep", "ok")
        evidence = {"cited": cited, "source": "; ".join(expected)}
        return Decision(sample.id, "citation", "drop", reason, evidence=evidence)


def _resembles(answer: str, citation: str) -> bool:
    """Whether the answer has something like the citation: its sign, or as many numbers in a row."""
    numbers = re.findall(r"\d+", citation)
    sign = re.match(r"[^\d\s]+", citation)
    if sign and sign[0].casefold() in answer.casefold():
        return True
    row = r"\d+" + r"\W{1,3}\d+" * (len(numbers) - 1)
    return len(numbers) > 1 and re.search(row, answer) is not None
