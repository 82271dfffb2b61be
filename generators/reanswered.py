"""Another strategy's samples, each with another last answer: what becomes of them and of their lineage.

A sample here stands in the place of the inner one, which is not stored: it descends from what that came from
and from the calls that answered anew. Where a sample derives from another one, such as a paraphrase, it
derives from what became of that. How an answer is found is each strategy's own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from factory.ports import Ask
from factory.types import Completion, Message, Parent, Sample, Task
from generators.wrapped import Wrapper, is_whole


class Reanswer(NamedTuple):
    """The answer that is taken, the calls behind it, what is to be known of it, and what is wrong or ''."""

    answer: str
    calls: Sequence[Completion] = ()
    attributes: Mapping[str, str] = {}
    malformed: str = ""


class Reanswering(ABC, Wrapper):
    """The inner strategy's samples, each with its last answer as it is found anew."""

    async def make(self, task: Task, ask: Ask) -> list[Sample]:
        """A sample for each inner one; a malformed one is passed on, its edges following its parents."""
        made: list[Sample] = []
        became: dict[str, str] = {}  # inner sample → its sample here, which others may derive from
        for sample in await self._inner.make(task, ask):
            whole = is_whole(sample)
            if whole or any(parent.id in became for parent in sample.parents):
                found = await self._reanswer(sample, task, ask) if whole else Reanswer(sample.answer)
                made.append(_replace(sample, found, self.name, became))
                became[sample.id] = made[-1].id
            else:
                made.append(sample)
        return made

    @abstractmethod
    async def _reanswer(self, sample: Sample, task: Task, ask: Ask) -> Reanswer: ...


def _replace(inner: Sample, found: Reanswer, operation: str, became: Mapping[str, str]) -> Sample:
    parents = [Parent(became.get(parent.id, parent.id), parent.relation) for parent in inner.parents]
    parents += [Parent(call.call_id, "call") for call in found.calls]
    kept = inner.attributes if found.answer == inner.answer else inner.lasting
    attributes = {**kept, **found.attributes}
    if "original" in attributes:
        attributes["original"] = became.get(attributes["original"], attributes["original"])
    if found.malformed:
        attributes["malformed"] = found.malformed
    messages = [*inner.messages[:-1], Message("assistant", found.answer)]
    return Sample.create(messages, list(dict.fromkeys(parents)), operation, attributes)
