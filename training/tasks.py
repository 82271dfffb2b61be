"""The metrics by name, ours and those of installed packages; and here those that execute what an answer says.

What is common to all is in `training.scored`, the comparing of texts in `training.texts`, that of what
queries give in `factory.sql_worker`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from pydantic import BaseModel, ValidationError

from factory.consistency import Inconsistency
from factory.domain import Domain
from factory.errors import RecipeError
from factory.explain import did_you_mean, explain
from factory.gold import place_of
from factory.registry import names
from factory.schemas import Schema, schemas_of
from factory.sql_chat import instruct, plain_sql
from factory.sql_sandbox import SqlSandbox
from factory.tool_calls import difference_of_calls, fault_of_calls
from factory.tool_files import tools_of
from factory.types import GoldItem, Json, Message, digest
from training.judged import Judged
from training.metrics import Scored
from training.own_metric import find_own
from training.scored import Asked, ScoredTask, gold_of
from training.texts import Citation, Exact, Facts, JsonFields, Normalized, Numeric, TokenF1


class Sql(Asked):
    """The question under a schema's DDL; the same result as the reference's query.

    Execution accuracy as in Spider (Yu et al. 2018, arXiv 1809.08887) and BIRD (Li et al. 2023, arXiv
    2305.03111): names of columns do not count, their order does, and the order of rows where the reference
    has an ORDER BY. An item's slice is the name of its schema's file.
    """

    def __init__(self, options: BaseModel, domain: Domain) -> None:
        super().__init__(options, domain)
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


class Calls(Asked):
    """The question with the tools of the recipe's strategies; the reference's calls, all and no others.

    As the AST accuracy of the Berkeley Function Calling Leaderboard (Patil et al., ICML 2025) compares calls
    with what is right and does not make them, parallel ones in any order. Here one list of calls is right,
    and strings must be equal.
    """

    def __init__(self, options: BaseModel, domain: Domain) -> None:
        super().__init__(options, domain)
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


TASKS: Final[Mapping[str, Any]] = {
    "exact": Exact,
    "normalized": Normalized,
    "facts": Facts,
    "numeric": Numeric,
    "token_f1": TokenF1,
    "citation": Citation,
    "json_fields": JsonFields,
    "sql": Sql,
    "calls": Calls,
    "judge": Judged,
}


class NamedTask(NamedTuple):
    """A metric made for a domain; `special` are its options that are not the default."""

    task: ScoredTask
    name: str
    special: Mapping[str, Json]

    def label(self, judge_id: str = "") -> str:
        """Of evaluations that were scored alike: the name, with a hash of options and of who judged."""
        special = {**self.special, **({"judge": judge_id} if judge_id else {})}
        return f"{self.name}#{digest(special, 8)}" if special else self.name


def make_task(name: str, options: Mapping[str, Json], domain: Domain) -> NamedTask:
    """The metric of that name. Raises RecipeError where there is none, or it cannot be had so."""
    kind, create = _find(name)
    try:
        given = kind(**options)
    except ValidationError as error:
        finding = explain(error, kind)
        what = f"{finding.what} (option of the metric '{name}')"
        raise Inconsistency(("evaluation", "metric_options", *finding.loc), what, finding.hint) from error
    return NamedTask(create(given, domain), name, given.model_dump(mode="json", exclude_defaults=True))


def _find(name: str) -> tuple[type[BaseModel], Callable[[Any, Domain], ScoredTask]]:
    own = names("metrics")
    if name in TASKS and name in own:
        what = f"an installed package has a metric '{name}' too"
        raise Inconsistency(("evaluation", "metric"), what, "it must call its own otherwise")
    if name in TASKS:
        return TASKS[name].Options, TASKS[name]
    if name not in own:
        hint = did_you_mean(name, [*TASKS, *own])
        raise Inconsistency(("evaluation", "metric"), f"there is no metric '{name}'", hint)
    return find_own(name)
