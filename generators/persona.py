"""Persona-driven generation: who asks is varied, so that what is asked varies with them.

The method is that of Persona Hub (arXiv 2406.20094, sections 2 and 3): a persona is added to the prompt that
makes the data. Personas are given, or the teacher writes them from a text (its text-to-persona). Each
asks about a section of the sources, in one call; without sources, it asks something like a seed prompt,
and a second call answers. Personas steer the question only; nothing checks that they were heeded.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, Field, model_validator

from factory.domain import Domain
from factory.errors import RecipeError
from factory.layers import read_text
from factory.ports import Ask, TaskCost
from factory.prompts import render
from factory.recipe import Strict
from factory.types import Completion, Message, Sample, Seed, Source, Task
from generators.exchange import answer_question, make_sample
from generators.fields import read_fields, schema_of
from generators.lists import list_schema, read_list
from generators.rows import read_rows
from generators.turns import Turn, take_turns

PAIR = ("question", "answer")
PAIR_SCHEMA = schema_of(PAIR)
QUESTION_SCHEMA = schema_of(["question"])
PERSONAS_SCHEMA = list_schema("personas")
SHARED = 0  # ordinal of a call that many tasks share


class PersonaOptions(Strict):
    """Where the personas come from: given here, in a file, or written by the teacher."""

    personas: list[str] = Field(default_factory=list, description="Personas, a sentence each.")
    file: str | None = Field(
        None, description="Text file with a persona a line, or JSONL with the key `persona`."
    )
    num_written: int = Field(
        5,
        ge=1,
        le=50,
        description="Personas that the teacher writes for each section or seed prompt where none are given.",
    )

    @model_validator(mode="after")
    def _one_origin(self) -> PersonaOptions:
        if self.personas and self.file is not None:
            raise ValueError("give `personas` or `file`, not both")
        return self


class Persona:
    """Questions of many kinds of people, the sections (or seed prompts) of a slice in turn."""

    Options: ClassVar[type[BaseModel]] = PersonaOptions

    def __init__(self, options: PersonaOptions, domain: Domain) -> None:
        if not domain.sources and not domain.seeds:
            hint = "set `sources.paths`, or `seeds` to a JSONL file of prompts"
            raise RecipeError("strategy 'persona' needs sources or seeds", where="sources.paths", hint=hint)
        self.options = options
        self.domain = domain
        self._given = _given(options, domain.folder)

    @property
    def slices(self) -> Collection[str]:
        """Those of the sources, or of the seeds where there are no sources."""
        return {item.slice for item in self.domain.sources or self.domain.seeds}

    @property
    def material(self) -> Sequence[Seed]:
        """The personas that were given, as seeds: lineage ends at them too."""
        return self._given

    @property
    def cost(self) -> TaskCost:
        """One call with sources, two without; one more where the shared call wrote no persona."""
        return TaskCost(num_calls=(1 if self.domain.sources else 2) + (0 if self._given else 1))

    @property
    def num_shared_calls(self) -> int:
        """Calls that write personas, one for each text."""
        return 0 if self._given else len(self.domain.sources or self.domain.seeds)

    def plan(self, allocation: Mapping[str, int], round_number: int) -> Iterator[Task]:
        """Lazily, the tasks of a round, each with its persona or which of those written it takes."""
        if self.domain.sources:
            for turn in take_turns(self.domain.sources, allocation, round_number):
                yield self._task(turn, round_number, turn.material, ())
        else:
            for of_seed in take_turns(self.domain.seeds, allocation, round_number):
                yield self._task(of_seed, round_number, None, (of_seed.material,))

    def _task(
        self,
        turn: Turn[Source] | Turn[Seed],
        round_number: int,
        source: Source | None,
        seeds: tuple[Seed, ...],
    ) -> Task:
        if not self._given:
            chosen = {"lap": str(turn.lap)}
            return Task("persona", round_number, turn.ordinal, turn.slice, source, seeds, chosen)
        persona = self._given[turn.choose(len(self._given))]
        chosen = {"persona": persona.prompt}
        return Task("persona", round_number, turn.ordinal, turn.slice, source, (*seeds, persona), chosen)

    async def make(self, task: Task, ask: Ask) -> list[Sample]:
        """One sample; where no persona could be written it says so."""
        persona, calls = task.attributes.get("persona", ""), list[Completion]()
        if not persona:
            calls, personas, malformed = await self._write(task, ask)
            if malformed:
                return [make_sample(task, "", calls[-1].text, calls, source=task.source, malformed=malformed)]
            persona = personas[int(task.attributes["lap"]) % len(personas)]
        if task.source:
            return [await self._grounded(task, task.source, persona, calls, ask)]
        return [await self._prompted(task, persona, calls, ask)]

    async def _write(self, task: Task, ask: Ask) -> tuple[list[Completion], list[str], str]:
        """The calls that wrote personas for the task's text, what they wrote, and how it is malformed.

        The first call is the same for all tasks of the text; where it failed, a task tries for itself.
        """
        text = task.source.text if task.source else task.seeds[0].prompt
        prompt = render("generators", "persona_from_text", count=self.options.num_written, text=text)
        calls: list[Completion] = []
        for ordinal in (SHARED, task.ordinal):
            calls.append(await ask([Message("user", prompt)], schema=PERSONAS_SCHEMA, ordinal=ordinal))
            personas, malformed = read_list(calls[-1], "personas", self.options.num_written)
            if personas:
                break
        return calls, personas, malformed

    async def _grounded(
        self, task: Task, source: Source, persona: str, calls: list[Completion], ask: Ask
    ) -> Sample:
        """A question about a section and its answer, in one call."""
        style = self.domain.recipe.domain.answer_style
        prompt = render("generators", "persona_grounded", style=style, persona=persona, source=source)
        call = await ask([Message("user", prompt)], schema=PAIR_SCHEMA, ordinal=task.ordinal)
        values, malformed = read_fields(call, PAIR)
        return make_sample(
            task,
            values.get("question", ""),
            call.text if malformed else values["answer"],
            [*calls, call],
            source=source,
            malformed=malformed,
            attributes={"persona": persona},
        )

    async def _prompted(self, task: Task, persona: str, calls: list[Completion], ask: Ask) -> Sample:
        """A question like the seed prompt, then its answer; a malformed question is not answered."""
        prompt = render("generators", "persona_prompt", persona=persona, example=task.seeds[0].prompt)
        asked = await ask([Message("user", prompt)], schema=QUESTION_SCHEMA, ordinal=task.ordinal)
        values, malformed = read_fields(asked, ["question"])
        question, answer = values.get("question", ""), asked.text
        calls = [*calls, asked]
        if not malformed:
            style = self.domain.recipe.domain.answer_style
            call, answer, malformed = await answer_question(task, question, style, ask)
            calls.append(call)
        return make_sample(
            task, question, answer, calls, malformed=malformed, attributes={"persona": persona}
        )


def _given(options: PersonaOptions, folder: Path) -> tuple[Seed, ...]:
    """The personas of the recipe or its file; none where the teacher writes them. Raises RecipeError."""
    if options.file is None:
        named = [(f"personas[{index}]", text) for index, text in enumerate(options.personas)]
    else:
        path = folder / Path(options.file).expanduser()
        named = [(f"{options.file}:{line}", text) for line, text in _lines(path)]
    for key, text in named:
        if not text.strip():
            raise RecipeError("a persona must not be empty", where=key)
    return tuple(Seed.create(key, " ".join(text.split()), "") for key, text in named)


def _lines(path: Path) -> list[tuple[int, str]]:
    """The personas of a file, each with its line."""
    if path.suffix.lower() != ".jsonl":
        lines = enumerate(read_text(path).split("\n"), 1)
        found = [(number, line) for number, line in lines if line.strip()]
        if not found:
            raise RecipeError("the file has no personas", where=str(path))
        return found
    rows = read_rows(path)
    for row in rows:
        if not isinstance(row.values.get("persona"), str):
            raise RecipeError("`persona` must be a text", where=f"{path}:{row.line}")
    return [(row.line, row.values["persona"]) for row in rows]
