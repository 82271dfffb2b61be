"""What a student is asked for an item, and what its answer scores: one class a metric, by its name.

Scores are computed without a model; the comparing itself is `training.metrics`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, Protocol

from factory.domain import Domain
from factory.errors import RecipeError
from factory.types import GoldItem, Message
from training import metrics

MetricName = Literal["exact", "facts"]


class ScoredTask(Protocol):
    """Made once an evaluation, with the domain; raises RecipeError where that lacks what it needs."""

    def messages(self, item: GoldItem) -> Sequence[Message]:
        """The conversation up to the answer."""
        ...

    async def score(self, item: GoldItem, answer: str) -> float:
        """From 0.0 to 1.0."""
        ...


class Exact:
    """The question in its conversation; the same text but for case, white space and a final full stop."""

    def __init__(self, domain: Domain) -> None:
        pass

    def messages(self, item: GoldItem) -> Sequence[Message]:
        return [*item.before, Message("user", item.question)]

    async def score(self, item: GoldItem, answer: str) -> float:
        return metrics.exact(item.answer, answer)


class Facts(Exact):
    """The question in its conversation; the reference's citations and quantities and no others."""

    def __init__(self, domain: Domain) -> None:
        super().__init__(domain)
        self._pattern = domain.recipe.domain.citation_pattern
        try:
            re.compile(self._pattern)
        except re.error as error:
            what = f"not a regular expression: {error}"
            raise RecipeError(what, where="domain.citation_pattern") from error

    async def score(self, item: GoldItem, answer: str) -> float:
        return metrics.facts(item.answer, answer, self._pattern)


TASKS: Final[Mapping[MetricName, Callable[[Domain], ScoredTask]]] = {"exact": Exact, "facts": Facts}
