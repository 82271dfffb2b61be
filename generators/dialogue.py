"""Dialogues: the teacher plays both sides of a conversation, each with a system prompt of its own.

Role-playing as in CAMEL (arXiv 2303.17760, section 3), about one section or one seed prompt; two separate
models of the sides, one of which asks, are UltraChat's way (arXiv 2305.14233). Each side sees the
conversation from its own end, so that what the other wrote is what it is asked. Replies are plain text. How
many turns there are is drawn from the ordinal. Known ways to fail (CAMEL, section 4: role flipping, loops)
end the conversation and name the sample malformed; whether the answers are right is the refiners' business.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import ClassVar, Literal, Self

from pydantic import BaseModel, Field, model_validator

from factory.domain import Domain
from factory.errors import RecipeError
from factory.gold import normalise
from factory.ports import Ask, TaskCost
from factory.prompts import render
from factory.recipe import Strict
from factory.types import Completion, Message, Parent, Sample, Source, Task, digest
from generators.plans import spread


class DialogueOptions(Strict):
    """Who talks about what, and for how long. A turn is a question and its answer."""

    about: Literal["sources", "seeds"] = Field(
        "sources",
        description="What a conversation is about: a section, which both sides read, or a seed prompt.",
    )
    min_turns: int = Field(2, ge=1, description="Turns of a conversation, at least.")
    max_turns: int = Field(4, ge=1, description="Turns of a conversation, at most.")
    user: str = Field("someone whom the matter concerns", description="Who asks.")
    assistant: str = Field("an expert in the matter", description="Who answers.")
    system: str = Field(
        "", description="System message that opens every sample; for a student that is served with it."
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_turns > self.max_turns:
            raise ValueError("min_turns must not be more than max_turns")
        return self


class Dialogue:
    """Conversations of several turns, the sections or seed prompts of a slice in turn."""

    Options: ClassVar[type[BaseModel]] = DialogueOptions

    def __init__(self, options: DialogueOptions, domain: Domain) -> None:
        self.options = options
        self.domain = domain
        self._sources = domain.source_by_key
        if not (domain.sources if options.about == "sources" else domain.seeds):
            where, hint = ("sources.paths", "name at least one file with sections")
            if options.about == "seeds":
                where, hint = ("seeds", "name a JSONL file of seeds")
            raise RecipeError(f"strategy 'dialogue' needs {options.about}", where=where, hint=hint)

    @property
    def slices(self) -> Collection[str]:
        """Those of the sources, or of the seeds."""
        if self.options.about == "seeds":
            return {seed.slice for seed in self.domain.seeds}
        return {source.slice for source in self.domain.sources}

    @property
    def cost(self) -> TaskCost:
        """Two calls for each turn of the longest conversation."""
        return TaskCost(2 * self.options.max_turns, 1, self.options.max_turns)

    def plan(self, allocation: Mapping[str, int], round_number: int) -> Iterator[Task]:
        """Lazily, the tasks of a round; a slice without sources or seeds gets none."""
        if self.options.about == "seeds":
            for ordinal, slice, seed in spread(self.domain.seeds, allocation, round_number):
                yield Task("dialogue", round_number, ordinal, slice, seeds=(seed,))
        else:
            for ordinal, slice, source in spread(self.domain.sources, allocation, round_number):
                yield Task("dialogue", round_number, ordinal, slice, source)

    async def make(self, task: Task, ask: Ask) -> list[Sample]:
        """One sample with all turns; one that went wrong has its turns up to there and says so."""
        prompts = {side: Message("system", self._prompt(side, task)) for side in ("user", "assistant")}
        opening = Message("user", render("generators", "dialogue_opening"))
        turns: list[Message] = []
        calls: list[Completion] = []
        for _ in range(self._num_turns(task)):
            asked = await ask([prompts["user"], opening, *_swapped(turns)], ordinal=task.ordinal)
            calls.append(asked)
            question = Message("user", asked.text.strip())
            if fault := _fault(asked, question, turns):
                return [self._sample(task, _cut_off(turns, "", asked), calls, fault)]
            answered = await ask([prompts["assistant"], *turns, question], ordinal=task.ordinal)
            calls.append(answered)
            answer = Message("assistant", answered.text.strip())
            if fault := _fault(answered, answer, [question]):
                return [self._sample(task, _cut_off(turns, question.content, answered), calls, fault)]
            turns += [question, answer]
        return [self._sample(task, turns, calls, "")]

    def _num_turns(self, task: Task) -> int:
        """Between the least and the most of the options, by a hash of the ordinal."""
        num_choices = self.options.max_turns - self.options.min_turns + 1
        return self.options.min_turns + int(digest(["turns", task.ordinal], 12), 16) % num_choices

    def _prompt(self, side: str, task: Task) -> str:
        """The system prompt of a side."""
        return render(
            "generators",
            f"dialogue_{side}",
            options=self.options,
            style=self.domain.recipe.domain.answer_style,
            source=task.source,
            seed=task.seeds[0] if task.seeds else None,
        )

    def _source(self, task: Task, turns: Sequence[Message]) -> Source | None:
        """The section that it is about: given, named by the seed, or the nearest to the questions."""
        if task.source is not None:
            return task.source
        key = task.seeds[0].source_key
        if key is not None and key in self._sources:
            return self._sources[key]
        questions = " ".join(turn.content for turn in turns if turn.role == "user")
        return self.domain.nearest_source(questions, task.slice) if questions.strip() else None

    def _sample(
        self, task: Task, turns: Sequence[Message], calls: Sequence[Completion], malformed: str
    ) -> Sample:
        source = self._source(task, turns)
        parents = [Parent(seed.id, "seed") for seed in task.seeds]
        parents += [Parent(source.id, "source")] if source else []
        parents += [Parent(call.call_id, "call") for call in calls]
        attributes = {"slice": task.slice, "strategy": task.strategy, "num_turns": str(len(turns) // 2)}
        if source:
            attributes["source_key"] = source.key
        if malformed:
            attributes["malformed"] = malformed
        system = [Message("system", self.options.system)] if self.options.system else []
        return Sample.create([*system, *turns], parents, "dialogue", attributes)


def _swapped(turns: Sequence[Message]) -> list[Message]:
    """The conversation as the user's side sees it: what the other side wrote is what it is asked."""
    return [Message("assistant" if turn.role == "user" else "user", turn.content) for turn in turns]


def _cut_off(turns: Sequence[Message], question: str, completion: Completion) -> list[Message]:
    """The turns up to a reply that went wrong, and its text, as an answer whoever wrote it."""
    if turns and not completion.text.strip():
        return list(turns)
    return [*turns, Message("user", question), Message("assistant", completion.text)]


def _fault(completion: Completion, said: Message, earlier: Sequence[Message]) -> str:
    """What is wrong with a reply: truncated, empty_turn, repeated_turn or ''.

    A question must not repeat any earlier message, nor an answer its question; short answers may recur.
    """
    if completion.finish_reason == "length":
        return "truncated"
    if not said.content:
        return "empty_turn"
    words = normalise(said.content)
    return "repeated_turn" if words and words in {normalise(turn.content) for turn in earlier} else ""
