"""Evolved generation: a seed prompt is made harder, or rarer, step by step, then answered.

The method is Evol-Instruct (WizardLM, arXiv 2304.12244, section 3): five ways into depth, one into
breadth, and elimination of evolutions that failed. One task is one chain of calls. An evolution that
failed ends its chain and becomes a sample with malformed=not_evolved and the rule in `eliminated`, so
that `form` drops it and SQL counts it. The paper asks a model whether two prompts say the same; here
their words are compared, which misses a paraphrase of the same question.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import ClassVar, Literal

from pydantic import BaseModel, Field

from factory.domain import Domain
from factory.errors import RecipeError
from factory.ports import Ask, TaskCost
from factory.prompts import render
from factory.recipe import Strict
from factory.types import Completion, Message, Sample, Source, Task
from generators.elimination import fault_of_answer, fault_of_evolution
from generators.exchange import answer_question, make_sample
from generators.fields import read_fields, schema_of
from generators.turns import take_turns

PROMPT_SCHEMA = schema_of(["prompt"])
Method = Literal["constraints", "deepening", "concretizing", "reasoning", "complicating", "breadth"]
METHODS: list[Method] = [
    "constraints",
    "deepening",
    "concretizing",
    "reasoning",
    "complicating",
    "breadth",
]


class EvolvedOptions(Strict):
    """How far prompts are evolved, and by which methods."""

    num_steps: int = Field(
        2, ge=1, le=8, description="Evolutions in a row at most; prompts take 1 to this many in turn."
    )
    methods: list[Method] = Field(
        METHODS,
        min_length=1,
        description="Used in turn: constraints, deepening, concretizing, reasoning and complicating go into "
        "depth, breadth makes a new prompt. All six by default.",
    )
    min_new_words: int = Field(
        3,
        ge=1,
        description="Words that an evolved prompt must add to its parent; with fewer it is a copy.",
    )


class Evolved:
    """Harder and rarer prompts from seed prompts, answered from the teacher's own knowledge."""

    Options: ClassVar[type[BaseModel]] = EvolvedOptions

    def __init__(self, options: EvolvedOptions, domain: Domain) -> None:
        if not domain.seeds:
            raise RecipeError(
                "strategy 'evolved' needs seed prompts", where="seeds", hint="name a JSONL file of seeds"
            )
        self.options = options
        self.domain = domain
        self._instructions: dict[str, str] = {name: _instruction(name, "") for name in options.methods}

    @property
    def slices(self) -> Collection[str]:
        """Those of the seeds."""
        return {seed.slice for seed in self.domain.seeds}

    @property
    def cost(self) -> TaskCost:
        """The evolutions of the longest chain, and its answer."""
        return TaskCost(num_calls=self.options.num_steps + 1)

    def plan(self, allocation: Mapping[str, int], round_number: int) -> Iterator[Task]:
        """Lazily, the tasks of a round, each with its methods in order; a slice without seeds gets none."""
        methods = self.options.methods
        for turn in take_turns(self.domain.seeds, allocation, round_number):
            more, first = divmod(turn.choose(len(methods) * self.options.num_steps), len(methods))
            chain = [methods[(first + step) % len(methods)] for step in range(1 + more)]
            chosen = {"methods": ",".join(chain)}
            yield Task(
                "evolved", round_number, turn.ordinal, turn.slice, seeds=(turn.material,), attributes=chosen
            )

    async def make(self, task: Task, ask: Ask) -> list[Sample]:
        """One sample; a chain that failed is not answered, and the sample says how."""
        prompt, calls = task.seeds[0].prompt, []
        for method in task.attributes["methods"].split(","):
            text = _instruction(method, prompt)
            calls.append(await ask([Message("user", text)], schema=PROMPT_SCHEMA, ordinal=task.ordinal))
            values, malformed = read_fields(calls[-1], ["prompt"])
            if malformed:
                return [self._sample(task, "", calls[-1].text, calls, malformed)]
            evolved = values["prompt"]
            if fault := fault_of_evolution(
                evolved, prompt, self._instructions[method], self.options.min_new_words
            ):
                return [self._sample(task, evolved, "", calls, "not_evolved", fault)]
            prompt = evolved
        call, answer, malformed = await answer_question(
            task, prompt, self.domain.recipe.domain.answer_style, ask
        )
        fault = "" if malformed else fault_of_answer(answer)
        return [
            self._sample(task, prompt, answer, [*calls, call], malformed or (fault and "not_evolved"), fault)
        ]

    def _source(self, task: Task, prompt: str) -> Source | None:
        """The seed's section, which depth does not leave; after a step into breadth the nearest one."""
        key = task.seeds[0].source_key
        known = self.domain.source_by_key.get(key) if key else None
        if known and "breadth" not in task.attributes["methods"].split(","):
            return known
        return self.domain.nearest_source(prompt, task.slice) if prompt else None

    def _sample(
        self,
        task: Task,
        question: str,
        answer: str,
        calls: list[Completion],
        malformed: str = "",
        eliminated: str = "",
    ) -> Sample:
        attributes = {**task.attributes, **({"eliminated": eliminated} if eliminated else {})}
        source = self._source(task, question)
        return make_sample(
            task, question, answer, calls, source=source, malformed=malformed, attributes=attributes
        )


def _instruction(method: str, prompt: str) -> str:
    name = "evolved_breadth" if method == "breadth" else "evolved_depth"
    return render("generators", name, method=method, prompt=prompt)
