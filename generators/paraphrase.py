"""Paraphrases: the samples of another strategy, and each once more with its question in other words.

Rephrasing keeps the answer and widens what the student takes for the same question (AugGPT:
arXiv 2302.13007; of questions with known answers: MetaMath, arXiv 2309.12284). In a conversation every
question is reworded. Whether the meaning stayed is only seen from outside: a rewording that says the same,
or in which a number came or went, is named malformed; the rest is the refiners' business.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, Field

from factory.domain import Domain
from factory.ports import Ask
from factory.prompts import render
from factory.recipe import StepSpec, Strict
from factory.types import Message, Sample, Task
from generators.fields import read_fields, schema_of
from generators.wrapped import Rewording, derive, fault_of, question_names


class ParaphraseOptions(Strict):
    """What is paraphrased."""

    of: StepSpec = Field(description="Another strategy by name, with its options.")


class Paraphrase(Rewording):
    """The inner strategy's samples, each followed by its paraphrase."""

    Options: ClassVar[type[BaseModel]] = ParaphraseOptions
    name = "paraphrase"
    num_calls = 1

    def __init__(self, options: ParaphraseOptions, domain: Domain) -> None:
        super().__init__(options.of, domain)
        self.options = options

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
