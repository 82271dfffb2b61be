"""The seams of the factory: what a model, generator, refiner, trainer and evaluator must offer.

The core calls these Protocols and nothing more; implementations live in the sibling packages
or in a user's own package and are found by name (`factory.registry`). Every class that is
registered has an `Options` pydantic model (what may stand in the recipe) and is constructed as
`Class(options, domain)`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple, Protocol

from pydantic import BaseModel

from factory.domain import Domain
from factory.types import (
    Adapter,
    Comparison,
    Completion,
    Decision,
    Evaluation,
    GoldItem,
    Json,
    Message,
    Request,
    Sample,
    Sampling,
    Split,
    Task,
)


class Ask(Protocol):
    """The engine's one way to call a model: queues, limits, retries, reserves budget, stores.

    An identical request (same model, messages, tools, schema, sampling and `ordinal`) is answered from
    the store. Calls of `tools`, which are in OpenAI's form, come as the text of the answer
    (`factory.tool_calls`). With `top_logprobs` the tokens come along where the model gives them, each with
    so many of the likeliest at its place. With `given` the last message is an answer that is not written but
    judged: it comes back as it is, with its tokens as likely as the model holds them. Raises `EndpointError`
    once the retries are spent and `BudgetExceeded` before a call that the budget cannot bear.
    """

    async def __call__(
        self,
        messages: Sequence[Message],
        *,
        schema: Json | None = None,
        sampling: Sampling | None = None,
        ordinal: int = 0,
        tools: Sequence[Json] = (),
        top_logprobs: int = 0,
        given: bool = False,
    ) -> Completion: ...


class Model(Protocol):
    """Something that completes chats. `id` names model and adapter by content, for request hashes.

    One whose calls go on when nobody waits for them any more, and are found again by the next process that
    asks, says so in an attribute `calls_outlive: bool`. One that runs for us alone, so that nobody bills
    calls that end without an answer, says so in `is_ours: bool`.

    One that answers at several places names them in an attribute `replicas: Sequence[Model]`, always in the
    same order; the engine asks these, the least loaded first.
    """

    @property
    def id(self) -> str: ...

    async def complete(self, request: Request) -> Completion:
        """One answer; raises `EndpointError` with a kind, never retries by itself."""
        ...

    async def close(self) -> None: ...


class TaskCost(NamedTuple):
    """What one task of a generator comes to at most: calls, samples, and assistant turns in these.

    Answers that the engine asks again, because they are not what the schema asks for, come on top.
    """

    num_calls: int = 1
    num_samples: int = 1
    num_answers: int = 1


class RefineCost(NamedTuple):
    """What a refiner that uses a model asks about a sample at most.

    `num_calls` None: `num_each` about each of its answers. `share` of the samples it asks about, by lot.
    """

    num_calls: int | None = None
    share: float = 1.0
    num_each: int = 1


class Generator(Protocol):
    """Makes samples. `plan` says what, `make` says how, as a coroutine over one task.

    `slices` are those that it has material for; it is asked for samples of no other. `make` is
    deterministic but for `ask`, so running it again is resuming it. One whose task takes more than a
    call may say so in an attribute `cost: TaskCost`, calls that tasks share in `num_shared_calls: int`, and
    how many sections a prompt of its tasks or about its samples holds at most in `num_sections: int`.
    One that brings seeds or sources beside the domain's (personas, topics, rows) names them in `material`:
    they are stored, so that lineage ends at them, and a change of them makes another run.
    """

    Options: ClassVar[type[BaseModel]]

    @property
    def slices(self) -> Collection[str]: ...

    def plan(self, allocation: Mapping[str, int], round_number: int) -> Iterable[Task]:
        """Lazily, as many tasks for each slice as `allocation` says, which may be a million.

        `round_number` tells the plans of a run apart, so ordinals begin anew with each. Where it is not known
        how many tasks a round needs, each slice is planned by itself, under a number of its own.
        """
        ...

    async def make(self, task: Task, ask: Ask) -> list[Sample]: ...


class Refiner(Protocol):
    """Decides about samples: a batch in, one decision for each out, in the same order.

    `open` is called once a run with those accepted so far (all rounds), for state such as an
    index of duplicates. `uses_model` says whether `refine` calls `ask`. What one may have besides:
    `needs: str`, the material of a domain by which it judges: it cannot be used on a file alone,
    unless the option that `needs_or: str` names is given;
    `role: Role`, the recipe's model that it asks where that is not the refiner, such as `judge`;
    `cost: RefineCost`, what it asks where that is not once about each answer;
    `rests_on: Sequence[Json]`, the content of files beside the domain's (benchmarks, weights): a change of it
    makes another run;
    `compare(samples, originals, ask)`, where it judges rewrites by what they were made from: called in place
    of `refine`, with the sample that each was rewritten from, or None;
    `embedder: Embedder` (factory.embedding), which the run binds: its rows are kept, its calls counted;
    `tell: Callable[[str], None]`, which is set before it is opened, for a line to whoever waits, such as that
    something is compiled first;
    `replay(decided: Iterable[Sample])`, where its state comes from what it dropped too: called in place of
    `open` with all that it decided about in this run, in that order.
    Scores without a model get the asked one's id.
    """

    Options: ClassVar[type[BaseModel]]
    uses_model: ClassVar[bool]

    def open(self, accepted: Iterable[Sample]) -> None: ...

    async def refine(self, samples: Sequence[Sample], ask: Ask) -> list[Decision]: ...


class OnProgress(Protocol):
    """How much is done, of how much (None: unknown yet), a text such as a loss, and what was done earlier."""

    def __call__(self, done: int, total: int | None, detail: str = "", *, earlier: int = 0) -> None: ...


@dataclass(frozen=True)
class MergeJob:
    """An adapter that is to become one model with its base, in `directory`, which is an empty folder.

    `chats` are {"messages": [...]} lines up to an answer, with "tools" where some are offered, and the answer
    that was "expected": along the adapter's own answers and along these, adapter and merge are compared.
    `base` is where the base lies now, None: where it lay in training. `dtype` is bfloat16 or float16. Logits
    that differ by more than `max_difference` along either, as a share of their spread, are refused.
    """

    adapter: Path
    directory: Path
    chats: Sequence[Json]
    dtype: str
    max_difference: float
    base: str | None = None


class PlannedPart(NamedTuple):
    """What one part of a training holds in the device's memory when it holds most."""

    name: str
    num_bytes: int
    detail: str


class SampleLengths(NamedTuple):
    """The samples of a dataset in the base's tokens, template included; the refused are not in the rest.

    `longest_learned`: most tokens of one that the loss falls on; `refusal`: what training says of the others.
    """

    num_samples: int
    num_tokens: int
    num_learned_tokens: int
    mean: float
    longest: int
    longest_learned: int
    num_refused: int
    longest_refused: int
    refusal: str = ""

    @property
    def learned_share(self) -> float:
        """Of the tokens, those that the loss falls on."""
        return self.num_learned_tokens / self.num_tokens if self.num_tokens else 1.0


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """What a training would need and take on a device, before anything is loaded; all of it is an estimate.

    `changes` make it fit, empty where it fits or nothing helps; `refusals`: what training would refuse. Times
    are None where the device's speed is not known, tokens and steps where no dataset is given.
    """

    base: str
    device: str
    memory_bytes: int
    parts: tuple[PlannedPart, ...]
    fits: bool
    changes: Mapping[str, Json]
    changed_bytes: int | None
    lengths: SampleLengths | None
    num_steps: int | None
    num_tokens: int | None
    tokens_per_second: float | None
    refusals: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def num_bytes(self) -> int:
        """The sum of all parts."""
        return sum(part.num_bytes for part in self.parts)

    @property
    def seconds(self) -> float | None:
        """The time for all tokens."""
        rate = self.tokens_per_second
        return self.num_tokens / rate if self.num_tokens and rate else None


class Trainer(Protocol):
    """Turns a JSONL file of {"messages": [...]} lines into an adapter in `directory`.

    One whose adapters can be merged offers a static `merge(job: MergeJob, on_progress) -> dict[str, Json]`,
    which returns what was compared, and raises `TrainingError` or `InputError`.

    One that can say beforehand what that needs has a method `plan` besides, as `PlanningTrainer` has it.
    """

    Options: ClassVar[type[BaseModel]]

    def train(self, dataset: Path, base: str, directory: Path, on_progress: OnProgress) -> Adapter:
        """Blocks until the adapter stands in `directory`; raises `TrainingError`.

        `base` is a folder (relative to the recipe) or a hub name.
        """
        ...

    def cancel(self) -> None:
        """Has a `train` in another thread save what it can and raise `TrainingError`; again: at once."""
        ...


class PlanningTrainer(Trainer, Protocol):
    """A trainer that can say what a training needs."""

    def plan(self, dataset: Path | None, base: str, gpu: str | None) -> TrainingPlan:
        """Loads no weights: of a base whose folder holds a config.json alone too.

        `gpu` is a card's name; None: this machine's. Raises InputError for a card that is not known,
        RecipeError for a base without config.json and TrainingError for samples that cannot be learned.
        """
        ...


class Evaluator(Protocol):
    """Asks a model the items of a split, scores them, and compares two such evaluations.

    One that knows how long a prompt is offers `num_characters(item) -> int`, which the forecast counts.
    One whose scores are a second model's says which in a property `role: Role | None` of its Options, and has
    `judge(judge_id, evaluation, ask, on_progress) -> Evaluation`, called with that model's id and what
    `evaluate` gave, once it gave all.
    """

    Options: ClassVar[type[BaseModel]]

    async def evaluate(
        self, model_id: str, split: Split, items: Sequence[GoldItem], ask: Ask, on_progress: OnProgress
    ) -> Evaluation: ...

    def compare(self, old: Evaluation, new: Evaluation) -> Comparison: ...


Create = Callable[[BaseModel, Domain], object]
