"""All strategies of a recipe as one generator: a round is shared among them, each task made by its own.

With every strategy in one queue none has to wait for the last answers of another. How samples are made
is each strategy's matter, and how many are wanted is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from pydantic import BaseModel

from factory.allocate import divide
from factory.ports import Ask, Generator, TaskCost
from factory.recipe import MAX_SAMPLES_PER_ROUND, Strict
from factory.types import Sample, Task

ROUNDS = 100_000  # numbers set apart for the rounds of one slice, where slices are planned one by one


class Strategies:
    """Implements ports.Generator with those of a recipe; `strategies` are name, weight and instance."""

    Options: ClassVar[type[BaseModel]] = Strict

    def __init__(self, strategies: Sequence[tuple[str, float, Generator]]) -> None:
        self.weights = {name: weight for name, weight, _ in strategies}
        self.served = {name: frozenset(generator.slices) for name, _, generator in strategies}
        self._generators = {name: generator for name, _, generator in strategies}

    @property
    def slices(self) -> frozenset[str]:
        """Those that any of them serves."""
        return frozenset[str]().union(*self.served.values())

    @property
    def num_samples(self) -> dict[str, int]:
        """Samples of a task at most, by strategy."""
        costs = {name: getattr(each, "cost", TaskCost()) for name, each in self._generators.items()}
        return {name: cost.num_samples for name, cost in costs.items()}

    def plan(self, allocation: Mapping[str, int], round_number: int) -> Iterator[Task]:
        """Lazily, strategy by strategy; every slice gets its allocation, shared by weight."""
        for name, share in divide(allocation, self.weights, self.served).items():
            yield from self._named(name, self._generators[name].plan(share, round_number))

    def stream(self, name: str, slice: str, round_number: int) -> Iterator[Task]:
        """Lazily, the tasks of a strategy for one slice, as many as are taken.

        However they are taken, in one go or in many, they are the same, and materials take their turns.
        Each slice is a plan of its own with a number of its own, so that ordinals are unique.
        """
        number = round_number + ROUNDS * sorted(self.served[name]).index(slice)
        tasks = self._generators[name].plan({slice: MAX_SAMPLES_PER_ROUND}, number)
        return (replace(task, round=round_number) for task in self._named(name, tasks))

    async def make(self, task: Task, ask: Ask) -> list[Sample]:
        """The samples of a task, by its strategy."""
        return await self._generators[task.strategy].make(task, ask)

    def _named(self, name: str, tasks: Iterable[Task]) -> Iterator[Task]:
        """The tasks under the name that the recipe gives their strategy."""
        return (task if task.strategy == name else replace(task, strategy=name) for task in tasks)
