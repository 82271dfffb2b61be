"""Critique and revision: the teacher judges an answer of another strategy by principles, then mends it.

Answer, feedback and refinement in turn are Self-Refine (arXiv 2303.17651, section 2), which stops where the
feedback finds nothing more; judging by written principles is from Constitutional AI (arXiv 2212.08073,
section 3.1). As there, only the last answer becomes a sample: drafts stay in the calls that it descends
from. It wraps a strategy and takes no seeds of its own, since a first answer is what every other strategy
makes already. In a conversation the last answer is revised.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from pydantic import BaseModel, Field

from factory.domain import Domain
from factory.ports import Ask, TaskCost
from factory.prompts import render
from factory.recipe import StepSpec, Strict
from factory.types import Completion, Json, Message, Sample, Task
from generators.fields import read_fields, schema_of
from generators.reanswered import Reanswer, Reanswering

VERDICTS = ("good", "revise")
CRITIQUE_NAMES = ("critique", "verdict")
# The critique comes first: the verdict is to follow from it.
CRITIQUE_SCHEMA: Json = {
    **schema_of(CRITIQUE_NAMES),
    "properties": {"critique": {"type": "string"}, "verdict": {"type": "string", "enum": list(VERDICTS)}},
}
ANSWER_SCHEMA = schema_of(["answer"])
PRINCIPLES = [
    "The answer says what was asked for, and nothing else.",
    "Every statement is right, and where a section is given follows from it.",
    "The answer is clear, complete and no longer than it must be.",
]


class CritiqueOptions(Strict):
    """What is judged, by what, and how often it may be mended."""

    of: StepSpec = Field(description="Another strategy by name, with its options.")
    principles: list[Annotated[str, Field(min_length=1)]] = Field(
        PRINCIPLES, min_length=1, description="Sentences that every answer is judged by."
    )
    max_revisions: int = Field(
        1, ge=1, description="Of one answer; none is made once the critique is content."
    )


@dataclass
class _Draft:
    """An answer on its way; `malformed` says which reply was not as asked, and `answer` is then its text."""

    answer: str
    calls: list[Completion] = field(default_factory=list)
    num_revisions: int = 0
    malformed: str = ""


class Critique(Reanswering):
    """The inner strategy's samples, each with its answer as it is after critique."""

    Options: ClassVar[type[BaseModel]] = CritiqueOptions
    name = "critique"

    def __init__(self, options: CritiqueOptions, domain: Domain) -> None:
        super().__init__(options.of, domain)
        self.options = options
        self._style = domain.recipe.domain.answer_style

    @property
    def cost(self) -> TaskCost:
        """A critique and an answer more for each revision of each inner sample."""
        inner = self._inner.cost
        num_calls = inner.num_calls + 2 * self.options.max_revisions * inner.num_samples
        return inner._replace(num_calls=num_calls)

    async def _reanswer(self, sample: Sample, task: Task, ask: Ask) -> Reanswer:
        draft = await self._refine(sample, task, ask)
        attributes = {"num_revisions": str(draft.num_revisions)}
        return Reanswer(draft.answer, draft.calls, attributes, draft.malformed)

    async def _refine(self, sample: Sample, task: Task, ask: Ask) -> _Draft:
        """Critique and revision in turn, until the critique is content or enough was revised."""
        draft = _Draft(sample.answer)
        while draft.num_revisions < self.options.max_revisions and not draft.malformed:
            critique = await self._judge(sample, draft, task, ask)
            if not critique:
                break
            await self._revise(sample, draft, critique, task, ask)
        return draft

    async def _judge(self, sample: Sample, draft: _Draft, task: Task, ask: Ask) -> str:
        """What is wrong with the answer, or '' where nothing is or the critique cannot be read."""
        prompt = self._render("critique", sample, draft, task, principles=self.options.principles)
        completion = await ask([Message("user", prompt)], schema=CRITIQUE_SCHEMA, ordinal=task.ordinal)
        draft.calls.append(completion)
        values, malformed = read_fields(completion, CRITIQUE_NAMES)
        verdict = values.get("verdict", "").casefold()
        if not malformed and verdict not in VERDICTS:
            malformed = "unknown_verdict"
        elif verdict == "revise" and not values.get("critique"):
            malformed = "empty_critique"
        if malformed:
            draft.malformed, draft.answer = malformed, completion.text
        return values["critique"] if verdict == "revise" and not malformed else ""

    async def _revise(self, sample: Sample, draft: _Draft, critique: str, task: Task, ask: Ask) -> None:
        """Puts the revised answer into the draft; one that repeats the answer mends nothing."""
        prompt = self._render("critique_revision", sample, draft, task, critique=critique)
        completion = await ask([Message("user", prompt)], schema=ANSWER_SCHEMA, ordinal=task.ordinal)
        draft.calls.append(completion)
        values, malformed = read_fields(completion, ["answer"])
        if not malformed and values["answer"] == draft.answer:
            malformed = "unrevised"
        draft.malformed, draft.answer = malformed, values.get("answer", completion.text)
        draft.num_revisions += 1

    def _render(self, name: str, sample: Sample, draft: _Draft, task: Task, **values: Json) -> str:
        *earlier, question, _ = [message for message in sample.messages if message.role != "system"]
        return render(
            "generators",
            name,
            style=self._style,
            sections=[task.source, *task.beside] if task.source else [],
            earlier=earlier,
            question=question.content,
            answer=draft.answer,
            **values,
        )
