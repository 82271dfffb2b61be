"""Asks a student the items of a split, scores its answers, and compares two such evaluations.

Every item is asked as a user would ask it: no schema, the student's sampling of the recipe. What its question
comes with, and how its answer is scored, is the metric's (`training.tasks`). The engine limits how many are
asked at once. What becomes of a comparison is the loop's.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar

from pydantic import BaseModel, Field

from factory.domain import Domain
from factory.errors import EndpointError, RecipeError
from factory.failures import REQUEST_FAULTS, FailureRule
from factory.ports import Ask, OnProgress
from factory.recipe import Strict
from factory.significance import wilson
from factory.tool_calls import chat_of
from factory.types import Comparison, Completion, Evaluation, GoldItem, ItemResult, Json, Message, Split
from training.tasks import TASKS, MetricName

Share = Annotated[float, Field(ge=0, le=1)]


class AnswersOptions(Strict):
    """How answers are scored and when a student is promoted."""

    metric: MetricName = Field(
        "facts",
        description="facts: the reference's citations and quantities and no others; exact: the same text; "
        "sql: a query that gives what the reference's gives over the item's schema; "
        "calls: the reference's calls of tools, asked with the tools of the strategies.",
    )
    max_slice_drop: float = Field(
        0.1, ge=0, le=1, description="A slice may fall by no more than this, as far as is beyond chance."
    )
    slice_drops: dict[str, Share] = Field(
        default_factory=dict, description="Slice → another `max_slice_drop` for it."
    )
    prove_slices: bool = Field(
        False,
        description="Promote only where every slice is shown not to have fallen by so much, which takes "
        "many items a slice; else it is enough that none is shown to have fallen.",
    )
    min_items: int = Field(20, ge=1, description="Fewer items on dev never promote a student.")
    gain_sought: float = Field(
        0.05, gt=0, le=1, description="The gain for which the gate says how many items would show it."
    )


class Answers:
    """A `factory.ports.Evaluator`."""

    Options: ClassVar[type[BaseModel]] = AnswersOptions

    def __init__(self, options: AnswersOptions, domain: Domain) -> None:
        self.options = options
        self.domain = domain
        self._task = TASKS[options.metric](domain)
        known = {item.slice for item in domain.dev} if options.slice_drops else set()
        if unknown := sorted(options.slice_drops.keys() - known):
            raise RecipeError(
                f"no item of dev is of the slice '{unknown[0]}'", where="evaluation.slice_drops"
            )

    def num_characters(self, item: GoldItem) -> int:
        """Of all that an item asks the student with, its tools among them."""
        said = sum(len(message.content) for message in self._task.messages(item))
        return said + (len(json.dumps(self._task.tools, ensure_ascii=False)) if self._task.tools else 0)

    def chat(self, item: GoldItem) -> Json:
        """The item as a student would learn it: what it is asked with, and its right answer."""
        turns = [*self._task.messages(item), Message("assistant", item.answer)]
        return chat_of(turns, {"tools": json.dumps(self._task.tools)} if self._task.tools else {})

    async def evaluate(
        self, model_id: str, split: Split, items: Sequence[GoldItem], ask: Ask, on_progress: OnProgress
    ) -> Evaluation:
        """The answers to all items, in the items' order, with their mean score and its Wilson interval.

        An item whose request is refused, or whose answer is malformed, scores 0 with an empty answer.
        Raises EndpointError where the endpoint fails otherwise and FactoryError where it loses too many;
        never before all items are settled: each answer under way was paid for.
        """
        num_done = 0

        async def ask_one(item: GoldItem) -> ItemResult:
            nonlocal num_done
            try:
                answer = await ask(self._task.messages(item), tools=self._task.tools)
                return await self._result(item, answer)
            finally:
                num_done += 1
                on_progress(num_done, len(items))

        found = await asyncio.gather(*(ask_one(item) for item in items), return_exceptions=True)
        failures = FailureRule(self.domain.recipe.loop.max_failure_share)
        results = []
        for item, result in zip(items, found, strict=True):
            if isinstance(result, ItemResult):
                failures.observe(None)
                results.append(result)
            elif isinstance(result, EndpointError) and result.kind in REQUEST_FAULTS:
                failures.observe(result)
                lost = await self._result(item, Completion("", result.kind))
                results.append(replace(lost, detail=f"no answer: {result.kind}"))
            else:
                raise result
        failures.finish()
        return self._evaluation(model_id, split, results)

    def compare(self, old: Evaluation, new: Evaluation) -> Comparison:
        """The gate's verdict on `new` in place of `old`; raises FactoryError where their items differ."""
        from training import gate  # numpy takes a while

        rule = gate.Rule(seed=self.domain.recipe.seed, **self.options.model_dump(exclude={"metric"}))
        return gate.compare(old, new, rule)

    async def _result(self, item: GoldItem, answer: Completion) -> ItemResult:
        score, detail = await self._task.score(item, answer.text)
        return ItemResult(
            key=item.key,
            slice=item.slice,
            cluster=item.source_key or item.key,
            question=item.question,
            expected=item.answer,
            answer=answer.text,
            score=score,
            call_id=answer.call_id,
            before=item.before,
            detail=detail,
        )

    def _evaluation(self, model_id: str, split: Split, results: Sequence[ItemResult]) -> Evaluation:
        mean = sum(result.score for result in results) / len(results) if results else 0.0
        low, high = wilson(mean, len(results))
        return Evaluation(model_id, split, self.options.metric, mean, low, high, tuple(results))
