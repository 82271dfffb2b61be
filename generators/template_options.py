"""What a recipe says to the strategy `template`: columns, samplers, and the templates that use them.

Everything that can be told without the domain's files is checked here: syntax, names that nothing has,
private attributes. Rows are read, and samples made, in generators.template.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field, model_validator

from factory.recipe import Strict
from factory.types import FINDINGS
from generators.samplers import Name, Sampler, check_samplers
from generators.sandbox import RESERVED, SafeTemplate, compile_template

KEYS = {
    "source": frozenset({"key", "path", "citation", "title", "text"}),
    "seed": frozenset({"key", "prompt"}),
}
TAKEN = RESERVED | {
    "slice",
    "source",
    "seed",
    "row",
    "strategy",
    "source_key",
    "source_keys",
    "answerable",
    "malformed",
    "original",
}
ATTRIBUTES = FINDINGS | {"tools", "rejected"}  # they mean something in a sample, where samplers' values go


class Column(Strict):
    """A text, or several, that the teacher writes in one call."""

    name: Name = Field(description="What later templates call it.")
    prompt: str = Field(description="Template of what the teacher is asked.")
    fields: list[Name] = Field(
        default_factory=list, description="Keys of a JSON answer, used as `name.key`; without: plain text."
    )


class TemplateOptions(Strict):
    """Columns, samplers, and the templates that make a sample of them."""

    columns: list[Column] = Field(min_length=1, description="What the teacher writes, in this order.")
    question: str = Field("{{ question }}", description="Template of the sample's question.")
    answer: str = Field("{{ answer }}", description="Template of the sample's answer.")
    system: str = Field("", description="Template of its system message; empty: none.")
    each: Literal["source", "seed"] | None = Field(
        None, description="Makes samples from sections or seed prompts in turn, called by this name."
    )
    rows: str | None = Field(
        None, description="JSONL or CSV file; makes samples from its rows in turn, called `row`."
    )
    slices: list[str] = Field(
        default_factory=list,
        description="Of samples that are made from no section or seed prompt; by default the domain's. "
        "Rows with a column `slice` need none.",
    )
    samplers: dict[Name, Sampler] = Field(
        default_factory=dict, description="Attributes that vary, by name; see docs/strategies/template.md."
    )
    cover: list[Name] = Field(
        default_factory=list, description="Samplers of kind category whose combinations come up evenly."
    )

    @model_validator(mode="after")
    def _fits(self) -> TemplateOptions:
        if self.each and (self.rows is not None or self.slices):
            raise ValueError("`each` goes with neither `rows` nor `slices`")
        names = [*self.samplers, *(column.name for column in self.columns)]
        for name in names:
            if name in TAKEN or names.count(name) > 1 or (name in ATTRIBUTES and name in self.samplers):
                raise ValueError(f"the name '{name}' is taken")
        for column in self.columns:
            for name in column.fields:
                if hasattr(dict, name):  # `column.items` is a method to Jinja, not the value
                    raise ValueError(f"columns.{column.name}.fields: '{name}' cannot be a key of a column")
        check_samplers(self.samplers, self.cover)
        compile_templates(self, None)
        return self


@dataclass(frozen=True, slots=True)
class Compiled:
    """The templates of the options."""

    columns: tuple[tuple[Column, SafeTemplate], ...]
    question: SafeTemplate
    answer: SafeTemplate
    system: SafeTemplate


def compile_templates(options: TemplateOptions, row_keys: frozenset[str] | None) -> Compiled:
    """Raises ValueError naming the template that cannot be; `row_keys` None: any key of a row will do."""
    known: dict[str, frozenset[str] | None] = {"slice": None, **dict.fromkeys(options.samplers)}
    if options.each:
        known[options.each] = KEYS[options.each]
    if options.rows is not None:
        known["row"] = row_keys

    columns = []
    for index, column in enumerate(options.columns):
        template = compile_template(f"columns[{index}].prompt", column.prompt, known)
        columns.append((column, template))
        known[column.name] = frozenset(column.fields) if column.fields else None
    places = ("question", "answer", "system")
    last = (compile_template(place, getattr(options, place), known) for place in places)
    return Compiled(tuple(columns), *last)
