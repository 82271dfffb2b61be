"""A question and an answer with all that they came from, as a sample; and the call for an answer.

What several strategies do in the same way, so that lineage and malformed answers are the same
everywhere. What the question is, and where it comes from, is theirs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from factory.domain import Domain
from factory.ports import Ask
from factory.prompts import render
from factory.types import Completion, Message, Parent, Sample, Sampling, Source, Task
from generators.fields import read_fields, schema_of

ANSWER_SCHEMA = schema_of(["answer"])


class Answer(NamedTuple):
    """The call for an answer, its text (the whole one where malformed), and how it is malformed or ''."""

    call: Completion
    text: str
    malformed: str


def usual_sampling(domain: Domain) -> Sampling:
    """How the teacher decodes where a strategy says nothing else."""
    teacher = domain.recipe.models.get("teacher")
    return teacher.sampling.sampling() if teacher else Sampling()


async def answer_question(task: Task, question: str, style: str, ask: Ask) -> Answer:
    """The teacher's answer to a question; errors are those of `ask`."""
    prompt = render("generators", "seeded_answer", style=style, question=question)
    call = await ask([Message("user", prompt)], schema=ANSWER_SCHEMA, ordinal=task.ordinal)
    values, malformed = read_fields(call, ["answer"])
    return Answer(call, call.text if malformed else values["answer"], malformed)


def make_sample(
    task: Task,
    question: str,
    answer: str,
    calls: Sequence[Completion],
    *,
    source: Source | None = None,
    malformed: str = "",
    attributes: Mapping[str, str] | None = None,
    system: str = "",
) -> Sample:
    """The sample of a task: parents are its seeds, the sections that it is about and its calls, in order."""
    parents = [Parent(seed.id, "seed") for seed in task.seeds]
    sections = [source, *task.beside] if source else []
    parents += [Parent(section.id, "source") for section in sections]
    parents += [Parent(call_id, "call") for call_id in dict.fromkeys(call.call_id for call in calls)]
    known = {**(attributes or {}), "slice": task.slice, "strategy": task.strategy}
    if manner := task.attributes.get("manner"):
        known["manner"] = manner
    if source:
        known["source_key"] = source.key
    if len(sections) > 1:
        known["source_keys"] = " ".join(section.key for section in sections)
    if malformed:
        known["malformed"] = malformed
    messages = [Message("system", system)] if system else []
    messages += [Message("user", question), Message("assistant", answer)]
    return Sample.create(messages, parents, task.strategy, known)
