"""The metric `judge`: the recipe's judge scores an answer by a rubric, with question and reference before it.

It asks as the refiner of that name does (`factory.rubric`), once for each answer and not for an empty one.
One answer has no place that could favour it, as those of a pair have. What is no judgement is no score.
"""

from __future__ import annotations

from dataclasses import replace
from math import nan
from typing import ClassVar, Final

from pydantic import BaseModel, Field

from factory.domain import Domain
from factory.errors import EndpointError
from factory.ports import Ask
from factory.rubric import HIGHEST, LOWEST, MEANING, OVERALL, Criterion, Rubric, RubricOptions
from factory.types import GoldItem, ItemResult, Message
from training.metrics import MAX_TOLD, Scored
from training.scored import Asked

REFERENCE_RUBRIC: Final = [
    Criterion(
        name="correct",
        question="Does it say what the reference answer says, and nothing that contradicts it?",
        weight=2,
    ),
    Criterion(
        name="complete",
        question="Does it hold all that the question asks for and the reference answer gives?",
    ),
]

MAX_SHOWN: Final = 80  # characters of what is no judgement


class JudgeOptions(RubricOptions):
    """By what is judged."""

    rubric: list[Criterion] | str = Field(REFERENCE_RUBRIC, min_length=1, description=MEANING)


class Judged(Asked):
    """The question in its conversation; scores come later, from `judge`."""

    Options: ClassVar[type[BaseModel]] = JudgeOptions

    def __init__(self, options: JudgeOptions, domain: Domain) -> None:
        super().__init__(options, domain)
        self._style = domain.recipe.domain.answer_style
        self._rubric = Rubric(options.rubric)

    async def score(self, item: GoldItem, answer: str) -> Scored:
        """NaN: to be judged; an empty answer is worth 0 without being paid for."""
        return Scored(nan) if answer.strip() else Scored(0.0, "an empty answer")

    def prompt(self, item: ItemResult | GoldItem, reference: str, answer: str) -> str:
        """What the judge is asked about an answer to an item."""
        told = "\n".join(turn.content for turn in item.before if turn.role == "system")
        turns = [turn for turn in item.before if turn.role != "system"]
        turns.append(Message("user", item.question))
        given = {"style": self._style, "sources": (), "told": told, "turns": turns}
        return self._rubric.prompt(answer, reference=reference, **given)

    async def judge(self, item: ItemResult, ask: Ask) -> ItemResult:
        """The item with its overall score, 1 as 0 and 5 as 1, and the judge's reason where it is less.

        Raises EndpointError, of kind malformed where what comes is no judgement.
        """
        prompt = self.prompt(item, item.expected, item.answer)
        reply = await ask([Message("user", prompt)], schema=self._rubric.schema)
        scores, reason = self._rubric.read(reply.text)
        if scores is None:
            said = " ".join(reply.text.split())[:MAX_SHOWN]
            what = f"the judge gave no judgement: '{said}' ({reply.finish_reason})"
            raise EndpointError(what, kind="malformed", retryable=False)
        value = (scores[OVERALL] - LOWEST) / (HIGHEST - LOWEST)
        told = ", ".join(f"{name} {score}" for name, score in scores.items() if name != OVERALL)
        why = "" if value == 1 else f"{told}: {reason}"[:MAX_TOLD]
        return replace(item, score=value, judge_call_id=reply.call_id, detail=why)
