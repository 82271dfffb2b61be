"""Seeded generation: the teacher writes a new prompt in the manner of seed prompts, then answers it.

The method is Self-Instruct (arXiv 2212.10560, section 2): a few examples are shown, a new instruction
comes back, and it is answered by a second call. Prompts too close to earlier ones are the business of
the refiner of near duplicates. The section that a prompt is about is that of its seed where one example
was shown, otherwise the one with most words in common.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import ClassVar

from pydantic import BaseModel, Field

from factory.domain import Domain
from factory.errors import RecipeError
from factory.ports import Ask, TaskCost
from factory.prompts import render
from factory.recipe import Strict
from factory.types import Completion, Message, Parent, Sample, Seed, Source, Task, digest
from generators.fields import read_fields, schema_of
from generators.plans import spread

QUESTION_SCHEMA = schema_of(["question"])
ANSWER_SCHEMA = schema_of(["answer"])


class SeededOptions(Strict):
    """How the prompt for a new question is made."""

    num_examples: int = Field(3, ge=1, description="Seed prompts shown, all of one slice.")


class Seeded:
    """New prompts from seed prompts, then answers from the teacher's own knowledge."""

    Options: ClassVar[type[BaseModel]] = SeededOptions
    cost: ClassVar[TaskCost] = TaskCost(num_calls=2)  # a question, then its answer

    def __init__(self, options: SeededOptions, domain: Domain) -> None:
        if not domain.seeds:
            raise RecipeError(
                "strategy 'seeded' needs seed prompts", where="seeds", hint="name a JSONL file of seeds"
            )
        self.options = options
        self.domain = domain
        self._sources = domain.source_by_key
        self._seeds: dict[str, list[Seed]] = {}
        for seed in domain.seeds:
            self._seeds.setdefault(seed.slice, []).append(seed)

    @property
    def slices(self) -> Collection[str]:
        """Those of the seeds."""
        return self._seeds.keys()

    def plan(self, allocation: Mapping[str, int], round_number: int) -> Iterator[Task]:
        """Lazily, the tasks of a round, each with its examples; a slice without seeds gets none."""
        for ordinal, slice, seed in spread(self.domain.seeds, allocation, round_number):
            yield Task("seeded", round_number, ordinal, slice, seeds=(seed, *self._further(seed, ordinal)))

    async def make(self, task: Task, ask: Ask) -> list[Sample]:
        """One sample; where the new prompt is malformed it is not answered, and the sample says so."""
        prompt = render("generators", "seeded_prompt", examples=task.seeds)
        asked = await ask([Message("user", prompt)], schema=QUESTION_SCHEMA, ordinal=task.ordinal)
        values, malformed = read_fields(asked, ["question"])
        if malformed:
            return [self._sample(task, [asked], "", asked.text, malformed)]
        question = values["question"]
        prompt = render(
            "generators", "seeded_answer", style=self.domain.recipe.domain.answer_style, question=question
        )
        answered = await ask([Message("user", prompt)], schema=ANSWER_SCHEMA, ordinal=task.ordinal)
        values, malformed = read_fields(answered, ["answer"])
        answer = answered.text if malformed else values["answer"]
        return [self._sample(task, [asked, answered], question, answer, malformed)]

    def _further(self, first: Seed, ordinal: int) -> list[Seed]:
        """The examples beside the first: others of its slice, chosen by a hash of the ordinal."""
        num_further = self.options.num_examples - 1
        if num_further == 0:
            return []
        others = [seed for seed in self._seeds[first.slice] if seed.id != first.id]
        return sorted(others, key=lambda seed: digest([ordinal, seed.id]))[:num_further]

    def _source(self, task: Task, question: str) -> Source | None:
        """The section that the question is about. The answer is not consulted: it may be about another."""
        key = task.seeds[0].source_key if len(task.seeds) == 1 else None
        if key is not None and key in self._sources:
            return self._sources[key]
        return self.domain.nearest_source(question, task.slice) if question else None

    def _sample(
        self, task: Task, calls: list[Completion], question: str, answer: str, malformed: str
    ) -> Sample:
        source = self._source(task, question)
        parents = [Parent(seed.id, "seed") for seed in task.seeds]
        parents += [Parent(source.id, "source")] if source else []
        parents += [Parent(call.call_id, "call") for call in calls]
        attributes = {"slice": task.slice, "strategy": task.strategy}
        if source:
            attributes["source_key"] = source.key
        if malformed:
            attributes["malformed"] = malformed
        return Sample.create(
            [Message("user", question), Message("assistant", answer)], parents, "seeded", attributes
        )
