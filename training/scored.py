"""What a metric is: what a student is asked for an item, and what its answer scores.

A metric is made once an evaluation, as `Metric(options, domain)`, and refuses gold that it cannot score.
Which metrics there are is in `training.tasks`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

from pydantic import BaseModel

from factory.domain import Domain
from factory.errors import RecipeError
from factory.gold import place_of
from factory.strict import Strict
from factory.types import GoldItem, Json, Message
from training.metrics import Scored


class ScoredTask(Protocol):
    """`tools`, in OpenAI's form, are what every item offers the student."""

    @property
    def tools(self) -> Sequence[Json]: ...

    def messages(self, item: GoldItem) -> Sequence[Message]:
        """The conversation up to the answer."""
        ...

    async def score(self, item: GoldItem, answer: str) -> Scored:
        """What an answer is worth; NaN where only the recipe's judge can tell (`training.judged`)."""
        ...


class NoOptions(Strict):
    """None."""


class Asked:
    """The question in its conversation, with nothing added; what an answer scores is the metric's."""

    Options: ClassVar[type[BaseModel]] = NoOptions
    tools: Sequence[Json] = ()

    def __init__(self, options: Any, domain: Domain) -> None:
        self.options = options

    def messages(self, item: GoldItem) -> Sequence[Message]:
        """What was said before, and the question."""
        return [*item.before, Message("user", item.question)]


def gold_of(domain: Domain) -> Iterator[tuple[Path, GoldItem]]:
    """The items of dev and test, each with its file."""
    gold = domain.recipe.gold
    for path, items in ((gold.dev, domain.dev), (gold.test, domain.test)):
        yield from ((domain.folder / path, item) for item in items)


def check_answers(domain: Domain, fault: Callable[[str], str], hint: str = "") -> None:
    """Raises RecipeError with file and line of the first answer in dev and test that has a `fault`."""
    for path, item in gold_of(domain):
        if what := fault(item.answer):
            raise RecipeError(what, where=f"{place_of(path, item)} answer", hint=hint)
