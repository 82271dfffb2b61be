"""Drops a question that does not lead back to the section it was made from.

The round-trip consistency of Promptagator (Dai et al. 2022, arXiv 2209.11755, section 3.2): a question is
kept if looking it up among all sections finds its own first. Here the search is the domain's own, by the
words that question and section share (`Domain.nearest_source`), so it needs no model. It drops questions
about another section, questions that name nothing of theirs, and questions in another language than the
sources or in none of their words. All that a conversation asks counts as one question. A question that needs
several sections must lead to one of them: the others may be what it makes a reader look for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from pydantic import BaseModel

from factory.domain import Domain
from factory.ports import Ask
from factory.recipe import Strict
from factory.types import Decision, Sample
from refiners.source import KnownSources


class RoundTripOptions(Strict):
    """None: what is searched is the domain's sources."""


class RoundTrip:
    """Looks each question up among the sources and compares what it finds with where it came from."""

    Options: ClassVar[type[BaseModel]] = RoundTripOptions
    uses_model: ClassVar[bool] = False
    needs: ClassVar[str] = "the sections of a recipe"

    def __init__(self, options: RoundTripOptions, domain: Domain) -> None:
        self._domain = domain
        self._sources = KnownSources(domain)

    def open(self, accepted: Iterable[Sample]) -> None:
        """Nothing is kept between samples."""

    async def refine(self, samples: Sequence[Sample], ask: Ask) -> list[Decision]:
        """A decision for each sample, in order."""
        return [self._judge(sample) for sample in samples]

    def _judge(self, sample: Sample) -> Decision:
        sources = self._sources.all_of(sample)
        if not sources:
            return Decision(sample.id, "round_trip", "keep", "not_applicable")
        found = self._domain.nearest_source("\n".join(sample.texts("user")))
        if found in sources:
            return Decision(sample.id, "round_trip", "keep", "ok")
        evidence = {
            "source": " ".join(source.key for source in sources),
            "found": found.key if found else None,
        }
        reason = "other_source" if found else "no_source"
        return Decision(sample.id, "round_trip", "drop", reason, evidence=evidence)
