"""Template generation: prompts of the user's own, for what no other strategy was written for.

A recipe names columns that the teacher writes one after the other, each by a Jinja template over the columns
before it, sampled attributes, and a section, a seed prompt or a row of a table. Two last templates make
question and answer of them. Varying prompts by sampled attributes is AttrPrompt (arXiv 2306.15895). What the
templates say is the user's matter; nothing that a model wrote is read as a template.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from jinja2.exceptions import SecurityError
from pydantic import BaseModel

from factory.domain import Domain
from factory.errors import RecipeError
from factory.ports import Ask, TaskCost
from factory.types import Completion, Json, Message, Sample, Seed, Source, Task
from generators.exchange import make_sample
from generators.fields import read_fields, schema_of
from generators.rows import read_rows
from generators.samplers import draw_all, num_combinations, typed
from generators.sandbox import RENDER_ERRORS, SafeTemplate
from generators.template_options import KEYS, Column, TemplateOptions, compile_templates
from generators.turns import Turn, take_turns

WHERE = "strategy template"


class Template:
    """Samples by the user's own templates, the sections, seed prompts or rows of a slice in turn."""

    Options: ClassVar[type[BaseModel]] = TemplateOptions

    def __init__(self, options: TemplateOptions, domain: Domain) -> None:
        self.options = options
        self.domain = domain
        self._seeds = _seeds(options, domain)
        row = json.loads(self._seeds[0].prompt) if options.rows is not None else None
        try:
            self._compiled = compile_templates(options, frozenset(row) if row else None)
        except ValueError as error:
            raise RecipeError(str(error), where=WHERE) from error
        self._written = {column.name for column in options.columns}
        self._try()

    @property
    def slices(self) -> Collection[str]:
        """Those of the sections, seed prompts or rows; else those of the options, or the domain's."""
        return {item.slice for item in self._materials()}

    @property
    def material(self) -> Sequence[Seed]:
        """Rows as seeds, or the first template where there is nothing else: lineage ends at them."""
        return () if self.options.each else self._seeds

    @property
    def cost(self) -> TaskCost:
        """One call a column."""
        return TaskCost(num_calls=len(self.options.columns))

    def _materials(self) -> Sequence[Seed] | Sequence[Source]:
        return self.domain.sources if self.options.each == "source" else self._seeds

    def plan(self, allocation: Mapping[str, int], round_number: int) -> Iterator[Task]:
        """Lazily, the tasks of a round, each with its sampled attributes."""
        if self.options.each == "source":
            for turn in take_turns(self.domain.sources, allocation, round_number):
                yield self._task(turn, round_number, turn.material, ())
        else:
            for of_seed in take_turns(self._seeds, allocation, round_number):
                source = self.domain.source_by_key.get(of_seed.material.source_key or "")
                yield self._task(of_seed, round_number, source, (of_seed.material,))

    def _task(
        self,
        turn: Turn[Source] | Turn[Seed],
        round_number: int,
        source: Source | None,
        seeds: tuple[Seed, ...],
    ) -> Task:
        samplers, cover = self.options.samplers, self.options.cover
        combination = turn.choose(num_combinations(samplers, cover))
        drawn = draw_all(samplers, cover, combination, turn.ordinal)
        return Task("template", round_number, turn.ordinal, turn.slice, source, seeds, drawn)

    async def make(self, task: Task, ask: Ask) -> list[Sample]:
        """One sample; where a column is malformed, or a template fails on one, the sample says how.

        Raises RecipeError where a template fails on what the recipe itself gave it.
        """
        values, calls = self._values(task), list[Completion]()
        try:
            for column, template in self._compiled.columns:
                schema = schema_of(column.fields) if column.fields else None
                messages = [Message("user", self._render(template, values))]
                calls.append(await ask(messages, schema=schema, ordinal=task.ordinal))
                values[column.name], malformed = _read(column, calls[-1])
                if malformed:
                    return [self._malformed(task, calls, malformed)]
            last = (self._compiled.question, self._compiled.answer, self._compiled.system)
            question, answer, system = (self._render(template, values) for template in last)
        except RENDER_ERRORS:
            return [self._malformed(task, calls, "template_failed")]
        return [
            make_sample(
                task,
                question,
                answer,
                calls,
                source=task.source,
                attributes=task.attributes,
                system=system,
            )
        ]

    def _malformed(self, task: Task, calls: list[Completion], fault: str) -> Sample:
        return make_sample(
            task, "", calls[-1].text, calls, source=task.source, malformed=fault, attributes=task.attributes
        )

    def _render(self, template: SafeTemplate, values: Mapping[str, Json]) -> str:
        """Raises RENDER_ERRORS where a template failed on a model's words, RecipeError where on its own."""
        try:
            return template.render(values)
        except RENDER_ERRORS as error:
            if template.names & self._written and not isinstance(error, SecurityError):
                raise
            what = f"a template failed: {type(error).__name__}: {error}"
            raise RecipeError(what, where=f"{WHERE} {template.place}") from error

    def _values(self, task: Task) -> dict[str, Json]:
        """What templates see of a task: plain values, no object of ours."""
        values: dict[str, Json] = {"slice": task.slice, **typed(self.options.samplers, task.attributes)}
        if self.options.rows is not None:
            values["row"] = json.loads(task.seeds[0].prompt)
        elif self.options.each:
            item = task.source if self.options.each == "source" else task.seeds[0]
            values[self.options.each] = {key: getattr(item, key) for key in KEYS[self.options.each]}
        return values

    def _try(self) -> None:
        """Renders once what needs no model, so that a template which cannot work is told before a run."""
        task = next(self.plan({min(self.slices): 1}, 1))
        values = self._values(task)
        for template in (*(template for _, template in self._compiled.columns), self._compiled.system):
            if not template.names & self._written:
                self._render(template, values)


def _read(column: Column, call: Completion) -> tuple[Json, str]:
    """What a call gives the templates after it, and how it is malformed."""
    if column.fields:
        return read_fields(call, column.fields)
    text = call.text.strip()
    return text, "truncated" if call.finish_reason == "length" else "" if text else "empty"


def _seeds(options: TemplateOptions, domain: Domain) -> tuple[Seed, ...]:
    """What samples are made from where it is no section: seed prompts, rows, or the template, by slice.

    Raises RecipeError where there is nothing, or a row does not say its slice.
    """
    if options.each:
        found = domain.sources if options.each == "source" else domain.seeds
        if not found:
            raise RecipeError(f"the domain has no {options.each}s", where=f"{WHERE} each")
        return domain.seeds if options.each == "seed" else ()
    slices = options.slices or list(domain.slices)
    if options.rows is None:
        return tuple(Seed.create("template", options.columns[0].prompt, slice) for slice in slices)
    path = domain.folder / Path(options.rows).expanduser()
    seeds = []
    for row in read_rows(path):
        slice = row.values.get("slice", slices[0] if len(slices) == 1 else None)
        if not isinstance(slice, str) or not slice:
            hint = "add a column `slice`, or set the option `slices` to the one that all belong to"
            raise RecipeError("the row does not say its slice", where=f"{path}:{row.line}", hint=hint)
        text = json.dumps(row.values, ensure_ascii=False)
        seeds.append(Seed.create(f"{options.rows}:{row.line}", text, slice))
    return tuple(seeds)
