"""Grounded generation: the teacher reads one section and writes a question and its answer.

One task is one section and one call. What the answer is worth is the refiners' business.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import ClassVar

from pydantic import BaseModel

from factory.domain import Domain
from factory.errors import RecipeError
from factory.ports import Ask
from factory.prompts import render
from factory.recipe import Strict
from factory.types import Message, Parent, Sample, Task
from generators.fields import read_fields, schema_of
from generators.plans import spread

NAMES = ("question", "answer")
SCHEMA = schema_of(NAMES)


class GroundedOptions(Strict):
    """None: the sections and the answer style come from the domain."""


class Grounded:
    """Questions and answers from source sections, the sections of a slice in turn."""

    Options: ClassVar[type[BaseModel]] = GroundedOptions

    def __init__(self, options: GroundedOptions, domain: Domain) -> None:
        if not domain.sources:
            raise RecipeError(
                "strategy 'grounded' needs sources",
                where="sources.paths",
                hint="name at least one file with sections",
            )
        self.domain = domain

    @property
    def slices(self) -> Collection[str]:
        """Those of the sources."""
        return {source.slice for source in self.domain.sources}

    def plan(self, allocation: Mapping[str, int], round_number: int) -> Iterator[Task]:
        """Lazily, the tasks of a round; a slice without sources gets none."""
        for ordinal, slice, source in spread(self.domain.sources, allocation, round_number):
            yield Task("grounded", round_number, ordinal, slice, source)

    async def make(self, task: Task, ask: Ask) -> list[Sample]:
        """One sample, with `malformed` among its attributes where the answer was not as asked."""
        if task.source is None:
            raise ValueError("a grounded task has a source")
        prompt = render(
            "generators", "grounded", style=self.domain.recipe.domain.answer_style, source=task.source
        )
        completion = await ask([Message("user", prompt)], schema=SCHEMA, ordinal=task.ordinal)
        values, malformed = read_fields(completion, NAMES)
        attributes = {"slice": task.slice, "strategy": task.strategy, "source_key": task.source.key}
        if malformed:
            attributes["malformed"] = malformed
        answer = completion.text if malformed else values["answer"]
        return [
            Sample.create(
                [Message("user", values.get("question", "")), Message("assistant", answer)],
                [Parent(task.source.id, "source"), Parent(completion.call_id, "call")],
                "grounded",
                attributes,
            )
        ]
