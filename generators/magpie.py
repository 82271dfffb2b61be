"""Magpie: an aligned model writes the user's turn by itself, then answers it.

Given its chat template up to where a user would begin to write, an aligned model goes on with an instruction
(Magpie: arXiv 2406.08464, section 2); a system message says what the assistant is for and so what is asked
(section 2.3). No seeds are needed. Of the paper's filters (section 2.2) those stand here that need no model:
length and repetition, for instruction and answer. Its ratings by a model and its distances are the refiners'
business. Only a server that goes on with an open turn can do it: vLLM does, hosted APIs do not.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Final

from pydantic import BaseModel, Field

from factory.domain import Domain
from factory.ports import Ask, TaskCost
from factory.prompts import render
from factory.recipe import Strict
from factory.types import OPEN_TURN, Completion, Message, Sample, Seed, Task
from generators.exchange import answer_question, make_sample, usual_sampling
from generators.repetition import is_repetitive, words_of
from generators.turns import take_turns

MIN_WORDS: Final = 3
MAX_WORDS: Final = 400


class MagpieOptions(Strict):
    """How the model is brought to write an instruction."""

    system: str | None = Field(
        None, description="System message before the user's turn; by default it names domain and slice."
    )
    temperature: float = Field(1.0, gt=0, le=2, description="Of the instruction; the answer has the role's.")


class Magpie:
    """Instructions that the teacher takes for a user's, and its answers."""

    Options: ClassVar[type[BaseModel]] = MagpieOptions
    cost: ClassVar[TaskCost] = TaskCost(num_calls=2)  # an instruction, then its answer

    def __init__(self, options: MagpieOptions, domain: Domain) -> None:
        self.options = options
        self._domain = domain
        # An instruction is drawn from the whole distribution, or the same few come up again.
        self._sampling = replace(usual_sampling(domain), temperature=options.temperature, top_p=1.0)
        self._begins = tuple(
            Seed.create("magpie", _system(options, domain, slice), slice) for slice in domain.slices
        )

    @property
    def slices(self) -> Collection[str]:
        """Those of the domain."""
        return self._domain.slices

    @property
    def material(self) -> Sequence[Seed]:
        """What stands before the user's turn, as seeds: lineage ends there."""
        return self._begins

    def plan(self, allocation: Mapping[str, int], round_number: int) -> Iterator[Task]:
        """Lazily, the tasks of a round."""
        for turn in take_turns(self._begins, allocation, round_number):
            yield Task("magpie", round_number, turn.ordinal, turn.slice, seeds=(turn.material,))

    async def make(self, task: Task, ask: Ask) -> list[Sample]:
        """One sample; an instruction that is malformed is not answered."""
        begin = task.seeds[0].prompt
        messages = [Message("system", begin)] if begin else []
        asked = await ask([*messages, OPEN_TURN], sampling=self._sampling, ordinal=task.ordinal)
        instruction = asked.text.strip()
        if fault := fault_of(asked):
            return [make_sample(task, instruction, "", [asked], malformed=fault)]
        found = await answer_question(task, instruction, self._domain.recipe.domain.answer_style, ask)
        fault = found.malformed or ("answer_repetitive" if is_repetitive(found.text) else "")
        source = self._domain.nearest_source(instruction, task.slice)
        calls = [asked, found.call]
        return [make_sample(task, instruction, found.text, calls, source=source, malformed=fault)]


def fault_of(asked: Completion) -> str:
    """Why a text is no instruction: truncated, too_short, too_long, repetitive or ''."""
    num_words = len(words_of(asked.text))
    if asked.finish_reason == "length":
        return "truncated"
    if not MIN_WORDS <= num_words <= MAX_WORDS:
        return "too_short" if num_words < MIN_WORDS else "too_long"
    return "repetitive" if is_repetitive(asked.text) else ""


def _system(options: MagpieOptions, domain: Domain, slice: str) -> str:
    if options.system is not None:
        return options.system
    about = domain.recipe.domain
    return render(
        "generators",
        "magpie_system",
        title=about.title,
        description=about.description,
        slice=slice.replace("_", " "),
    )
