"""How many tasks to ask for next, so that every slice gets its accepted samples and few too many are paid.

A round with a target is made in waves. A wave asks for half of what is still missing (for all of it once
that is little), shared over strategies by weight and divided by each one's measured yield in each slice:
the accepted samples of a task, of which recent waves say most. What is under way counts with the yield
that is expected of it. A strategy that accepts nothing over many tasks is given up in that slice, and the
others take over its part. All of it is arithmetic on counts: what was asked and decided is kept elsewhere.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from math import ceil

from factory.allocate import divide, round_to_sum

Cell = tuple[str, str]  # strategy and slice
Plan = dict[str, dict[str, int]]  # strategy → slice → tasks

ASSUMED_YIELD = 0.5  # of a forecast, before anything is measured
FEW = 8  # so many missing samples of a slice are asked for at once
# Nothing out of so many tasks in a row gives a strategy up: at a yield of 5 % that is chance 1 time in 27.
GIVE_UP_AFTER = 64
FADING = 0.5  # what the counts of a wave weigh after the next one
LARGEST = 4096  # tasks of a strategy in a slice: a wave is held in memory
GROWTH = 2  # a wave has at most so many times the tasks that are decided, since early yields are rough


@dataclass(slots=True)
class Tally:
    """What came of a strategy in a slice; `recent_*` fade from wave to wave, `num_dry` is since the last."""

    num_samples: int = 1  # of a task at most, which is what is hoped for before anything is measured
    num_tasks: int = 0
    num_accepted: int = 0
    num_dry: int = 0
    recent_tasks: float = 0.0
    recent_accepted: float = 0.0
    is_exhausted: bool = False  # its plan has no further tasks

    @property
    def given_up(self) -> bool:
        return self.is_exhausted or self.num_dry >= GIVE_UP_AFTER

    @property
    def expected(self) -> float:
        """Accepted samples of one more task, above zero: as if one task had gone as well as any can."""
        return (self.recent_accepted + self.num_samples) / (self.recent_tasks + 1)

    def settle(self, num_tasks: int, num_accepted: int) -> None:
        """Takes in what a wave came to."""
        self.num_tasks += num_tasks
        self.num_accepted += num_accepted
        self.num_dry = 0 if num_accepted else self.num_dry + num_tasks
        self.recent_tasks = FADING * self.recent_tasks + num_tasks
        self.recent_accepted = FADING * self.recent_accepted + num_accepted


@dataclass(slots=True)
class Waves:
    """The state between waves: samples wanted by slice, tallies by cell, and the tasks under way by cell."""

    targets: Mapping[str, int]
    weights: Mapping[str, float]
    tallies: dict[Cell, Tally]
    under_way: dict[Cell, int] = field(default_factory=dict)

    @classmethod
    def create(
        cls,
        targets: Mapping[str, int],
        weights: Mapping[str, float],
        served: Mapping[str, Collection[str]],
        num_samples: Mapping[str, int],
    ) -> Waves:
        """The state before the first wave; `num_samples` are those of a task at most, by strategy."""
        tallies = {
            (name, slice): Tally(num_samples[name]) for name in weights for slice in sorted(served[name])
        }
        return cls(targets, weights, tallies)

    def launch(self, plan: Plan) -> None:
        """A wave is under way."""
        for cell, num in cells_of(plan).items():
            self.under_way[cell] = self.under_way.get(cell, 0) + num

    def settle(self, plan: Plan, num_tasks: Mapping[Cell, int], accepted: Mapping[Cell, int]) -> None:
        """A wave is decided: the tasks that there were of it, and the samples that were good enough."""
        for cell, planned in cells_of(plan).items():
            self.under_way[cell] -= planned
            self.tallies[cell].settle(num_tasks.get(cell, 0), accepted.get(cell, 0))
            self.tallies[cell].is_exhausted |= num_tasks.get(cell, 0) < planned

    def num_accepted(self, slice: str) -> int:
        """Samples of a slice that were good enough, those beyond its target included."""
        return sum(tally.num_accepted for (_, of), tally in self.tallies.items() if of == slice)

    def missing(self) -> dict[str, int]:
        """Samples that each slice still lacks, by what is decided."""
        lacking = {slice: num - self.num_accepted(slice) for slice, num in self.targets.items()}
        return {slice: num for slice, num in lacking.items() if num > 0}

    def given_up(self) -> list[Cell]:
        """Where nothing more is asked though it could be."""
        return [cell for cell, tally in self.tallies.items() if tally.given_up]

    @property
    def num_decided(self) -> int:
        """Tasks of waves that are decided."""
        return sum(tally.num_tasks for tally in self.tallies.values())

    @property
    def num_under_way(self) -> int:
        """Tasks of waves that are not."""
        return sum(self.under_way.values())

    def next_plan(self) -> Plan:
        """The tasks of the next wave; none where what is under way may do, or nothing helps any more."""
        live: dict[str, list[str]] = {name: [] for name in self.weights}
        for (name, slice), tally in self.tallies.items():
            if not tally.given_up:
                live[name].append(slice)
        plan: Plan = {}
        for name, shares in divide(self._wanted(), self.weights, live).items():
            for slice, share in shares.items():
                if num := self._num_tasks((name, slice), share):
                    plan.setdefault(name, {})[slice] = num
        return plan

    def _wanted(self) -> dict[str, int]:
        """Samples that the next wave is for: part of what is missing and not expected of those under way."""
        wanted: dict[str, int] = {}
        for slice, num in self.missing().items():
            coming = sum(
                count * self.tallies[cell].expected
                for cell, count in self.under_way.items()
                if cell[1] == slice
            )
            lacking = num - int(coming)
            if lacking > 0:
                wanted[slice] = lacking if lacking <= FEW else ceil(lacking / 2)
        return wanted

    def _num_tasks(self, cell: Cell, share: int) -> int:
        """Tasks for `share` samples, as far as what is known bears."""
        tally, coming = self.tallies[cell], self.under_way.get(cell, 0)
        most = min(LARGEST, max(GIVE_UP_AFTER, GROWTH * tally.num_tasks))
        if tally.num_dry:
            most = GIVE_UP_AFTER - tally.num_dry - coming
        return max(0, min(ceil(share / tally.expected), most))


def cells_of(plan: Plan) -> dict[Cell, int]:
    """The tasks of a plan by strategy and slice."""
    return {(name, slice): num for name, of in plan.items() for slice, num in of.items()}


def shrink(plan: Plan, most: float) -> Plan:
    """The plan with `most` tasks at most, in the same proportions."""
    cells = cells_of(plan)
    if sum(cells.values()) <= most:
        return plan
    names = {f"{place}": cell for place, cell in enumerate(cells)}
    counts = round_to_sum({key: cells[cell] for key, cell in names.items()}, max(0, int(most)))
    smaller: Plan = {}
    for key, num in counts.items():
        if num:
            name, slice = names[key]
            smaller.setdefault(name, {})[slice] = num
    return smaller


def num_tasks_for(num_accepted: int, num_samples: float) -> int:
    """The forecast: tasks for so many accepted samples at the assumed yield, `num_samples` to a task."""
    return ceil(num_accepted / (ASSUMED_YIELD * num_samples))
