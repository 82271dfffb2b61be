"""Grounded generation: the teacher reads sections and writes a question and its answer, of several kinds.

`single` is about one section, in one call. `multi_hop` needs several (MultiHop-RAG, arXiv 2401.15391;
generators/multi_hop.py), `unanswerable` is near a section that does not answer it (SQuAD 2.0, arXiv
1806.03822; generators/unanswerable.py), and `facts` asks about each fact of a section in turn (PAQ, arXiv
2102.07033; generators/facts.py). A task is one question of one kind. What an answer is worth is the refiners'
business.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from itertools import accumulate
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, Field, model_validator

from factory.domain import Domain
from factory.errors import RecipeError
from factory.ports import Ask, TaskCost
from factory.prompts import render
from factory.recipe import Strict
from factory.types import Message, Sample, Source, Task
from generators.exchange import make_sample
from generators.facts import ask_about_fact
from generators.fields import read_fields, schema_of
from generators.multi_hop import ask_across, partners_of
from generators.turns import Turn, take_turns
from generators.unanswerable import NUM_CHECKED, ask_beyond

Kind = Literal["single", "multi_hop", "unanswerable", "facts"]
NAMES = ("question", "answer")
SCHEMA = schema_of(NAMES)


class GroundedOptions(Strict):
    """Which kinds of question are asked, and what each of them needs to know."""

    kinds: dict[Kind, Annotated[float, Field(gt=0)]] = Field(
        {"single": 1.0},
        min_length=1,
        description="Kind of question (`single`, `multi_hop`, `unanswerable`, `facts`) → its share.",
    )
    num_sections: Literal[2, 3] = Field(2, description="Sections that a `multi_hop` question needs.")
    unanswerable_answer: str = Field(
        "", description="The answer to every `unanswerable` question, word for word."
    )
    num_facts: int = Field(8, ge=1, le=50, description="Facts that are listed of a section, for `facts`.")
    manners: dict[str, str] = Field(
        {},
        description="Name of a manner of asking → the sentence that asks the teacher for it. Each section's"
        " questions take them in turn.",
    )

    @model_validator(mode="after")
    def _answers_the_unanswerable(self) -> Self:
        if "unanswerable" in self.kinds and not self.unanswerable_answer.strip():
            raise ValueError("the kind 'unanswerable' needs `unanswerable_answer`, the words that say so")
        return self


class Grounded:
    """Questions and answers from source sections, the sections of a slice in turn."""

    Options: ClassVar[type[BaseModel]] = GroundedOptions

    def __init__(self, options: GroundedOptions, domain: Domain) -> None:
        if not domain.sources:
            raise RecipeError(
                "strategy 'grounded' needs sources",
                where="sources.paths",
                hint="name at least one file with sections",
            )
        self.options = options
        self.domain = domain
        self._partners = cache(lambda source: partners_of(source, domain))
        if set(options.kinds) == {"multi_hop"} and not any(map(self._partners, domain.sources)):
            hint = "they must share a slice, or rare words"
            raise RecipeError(
                "no two sections belong together", where="strategies.kinds.multi_hop", hint=hint
            )

    @property
    def slices(self) -> Collection[str]:
        """Those of the sources."""
        return {source.slice for source in self.domain.sources}

    @property
    def cost(self) -> TaskCost:
        """The calls of the dearest kind: with a check of each section of a multi-hop question, for one."""
        num_calls = {"single": 1, "multi_hop": 1 + self.options.num_sections, "unanswerable": 2, "facts": 2}
        return TaskCost(max(num_calls[kind] for kind in self.options.kinds))

    @property
    def num_shared_calls(self) -> int:
        """A call for each section that lists its facts."""
        return len(self.domain.sources) if "facts" in self.options.kinds else 0

    @property
    def num_sections(self) -> int:
        """Sections in a prompt, at most."""
        needed = {"multi_hop": self.options.num_sections, "unanswerable": NUM_CHECKED}
        return max(needed.get(kind, 1) for kind in self.options.kinds)

    def plan(self, allocation: Mapping[str, int], round_number: int) -> Iterator[Task]:
        """Lazily, the tasks of a round; a slice without sources gets none.

        A section that no other belongs with gets a `single` question where it is the turn of `multi_hop`.
        """
        num_asked: Counter[tuple[str, str]] = Counter()  # by kind and section
        for turn in take_turns(self.domain.sources, allocation, round_number):
            source, kind = turn.material, self._kind(turn)
            if kind == "multi_hop" and not self._partners(source):
                kind = "single"
            lap = num_asked[kind, source.key] + turn.start
            num_asked[kind, source.key] += 1
            beside = self._beside(source, lap) if kind == "multi_hop" else ()
            chosen = {"kind": kind, "lap": str(lap)} | self._manner(turn, lap)
            yield Task("grounded", round_number, turn.ordinal, turn.slice, source, (), chosen, beside)

    async def make(self, task: Task, ask: Ask) -> list[Sample]:
        """One sample, with `malformed` among its attributes where the answer was not as asked."""
        if task.source is None:
            raise ValueError("a grounded task has a source")
        kind = task.attributes.get("kind", "single")
        manner = self.options.manners.get(task.attributes.get("manner", ""), "")
        style = f"{self.domain.recipe.domain.answer_style} {manner}".strip()
        if kind == "multi_hop":
            return [await ask_across(task, task.source, style, ask)]
        if kind == "unanswerable":
            answer = self.options.unanswerable_answer
            return [await ask_beyond(task, task.source, self.domain, manner, answer, ask)]
        if kind == "facts":
            return [await ask_about_fact(task, task.source, self.options.num_facts, style, ask)]
        return [await _ask_single(task, task.source, style, ask)]

    def _kind(self, turn: Turn[Source]) -> Kind:
        """The kind whose turn it is: over sections as over laps each gets its share, none by lot.

        The two steps are irrational and unlike, so that no section meets the same kind for long, however
        many sections and kinds there are (a Kronecker sequence).
        """
        position, lap = turn.number % turn.num_materials, turn.number // turn.num_materials
        point = (position * 0.6180339887 + lap * 0.4142135624 + turn.start / 16**8) % 1.0
        bounds = list(accumulate(self.options.kinds.values()))
        return next(
            kind for kind, bound in zip(self.options.kinds, bounds, strict=True) if point * bounds[-1] < bound
        )

    def _manner(self, turn: Turn[Source], lap: int) -> dict[str, str]:
        """The manner whose turn it is for section and kind; neighbouring sections begin differently."""
        names = list(self.options.manners)
        return {"manner": names[(turn.number % turn.num_materials + lap) % len(names)]} if names else {}

    def _beside(self, source: Source, lap: int) -> tuple[Source, ...]:
        """The sections that a multi-hop question needs too: those that belong to the first, in turn."""
        partners = self._partners(source)
        num_more = min(self.options.num_sections - 1, len(partners))
        return tuple(partners[(lap + n) % len(partners)] for n in range(num_more))


async def _ask_single(task: Task, source: Source, style: str, ask: Ask) -> Sample:
    """A question about one section and its answer, in one call."""
    prompt = render("generators", "grounded", style=style, source=source)
    call = await ask([Message("user", prompt)], schema=SCHEMA, ordinal=task.ordinal)
    values, malformed = read_fields(call, NAMES)
    answer = call.text if malformed else values["answer"]
    return make_sample(task, values.get("question", ""), answer, [call], source=source, malformed=malformed)
