"""Back-translation: another strategy's samples, each once more as its question comes back from abroad.

Two translations word a text anew without being asked to (Sennrich et al., arXiv 1511.06709; as paraphrases
for question answering: QANet, arXiv 1804.09541, section 3). Answers are kept as they are. A question that
was not translated, came back as it was, or lost or gained a number is named malformed; the rest is the
refiners' business.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self

from pydantic import BaseModel, Field, model_validator

from factory.domain import Domain
from factory.ports import Ask
from factory.prompts import render
from factory.recipe import StepSpec, Strict
from factory.types import Completion, Message, Sample, Task
from generators.fields import read_fields, schema_of
from generators.wrapped import Rewording, derive, fault_of, question_names


class BackTranslationOptions(Strict):
    """What is translated, and into what."""

    of: StepSpec = Field(description="Another strategy by name, with its options.")
    language: str = Field("English", min_length=1, description="What the samples are written in.")
    pivot: str = Field(
        "French", min_length=1, description="What questions are translated into and back from."
    )

    @model_validator(mode="after")
    def _languages_differ(self) -> Self:
        if self.language.casefold() == self.pivot.casefold():
            raise ValueError("language and pivot must be two languages")
        return self


class BackTranslation(Rewording):
    """The inner strategy's samples, each followed by what comes back from the pivot."""

    Options: ClassVar[type[BaseModel]] = BackTranslationOptions
    name = "back_translation"
    num_calls = 2

    def __init__(self, options: BackTranslationOptions, domain: Domain) -> None:
        super().__init__(options.of, domain)
        self.options = options

    async def _reword(self, sample: Sample, task: Task, ask: Ask) -> Sample:
        """There and back; the way back is not asked for where the way there led nowhere."""
        names, before = question_names(sample), sample.texts("user")
        there = await self._translate(names, before, self.options.pivot, task, ask)
        values, malformed = read_fields(there, names)
        abroad = [values.get(name, "") for name in names]
        if malformed or fault_of(before, abroad) == "unchanged":
            questions = None if malformed else abroad
            return derive(sample, "back_translation", [there], questions, malformed or "untranslated")
        back = await self._translate(names, abroad, self.options.language, task, ask)
        values, malformed = read_fields(back, names)
        if malformed:
            return derive(sample, "back_translation", [there, back], None, malformed)
        after = [values[name] for name in names]
        fault = "untranslated" if fault_of(abroad, after) == "unchanged" else fault_of(before, after)
        return derive(sample, "back_translation", [there, back], after, fault)

    async def _translate(
        self, names: Sequence[str], texts: Sequence[str], language: str, task: Task, ask: Ask
    ) -> Completion:
        turns = list(zip(names, texts, strict=True))
        prompt = render("generators", "back_translation", language=language, turns=turns)
        return await ask([Message("user", prompt)], schema=schema_of(names), ordinal=task.ordinal)
