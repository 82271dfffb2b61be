"""Asks a student the items of a split, scores its answers, and compares two such evaluations.

Every item is asked as a user would ask it: no schema, the student's sampling of the recipe. What its question
comes with, and how its answer is scored, is the metric's (`training.tasks`). The engine limits how many are
asked at once. What becomes of a comparison is the loop's.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Sequence
from math import isnan
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, Field

from factory.domain import Domain
from factory.errors import EndpointError, FactoryError, RecipeError
from factory.failures import REQUEST_FAULTS, FailureRule
from factory.ports import Ask, OnProgress
from factory.recipe import Role, Strict
from factory.significance import wilson
from factory.tool_calls import chat_of
from factory.types import Comparison, Completion, Evaluation, GoldItem, ItemResult, Json, Message, Split
from training.judged import Judged
from training.tasks import make_task

Share = Annotated[float, Field(ge=0, le=1)]


class AnswersOptions(Strict):
    """How answers are scored and when a student is promoted."""

    metric: str = Field(
        "facts",
        description="facts: the reference's citations and quantities and no others; exact: the same text; "
        "normalized: but for case, punctuation and articles; token_f1: words in common; numeric: the same "
        "numbers, within a tolerance; citation: the same citations; json_fields: the share of right fields; "
        "sql: a query that gives what the reference's gives over the item's schema; "
        "calls: the reference's calls of tools, asked with the tools of the strategies; "
        "judge: what `models.judge` says by a rubric; or one of an installed package. See docs/metrics.md.",
    )
    metric_options: dict[str, Any] = Field(
        default_factory=dict, description="Options of the metric, by name: docs/metrics.md lists them."
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

    @property
    def role(self) -> Role | None:
        """The model that scores answers; None where none is asked."""
        return "judge" if self.metric == "judge" else None


class Answers:
    """A `factory.ports.Evaluator`."""

    Options: ClassVar[type[BaseModel]] = AnswersOptions

    def __init__(self, options: AnswersOptions, domain: Domain) -> None:
        self.options = options
        self.domain = domain
        self._named = make_task(options.metric, options.metric_options, domain)
        self._task = self._named.task
        known = {item.slice for item in domain.dev} if options.slice_drops else set()
        if unknown := sorted(options.slice_drops.keys() - known):
            raise RecipeError(
                f"no item of dev is of the slice '{unknown[0]}'", where="evaluation.slice_drops"
            )

    def num_characters(self, item: GoldItem) -> int:
        """Of all that an item asks the student with, its tools among them."""
        said = sum(len(message.content) for message in self._task.messages(item))
        return said + (len(json.dumps(self._task.tools, ensure_ascii=False)) if self._task.tools else 0)

    def num_judged_characters(self, item: GoldItem) -> int:
        """Of all that the judge is asked with about an answer to an item, but the answer."""
        return len(self._task.prompt(item, item.answer, "")) if isinstance(self._task, Judged) else 0

    def chat(self, item: GoldItem) -> Json:
        """The item as a student would learn it: what it is asked with, and its right answer."""
        turns = [*self._task.messages(item), Message("assistant", item.answer)]
        return chat_of(turns, {"tools": json.dumps(self._task.tools)} if self._task.tools else {})

    async def evaluate(
        self, model_id: str, split: Split, items: Sequence[GoldItem], ask: Ask, on_progress: OnProgress
    ) -> Evaluation:
        """The answers to all items, in the items' order, with their mean score and its Wilson interval.

        An item whose request is refused, or whose answer is malformed, scores 0 with an empty answer. Scores
        that `judge` will give are NaN. Raises EndpointError where the endpoint fails otherwise and
        FactoryError where it loses too many; never before all items are settled: each answer under way was
        paid for.
        """

        async def ask_one(item: GoldItem) -> ItemResult:
            answer = await ask(self._task.messages(item), tools=self._task.tools)
            score, why = await self._task.score(item, answer.text)
            return _result(item, answer, score, why)

        found = await self._settle([ask_one(item) for item in items], on_progress)
        lost = Completion("")
        results = [
            each if isinstance(each, ItemResult) else _result(item, lost, 0.0, f"no answer: {each.kind}")
            for item, each in zip(items, found, strict=True)
        ]
        return self._evaluation(model_id, split, results)

    async def judge(
        self, judge_id: str, evaluation: Evaluation, ask: Ask, on_progress: OnProgress
    ) -> Evaluation:
        """The evaluation with the scores of the model of that id, which `ask` asks.

        Raises, when all are settled, as `evaluate` does; and FactoryError where one answer is left without a
        score, since 0 would say of the student what is true of the judge.
        """
        task = self._task
        if not isinstance(task, Judged):
            return evaluation
        items = [item for item in evaluation.items if isnan(item.score)]
        found = await self._settle([task.judge(item, ask) for item in items], on_progress)
        judged = {each.key: each for each in found if isinstance(each, ItemResult)}
        lost = [(item, each) for item, each in zip(items, found, strict=True) if item.key not in judged]
        if lost:
            item, error = lost[0]
            what = (
                f"the judge scored {len(judged)} of {len(items)} answers; not that to '{item.key}': {error}"
            )
            hint = "raise `models.judge.sampling.max_tokens`, name another judge, or take the item out"
            raise FactoryError(what, where=evaluation.split, hint=hint)
        results = [judged.get(item.key, item) for item in evaluation.items]
        return self._evaluation(evaluation.model_id, evaluation.split, results, judge_id)

    def compare(self, old: Evaluation, new: Evaluation) -> Comparison:
        """The gate's verdict on `new` in place of `old`; raises FactoryError where their items differ."""
        from training import gate  # numpy takes a while

        of_gate = self.options.model_dump(exclude={"metric", "metric_options"})
        return gate.compare(old, new, gate.Rule(seed=self.domain.recipe.seed, **of_gate))

    async def _settle(
        self, works: Sequence[Awaitable[ItemResult]], on_progress: OnProgress
    ) -> list[ItemResult | EndpointError]:
        """What each work comes to, or why its request was not answered; raises what stops the evaluation."""
        num_done = 0

        async def counted(work: Awaitable[ItemResult]) -> ItemResult:
            nonlocal num_done
            try:
                return await work
            finally:
                num_done += 1
                on_progress(num_done, len(works))

        settled = await asyncio.gather(*map(counted, works), return_exceptions=True)
        failures = FailureRule(self.domain.recipe.loop.max_failure_share)
        found: list[ItemResult | EndpointError] = []
        for each in settled:
            if isinstance(each, EndpointError) and each.kind in REQUEST_FAULTS:
                failures.observe(each)
            elif isinstance(each, BaseException):
                raise each
            else:
                failures.observe(None)
            found.append(each)
        failures.finish()
        return found

    def _evaluation(
        self, model_id: str, split: Split, results: Sequence[ItemResult], judge_id: str = ""
    ) -> Evaluation:
        mean = sum(result.score for result in results) / len(results) if results else 0.0
        low, high = (mean, mean) if isnan(mean) else wilson(mean, len(results))
        label = self._named.label(judge_id)
        return Evaluation(model_id, split, label, mean, low, high, tuple(results))


def _result(item: GoldItem, answer: Completion, score: float, why: str) -> ItemResult:
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
        detail=why,
    )
