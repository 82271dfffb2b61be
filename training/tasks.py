"""What a student is asked for an item, and what its answer scores: one class a metric, by its name.

Scores are computed without a model; the comparing of texts is `training.metrics`, that of what queries give
`factory.sql_worker`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple, Protocol

from factory.domain import Domain
from factory.errors import RecipeError
from factory.gold import place_of
from factory.schemas import Schema, schemas_of
from factory.sql_chat import instruct, plain_sql
from factory.sql_sandbox import SqlSandbox
from factory.tool_calls import difference_of_calls, fault_of_calls
from factory.tool_files import tools_of
from factory.types import GoldItem, Json, Message
from training import metrics

MetricName = Literal["exact", "facts", "sql", "calls"]


class Scored(NamedTuple):
    """From 0.0 to 1.0, and why not more, where the metric can tell."""

    value: float
    why: str = ""


class ScoredTask(Protocol):
    """Made once an evaluation, with the domain; raises RecipeError where that lacks what it needs.

    `tools`, in OpenAI's form, are what every item offers the student.
    """

    @property
    def tools(self) -> Sequence[Json]: ...

    def messages(self, item: GoldItem) -> Sequence[Message]:
        """The conversation up to the answer."""
        ...

    async def score(self, item: GoldItem, answer: str) -> Scored: ...


def gold_of(domain: Domain) -> Iterator[tuple[Path, GoldItem]]:
    """The items of dev and test, each with its file."""
    gold = domain.recipe.gold
    for path, items in ((gold.dev, domain.dev), (gold.test, domain.test)):
        yield from ((domain.folder / path, item) for item in items)


class Exact:
    """The question in its conversation; the same text but for case, white space and a final full stop."""

    tools: Sequence[Json] = ()

    def __init__(self, domain: Domain) -> None:
        pass

    def messages(self, item: GoldItem) -> Sequence[Message]:
        return [*item.before, Message("user", item.question)]

    async def score(self, item: GoldItem, answer: str) -> Scored:
        return Scored(metrics.exact(item.answer, answer))


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

    async def score(self, item: GoldItem, answer: str) -> Scored:
        return Scored(metrics.facts(item.answer, answer, self._pattern))


class Sql(Exact):
    """The question under a schema's DDL; the same result as the reference's query.

    Execution accuracy as in Spider (Yu et al. 2018, arXiv 1809.08887) and BIRD (Li et al. 2023, arXiv
    2305.03111): names of columns do not count, their order does, and the order of rows where the reference
    has an ORDER BY. An item's slice is the name of its schema's file.
    """

    def __init__(self, domain: Domain) -> None:
        super().__init__(domain)
        self._schemas: dict[str, Schema] = {}
        self._sandbox = SqlSandbox()
        for schema in schemas_of(domain).values():
            other = self._schemas.setdefault(schema.source.slice, schema)
            if other is not schema:
                what = f"two schemas are called '{schema.source.slice}': {other.source.path}"
                hint = "an item's slice must tell its schema: rename one"
                raise RecipeError(what, where=schema.source.path, hint=hint)
        for path, item in gold_of(domain):
            if fault := self._fault(item):
                key, what, hint = fault
                raise RecipeError(what, where=f"{place_of(path, item)} {key}", hint=hint)

    def _fault(self, item: GoldItem) -> tuple[str, str, str] | None:
        """The key of an item that cannot be scored, what is wrong with it, and what to do."""
        schema = self._schemas.get(item.slice)
        if schema is None:
            there = ", ".join(self._schemas) or "none"
            hint = f"a slice is the name of a file in a strategy's `schemas`: {there}"
            return "slice", f"there is no schema '{item.slice}'", hint
        if item.before and item.before[0].role == "system":
            return "before", "a system message in `before`", "the metric writes its own"
        found = self._sandbox.check(schema, plain_sql(item.answer))
        if found.fault:
            hint = f"it must be a query over {schema.source.path} that gives rows"
            return "answer", f"the reference query fails: {found.error}", hint
        if not found.same:
            hint = "nothing can be compared with it; random() and the like are no reference"
            return "answer", "the reference query gives another result each time", hint
        return None

    def messages(self, item: GoldItem) -> Sequence[Message]:
        return [instruct(self._schemas[item.slice]), *super().messages(item)]

    async def score(self, item: GoldItem, answer: str) -> Scored:
        schema = self._schemas[item.slice]
        found = await self._sandbox.compare(schema, plain_sql(answer), plain_sql(item.answer))
        of = "of the reference: " if found.fault == "bad_reference" else ""
        return Scored(float(found.same), of + (found.error or found.difference))


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
        for path, item in gold_of(domain):
            if fault := fault_of_calls(item.answer, offered):
                what, hint = f"the answer cannot be right: {fault.error}", f"{fault.reason}; see the tools"
                raise RecipeError(what, where=f"{place_of(path, item)} answer", hint=hint)

    async def score(self, item: GoldItem, answer: str) -> Scored:
        difference = difference_of_calls(item.answer, answer)
        return Scored(float(not difference), difference)


TASKS: Final[Mapping[MetricName, Callable[[Domain], ScoredTask]]] = {
    "exact": Exact,
    "facts": Facts,
    "sql": Sql,
    "calls": Calls,
}
