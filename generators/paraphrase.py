"""Paraphrases: the samples of another strategy, and each once more with its question in other words.

Rephrasing keeps the answer and widens what the student takes for the same question (AugGPT:
arXiv 2302.13007; of questions with known answers: MetaMath, arXiv 2309.12284). In a conversation every
question is reworded. Whether the meaning stayed is only seen from outside: a rewording that says the same,
or in which a number came or went, is named malformed; the rest is the refiners' business.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import ClassVar

from pydantic import BaseModel, Field

from factory.domain import Domain
from factory.ports import Ask, TaskCost
from factory.prompts import render
from factory.recipe import StepSpec, Strict
from factory.types import Message, Sample, Task
from generators.fields import read_fields, schema_of
from generators.wrapped import Inner, derive, fault_of, is_whole, question_names


class ParaphraseOptions(Strict):
    """What is paraphrased."""

    of: StepSpec = Field(description="Another strategy by name, with its options.")


class Paraphrase:
    """The inner strategy's samples, each followed by its paraphrase."""

    Options: ClassVar[type[BaseModel]] = ParaphraseOptions

    def __init__(self, options: ParaphraseOptions, domain: Domain) -> None:
        self.options = options
        self._inner = Inner(options.of, domain)

    @property
    def slices(self) -> Collection[str]:
        """Those of the inner strategy."""
        return self._inner.slices

    @property
    def cost(self) -> TaskCost:
        """A call and a sample more for each inner sample."""
        inner = self._inner.cost
        return TaskCost(inner.num_calls + inner.num_samples, 2 * inner.num_samples, 2 * inner.num_answers)

    def plan(self, allocation: Mapping[str, int], round_number: int) -> Iterator[Task]:
        """Lazily, the inner strategy's tasks: `allocation` counts samples before they are paraphrased."""
        return self._inner.plan("paraphrase", allocation, round_number)

    async def make(self, task: Task, ask: Ask) -> list[Sample]:
        """The inner samples, then a paraphrase of each that is whole."""
        samples = await self._inner.make(task, ask)
        return [*samples, *[await self._reword(each, task, ask) for each in samples if is_whole(each)]]

    async def _reword(self, sample: Sample, task: Task, ask: Ask) -> Sample:
        names, questions = question_names(sample), sample.texts("user")
        turns = list(zip(names, questions, sample.texts("assistant"), strict=True))
        prompt = render("generators", "paraphrase", turns=turns)
        completion = await ask([Message("user", prompt)], schema=schema_of(names), ordinal=task.ordinal)
        values, malformed = read_fields(completion, names)
        if malformed:
            return derive(sample, "paraphrase", [completion], None, malformed)
        reworded = [values[name] for name in names]
        return derive(sample, "paraphrase", [completion], reworded, fault_of(questions, reworded))
