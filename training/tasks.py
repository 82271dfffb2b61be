"""What a student is asked for an item, and what its answer scores: one class a metric, by its name.

Scores are computed without a model; the comparing itself is `training.metrics`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, Protocol

from factory.domain import Domain
from factory.errors import RecipeError
from factory.tool_calls import fault_of_calls, same_calls
from factory.tool_files import tools_of
from factory.types import GoldItem, Json, Message
from training import metrics

MetricName = Literal["exact", "facts", "calls"]


class ScoredTask(Protocol):
    """Made once an evaluation, with the domain; raises RecipeError where that lacks what it needs.

    `tools`, in OpenAI's form, are what every item offers the student.
    """

    @property
    def tools(self) -> Sequence[Json]: ...

    def messages(self, item: GoldItem) -> Sequence[Message]:
        """The conversation up to the answer."""
        ...

    async def score(self, item: GoldItem, answer: str) -> float:
        """From 0.0 to 1.0."""
        ...


class Exact:
    """The question alone; the same text but for case, white space and a final full stop."""

    tools: Sequence[Json] = ()

    def __init__(self, domain: Domain) -> None:
        pass

    def messages(self, item: GoldItem) -> Sequence[Message]:
        return [Message("user", item.question)]

    async def score(self, item: GoldItem, answer: str) -> float:
        return metrics.exact(item.answer, answer)


class Facts(Exact):
    """The question alone; the reference's citations and quantities and no others."""

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


class Calls(Exact):
    """The question with the tools of the recipe's strategies; the reference's calls, all and no others.

    As the AST accuracy of the Berkeley Function Calling Leaderboard (Patil et al., ICML 2025) compares calls
    with what is right and does not make them, parallel ones in any order. Here one list of calls is right,
    and strings must be equal.
    """

    def __init__(self, domain: Domain) -> None:
        super().__init__(domain)
        self.tools = tools_of(domain)
        if not self.tools:
            what, hint = "no strategy of the recipe has tools", "add 'tool_calls' to `strategies`"
            raise RecipeError(what, where="evaluation.metric", hint=hint)
        offered = json.dumps(self.tools, ensure_ascii=False)
        for split, items in (("dev", domain.dev), ("test", domain.test)):
            for item in items:
                if fault := fault_of_calls(item.answer, offered):
                    what = f"the answer of item '{item.key}' cannot be right: {fault.error}"
                    raise RecipeError(what, where=f"gold.{split}", hint=f"{fault.reason}; see the tools")

    async def score(self, item: GoldItem, answer: str) -> float:
        return float(same_calls(item.answer, answer))


TASKS: Final[Mapping[MetricName, Callable[[Domain], ScoredTask]]] = {
    "exact": Exact,
    "facts": Facts,
    "calls": Calls,
}
