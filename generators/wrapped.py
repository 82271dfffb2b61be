"""What strategies share that work on the samples of another one: the inner strategy, and derived samples.

A wrapper names the inner strategy under `of`, with its options. The inner one says which slices it serves,
plans the tasks and makes the samples, which bear the wrapper's name as their strategy, since that is what
stands in the recipe; their operation tells who made them. A derived sample differs in its questions, stands
beside the one that it descends from, and keeps its answers (`Rewording`). What the teacher is asked is each
wrapper's own.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from factory.domain import Domain
from factory.gold import normalise
from factory.ports import Ask, Generator, TaskCost
from factory.recipe import StepSpec
from factory.registry import create
from factory.types import Completion, Message, Parent, Sample, Task


class Inner:
    """The strategy that a wrapper works on."""

    def __init__(self, spec: StepSpec, domain: Domain) -> None:
        self._name = spec.name
        self._generator: Generator = create("generators", spec, domain, "of")

    @property
    def slices(self) -> Collection[str]:
        """Those of the inner strategy."""
        return self._generator.slices

    @property
    def cost(self) -> TaskCost:
        """What a task of the inner strategy comes to at most."""
        found: TaskCost = getattr(self._generator, "cost", TaskCost())
        return found

    def plan(self, strategy: str, allocation: Mapping[str, int], round_number: int) -> Iterator[Task]:
        """Lazily, the inner strategy's tasks under the name of the wrapper."""
        for task in self._generator.plan(allocation, round_number):
            yield replace(task, strategy=strategy)

    async def make(self, task: Task, ask: Ask) -> list[Sample]:
        """The inner strategy's samples, made as in a recipe of its own."""
        samples = await self._generator.make(replace(task, strategy=self._name), ask)
        return [replace(each, attributes={**each.attributes, "strategy": task.strategy}) for each in samples]


class Wrapper:
    """What a strategy that wraps another one has of it."""

    name: ClassVar[str]  # as registered

    def __init__(self, of: StepSpec, domain: Domain) -> None:
        self._inner = Inner(of, domain)

    @property
    def slices(self) -> Collection[str]:
        """Those of the inner strategy."""
        return self._inner.slices

    def plan(self, allocation: Mapping[str, int], round_number: int) -> Iterator[Task]:
        """Lazily, the inner strategy's tasks: `allocation` counts its samples."""
        return self._inner.plan(self.name, allocation, round_number)


class Rewording(ABC, Wrapper):
    """The inner strategy's samples, each followed by one that asks the same in other words."""

    num_calls: ClassVar[int]  # for one rewording

    @property
    def cost(self) -> TaskCost:
        """The rewording's calls and a sample more for each inner sample."""
        inner = self._inner.cost
        num_calls = inner.num_calls + self.num_calls * inner.num_samples
        return TaskCost(num_calls, 2 * inner.num_samples, 2 * inner.num_answers)

    async def make(self, task: Task, ask: Ask) -> list[Sample]:
        """The inner samples, then what each that is whole was reworded to."""
        samples = await self._inner.make(task, ask)
        return [*samples, *[await self._reword(each, task, ask) for each in samples if is_whole(each)]]

    @abstractmethod
    async def _reword(self, sample: Sample, task: Task, ask: Ask) -> Sample: ...


def is_whole(sample: Sample) -> bool:
    """Whether there is something to work on: well formed, each question answered in turn, nothing empty."""
    turns = [message for message in sample.messages if message.role != "system"]
    in_turn = [turn.role for turn in turns] == ["user", "assistant"] * (len(turns) // 2)
    well_formed = bool(turns) and in_turn and not sample.attributes.get("malformed")
    return well_formed and all(turn.content.strip() for turn in turns)


def question_names(sample: Sample) -> list[str]:
    """The keys that a sample's questions are asked and answered under."""
    num_questions = len(sample.texts("user"))
    return ["question"] if num_questions == 1 else [f"question_{n + 1}" for n in range(num_questions)]


def fault_of(before: Sequence[str], after: Sequence[str]) -> str:
    """Why questions are no rewording of those before: unchanged, changed_numbers or ''.

    A number that comes or goes makes another question of it, to which the old answer may be wrong.
    """
    if [normalise(text) for text in before] == [normalise(text) for text in after]:
        return "unchanged"
    pairs = zip(before, after, strict=True)
    return "" if all(_numbers(old) == _numbers(new) for old, new in pairs) else "changed_numbers"


def derive(
    sample: Sample,
    operation: str,
    calls: Sequence[Completion],
    questions: Sequence[str] | None,
    malformed: str,
) -> Sample:
    """The sample beside `sample` with these questions; None: they could not be read from the last call.

    Its attribute `original` names the sample at the root of all that ask the same in other words.
    """
    if questions is None:
        messages = [Message("user", ""), Message("assistant", calls[-1].text)]
    else:
        texts = iter(questions)
        messages = [Message("user", next(texts)) if m.role == "user" else m for m in sample.messages]
    parents = [Parent(sample.id, "derived_from")]
    parents += [parent for parent in sample.parents if parent.relation in {"seed", "source"}]
    parents += [Parent(call.call_id, "call") for call in calls]
    attributes = {"original": sample.id, **sample.attributes}
    if malformed:
        attributes["malformed"] = malformed
    return Sample.create(messages, parents, operation, attributes)


def _numbers(text: str) -> set[str]:
    """The numbers in a text, without the marks that languages put into them."""
    return {re.sub(r"\D", "", found) for found in re.findall(r"\d(?:[\d.,]*\d)?", text)}
