"""What a student is asked for an item, and what its answer scores: one class a metric, by its name.

Scores are computed without a model; the comparing of texts is `training.metrics`, that of what queries give
`factory.sql_worker`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, Protocol

from factory.domain import Domain
from factory.errors import RecipeError
from factory.schemas import Schema, schemas_of
from factory.sql_chat import instruct, plain_sql
from factory.sql_sandbox import SqlSandbox
from factory.types import GoldItem, Message
from training import metrics

MetricName = Literal["exact", "facts", "sql"]


class ScoredTask(Protocol):
    """Made once an evaluation, with the domain; raises RecipeError where that lacks what it needs."""

    def messages(self, item: GoldItem) -> Sequence[Message]:
        """The conversation up to the answer."""
        ...

    async def score(self, item: GoldItem, answer: str) -> float:
        """From 0.0 to 1.0."""
        ...


class Exact:
    """The question alone; the same text but for case, white space and a final full stop."""

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


class Sql:
    """The question under a schema's DDL; the same result as the reference's query.

    Execution accuracy as in Spider (Yu et al. 2018, arXiv 1809.08887) and BIRD (Li et al. 2023, arXiv
    2305.03111): names of columns do not count, their order does, and the order of rows where the reference
    has an ORDER BY. An item's slice is the name of its schema's file.
    """

    def __init__(self, domain: Domain) -> None:
        self._schemas: dict[str, Schema] = {}
        self._sandbox = SqlSandbox()
        for schema in schemas_of(domain).values():
            other = self._schemas.setdefault(schema.source.slice, schema)
            if other is not schema:
                what = f"two schemas are called '{schema.source.slice}': {other.source.path}"
                hint = "an item's slice must tell its schema: rename one"
                raise RecipeError(what, where=schema.source.path, hint=hint)
        gold = domain.recipe.gold
        for path, items in ((gold.dev, domain.dev), (gold.test, domain.test)):
            for item in items:
                self._check(item, f"{domain.folder / path} item '{item.key}'")

    def _check(self, item: GoldItem, where: str) -> None:
        schema = self._schemas.get(item.slice)
        if schema is None:
            there = ", ".join(self._schemas) or "none"
            hint = f"a slice is the name of a file in a strategy's `schemas`: {there}"
            raise RecipeError(f"there is no schema '{item.slice}'", where=where, hint=hint)
        found = self._sandbox.check(schema, plain_sql(item.answer))
        if found.fault:
            hint = f"its answer must be a query over {schema.source.path} that gives rows"
            raise RecipeError(f"the reference query fails: {found.error}", where=where, hint=hint)
        if not found.same:
            hint = "nothing can be compared with it; random() and the like are no reference"
            raise RecipeError("the reference query gives another result each time", where=where, hint=hint)

    def messages(self, item: GoldItem) -> Sequence[Message]:
        return [instruct(self._schemas[item.slice]), Message("user", item.question)]

    async def score(self, item: GoldItem, answer: str) -> float:
        schema = self._schemas[item.slice]
        found = await self._sandbox.compare(schema, plain_sql(answer), plain_sql(item.answer))
        return float(found.same)


TASKS: Final[Mapping[MetricName, Callable[[Domain], ScoredTask]]] = {
    "exact": Exact,
    "facts": Facts,
    "sql": Sql,
}
